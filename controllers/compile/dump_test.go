package compile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func newReader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }

// dump writes a result for people, one thing a line. What is at its default is left out.
func dump(r *Result) string {
	d := &dumper{result: r}
	d.ports()
	d.hosts()
	d.clusters()
	for _, ref := range slices.SortedFunc(maps.Keys(r.Wanted), objects.Ref.Compare) {
		d.line("wanted %s", ref)
	}
	if r.NeedsSessionKeys {
		d.line("needs session keys")
	}
	for _, s := range r.Infrastructure {
		text := fmt.Sprintf("service %s, alias %s, for %s %v labels=%v annotations=%v", s.Name, s.Alias, s.Gateway, s.Ports, s.Labels, s.Annotations)
		if s.Kept {
			text = fmt.Sprintf("service %s, alias %s, for %s, kept as it is", s.Name, s.Alias, s.Gateway)
		}
		if s.LoadBalancerIP != "" {
			text += " loadBalancerIP=" + s.LoadBalancerIP
		}
		if said := toJSON(s.Service); !s.Kept && said != `{"type":"LoadBalancer"}` {
			text += " service=" + said
		}
		if s.Mode == v1alpha1.GatewayModeDedicated {
			text += " deployment=" + toJSON(s.Deployment)
		}
		d.line("%s", text)
	}
	d.statuses()
	for _, f := range r.Findings() {
		d.line("finding %s %s (%s %s)", f.Object, f, f.Condition, f.Reason)
	}
	return d.out.String()
}

type dumper struct {
	result *Result
	out    strings.Builder
}

func (d *dumper) line(format string, args ...any) { fmt.Fprintf(&d.out, format+"\n", args...) }

func (d *dumper) ports() {
	for _, p := range d.result.Snapshot.Ports {
		text := "port " + p.Key
		if p.ProxyProtocol != nil {
			text += " proxyProtocol=" + toJSON(p.ProxyProtocol)
		}
		if p.Connections != nil {
			text += " connections=" + toJSON(p.Connections)
		}
		d.line("%s", text)
		for _, l := range p.Listeners {
			text := fmt.Sprintf("  %s %s", l.Key, l.Protocol)
			if l.Port != p.Number {
				text += fmt.Sprintf(" for %d", l.Port)
			}
			if l.Hostname != "" {
				text += " " + l.Hostname
			}
			if l.TLS != nil {
				for _, c := range l.TLS.Certificates {
					text += fmt.Sprintf(" certificate=%s/%s", c.Source.Namespace, c.Source.Name)
				}
				settings := *l.TLS
				settings.Certificates = nil
				if said := strings.Replace(toJSON(settings), `"certificates":null`, "", 1); said != "{}" {
					text += " tls=" + strings.Replace(said, "{,", "{", 1)
				}
				if c := l.TLS.Clients; c != nil {
					text += fmt.Sprintf(" authorities=%d", strings.Count(string(c.Roots), "BEGIN"))
				}
			}
			if l.HTTP3 != nil {
				text += " http3=" + toJSON(l.HTTP3)
			}
			if l.Client != nil {
				text += " client=" + toJSON(l.Client)
			}
			d.line("%s", text)
			for _, t := range l.Targets {
				text := fmt.Sprintf("    %q from %s %s/%s:", t.Hostname, t.Source.Kind, t.Source.Namespace, t.Source.Name)
				for _, b := range t.Backends {
					text += fmt.Sprintf(" %q=%d", b.Cluster, b.Weight)
					if b.Fallback != nil {
						text += " fallback=" + toJSON(b.Fallback)
					}
				}
				d.line("%s%s", text, filtersText(t.Filters))
			}
		}
	}
}

func (d *dumper) hosts() {
	for _, key := range d.result.Snapshot.Hosts.Keys() {
		h, _ := d.result.Snapshot.Hosts.Get(key)
		d.line("host %s %s", h.Listener, h.Hostname)
		for _, r := range h.Routes {
			d.line("  %s → %s", matchText(&r.Match), ruleText(r.Rule))
		}
	}
}

func matchText(m *snapshot.Match) string {
	text := m.Path.Type + " " + m.Path.Value
	if m.Method != "" {
		text += " " + m.Method
	}
	if m.Preflight {
		text += "+preflights"
	}
	values := func(list []snapshot.ValueMatch, of string) {
		for _, v := range list {
			text += fmt.Sprintf(" %s %s%s%q", of, v.Name, map[string]string{"Exact": "=", "RegularExpression": "~"}[v.Type], v.Value)
		}
	}
	values(m.Headers, "header")
	values(m.Query, "query")
	return text
}

