package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// BackendPolicy says how Headgate balances over and speaks to a backend. At a
// Service, ServiceImport, Backend or XBackend it holds for all who route to it, at a Service's port for
// that port; at an HTTPRoute or GRPCRoute or one of its rules for their requests only. The
// latter are nearer.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=bkp
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Direct"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`
// +kubebuilder:printcolumn:name="Kind",type=string,priority=1,JSONPath=`.spec.targetRefs[0].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type BackendPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec BackendPolicySpec `json:"spec"`
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// BackendPolicyList is a list of BackendPolicy objects.
// +kubebuilder:object:root=true
type BackendPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BackendPolicy `json:"items"`
}

// BackendPolicySpec says how to use a backend.
// +kubebuilder:validation:MinProperties=2
// +kubebuilder:validation:XValidation:message="connections that begin with a client's PROXY protocol header cannot be made ahead: pool has no minIdle and preconnectPercent with proxyProtocol",rule="!has(self.proxyProtocol) || !has(self.pool) || (!has(self.pool.minIdle) && !has(self.pool.preconnectPercent))"
// +kubebuilder:validation:XValidation:message="calls of GRPCRoutes are always in HTTP/2, so protocol says nothing at one",rule="!has(self.protocol) || self.targetRefs.all(t, t.kind != 'GRPCRoute')"
// +kubebuilder:validation:XValidation:message="split is about the backendRefs of rules, so it can only be set at HTTPRoutes and GRPCRoutes",rule="!has(self.split) || self.targetRefs.all(t, t.kind in ['HTTPRoute', 'GRPCRoute'])"
// +kubebuilder:validation:XValidation:message="calls of gRPC are of no idempotent method: a hedge at a GRPCRoute needs nonIdempotent",rule="!has(self.hedge) || (has(self.hedge.nonIdempotent) && self.hedge.nonIdempotent) || self.targetRefs.all(t, t.kind != 'GRPCRoute')"
type BackendPolicySpec struct {
	// TargetRefs are what the policy attaches to.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Service (core), ServiceImport (multicluster.x-k8s.io), Backend (headgate.dev), XBackend (gateway.networking.x-k8s.io), HTTPRoute (gateway.networking.k8s.io), GRPCRoute (gateway.networking.k8s.io)",rule="self.all(t, (t.group == '' && t.kind == 'Service') || (t.group == 'multicluster.x-k8s.io' && t.kind == 'ServiceImport') || (t.group == 'headgate.dev' && t.kind == 'Backend') || (t.group == 'gateway.networking.x-k8s.io' && t.kind == 'XBackend') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'HTTPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'GRPCRoute'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	// +kubebuilder:validation:XValidation:message="a Backend or XBackend has no sections",rule="self.all(t, !(t.kind in ['Backend', 'XBackend']) || !has(t.sectionName))"
	TargetRefs []TargetRef `json:"targetRefs"`
	// Enforced says that what this policy sets holds for everything below its
	// targets: no policy nearer to the request replaces it. Without it, the
	// nearer policy wins where both set the same.
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// Balance says how an endpoint is chosen.
	// +optional
	Balance *Balance `json:"balance,omitempty"`
	// ConnectTimeout bounds one attempt to connect to an endpoint, from 1ms to
	// 1m. The default is 5s.
	// +optional
	ConnectTimeout *gatewayv1.Duration `json:"connectTimeout,omitempty"`
	// Timeouts bound requests beside the rule's own timeouts. They are for
	// requests: the connections of TCPRoutes and TLSRoutes have their listener's.
	// +optional
	Timeouts *BackendTimeouts `json:"timeouts,omitempty"`
	// Pool says how many idle connections are kept, and how long connections are used.
	// +optional
	Pool *ConnectionPool `json:"pool,omitempty"`
	// SourceAddresses are addresses of the machine that connections to endpoints,
	// and datagrams, come from. Those of the endpoint's family are used in turn;
	// what is not on the machine is left out. For a family with none, the system
	// chooses. They are replaced as a whole.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="addresses must differ",rule="self.all(a, self.exists_one(b, a == b))"
	SourceAddresses []IPAddress `json:"sourceAddresses,omitempty"`
	// TCPKeepalive is how the kernel finds out that an endpoint is gone from which
	// nothing is heard. It is replaced as a whole.
	// +optional
	TCPKeepalive *TCPKeepalive `json:"tcpKeepalive,omitempty"`
	// TCPUserTimeout is for how long an endpoint may leave what it was sent
	// unacknowledged until the connection is given up, RFC 5482, from 1s to 10m.
	// The default is the system's, which on Linux is some 15 minutes.
	// +optional
	TCPUserTimeout *gatewayv1.Duration `json:"tcpUserTimeout,omitempty"`
	// HTTP2Keepalive is when HTTP/2 connections that requests wait on are asked for
	// a sign of life. It is replaced as a whole.
	// +optional
	HTTP2Keepalive *HTTP2Keepalive `json:"http2Keepalive,omitempty"`
	// Protocol is the version of HTTP that endpoints are spoken to in. The default
	// is what the Service port's appProtocol says, and HTTP1 if it says nothing.
	// Calls of GRPCRoutes are always in HTTP2, and what a TCPRoute, TLSRoute or
	// UDPRoute sends is passed on as it is.
	// +optional
	Protocol *BackendProtocol `json:"protocol,omitempty"`
	// ProxyProtocol begins each connection to an endpoint with a PROXY protocol
	// header, which names the client. A connection then carries the requests of
	// one client's connection only, and ends with that. UDPRoutes cannot use
	// such a backend.
	// +optional
	ProxyProtocol *BackendProxyProtocol `json:"proxyProtocol,omitempty"`
	// HealthCheck asks the endpoints whether they can serve; those that can't
	// get no requests, as long as there are others. It is replaced as a whole.
	// +optional
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// OutlierDetection ejects endpoints for a while whose requests fail or take
	// much longer than those of the others. One that cannot be connected to is
	// ejected in any case. It is replaced as a whole.
	// +optional
	OutlierDetection *OutlierDetection `json:"outlierDetection,omitempty"`
	// CircuitBreaker bounds what the backend and each of its endpoints have at a
	// time. It is replaced as a whole.
	// +optional
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
	// SessionPersistence keeps a client's requests at one endpoint. A rule's own
	// sessionPersistence holds in its place. It is for requests: the connections
	// of TCPRoutes and TLSRoutes have no sessions. It is replaced as a whole.
	// +optional
	SessionPersistence *SessionPersistence `json:"sessionPersistence,omitempty"`
	// Retry says which requests are sent again, and when. A rule's own retry holds
	// in its place. It is replaced as a whole.
	// +optional
	Retry *Retry `json:"retry,omitempty"`
	// RetryBudget bounds the retries to the backend, so that they do not bring
	// down what is overloaded. It is replaced as a whole.
	// +optional
	RetryBudget *RetryBudget `json:"retryBudget,omitempty"`
	// Hedge sends requests a second time that take long. It is for requests: not for
	// the connections of TCPRoutes and TLSRoutes. It is replaced as a whole.
	// +optional
	Hedge *Hedge `json:"hedge,omitempty"`
	// Fallback says what stands in for the backend when it is out. It is replaced
	// as a whole.
	// +optional
	Fallback *Fallback `json:"fallback,omitempty"`
	// Fault makes requests fail on purpose. It is for requests: the connections of
	// TCPRoutes and TLSRoutes do not fail by it. It is replaced as a whole.
	// +optional
	Fault *Fault `json:"fault,omitempty"`
	// Split keeps a client at one of a rule's backendRefs: their weights share the
	// clients, in place of the requests. It is for HTTPRoutes, GRPCRoutes and their
	// rules. It is replaced as a whole.
	// +optional
	Split *Split `json:"split,omitempty"`
}

