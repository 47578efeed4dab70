package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// Retry says which requests are sent again, and when. At a rule with a retry of
// its own, that holds.
// +kubebuilder:validation:XValidation:message="maxBackoff must not be shorter than backoff",rule="!has(self.maxBackoff) || duration(self.maxBackoff) >= (has(self.backoff) ? duration(self.backoff) : duration('25ms'))"
type Retry struct {
	// Conditions are the tries without a response that are followed by another. The
	// default is all of them.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	Conditions []RetryCondition `json:"conditions,omitempty"`
	// Codes are the statuses of responses that are followed by another try,
	// whatever the request's method.
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
	// Headers are fields of responses that are followed by another try, whatever
	// their status; one of them suffices.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Headers []RetryHeader `json:"headers,omitempty"`
	// NonIdempotent sends requests again whatever their method (POST, PATCH, and
	// with it gRPC), also if an endpoint may have acted on them. Without it,
	// conditions hold for them only where nothing was sent.
	// +optional
	NonIdempotent bool `json:"nonIdempotent,omitempty"`
	// Attempts is how many tries follow the first at most. The default is 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Attempts *int32 `json:"attempts,omitempty"`
	// Backoff is the time before the second try, and up to a quarter more. It
	// doubles with each more try. The default is 25ms; 0s is none.
	// +optional
	Backoff *gatewayv1.Duration `json:"backoff,omitempty"`
	// MaxBackoff is the longest that it doubles to. The default is ten times
	// backoff.
	// +optional
	MaxBackoff *gatewayv1.Duration `json:"maxBackoff,omitempty"`
	// MaxRetryAfter is how long what a response says in Retry-After is waited for,
	// to 1m. If it asks for more, there is no other try. The default is not to
	// look at Retry-After.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1m",rule="duration(self) >= duration('1s') && duration(self) <= duration('1m')"
	MaxRetryAfter *gatewayv1.Duration `json:"maxRetryAfter,omitempty"`
	// PerTryTimeout bounds each try, to the response's first byte. A rule's
	// timeouts.backendRequest holds in its place. The default is none.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be 1ms or more",rule="duration(self) >= duration('1ms')"
	PerTryTimeout *gatewayv1.Duration `json:"perTryTimeout,omitempty"`
	// MaxContent is the most content of a request that is kept to be sent again, in
	// bytes; a request with more is sent once. The default is 65536.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16777216
	MaxContent *int32 `json:"maxContent,omitempty"`
}

// RetryCondition is what becomes of a try without a response: ConnectFailure (no
// connection came about), Reset (it was closed or reset before a response came)
// or Timeout (perTryTimeout, or the rule's timeouts.backendRequest, was over).
// +kubebuilder:validation:Enum=ConnectFailure;Reset;Timeout
type RetryCondition string

// GRPCCode is a status code of gRPC, by its name.
// +kubebuilder:validation:Enum=CANCELLED;UNKNOWN;INVALID_ARGUMENT;DEADLINE_EXCEEDED;NOT_FOUND;ALREADY_EXISTS;PERMISSION_DENIED;RESOURCE_EXHAUSTED;FAILED_PRECONDITION;ABORTED;OUT_OF_RANGE;UNIMPLEMENTED;INTERNAL;UNAVAILABLE;DATA_LOSS;UNAUTHENTICATED
type GRPCCode string

// RetryHeader is a field of a response.
type RetryHeader struct {
	// Name of the field.
	// +required
	Name gatewayv1.HTTPHeaderName `json:"name"`
	// Value that it must have. The default is any.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value *string `json:"value,omitempty"`
}

// RetryBudget bounds the retries to a backend, all of its routes' together, as
// XBackendTrafficPolicy's retryConstraint does: to a share of its requests, or
// to a rate where that is more. A request whose retry is refused is answered 503.
type RetryBudget struct {
	// Percent of the requests of the last interval may be retries. The default is
	// 20.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
	// Interval is the time whose requests and retries count, from 1s to 1h. The
	// default is 10s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1h",rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// MinRetryRate is allowed however few requests there are. The default is 10
	// in 1s.
	// +optional
	MinRetryRate *RequestRate `json:"minRetryRate,omitempty"`
}

// RequestRate is a number of requests in a time.
type RequestRate struct {
	// Count of requests. The default is 10.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Count *int32 `json:"count,omitempty"`
	// Interval is the time in which they may come, from 1ms to 1h. The default is
	// 1s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1ms to 1h",rule="duration(self) >= duration('1ms') && duration(self) <= duration('1h')"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
}