func ruleText(r *snapshot.Rule) string {
	text := fmt.Sprintf("%s/%s/%s:", r.Source.Namespace, r.Source.Name, r.Source.Section)
	if r.Priority != "" {
		text += " priority=" + r.Priority
	}
	text += filtersText(r.Filters)
	for _, b := range r.Backends {
		text += " " + b.Cluster
		if b.Cluster == "" {
			text += "500"
		}
		if b.Weight != 1 {
			text += fmt.Sprintf("×%d", b.Weight)
		}
		if b.Name != "" {
			text += fmt.Sprintf("(%q)", b.Name)
		}
		text += filtersText(b.Filters) + mirrorsText(b.Mirrors)
		if b.Retry != nil {
			text += " retry=" + toJSON(b.Retry)
		}
		if b.Hedge != nil {
			text += " hedge=" + toJSON(b.Hedge)
		}
		if b.Fallback != nil {
			text += " fallback=" + toJSON(b.Fallback)
		}
		if b.SessionPersistence != nil {
			text += " sessionPersistence=" + toJSON(b.SessionPersistence)
		}
	}
	text += mirrorsText(r.Mirrors)
	if r.RequestTimeout != 0 {
		text += fmt.Sprintf(" request=%s", r.RequestTimeout)
	}
	if r.BackendTimeout != 0 {
		text += fmt.Sprintf(" backendRequest=%s", r.BackendTimeout)
	}
	if r.Split != nil {
		text += " split=" + toJSON(r.Split)
	}
	if r.SessionPersistence != nil {
		text += " sessionPersistence=" + toJSON(r.SessionPersistence)
	}
	if r.Retry != nil {
		text += fmt.Sprintf(" retry=%v×%d/%s", r.Retry.Codes, r.Retry.Attempts, r.Retry.Backoff)
	}
	if r.Broken != "" {
		// The finding says why.
		where, _, _ := strings.Cut(r.Broken, ": ")
		text += fmt.Sprintf(" BROKEN(%s)", where)
	}
	return text
}

func mirrorsText(mirrors []snapshot.Mirror) (text string) {
	for _, m := range mirrors {
		text += fmt.Sprintf(" mirror=%s×%d/%d", m.Cluster, m.Numerator, m.Denominator)
	}
	return text
}

func filtersText(filters []policy.Config) (text string) {
	for _, f := range filters {
		text += " " + f.Kind() + toJSON(f)
	}
	return text
}

func (d *dumper) clusters() {
	for _, key := range d.result.Snapshot.Clusters.Keys() {
		c, _ := d.result.Snapshot.Clusters.Get(key)
		plain := *newCluster(c.Key, c.Source)
		text := "cluster " + key
		if c.Protocol == "tcp" || c.Protocol == "udp" {
			plain.Protocol = c.Protocol // the key says it
		}
		if c.TLS != nil {
			text += fmt.Sprintf(" authorities=%d", strings.Count(string(c.TLS.Roots), "BEGIN"))
		}
		if !reflect.DeepEqual(*c, plain) {
			text += " " + toJSON(c)
		}
		e, _ := d.result.Snapshot.Endpoints.Get(key)
		for _, one := range e.Endpoints {
			text += " " + one.Address
			if one.Port != 0 {
				text += fmt.Sprintf(":%d", one.Port)
			}
			if one.Weight != 0 {
				text += fmt.Sprintf("×%d", one.Weight)
			}
			if len(one.Labels) > 0 {
				text += toJSON(one.Labels)
			}
			if one.Draining {
				text += "(draining)"
			}
			if one.Zone != "" {
				text += "@" + one.Zone
			}
			if one.Node != "" {
				text += "/" + one.Node
			}
			if hints := append(slices.Clone(one.ForZones), one.ForNodes...); len(hints) > 0 {
				text += fmt.Sprintf("(for %s)", strings.Join(hints, ","))
			}
			if one.Priority != 0 {
				text += fmt.Sprintf("(priority %d)", one.Priority)
			}
		}
		for _, one := range e.Hosts {
			if one.Remote {
				text += " remote"
			}
			if one.SRV {
				text += " srv=" + one.Name
			} else {
				text += fmt.Sprintf(" dns=%s:%d", one.Name, one.Port)
			}
			if one.Weight != 0 {
				text += fmt.Sprintf("×%d", one.Weight)
			}
			if len(one.Labels) > 0 {
				text += toJSON(one.Labels)
			}
			if one.Zone != "" {
				text += "@" + one.Zone
			}
			if one.Priority != 0 {
				text += fmt.Sprintf("(priority %d)", one.Priority)
			}
		}
		d.line("%s", text)
	}
}

