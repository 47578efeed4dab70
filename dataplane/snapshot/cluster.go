package snapshot

import (
	"net/netip"
	"time"
)

// Cluster is a compiled backend: how to choose among its endpoints and how to
// speak to them.
type Cluster struct {
	// Key is "Service/namespace/name/port" or "Backend/namespace/name", with the
	// protocol appended where one backend is spoken to in several ("/h2c", "/tcp",
	// "/udp"), "/passthrough" where TLS is the client's own, "@target" where a policy holds for one target only, and
	// "@Gateway/namespace/name" where TLS.Certificate is that Gateway's.
	Key    string `json:"key"`
	Source Ref    `json:"source"`
	// Protocol is what to speak to the endpoints: "http1" (the default), "h2c"
	// (HTTP/2 alone, by prior knowledge, or with TLS by ALPN), "alpn" (with
	// TLS what the endpoint prefers of the two, else http1), or "tcp" or "udp"
	// where nothing is spoken: bytes are passed on.
	Protocol string  `json:"protocol"`
	Balance  Balance `json:"balance"`
	// ConnectTimeout bounds one connection attempt; 0 means 5 s.
	ConnectTimeout time.Duration `json:"connectTimeout,omitempty"`
	Timeouts       Timeouts      `json:"timeouts,omitzero"`
	// Pool is of the connections that carry requests.
	Pool Pool `json:"pool,omitzero"`
	// Socket is how sockets to the endpoints are made.
	Socket Socket `json:"socket,omitzero"`
	// HTTP2Keepalive is nil for the codec's defaults.
	HTTP2Keepalive *HTTP2Keepalive `json:"http2Keepalive,omitempty"`
	// TLS speaks TLS to the endpoints; nil for plaintext.
	TLS *UpstreamTLS `json:"tls,omitempty"`
	// ProxyProtocol is the version of the PROXY protocol header that connections
	// begin with, "V1" or "V2"; "" for none.
	ProxyProtocol string `json:"proxyProtocol,omitempty"`
	// HealthCheck asks the endpoints whether they can serve; nil asks none.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// RetryBudget is nil for no bound.
	RetryBudget *RetryBudget `json:"retryBudget,omitempty"`
	// OutlierDetection ejects endpoints by what their requests come to; nil
	// ejects only those that cannot be connected to.
	OutlierDetection *OutlierDetection `json:"outlierDetection,omitempty"`
	// CircuitBreaker is nil for no bounds.
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
}

// Timeouts bound exchanges with a cluster's endpoints, connecting not included.
type Timeouts struct {
	// Idle is how long an endpoint may be silent; 0 means 5 min.
	Idle time.Duration `json:"idle,omitempty"`
	// Tunnel is how long a tunnel may be silent both ways; 0 means 1 h.
	Tunnel time.Duration `json:"tunnel,omitempty"`
	// Stream is how long an exchange may take in all, also one with a tunnel; 0 means no bound.
	Stream time.Duration `json:"stream,omitempty"`
}

// Pool bounds what is kept of the connections to each endpoint, and how long
// they are used.
type Pool struct {
	// MaxIdle bounds the idle connections; 0 means 256.
	MaxIdle int `json:"maxIdle,omitempty"`
	// MinIdle connections are kept idle, and made ahead of the requests that want
	// them; no more than MaxIdle. Of HTTP/2, one is. 0 means none.
	MinIdle int `json:"minIdle,omitempty"`
	// PreconnectPercent is how many connections there are, idle ones included, in
	// percent of the most that were in use at a time in the last one to two
	// IdleTimeouts. They are made ahead. 0 means none.
	PreconnectPercent int `json:"preconnectPercent,omitempty"`
	// IdleTimeout closes idle connections; 0 means 60 s.
	IdleTimeout time.Duration `json:"idleTimeout,omitempty"`
	// MaxAge is after how long a connection gets no more requests, give or take a
	// fifth less; 0 means no bound.
	MaxAge time.Duration `json:"maxAge,omitempty"`
	// MaxRequests is how many requests a connection gets; 0 means no bound.
	MaxRequests int `json:"maxRequests,omitempty"`
}

