package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// CircuitBreaker bounds what a backend and each of its endpoints have at a time,
// so that more than they can serve does not bring them down. What is beyond a
// bound waits in the queue, if there is one, and is answered 503 otherwise. Each
// replica of Headgate counts for itself.
// +kubebuilder:validation:XValidation:message="one of maxRequests, maxRetries, perEndpoint and adaptiveConcurrency must be set",rule="has(self.maxRequests) || has(self.maxRetries) || has(self.perEndpoint) || has(self.adaptiveConcurrency)"
// +kubebuilder:validation:XValidation:message="a queue is for maxRequests, perEndpoint or adaptiveConcurrency, and none is set, so nothing would wait",rule="!has(self.queue) || has(self.maxRequests) || has(self.perEndpoint) || has(self.adaptiveConcurrency)"
// +kubebuilder:validation:XValidation:message="adaptiveConcurrency.minRequests must not be above maxRequests",rule="!has(self.adaptiveConcurrency) || (has(self.adaptiveConcurrency.minRequests) ? self.adaptiveConcurrency.minRequests : 3) <= (has(self.maxRequests) ? self.maxRequests : 1000)"
type CircuitBreaker struct {
	// MaxRequests is how many requests the backend has in flight, all endpoints
	// together. A connection of a TCPRoute or TLSRoute, a flow of a UDPRoute and a
	// tunnel count as one. Without it, there may be any number.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
	// AdaptiveConcurrency finds how many requests the backend can have in flight
	// before they only wait there, and bounds them to that; maxRequests is the most
	// then, 1,000 by default. It is for requests: the connections of TCPRoutes and
	// TLSRoutes and the flows of UDPRoutes have no latency, and maxRequests alone.
	// +optional
	AdaptiveConcurrency *AdaptiveConcurrency `json:"adaptiveConcurrency,omitempty"`
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

// AdaptiveConcurrency moves the bound of the requests in flight by the time that
// they take to the response's first byte, compared with what they take where none
// waits for another: the minimal latency. All endpoints have one bound together.
type AdaptiveConcurrency struct {
	// MinRequests is what the bound never falls below. The default is 3.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MinRequests *int32 `json:"minRequests,omitempty"`
	// LatencyTolerancePercent is how much more than the minimal latency requests
	// may take on average. More lets a longer queue stand at the backend, so that
	// none of it is ever idle; less keeps requests faster. The default is 50.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	LatencyTolerancePercent *int32 `json:"latencyTolerancePercent,omitempty"`
	// MinLatencyInterval is how often the minimal latency is measured at least, from
	// 1s to 1h, give or take a fifth. The bound is halved for that, for some tens of
	// requests. The default is 30s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1h",rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')"
	MinLatencyInterval *gatewayv1.Duration `json:"minLatencyInterval,omitempty"`
}

// PerEndpointBounds bound what each endpoint has at a time.
// +kubebuilder:validation:XValidation:message="one of maxConnections and maxRequests must be set",rule="has(self.maxConnections) || has(self.maxRequests)"
type PerEndpointBounds struct {
	// MaxConnections is how many connections there are to an endpoint, idle ones
	// included. In HTTP/1.1 each carries one request at a time, so that it
	// bounds these, too; in HTTP/2 as many as the endpoint allows. One that only
	// finishes the requests that it has is not counted.
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
