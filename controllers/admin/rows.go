package admin

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/upstream"
)

// Entry is one thing that is not fine.
type Entry struct {
	// File and Line say where it is written; "" and 0 in a cluster.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Object is "Kind namespace/name", Field the path in it.
	Object string `json:"object"`
	Field  string `json:"field,omitempty"`
	// Message says what is wrong, Want what would be right.
	Message string `json:"message"`
	Want    string `json:"want,omitempty"`
	// Condition and Reason are what the object's status says, if it was read at all.
	Condition string `json:"condition,omitempty"`
	Reason    string `json:"reason,omitempty"`
	// Warning entries are nothing that keeps the object from being served as written.
	Warning bool `json:"warning,omitempty"`
}

// Place returns "file:line", as far as it is known.
func (e Entry) Place() string {
	if e.Line == 0 {
		return e.File
	}
	return fmt.Sprintf("%s:%d", e.File, e.Line)
}

// Route is one match of one rule as it is served.
type Route struct {
	Listener string `json:"listener"`
	Hostname string `json:"hostname"`
	// Match is in order of precedence within its listener and hostname.
	Match snapshot.Match `json:"match"`
	// Route is "namespace/name", Rule the rule's name or index.
	Route string `json:"route"`
	Rule  string `json:"rule"`
	// Filters are the kinds of the filters, in pipeline order.
	Filters  []string  `json:"filters,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
	Mirrors  []string  `json:"mirrors,omitempty"`
	// Broken says why every request is answered 500.
	Broken string `json:"broken,omitempty"`
}

// Backend is a weighted cluster of a Route; an unresolved one has no cluster.
type Backend struct {
	Cluster string `json:"cluster,omitempty"`
	Weight  uint32 `json:"weight"`
}

// Routes lists what a snapshot routes, by listener, hostname and precedence.
func Routes(snap *snapshot.Snapshot) []Route {
	rows := []Route{}
	if snap == nil {
		return rows
	}
	for _, key := range snap.Hosts.Keys() {
		host, _ := snap.Hosts.Get(key)
		for _, r := range host.Routes {
			source := r.Rule.Source
			row := Route{
				Listener: host.Listener,
				Hostname: host.Hostname,
				Match:    r.Match,
				Route:    source.Namespace + "/" + source.Name,
				Rule:     source.Section,
				Broken:   r.Rule.Broken,
			}
			for _, f := range r.Rule.Filters {
				row.Filters = append(row.Filters, f.Kind())
			}
			for _, b := range r.Rule.Backends {
				row.Backends = append(row.Backends, Backend{b.Cluster, b.Weight})
			}
			for _, m := range r.Rule.Mirrors {
				row.Mirrors = append(row.Mirrors, m.Cluster)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// MatchText writes a match in one line, such as "GET /shop/* ?a=b x-v:2".
func MatchText(m snapshot.Match) string {
	var words []string
	if m.Method != "" {
		words = append(words, m.Method)
	}
	switch m.Path.Type {
	case "Exact":
		words = append(words, "="+m.Path.Value)
	case "RegularExpression":
		words = append(words, "~"+m.Path.Value)
	default:
		words = append(words, strings.TrimSuffix(m.Path.Value, "/")+"/*")
	}
	value := func(prefix, separator string, v snapshot.ValueMatch) {
		if v.Type == "RegularExpression" {
			separator += "~"
		}
		words = append(words, prefix+v.Name+separator+v.Value)
	}
	for _, v := range m.Query {
		value("?", "=", v)
	}
	for _, v := range m.Headers {
		value("", ":", v)
	}
	return strings.Join(words, " ")
}

// Endpoint is an endpoint of a cluster with its live state.
type Endpoint struct {
	Cluster string `json:"cluster"`
	upstream.EndpointState
	// CircuitBreaker is the cluster's, nil if it has none.
	CircuitBreaker *upstream.CircuitState `json:"circuitBreaker,omitempty"`
}

// Endpoints lists the endpoints that a snapshot names, with no live state;
// hosts that DNS is to resolve are among them.
func Endpoints(snap *snapshot.Snapshot) []Endpoint {
	rows := []Endpoint{}
	if snap == nil {
		return rows
	}
	for _, key := range snap.Clusters.Keys() {
		set, ok := snap.Endpoints.Get(key)
		if !ok {
			continue
		}
		for _, e := range set.Endpoints {
			// The priority stands for the tier: where from it is near is not known.
			state, tier := "ready", e.Priority
			if e.Draining {
				state, tier = "draining", -1
			}
			rows = append(rows, Endpoint{Cluster: key, EndpointState: upstream.EndpointState{
				Address: hostPort(e.Address, e.Port), Weight: max(e.Weight, 1), SharePercent: 100, Zone: e.Zone, Labels: e.Labels, Tier: tier, State: state,
			}})
		}
		for _, h := range set.Hosts {
			rows = append(rows, Endpoint{Cluster: key, EndpointState: upstream.EndpointState{
				Address: hostPort(h.Name, h.Port), Weight: max(h.Weight, 1), SharePercent: 100, Zone: h.Zone, Labels: h.Labels, Tier: h.Priority, State: "by DNS",
			}})
		}
	}
	return rows
}

func hostPort(host string, port uint16) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// SortEntries orders a report by place, then by object and field.
func SortEntries(list []Entry) {
	slices.SortStableFunc(list, func(a, b Entry) int {
		return cmp.Or(
			strings.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			strings.Compare(a.Object, b.Object),
			strings.Compare(a.Field, b.Field))
	})
}