// Socket is how sockets to endpoints are made. The zero value leaves all to the system.
type Socket struct {
	// SourceAddresses are bound to, those of the endpoint's family in turn. For a
	// family with none, the system chooses.
	SourceAddresses []netip.Addr `json:"sourceAddresses,omitempty"`
	// Keepalive is nil for the defaults.
	Keepalive *TCPKeepalive `json:"keepalive,omitempty"`
	// UserTimeout bounds how long what is sent may be unacknowledged, RFC 5482; 0
	// leaves that to the system.
	UserTimeout time.Duration `json:"userTimeout,omitempty"`
}

// TCPKeepalive is the keep-alive of TCP, in whole seconds: probes begin when
// nothing has come for IdleTime, and Probes of them, one each Interval, may go
// unanswered. 0 means 15 s, 15 s and 9.
type TCPKeepalive struct {
	IdleTime time.Duration `json:"idleTime,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
	Probes   int           `json:"probes,omitempty"`
}

// HTTP2Keepalive is for how long a connection with streams is silent until a PING
// is sent, and for how long that may go unanswered; 0 means 15 s.
type HTTP2Keepalive struct {
	Interval time.Duration `json:"interval,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
}

// CircuitBreaker bounds what a cluster and each of its endpoints have at a time.
// What is beyond is answered 503, unless it waits in Queue. A bound of 0 is none.
type CircuitBreaker struct {
	// MaxRequests in flight, all endpoints' together. The connection of a cluster
	// that passes bytes on, and a flow of datagrams, is a request in flight.
	MaxRequests int `json:"maxRequests,omitempty"`
	// MaxRetries is how many requests may be under way again at a time.
	MaxRetries  int               `json:"maxRetries,omitempty"`
	PerEndpoint PerEndpointBounds `json:"perEndpoint,omitzero"`
	Queue       RequestQueue      `json:"queue,omitzero"`
	// AdaptiveConcurrency bounds the requests in flight by their latency; nil does
	// not. What a cluster passes on unread has none, and MaxRequests alone.
	AdaptiveConcurrency *AdaptiveConcurrency `json:"adaptiveConcurrency,omitempty"`
}

// AdaptiveConcurrency is within what the bound moves, and by what.
type AdaptiveConcurrency struct {
	// MinRequests and MaxRequests are the least and the most that the bound is.
	MinRequests int `json:"minRequests"`
	MaxRequests int `json:"maxRequests"`
	// LatencyTolerancePercent is how much more than the minimal latency requests may
	// take before the bound falls.
	LatencyTolerancePercent int `json:"latencyTolerancePercent"`
	// MinLatencyInterval is how often the minimal latency is measured at least.
	MinLatencyInterval time.Duration `json:"minLatencyInterval"`
}

// PerEndpointBounds are those of each endpoint. One that is at a bound is not picked.
type PerEndpointBounds struct {
	// MaxConnections counts idle ones, too, but none of HTTP/2 that gets no more requests.
	MaxConnections int `json:"maxConnections,omitempty"`
	// MaxRequests in flight.
	MaxRequests int `json:"maxRequests,omitempty"`
}

