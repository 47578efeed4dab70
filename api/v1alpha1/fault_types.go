package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fault makes requests to a backend fail on purpose, to see what becomes of it:
// some late, some with an error. Which, is drawn for each by itself, for delay and
// abort apart. It comes behind all filters, and before retries: what it answers is
// not tried again.
// +kubebuilder:validation:XValidation:message="one of delay and abort must be set",rule="has(self.delay) || has(self.abort)"
type Fault struct {
	// Delay holds requests up before they are sent.
	// +optional
	Delay *FaultDelay `json:"delay,omitempty"`
	// Abort answers requests with an error, and the backend never has them.
	// +optional
	Abort *FaultAbort `json:"abort,omitempty"`
	// Headers are fields that a request must have, as its client has sent it, to
	// be among those that fail: all of them, with exactly these values. Without
	// any, all requests are.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Headers []gatewayv1.HTTPHeader `json:"headers,omitempty"`
}

// FaultDelay holds requests up.
type FaultDelay struct {
	// Time is how long, from 1ms to 5m. A request is held up for no longer than its
	// rule's timeouts.request, and answered 504 then.
	// +required
	// +kubebuilder:validation:XValidation:message="must be from 1ms to 5m",rule="duration(self) >= duration('1ms') && duration(self) <= duration('5m')"
	Time gatewayv1.Duration `json:"time"`
	// Percent of the requests. The default is 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}

// FaultAbort answers requests with an error.
type FaultAbort struct {
	// Status of the answer. A gRPC call is answered with the code that corresponds
	// to it: UNAVAILABLE for 503, DEADLINE_EXCEEDED for 504, INTERNAL for 500.
	// +required
	// +kubebuilder:validation:Minimum=400
	// +kubebuilder:validation:Maximum=599
	Status int32 `json:"status"`
	// Percent of the requests. The default is 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	Percent *int32 `json:"percent,omitempty"`
}