// Split says how a rule's clients are shared among its backendRefs. Who is at one
// stays there until weights change, and then as few move as can be: from 90 and 10
// to 80 and 20, every ninth of those at the first. A session of
// sessionPersistence goes before it.
type Split struct {
	// HashOn says what a client is known by: the first of these that a request
	// has. One that has none of them is sent by weight alone.
	// +required
	HashOn HashKeys `json:"hashOn"`
}

// ProxyProtocolVersion is a version of the PROXY protocol.
// +kubebuilder:validation:Enum=V1;V2
type ProxyProtocolVersion string

const (
	// ProxyProtocolV1 is a line of text with the client's address and the one
	// that it connected to.
	ProxyProtocolV1 ProxyProtocolVersion = "V1"
	// ProxyProtocolV2 is binary. Beside the addresses it says which protocol and
	// server name the client has asked for and how it speaks TLS, and passes on
	// what a trusted header has said.
	ProxyProtocolV2 ProxyProtocolVersion = "V2"
)

// BackendProxyProtocol says which header connections to a backend begin with.
type BackendProxyProtocol struct {
	// Version of the header.
	// +required
	Version ProxyProtocolVersion `json:"version"`
}

// BackendProtocol is HTTP1 (HTTP/1.1), HTTP2 (by ALPN with TLS, else by prior
// knowledge) or Auto (with TLS what an endpoint prefers of the two, by ALPN;
// without TLS what the Service port's appProtocol says).
// +kubebuilder:validation:Enum=HTTP1;HTTP2;Auto
type BackendProtocol string

