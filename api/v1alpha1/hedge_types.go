package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// Hedge sends a request a second time, to another endpoint, if its response is
// long in coming, and takes the response that comes first. It is for idempotent requests, and
// costs the backend a few requests more. Hedges count as retries do, in the circuit
// breaker's maxRetries and in the retry budget; without that, a fifth of the
// requests are hedged at most.
// +kubebuilder:validation:XValidation:message="one of after and afterPercentile must be set",rule="has(self.after) || has(self.afterPercentile)"
type Hedge struct {
	// After is for how long the first byte of a response is waited for, from 1ms to
	// 1m. With afterPercentile it is the least time, by default 10ms.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1ms to 1m",rule="duration(self) >= duration('1ms') && duration(self) <= duration('1m')"
	After *gatewayv1.Duration `json:"after,omitempty"`
	// AfterPercentile is which share of the backend's latest responses has come in
	// the time that is waited for: with 95, about one request in twenty is hedged.
	// Until 100 responses have come, none is.
	// +optional
	// +kubebuilder:validation:Minimum=50
	// +kubebuilder:validation:Maximum=99
	AfterPercentile *int32 `json:"afterPercentile,omitempty"`
	// MaxHedges is how many are sent beside a request, each when the one before has
	// been waited for as long, and each to another endpoint. The default is 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2
	MaxHedges *int32 `json:"maxHedges,omitempty"`
	// NonIdempotent hedges requests whatever their method (POST, PATCH, and with it
	// gRPC): the backend must bear it if a request is acted on twice.
	// +optional
	NonIdempotent bool `json:"nonIdempotent,omitempty"`
}