func (d *dumper) statuses() {
	for _, s := range d.result.Statuses() {
		switch v := s.Value.(type) {
		case gatewayv1.GatewayClassStatus:
			if text := d.conditions(s, v.Conditions); text != " fine" {
				d.line("status %s%s", s.Object, text)
			}
		case gatewayv1.GatewayStatus:
			text := ""
			for _, a := range v.Addresses {
				text += fmt.Sprintf(" %s=%s", *a.Type, a.Value)
			}
			d.line("status %s%s%s", s.Object, d.conditions(s, v.Conditions), text)
			for _, l := range v.Listeners {
				kinds := ""
				if len(l.SupportedKinds) == 0 {
					kinds = " kinds=none"
				}
				d.line("  %s routes=%d%s%s", l.Name, l.AttachedRoutes, kinds, d.conditions(s, l.Conditions))
			}
			if n := v.AttachedListenerSets; n != nil {
				d.line("  ListenerSets=%d", *n)
			}
		case gatewayv1.ListenerSetStatus:
			d.line("status %s%s", s.Object, d.conditions(s, v.Conditions))
			for _, l := range v.Listeners {
				kinds := ""
				if len(l.SupportedKinds) == 0 {
					kinds = " kinds=none"
				}
				d.line("  %s routes=%d%s%s", l.Name, l.AttachedRoutes, kinds, d.conditions(s, l.Conditions))
			}
		case gatewayv1.RouteStatus:
			d.line("status %s", s.Object)
			for _, p := range v.Parents {
				text := string(p.ParentRef.Name)
				if p.ParentRef.SectionName != nil {
					text += "/" + string(*p.ParentRef.SectionName)
				}
				if p.ParentRef.Port != nil {
					text += fmt.Sprintf(":%d", *p.ParentRef.Port)
				}
				d.line("  %s%s", text, d.conditions(s, p.Conditions))
			}
		case gatewayv1.PolicyStatus:
			d.line("status %s", s.Object)
			for _, a := range v.Ancestors {
				d.line("  %s%s", a.AncestorRef.Name, d.conditions(s, a.Conditions))
			}
		case gatewayxv1alpha1.BackendStatus:
			d.line("status %s", s.Object)
			for _, a := range v.Ancestors {
				d.line("  %s%s", a.AncestorRef.Name, d.conditions(s, a.Conditions))
			}
		case v1alpha1.BackendStatus:
			d.line("status %s%s", s.Object, d.conditions(s, v.Conditions))
		default:
			d.line("status %s %T", s.Object, v)
		}
	}
}

// conditions are those that are not True with their own name as reason, or
// False where that is fine. Messages are left to the findings, where there are any.
func (d *dumper) conditions(s *Status, list []metav1.Condition) string {
	text := ""
	explained := map[string]bool{}
	for _, f := range d.result.FindingsOf(s.Object) {
		explained[f.Reason] = true
	}
	for _, c := range list {
		if c.ObservedGeneration != s.Generation {
			text += fmt.Sprintf(" GENERATION=%d", c.ObservedGeneration)
		}
		if c.Status == metav1.ConditionTrue && c.Reason == c.Type || c.Type == "Conflicted" && c.Status == metav1.ConditionFalse {
			continue
		}
		text += fmt.Sprintf(" %s=%s:%s", c.Type, c.Status, c.Reason)
		if !explained[c.Reason] || c.Type == "PartiallyInvalid" {
			first, _, _ := strings.Cut(c.Message, ". ")
			text += fmt.Sprintf("(%s)", first)
		}
	}
	if text == "" {
		return " fine"
	}
	return text
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// sameResult compares all that a result says, but for what depends on the
// previous one.
func sameResult(t *testing.T, what string, want, got *Result) {
	t.Helper()
	for _, part := range []struct {
		name      string
		want, got any
	}{
		{"ports", want.Snapshot.Ports, got.Snapshot.Ports},
		{"hosts", entries(want.Snapshot.Hosts), entries(got.Snapshot.Hosts)},
		{"clusters", entries(want.Snapshot.Clusters), entries(got.Snapshot.Clusters)},
		{"endpoints", entries(want.Snapshot.Endpoints), entries(got.Snapshot.Endpoints)},
		{"statuses", want.Statuses(), got.Statuses()},
		{"findings", want.Findings(), got.Findings()},
		{"services", want.Infrastructure, got.Infrastructure},
		{"wanted", want.Wanted, got.Wanted},
		{"need of session keys", want.NeedsSessionKeys, got.NeedsSessionKeys},
	} {
		if reflect.DeepEqual(part.want, part.got) {
			continue
		}
		if diff := cmp.Diff(dump(want), dump(got)); diff != "" {
			t.Fatalf("%s: the result differs (-want +got):\n%s", what, diff)
		}
		// The dump leaves things out.
		t.Fatalf("%s: %s differ:\nwant %s\ngot  %s", what, part.name, toJSON(part.want), toJSON(part.got))
	}
}

func entries[V any](table snapshot.Table[V]) map[string]V {
	m := map[string]V{}
	for _, key := range table.Keys() {
		m[key], _ = table.Get(key)
	}
	return m
}