// BackendTimeouts bound how long requests take, and pauses in them. What has
// begun is cut off by them; before its response begins, a request is answered 504.
// +kubebuilder:validation:XValidation:message="one of idle, tunnel and stream must be set",rule="has(self.idle) || has(self.tunnel) || has(self.stream)"
type BackendTimeouts struct {
	// Idle is how long an endpoint may be silent, before its response as within
	// it, from 1s to 24h, to within half a second. The default is 5m.
	// +optional
	Idle *gatewayv1.Duration `json:"idle,omitempty"`
	// Tunnel is how long a tunnel, such as WebSocket's, may be silent both ways,
	// from 1s to 168h, to within half a second. The default is 1h.
	// +optional
	Tunnel *gatewayv1.Duration `json:"tunnel,omitempty"`
	// Stream is how long a request may take in all, with its response, and a
	// tunnel too, from 1s to 720h. There is no default.
	// +optional
	Stream *gatewayv1.Duration `json:"stream,omitempty"`
}

// HealthCheck says how each endpoint is asked whether it can serve: by HTTP,
// by gRPC, or over TCP or UDP. With TLS to the backend, checks speak TLS too,
// but for those over UDP, and hold the endpoint to the same name and authorities.
// +kubebuilder:validation:XValidation:message="exactly one of http, grpc, tcp and udp must be set",rule="(has(self.http) ? 1 : 0) + (has(self.grpc) ? 1 : 0) + (has(self.tcp) ? 1 : 0) + (has(self.udp) ? 1 : 0) == 1"
// +kubebuilder:validation:XValidation:message="connections are used again by http and grpc alone",rule="!has(self.reuseConnection) || !self.reuseConnection || has(self.http) || has(self.grpc)"
// +kubebuilder:validation:XValidation:message="timeout must not be longer than interval",rule="(has(self.timeout) ? duration(self.timeout) : duration('1s')) <= (has(self.interval) ? duration(self.interval) : duration('10s'))"
type HealthCheck struct {
	// Interval is from one check to the next, give or take a fifth, so that
	// replicas and endpoints are not in step. It is from 100ms to 1h; the
	// default is 10s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 100ms to 1h",rule="duration(self) >= duration('100ms') && duration(self) <= duration('1h')"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout is for how long an answer is awaited, connecting included. It is
	// from 10ms to 1m, and not longer than interval; the default is 1s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 10ms to 1m",rule="duration(self) >= duration('10ms') && duration(self) <= duration('1m')"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// HealthyThreshold is how many checks in a row must pass until an unhealthy
	// endpoint is healthy again. The default is 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	HealthyThreshold *int32 `json:"healthyThreshold,omitempty"`
	// UnhealthyThreshold is how many checks in a row must fail until a healthy
	// endpoint is unhealthy. The default is 3. An endpoint's very first check
	// counts alone.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	UnhealthyThreshold *int32 `json:"unhealthyThreshold,omitempty"`
	// Port is the port to ask at, of the endpoint's address: a pod's port, where
	// the endpoint is a pod. The default is the endpoint's own. Where that is a UDP
	// port and the check not udp, or the other way round, it must be set.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`
	// ReuseConnection asks by http or grpc over the connection of the check before,
	// as long as that has passed and the endpoint keeps it open. That saves the
	// handshakes of TLS, and does not find out whether the endpoint takes new
	// connections. By default each check has a connection of its own.
	// +optional
	ReuseConnection bool `json:"reuseConnection,omitempty"`
	// HTTP passes when a request is answered with one of the statuses. It is
	// sent in the version of HTTP that the backend's requests have.
	// +optional
	HTTP *HTTPHealthCheck `json:"http,omitempty"`
	// GRPC passes when grpc.health.v1.Health/Check is answered with SERVING.
	// +optional
	GRPC *GRPCHealthCheck `json:"grpc,omitempty"`
	// TCP passes when the endpoint can be connected to, and with TLS to the
	// backend, when the handshake succeeds; with expect, when what is expected comes.
	// +optional
	TCP *TCPHealthCheck `json:"tcp,omitempty"`
	// UDP passes when a datagram is answered.
	// +optional
	UDP *UDPHealthCheck `json:"udp,omitempty"`
}

