package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// RateLimitPolicy limits how often something is requested, how much of it at a
// time, and how fast its content passes. A request that exceeds a limit is
// answered 429; content waits. Of connections and flows of datagrams it limits how many there are,
// and how fast those of TCP and TLS pass. Each Headgate process counts for itself.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=rlp
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`
// +kubebuilder:printcolumn:name="Kind",type=string,priority=1,JSONPath=`.spec.targetRefs[0].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RateLimitPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec RateLimitPolicySpec `json:"spec"`
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// RateLimitPolicyList is a list of RateLimitPolicy objects.
// +kubebuilder:object:root=true
type RateLimitPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RateLimitPolicy `json:"items"`
}

// RateLimitPolicySpec says what is limited. Limits of one name, of policies at
// different targets, replace one another.
// +kubebuilder:validation:XValidation:message="one of limits, concurrency, bandwidth and priority must be set",rule="has(self.limits) || has(self.concurrency) || has(self.bandwidth) || has(self.priority)"
// +kubebuilder:validation:XValidation:message="limits and priority are about requests: of a TCPRoute, TLSRoute or UDPRoute there are concurrency and bandwidth",rule="!(has(self.limits) || has(self.priority)) || !has(self.targetRefs) || self.targetRefs.all(t, !(t.kind in ['TCPRoute', 'TLSRoute', 'UDPRoute']))"
// +kubebuilder:validation:XValidation:message="datagrams of a UDPRoute are not slowed down",rule="!has(self.bandwidth) || !has(self.targetRefs) || self.targetRefs.all(t, t.kind != 'UDPRoute')"
type RateLimitPolicySpec struct {
	// TargetRefs are what the policy attaches to. Without any, it holds for the
	// rules of HTTPRoutes and GRPCRoutes that name it in an ExtensionRef filter. For
	// connections that are passed on unread it is concurrency and bandwidth that
	// hold, by ClientIP and Route.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Gateway (gateway.networking.k8s.io), ListenerSet (gateway.networking.k8s.io), HTTPRoute (gateway.networking.k8s.io), GRPCRoute (gateway.networking.k8s.io), TCPRoute (gateway.networking.k8s.io), TLSRoute (gateway.networking.k8s.io), UDPRoute (gateway.networking.k8s.io)",rule="self.all(t, (t.group == 'gateway.networking.k8s.io' && t.kind == 'Gateway') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'ListenerSet') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'HTTPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'GRPCRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'TCPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'TLSRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'UDPRoute'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	// Enforced says that what this policy sets holds for everything below its
	// targets: no policy nearer to the request replaces it. Without it, the
	// nearer policy wins where both set the same.
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// Priority says which requests are refused when Headgate itself has not
	// enough CPU or memory to serve all: those of the lowest first. The default is Default.
	// +optional
	Priority *RequestPriority `json:"priority,omitempty"`
	// Limits are counted independently; a request needs room in all of them.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:message="a key of type Request is for bandwidth",rule="self.all(l, !has(l.key) || l.key.all(k, k.type != 'Request'))"
	Limits []RateLimit `json:"limits,omitempty"`
	// Concurrency is how many requests are served at a time, and of what is passed
	// on unread how many connections and flows there are. Each needs room in all of these.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:message="a key of type Request is for bandwidth",rule="self.all(l, !has(l.key) || l.key.all(k, k.type != 'Request'))"
	Concurrency []ConcurrencyLimit `json:"concurrency,omitempty"`
	// Bandwidth is how fast the content of requests and responses passes: as fast
	// as the slowest of these lets it.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Bandwidth []BandwidthLimit `json:"bandwidth,omitempty"`
}

// ConcurrencyLimit counts the requests that are being served for each value of
// its key, from when they are let through to the end of their response, or of
// their tunnel; a connection or flow that is passed on unread counts as one. The counts are shared by everything below the policy's target.
type ConcurrencyLimit struct {
	// Name tells the limit from others.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Requests is how many are served at a time; one more is answered 429, or
	// reset if it is a connection.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Requests int32 `json:"requests"`
	// Key is what has a count of its own: each combination of the values of these
	// parts. The default is one count for all requests.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Key []RateLimitKey `json:"key,omitempty"`
}

