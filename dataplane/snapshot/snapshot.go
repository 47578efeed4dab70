// Package snapshot is the model of all compiled tables at one moment: the only
// thing that passes from the controllers to the data plane.
//
// It is plain data, immutable once it was handed on, and says everything with
// names: a rule refers to a cluster by its key. The data plane builds its live
// tables from it, and rebuilds only what a Delta names.
package snapshot

import (
	"time"

	"github.com/headgate/headgate/dataplane/policy"
)

// Snapshot is everything that the data plane serves from.
type Snapshot struct {
	// Ports are the sockets to listen on, sorted by Key.
	Ports []*Port `json:"ports"`
	// Hosts are the routing tables, by HostKey.
	Hosts Table[*VirtualHost] `json:"hosts"`
	// Clusters say how to balance and speak to backends, by cluster key.
	Clusters Table[*Cluster] `json:"clusters"`
	// Endpoints say where backends are, by cluster key: they change far more
	// often than all else, so they are a table of their own.
	Endpoints Table[*Endpoints] `json:"endpoints"`
}

// Delta names what differs between two snapshots. A key that the newer one
// lacks was removed.
type Delta struct {
	Ports     bool
	Hosts     []string
	Clusters  []string
	Endpoints []string
}

// Empty reports whether nothing differs.
func (d *Delta) Empty() bool {
	return !d.Ports && len(d.Hosts) == 0 && len(d.Clusters) == 0 && len(d.Endpoints) == 0
}

// Ref names the object that a part of the snapshot came from, so that the
// running state is recognisable to who wrote the object.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Section is a listener's or rule's name, or a Service's port.
	Section string `json:"section,omitempty"`
}

// HostKey returns the key of a virtual host in Snapshot.Hosts.
func HostKey(listener, hostname string) string { return listener + " " + hostname }

// VirtualHost is what a listener serves under one hostname.
type VirtualHost struct {
	Listener string `json:"listener"`
	// Hostname is exact, "*.suffix", or "*"; lower case.
	Hostname string `json:"hostname"`
	// Routes are in order of precedence (HTTPRouteRule.matches): the first that matches is taken.
	// Where none matches, the listener's next less specific virtual host is asked.
	Routes []*Route `json:"routes"`
}

// Route is one match of a rule. Matches of one rule share their Rule.
type Route struct {
	Match Match `json:"match"`
	Rule  *Rule `json:"rule"`
}

// Match is a condition on a request; all of its parts must hold.
type Match struct {
	Path   PathMatch `json:"path"`
	Method string    `json:"method,omitempty"`
	// Preflight takes the CORS preflights that ask for Method, too.
	Preflight bool         `json:"preflight,omitempty"`
	Headers   []ValueMatch `json:"headers,omitempty"`
	Query     []ValueMatch `json:"query,omitempty"`
}

// PathMatch compares the path.
type PathMatch struct {
	// Type is "Exact", "PathPrefix" (by whole segments) or "RegularExpression" (RE2, the whole path).
	Type  string `json:"type"`
	Value string `json:"value"`
}