// RequestQueue is where requests wait for an endpoint with room.
type RequestQueue struct {
	// MaxRequests wait at a time; 0 means that none do.
	MaxRequests int `json:"maxRequests,omitempty"`
	// Timeout bounds how long one waits.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// OutlierDetection is what requests must come to for an endpoint to be ejected.
type OutlierDetection struct {
	// ConsecutiveErrors in a row eject; 0 means that none do.
	ConsecutiveErrors int `json:"consecutiveErrors,omitempty"`
	// ErrorPercent of the requests in an interval eject, from 1 to 100; 0 means
	// that none do.
	ErrorPercent int `json:"errorPercent,omitempty"`
	// LatencyFactor is how many times the median of the endpoints' average
	// latencies in an interval the endpoint's own must be, above 1; 0 means that
	// latency does not matter.
	LatencyFactor int `json:"latencyFactor,omitempty"`
	// MinRequests is how many requests an endpoint must have had in an interval
	// for ErrorPercent and LatencyFactor.
	MinRequests int           `json:"minRequests,omitempty"`
	Interval    time.Duration `json:"interval"`
	// Statuses are errors, beside requests that brought no response; of gRPC
	// what corresponds to them.
	Statuses []StatusRange `json:"statuses,omitempty"`
	// BaseEjectionTime is for how long an endpoint is ejected the first time;
	// it is so much more with each time that follows, up to MaxEjectionTime.
	BaseEjectionTime time.Duration `json:"baseEjectionTime"`
	MaxEjectionTime  time.Duration `json:"maxEjectionTime"`
	// MaxEjectionPercent of the endpoints may be out at a time, from 0 to 100;
	// one of several may always.
	MaxEjectionPercent int `json:"maxEjectionPercent"`
}

// RetryBudget bounds the retries to a cluster, all of its rules' together,
// GEP-3388: to Percent of the requests of the last Interval, or to MinRetryRate
// where that is more. What is refused is answered 503.
type RetryBudget struct {
	Percent      int           `json:"percent"`
	Interval     time.Duration `json:"interval"`
	MinRetryRate RequestRate   `json:"minRetryRate"`
}

// RequestRate is Count requests in Interval.
type RequestRate struct {
	Count    int           `json:"count"`
	Interval time.Duration `json:"interval"`
}

// HealthCheck is how endpoints are asked, each by itself, whether they can
// serve: by HTTP, by gRPC, by UDP or TCP, or, with none of these, by connecting to them.
type HealthCheck struct {
	// Interval is from the beginning of one check to that of the next, give or
	// take a fifth; 0 means HealthCheckInterval. Timeout bounds a check; 0 means
	// HealthCheckTimeout.
	Interval time.Duration `json:"interval,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	// HealthyThreshold is how many checks in a row must pass until an unhealthy
	// endpoint is healthy; 0 means 1. UnhealthyThreshold is how many must fail
	// until a healthy one is unhealthy; 0 means 3.
	HealthyThreshold   int `json:"healthyThreshold,omitempty"`
	UnhealthyThreshold int `json:"unhealthyThreshold,omitempty"`
	// Port is whom to ask at the endpoint's address; 0 means the endpoint itself,
	// as does any for a Unix socket.
	Port uint16 `json:"port,omitempty"`
	// ReuseConnection asks by HTTP and gRPC over the connection of the check before,
	// as long as that passed and the endpoint keeps it open.
	ReuseConnection bool `json:"reuseConnection,omitempty"`

	HTTP *HTTPHealthCheck `json:"http,omitempty"`
	GRPC *GRPCHealthCheck `json:"grpc,omitempty"`
	TCP  *SendExpect      `json:"tcp,omitempty"`
	UDP  *SendExpect      `json:"udp,omitempty"`
}

// SendExpect is what is sent, and what must be in the answer. At TCP both may be
// empty; at UDP Send is not, and without Expect any answer will do.
type SendExpect struct {
	Send   []byte `json:"send,omitempty"`
	Expect []byte `json:"expect,omitempty"`
}

// The defaults of HealthCheck.
const (
	HealthCheckInterval = 10 * time.Second
	HealthCheckTimeout  = time.Second
)

// HTTPHealthCheck is a request and what its response must be.
type HTTPHealthCheck struct {
	// Method is "GET" if it is empty.
	Method string `json:"method,omitempty"`
	// Path is a request target in origin form, RFC 9112 section 3.2.1; "" means "/".
	Path string `json:"path,omitempty"`
	// Host is the authority; "" means the name that TLS verifies, without TLS
	// the address and port that are connected to.
	Host    string        `json:"host,omitempty"`
	Headers []HeaderField `json:"headers,omitempty"`
	// Statuses are those that are fine; none means 200 to 399.
	Statuses []StatusRange `json:"statuses,omitempty"`
	// BodyContains must be in the first 64 KiB of the response's content; "" asks
	// for nothing.
	BodyContains string `json:"bodyContains,omitempty"`
}

// HeaderField is a header field line.
type HeaderField struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// StatusRange is a range of HTTP status codes, both ends within.
type StatusRange struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// GRPCHealthCheck calls grpc.health.v1.Health/Check.
type GRPCHealthCheck struct {
	// Service is whose health is asked for; "" is the server's as a whole.
	Service string `json:"service,omitempty"`
}

// UpstreamTLS says how endpoints are verified, and who Headgate is to them.
type UpstreamTLS struct {
	// ServerName is sent as SNI. The endpoint's certificate must be for it,
	// unless there are Names.
	ServerName string `json:"serverName"`
	// Names are subject alternative names of which the certificate must have
	// one, in place of ServerName. Types are "DNS", where "*.suffix" stands for
	// all names with one label more, and "URI".
	Names []SubjectAltName `json:"names,omitempty"`
	// Roots are PEM certificates; empty means the system's.
	Roots []byte `json:"-"`
	// MinVersion, CipherSuites and Curves are as for TLS.
	MinVersion   uint16   `json:"minVersion,omitempty"`
	CipherSuites []uint16 `json:"cipherSuites,omitempty"`
	Curves       []uint16 `json:"curves,omitempty"`
	// Certificate is shown to endpoints that ask for one; nil is none.
	Certificate *Certificate `json:"certificate,omitempty"`
	// Broken, if not "", says why endpoints cannot be verified as it was meant,
	// or shown the certificate. None is connected to.
	Broken string `json:"broken,omitempty"`
}

// Balance chooses an endpoint.
type Balance struct {
	// Algorithm is one of balance.Algorithms; the first is the default.
	Algorithm string `json:"algorithm"`
	// HashOn are what RingHash and Maglev keep at one endpoint: the first that a
	// request has.
	HashOn []HashKey `json:"hashOn,omitempty"`
	// HashBalanceFactor bounds an endpoint's requests in flight under RingHash
	// and Maglev, in percent of its share of all; 0 is no bound.
	HashBalanceFactor int `json:"hashBalanceFactor,omitempty"`
	// MaxRequests is how many requests FirstAvailable gives an endpoint, for each
	// of its weight, before the next one has any.
	MaxRequests int `json:"maxRequests,omitempty"`
	// Locality says which endpoints are preferred, or may be used, by where they
	// are: "PreferSameZone", "PreferSameNode", "OnlySameZone", "OnlySameNode"; ""
	// is all alike.
	Locality string `json:"locality,omitempty"`
	// MinHealthyPercent is the share of a tier's endpoints that must be healthy
	// for it to take all requests; below it, the next takes the more of them the
	// fewer there are. 0 means MinHealthyPercent. Tiers are priorities, and in
	// each what Locality makes.
	MinHealthyPercent int `json:"minHealthyPercent,omitempty"`
	// PanicThresholdPercent is the share of all endpoints that must be healthy
	// for health to count: below it, all get requests. With 0 that is so only if
	// none is.
	PanicThresholdPercent int `json:"panicThresholdPercent,omitempty"`
	// SlowStart gives endpoints that are new or back their weight little by
	// little; nil gives it at once.
	SlowStart *SlowStart `json:"slowStart,omitempty"`
	// LoadReports changes weights by what endpoints report in their responses.
	LoadReports bool `json:"loadReports,omitempty"`
	// PodWeights says that endpoints have the weights that their pods are given.
	// They are in Endpoints: the data plane makes no use of it.
	PodWeights bool `json:"podWeights,omitempty"`
	// Subset has requests choose among some of the endpoints; nil among all.
	Subset *Subset `json:"subset,omitempty"`
}

// Subset narrows the endpoints to those with the labels that a request asks for
// by its headers: tiers, health and the algorithm are about these then, as if
// there were no others.
type Subset struct {
	// Selectors are 1 to 3. Those whose header a request has narrow the choice.
	Selectors []SubsetSelector `json:"selectors"`
	// Fallback is what a request gets that has none of the headers, or asks for
	// what no endpoint has: "Any" endpoint, "None", or those that have all labels
	// of "Default".
	Fallback string            `json:"fallback"`
	Default  map[string]string `json:"default,omitempty"`
}

// SubsetSelector takes endpoints whose label has the header's value.
type SubsetSelector struct {
	Header string `json:"header"`
	Label  string `json:"label"`
}

// SlowStart is how an endpoint's weight grows.
type SlowStart struct {
	// Window is how long it takes.
	Window time.Duration `json:"window"`
	// Aggression is above 1 to grow faster at first, and below to grow slower:
	// after a part t of the window the endpoint has t^(1/Aggression) of its
	// weight. 0 means 1.
	Aggression float64 `json:"aggression,omitempty"`
	// MinWeightPercent is what it begins with, in percent of its weight.
	MinWeightPercent int `json:"minWeightPercent,omitempty"`
}

// HashKey is a property of a request.
type HashKey struct {
	// Type is "ClientIP", "Consumer", "Cookie", "Expression", "Header", "Path" or
	// "QueryParam".
	Type string `json:"type"`
	// Name is that of the cookie, header field or query parameter.
	Name string `json:"name,omitempty"`
	// Expression is one of package expression whose result is a string: the key. A
	// request for which it cannot be evaluated, or is "", does not have it.
	Expression string `json:"expression,omitempty"`
	// SetCookie gives clients without the cookie one; nil does not.
	SetCookie *HashCookie `json:"setCookie,omitempty"`
}

// HashCookie is what a cookie is like.
type HashCookie struct {
	// MaxAge is its lifetime; 0 is until the browser ends.
	MaxAge time.Duration `json:"maxAge,omitempty"`
	// Path is the attribute, "" for none.
	Path string `json:"path,omitempty"`
}

// MinHealthyPercent is the default of Balance.MinHealthyPercent.
const MinHealthyPercent = 70

// Endpoints is where a cluster's instances are.
type Endpoints struct {
	// Endpoints are sorted by address and port.
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	// Hosts are names to be resolved by DNS, and again when their TTL is over.
	Hosts []Host `json:"hosts,omitempty"`
}

// Endpoint is one instance.
type Endpoint struct {
	// Address is an IP address, or "unix:" and the path of a Unix socket; Port is 0 then.
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	// Weight is relative; 0 counts as 1.
	Weight uint32 `json:"weight,omitempty"`
	// Draining endpoints take no new requests unless there are no others;
	// what is in flight finishes.
	Draining bool `json:"draining,omitempty"`
	// Zone and Node are where the endpoint is; "" if that is not known.
	Zone string `json:"zone,omitempty"`
	Node string `json:"node,omitempty"`
	// ForZones and ForNodes are where it should be used from, as the hints of
	// its EndpointSlice say. Without them that is its own zone and node.
	ForZones []string `json:"forZones,omitempty"`
	ForNodes []string `json:"forNodes,omitempty"`
	// Priority is 0 for the endpoints that are used first; those of a higher
	// number stand in for them.
	Priority int `json:"priority,omitempty"`
	// Labels are those that Balance.Subset asks for.
	Labels map[string]string `json:"labels,omitempty"`
}

// Host is a DNS name with the port to use on its addresses.
type Host struct {
	Name   string `json:"name"`
	Port   uint16 `json:"port"`
	Weight uint32 `json:"weight,omitempty"`
	// Zone, Priority and Labels are those of its endpoints.
	Zone     string            `json:"zone,omitempty"`
	Priority int               `json:"priority,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	// SRV says that Name has SRV records, RFC 2782: these say hosts, ports, weights
	// and, among the endpoints of Priority, priorities. Port and Weight are 0 then.
	SRV bool `json:"srv,omitempty"`
	// Remote leaves out addresses of this machine alone and of its links (loopback,
	// link-local) that the name resolves to.
	Remote bool `json:"remote,omitempty"`
}
