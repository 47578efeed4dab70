package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// RateLimitPolicy limits how often something is requested. A request that exceeds
// a limit is answered 429. Each Headgate process counts for itself.
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

// RateLimitPolicySpec says what is limited.
type RateLimitPolicySpec struct {
	// TargetRefs are what the policy attaches to. Without any, it holds for the
	// rules of HTTPRoutes and GRPCRoutes that name it in an ExtensionRef filter.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Gateway (gateway.networking.k8s.io), ListenerSet (gateway.networking.k8s.io), HTTPRoute (gateway.networking.k8s.io), GRPCRoute (gateway.networking.k8s.io)",rule="self.all(t, (t.group == 'gateway.networking.k8s.io' && t.kind == 'Gateway') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'ListenerSet') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'HTTPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'GRPCRoute'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	// Enforced says that what this policy sets holds for everything below its
	// targets: no policy nearer to the request replaces it. Without it, the
	// nearer policy wins where both set the same.
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// Limits are counted independently; a request needs room in all of them.
	// Limits of one name, of policies at different targets, replace one another.
	// +required
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Limits []RateLimit `json:"limits"`
}

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
// +kubebuilder:validation:Enum=ClientIP;Consumer;Header;Route
type RateLimitKeyType string

const (
	// RateLimitClientIP is the client's address, behind trusted proxies. An
	// IPv6 client counts as its /64.
	RateLimitClientIP RateLimitKeyType = "ClientIP"
	// RateLimitConsumer is the authenticated consumer; all anonymous requests are one.
	RateLimitConsumer RateLimitKeyType = "Consumer"
	// RateLimitHeader is the value of a header field; all requests without it are one.
	RateLimitHeader RateLimitKeyType = "Header"
	// RateLimitRoute is the route that the request matched.
	RateLimitRoute RateLimitKeyType = "Route"
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