// ValueMatch compares a named header or query parameter.
type ValueMatch struct {
	Name string `json:"name"`
	// Type is "Exact" or "RegularExpression" (RE2, the whole value).
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Rule is what happens to a request that matched.
type Rule struct {
	// Source's Section is the rule's name, or its index in decimal.
	Source Ref `json:"source"`
	// Priority is that of the requests when not all can be served: "Low", "High",
	// "Critical", or "" for the default.
	Priority string `json:"priority,omitempty"`
	// Filters are in pipeline order.
	Filters []policy.Config `json:"filters,omitempty"`
	// Backends share the requests by weight. Empty if a filter always answers.
	Backends []Backend `json:"backends,omitempty"`
	// Split, if not nil, shares the clients instead.
	Split *Split `json:"split,omitempty"`
	// Mirrors get a copy of a share of the requests; their answers are dropped.
	Mirrors []Mirror `json:"mirrors,omitempty"`
	// RequestTimeout bounds the exchange, BackendTimeout each try; 0 is none.
	RequestTimeout time.Duration `json:"requestTimeout,omitempty"`
	BackendTimeout time.Duration `json:"backendTimeout,omitempty"`
	// Retry is nil for no retries beyond those that are always right.
	Retry *Retry `json:"retry,omitempty"`
	// SessionPersistence, if not nil, holds for all backends.
	SessionPersistence *SessionPersistence `json:"sessionPersistence,omitempty"`
	// Broken, if not "", says why the rule cannot be served as it was meant,
	// such as an invalid authentication policy. Every request is answered 500.
	Broken string `json:"broken,omitempty"`
}

// Retry says which tries in vain are followed by another, GEP-1731.
type Retry struct {
	// Conditions are what becomes of tries without a response: "ConnectFailure", "Reset"
	// and "Timeout"; empty means all of them.
	Conditions []string `json:"conditions,omitempty"`
	// Codes are response status codes, GRPCCodes those of gRPC that come instead of
	// a response's content; both sorted.
	Codes     []int `json:"codes,omitempty"`
	GRPCCodes []int `json:"grpcCodes,omitempty"`
	// Headers are fields of responses, one of which suffices. An empty Value is any.
	Headers []HeaderField `json:"headers,omitempty"`
	// NonIdempotent sends requests again that an endpoint may have acted on,
	// whatever their method. Without it, Conditions hold for idempotent ones then.
	NonIdempotent bool `json:"nonIdempotent,omitempty"`
	// Attempts is the most tries after the first.
	Attempts int `json:"attempts"`
	// Backoff is the least time before the second try; it doubles with each more,
	// up to MaxBackoff, where 0 means ten times Backoff.
	Backoff    time.Duration `json:"backoff,omitempty"`
	MaxBackoff time.Duration `json:"maxBackoff,omitempty"`
	// MaxRetryAfter is how long a response's Retry-After is waited for; one that
	// asks for more is the last. 0 does not look at Retry-After.
	MaxRetryAfter time.Duration `json:"maxRetryAfter,omitempty"`
	// PerTryTimeout bounds each try where the rule has no BackendTimeout; 0 is none.
	PerTryTimeout time.Duration `json:"perTryTimeout,omitempty"`
	// MaxContent is the most content of a request that is kept to be sent again,
	// in bytes; 0 means DefaultRetryContent.
	MaxContent int `json:"maxContent,omitempty"`
}

// Hedge says when a second request is sent beside one that has no response yet.
type Hedge struct {
	// After is the least time that a response is waited for, above 0.
	After time.Duration `json:"after"`
	// AfterPercentile of the times that responses take is waited for, if that is
	// more, from 1 to 99; 0 goes by After alone.
	AfterPercentile int `json:"afterPercentile,omitempty"`
	// MaxHedges is how many are sent beside a request, from 1 to MostHedges.
	MaxHedges int `json:"maxHedges"`
	// NonIdempotent hedges requests whatever their method.
	NonIdempotent bool `json:"nonIdempotent,omitempty"`
}

// MostHedges bounds Hedge.MaxHedges: each goes to an endpoint that none of the
// others has, and so many can be told apart.
const MostHedges = 2

// DefaultRetryContent is the default of Retry.MaxContent.
const DefaultRetryContent = 64 << 10

// SessionPersistence keeps the requests of a session at one backend of a rule
// and one of its endpoints, by a token that the client is given and sends back,
// GEP-1619. Sessions of different rules are different ones.
type SessionPersistence struct {
	// Name is the cookie's, or the header field's.
	Name string `json:"name"`
	// Cookie is nil if the token is in a header field.
	Cookie *SessionCookie `json:"cookie,omitempty"`
	// AbsoluteTimeout is how long a session lasts, IdleTimeout how long it lasts
	// without a request; 0 means for ever. They are counted in seconds.
	AbsoluteTimeout time.Duration `json:"absoluteTimeout,omitempty"`
	IdleTimeout     time.Duration `json:"idleTimeout,omitempty"`
	// Strict answers 503 where the session's endpoint cannot be used, rather than
	// going on with another one.
	Strict bool `json:"strict,omitempty"`
	// Keys are 32 bytes each; the first one encrypts tokens, the others are still
	// understood. With none, the process has a key of its own.
	Keys []policy.Secret `json:"keys,omitempty"`
}

// SessionCookie is what a session's cookie is like, RFC 6265 section 4.1.
type SessionCookie struct {
	// Permanent cookies outlive the browser, for as long as AbsoluteTimeout says.
	Permanent bool `json:"permanent,omitempty"`
	// Path is the attribute; "" for none. MatchedPath makes it the path of the
	// match that the request took.
	Path        string `json:"path,omitempty"`
	MatchedPath bool   `json:"matchedPath,omitempty"`
	// Domain is the attribute; "" for none.
	Domain string `json:"domain,omitempty"`
	// Secure is nil for cookies that are secure if the client's connection is.
	Secure   *bool `json:"secure,omitempty"`
	HTTPOnly bool  `json:"httpOnly,omitempty"`
	// SameSite is "Strict", "Lax" or "None".
	SameSite string `json:"sameSite"`
}

// Split keeps a client at one of a rule's backends, as long as the weights allow.
// If they change, as few clients move as can be.
type Split struct {
	// HashOn is what a client is known by: the first of these that a request has. A
	// request that has none of them goes by weight alone.
	HashOn []HashKey `json:"hashOn"`
}

// Backend is a weighted backendRef.
type Backend struct {
	// Name tells the backend from the rule's others, whatever their order and
	// weights are. It is set where the rule has a Split.
	Name string `json:"name,omitempty"`
	// Cluster is a key of Snapshot.Clusters, or "" if the reference does not
	// resolve: its share of the requests is answered 500.
	Cluster string          `json:"cluster,omitempty"`
	Weight  uint32          `json:"weight"`
	Filters []policy.Config `json:"filters,omitempty"`
	// Mirrors get a copy of a share of this backend's requests, beside the rule's.
	Mirrors []Mirror `json:"mirrors,omitempty"`
	// SessionPersistence is this backend's own, where the rule has none. With it,
	// sessions go on with Weight 0, too.
	SessionPersistence *SessionPersistence `json:"sessionPersistence,omitempty"`
	// Retry is this backend's own, where the rule has none.
	Retry *Retry `json:"retry,omitempty"`
	// Hedge is nil where each try is one request.
	Hedge *Hedge `json:"hedge,omitempty"`
	// Fallback is nil where nothing stands in for the backend.
	Fallback *Fallback `json:"fallback,omitempty"`
}

// Mirror copies Numerator of Denominator requests to a cluster.
type Mirror struct {
	Cluster     string `json:"cluster"`
	Numerator   uint32 `json:"numerator"`
	Denominator uint32 `json:"denominator"`
}
