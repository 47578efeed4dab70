package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// BackendPolicy says how Headgate balances over and speaks to a backend. At a
// Service or Backend it holds for all who route to it, at a Service's port for
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
// +kubebuilder:validation:XValidation:message="one of balance, connectTimeout, pool and proxyProtocol must be set",rule="has(self.balance) || has(self.connectTimeout) || has(self.pool) || has(self.proxyProtocol)"
type BackendPolicySpec struct {
	// TargetRefs are what the policy attaches to.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Service (core), Backend (headgate.dev), HTTPRoute (gateway.networking.k8s.io), GRPCRoute (gateway.networking.k8s.io)",rule="self.all(t, (t.group == '' && t.kind == 'Service') || (t.group == 'headgate.dev' && t.kind == 'Backend') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'HTTPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'GRPCRoute'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	// +kubebuilder:validation:XValidation:message="a Backend has no sections",rule="self.all(t, t.kind != 'Backend' || !has(t.sectionName))"
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
	// Pool bounds the idle connections.
	// +optional
	Pool *ConnectionPool `json:"pool,omitempty"`
	// ProxyProtocol begins each connection to an endpoint with a PROXY protocol
	// header, which names the client. A connection then carries the requests of
	// one client's connection only, and ends with that. UDPRoutes cannot use
	// such a backend.
	// +optional
	ProxyProtocol *BackendProxyProtocol `json:"proxyProtocol,omitempty"`
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

// Balance says how an endpoint is chosen.
type Balance struct {
	// Algorithm is RoundRobin (by weight, evenly interleaved; the default),
	// LeastRequest (the fewest requests in flight), IPHash (a client keeps its
	// endpoint while that is there) or RandomOfTwo (the less busy of two).
	// +required
	Algorithm BalanceAlgorithm `json:"algorithm"`
}

// BalanceAlgorithm chooses an endpoint.
// +kubebuilder:validation:Enum=RoundRobin;LeastRequest;IPHash;RandomOfTwo
type BalanceAlgorithm string

// ConnectionPool bounds the idle connections to each endpoint.
// +kubebuilder:validation:XValidation:message="one of maxIdle and idleTimeout must be set",rule="has(self.maxIdle) || has(self.idleTimeout)"
type ConnectionPool struct {
	// MaxIdle is how many idle connections are kept to each endpoint. The
	// default is 256.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	MaxIdle *int32 `json:"maxIdle,omitempty"`
	// IdleTimeout is after how long an idle connection is closed, from 1s to
	// 1h. The default is 60s.
	// +optional
	IdleTimeout *gatewayv1.Duration `json:"idleTimeout,omitempty"`
}