// HTTPHealthCheck is the request of a health check, and what its response must be.
// +kubebuilder:validation:XValidation:message="the response to HEAD has no content for bodyContains",rule="!has(self.bodyContains) || !has(self.method) || self.method != 'HEAD'"
type HTTPHealthCheck struct {
	// Method is the request's method. The default is GET.
	// +optional
	// +kubebuilder:validation:Enum=GET;HEAD;OPTIONS;POST
	Method *string `json:"method,omitempty"`
	// Path is the path to ask for, with a query if need be. The default is "/".
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[!"$-\[\]-~]*$`
	Path *string `json:"path,omitempty"`
	// Host is the request's host, with a port if need be. The default is the
	// name in TLS to the backend, without TLS the address and port that are asked.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=259
	Host *string `json:"host,omitempty"`
	// Headers are sent along.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []gatewayv1.HTTPHeader `json:"headers,omitempty"`
	// Statuses are the statuses that pass, such as "200" or "200-299". The
	// default is 200-399.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Statuses []HTTPStatusRange `json:"statuses,omitempty"`
	// BodyContains is a text that must be in the response's content, in its first
	// 64 KiB, as it is sent: case matters, and encodings are not undone.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	BodyContains *string `json:"bodyContains,omitempty"`
}

// HTTPStatusRange is an HTTP status code, or two with a hyphen between them
// for all from one to the other.
// +kubebuilder:validation:MaxLength=7
// +kubebuilder:validation:Pattern=`^[2-5][0-9]{2}(-[2-5][0-9]{2})?$`
type HTTPStatusRange string

// GRPCHealthCheck calls grpc.health.v1.Health/Check.
type GRPCHealthCheck struct {
	// Service is the name whose health is asked for. The default is the
	// server's health as a whole.
	// +optional
	// +kubebuilder:validation:MaxLength=256
	Service string `json:"service,omitempty"`
}

// TCPHealthCheck connects. It says nothing and listens to nothing, unless told so.
type TCPHealthCheck struct {
	// Send is sent when the connection is made.
	// +optional
	Send *HealthCheckBytes `json:"send,omitempty"`
	// Expect must be in the first 64 KiB of what the endpoint then says.
	// +optional
	Expect *HealthCheckBytes `json:"expect,omitempty"`
}

// UDPHealthCheck sends a datagram.
type UDPHealthCheck struct {
	// Send is the datagram.
	// +required
	Send HealthCheckBytes `json:"send"`
	// Expect must be in the datagram that comes back. Without it, any will do.
	// +optional
	Expect *HealthCheckBytes `json:"expect,omitempty"`
}

// HealthCheckBytes are bytes that are sent or expected, up to 1,024.
// +kubebuilder:validation:XValidation:message="exactly one of text and base64 must be set",rule="has(self.text) != has(self.base64)"
type HealthCheckBytes struct {
	// Text is sent as it is, in UTF-8. Mind that a line's end is two characters in
	// many protocols: "PING\r\n", in double quotes.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Text *string `json:"text,omitempty"`
	// Base64 are any bytes.
	// +optional
	// +kubebuilder:validation:MinLength=4
	// +kubebuilder:validation:MaxLength=1368
	Base64 []byte `json:"base64,omitempty"`
}
