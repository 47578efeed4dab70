package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// CircuitBreaker bounds what a backend and each of its endpoints have at a time,
// so that more than they can serve does not bring them down. What is beyond a
// bound waits in the queue, if there is one, and is answered 503 otherwise. Each
// replica of Headgate counts for itself.
// +kubebuilder:validation:XValidation:message="one of maxRequests, maxRetries and perEndpoint must be set",rule="has(self.maxRequests) || has(self.maxRetries) || has(self.perEndpoint)"
// +kubebuilder:validation:XValidation:message="a queue is for maxRequests or perEndpoint, and neither is set, so nothing would wait",rule="!has(self.queue) || has(self.maxRequests) || has(self.perEndpoint)"
type CircuitBreaker struct {
	// MaxRequests is how many requests the backend has in flight, all endpoints
	// together. A connection of a TCPRoute or TLSRoute, a flow of a UDPRoute and a
	// tunnel count as one. Without it, there may be any number.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
	// MaxRetries is how many requests may be sent again at a time, from the
	// first retry to the outcome. The outcome of one that is beyond it is that of its
	// first try.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRetries *int32 `json:"maxRetries,omitempty"`
	// PerEndpoint bounds what each endpoint has. One that is at a bound is not picked.
	// +optional
	PerEndpoint *PerEndpointBounds `json:"perEndpoint,omitempty"`
	// Queue is where requests wait until an endpoint has room for them. Without
	// it, they are refused at once, as connections and flows always are.
	// +optional
	Queue *RequestQueue `json:"queue,omitempty"`
}

// PerEndpointBounds bound what each endpoint has at a time.
// +kubebuilder:validation:XValidation:message="one of maxConnections and maxRequests must be set",rule="has(self.maxConnections) || has(self.maxRequests)"
type PerEndpointBounds struct {
	// MaxConnections is how many connections there are to an endpoint, idle ones
	// included. In HTTP/1.1 each carries one request at a time, so that it
	// bounds these, too; in HTTP/2 as many as the endpoint allows.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxConnections *int32 `json:"maxConnections,omitempty"`
	// MaxRequests is how many requests an endpoint has in flight.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
}

// RequestQueue is where requests wait, in the order in which they come. When
// the first has waited for more than half of the timeout, the newest goes first
// instead, and takes the place of the first if there is no other.
type RequestQueue struct {
	// MaxRequests is how many wait at a time.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxRequests int32 `json:"maxRequests"`
	// Timeout is for how long a request waits, from 1ms to 1m. The default is 1s.
	// The timeouts of its rule go on meanwhile.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1ms to 1m",rule="duration(self) >= duration('1ms') && duration(self) <= duration('1m')"
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}