// BandwidthDirection says whose content is meant.
// +kubebuilder:validation:Enum=Request;Response
type BandwidthDirection string

const (
	// BandwidthRequest is what clients send.
	BandwidthRequest BandwidthDirection = "Request"
	// BandwidthResponse is what clients get.
	BandwidthResponse BandwidthDirection = "Response"
)

// BandwidthLimit is a token bucket of bytes for each value of its key. The
// buckets are shared by everything below the policy's target.
type BandwidthLimit struct {
	// Name tells the limit from others, also in metrics.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Direction says whose content is slowed down: the requests' or the responses'.
	// Of WebSockets and other tunnels, and of connections that are passed on
	// unread, it is what the client sends or gets.
	// +optional
	// +kubebuilder:default=Response
	Direction BandwidthDirection `json:"direction,omitempty"`
	// BytesPerSecond is how fast content passes, such as 512Ki or 10Mi; from 1Ki to 1Ti.
	// +required
	BytesPerSecond resource.Quantity `json:"bytesPerSecond"`
	// Burst is how much passes at once after a pause, at most what passes in a
	// day. The default is bytesPerSecond.
	// +optional
	Burst *resource.Quantity `json:"burst,omitempty"`
	// After is how much of each content passes first and is not counted. The
	// default is none.
	// +optional
	After *resource.Quantity `json:"after,omitempty"`
	// Key is what has a bucket of its own: each combination of the values of these
	// parts, or each request. The default is one bucket for all.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:XValidation:message="a key of type Request has no other parts",rule="self.size() == 1 || self.all(k, k.type != 'Request')"
	Key []RateLimitKey `json:"key,omitempty"`
}

// RequestPriority is how long requests are served when not all can be, from Low to
// Critical.
// +kubebuilder:validation:Enum=Low;Default;High;Critical
type RequestPriority string

// RateLimit is a token bucket for each value of its key. The buckets are
// shared by everything below the policy's target.
type RateLimit struct {
	// Name tells the limit from others, also in the RateLimit header fields.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Requests is how many requests are let through in the time of per.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Requests int32 `json:"requests"`
	// Per is the time in which so many requests are let through, from 1ms to 24h.
	// +required
	Per gatewayv1.Duration `json:"per"`
	// Burst is how many requests may come at once after a pause. The default
	// is requests.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Burst *int32 `json:"burst,omitempty"`
	// Key is what has a bucket of its own: each combination of the values of
	// these parts. The default is one bucket for all requests.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Key []RateLimitKey `json:"key,omitempty"`
}

// RateLimitKeyType is a property of a request.
// +kubebuilder:validation:Enum=ClientIP;Consumer;Header;Route;Request
type RateLimitKeyType string

const (
	// RateLimitClientIP is the client's address, behind trusted proxies. An
	// IPv6 client counts as its /64.
	RateLimitClientIP RateLimitKeyType = "ClientIP"
	// RateLimitConsumer is the authenticated consumer; all anonymous requests are one.
	RateLimitConsumer RateLimitKeyType = "Consumer"
	// RateLimitHeader is the value of a header field; all requests without it are one.
	RateLimitHeader RateLimitKeyType = "Header"
	// RateLimitRoute is the route that the request matched, or the connection.
	RateLimitRoute RateLimitKeyType = "Route"
	// RateLimitRequest is each request for itself, or each connection that is passed
	// on unread. It is for bandwidth, and has no other parts beside it.
	RateLimitRequest RateLimitKeyType = "Request"
)

// RateLimitKey is one part of a limit's key.
// +kubebuilder:validation:XValidation:message="header must be set if type is Header, and only then",rule="(self.type == 'Header') == has(self.header)"
type RateLimitKey struct {
	// Type is the property of the request.
	// +required
	Type RateLimitKeyType `json:"type"`
	// Header is the header field's name, for the type Header.
	// +optional
	Header *gatewayv1.HeaderName `json:"header,omitempty"`
}
