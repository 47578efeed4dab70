package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

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
