package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// Fallback says what stands in for a backend that is out: other backends, and
// where there is none of these either, a response of Headgate's own.
// +kubebuilder:validation:XValidation:message="one of backendRefs and response must be set",rule="has(self.backendRefs) || has(self.response)"
// +kubebuilder:validation:XValidation:message="minHealthyPercent is for the condition NoEndpoint",rule="!has(self.minHealthyPercent) || !has(self.conditions) || 'NoEndpoint' in self.conditions"
type Fallback struct {
	// Conditions are what must become of a request for the fallback to take it. The
	// default is those in which nothing of it was sent: NoEndpoint, CircuitOpen
	// and ConnectFailure.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Conditions []FallbackCondition `json:"conditions,omitempty"`
	// Codes are statuses of the backend's responses in whose place the fallback
	// comes, whatever the request's method. If there is a retry, it comes first.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Minimum=400
	// +kubebuilder:validation:items:Maximum=599
	Codes []int32 `json:"codes,omitempty"`
	// GRPCCodes are the same of gRPC, where they come instead of a message.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	GRPCCodes []GRPCCode `json:"grpcCodes,omitempty"`
	// MinHealthyPercent is the share of the backend, by weight, that must be healthy
	// for it to have all requests. If less is, it has the share that is left of
	// that, and the fallback the others, by the condition NoEndpoint. The default
	// is 1: the fallback has requests only if no endpoint is healthy.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinHealthyPercent *int32 `json:"minHealthyPercent,omitempty"`
	// BackendRefs are the backends that stand in, the first of them that has a
	// healthy endpoint. In another namespace than the policy's, a ReferenceGrant
	// must allow it. They have no fallback of their own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	BackendRefs []gatewayv1.BackendObjectReference `json:"backendRefs,omitempty"`
	// Response is the answer if no backend can give one. It is for requests: the
	// connections of TCPRoutes and TLSRoutes are closed.
	// +optional
	Response *FallbackResponse `json:"response,omitempty"`
}

// FallbackCondition is what becomes of a request at its backend: NoEndpoint (too
// few endpoints are healthy, or there are none), CircuitOpen (the circuit breaker
// has refused it, at once or behind the queue), ConnectFailure (no connection came
// about to any of the endpoints that were tried), Reset (no response came, or
// none that could be read) or Timeout (the time for a try was over).
// +kubebuilder:validation:Enum=NoEndpoint;CircuitOpen;ConnectFailure;Reset;Timeout
type FallbackCondition string

// FallbackResponse is a response in a backend's place. A gRPC call is answered with
// the code that corresponds to the status, and if that is no error's, with that
// of the failure.
// +kubebuilder:validation:XValidation:message="responses with this status have no content",rule="!has(self.body) || !has(self.status) || !(self.status in [204, 205, 304])"
// +kubebuilder:validation:XValidation:message="contentType is for a body",rule="!has(self.contentType) || has(self.body)"
type FallbackResponse struct {
	// Status of the response. The default is that of the failure, 502, 503 or 504.
	// +optional
	// +kubebuilder:validation:Minimum=200
	// +kubebuilder:validation:Maximum=599
	Status *int32 `json:"status,omitempty"`
	// ContentType of the body. The default is text/plain; charset=utf-8.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ContentType *string `json:"contentType,omitempty"`
	// Headers of the response, beside Content-Type and, where an error has it,
	// Retry-After.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []gatewayv1.HTTPHeader `json:"headers,omitempty"`
	// Body is the content, up to 64 KiB.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	Body string `json:"body,omitempty"`
}
