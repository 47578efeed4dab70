package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// OutlierDetection says what requests must come to for their endpoint to be
// ejected: it gets no requests for a while, as long as there are others. It is
// for HTTP and gRPC.
// +kubebuilder:validation:XValidation:message="baseEjectionTime must not be longer than maxEjectionTime",rule="(has(self.baseEjectionTime) ? duration(self.baseEjectionTime) : duration('30s')) <= (has(self.maxEjectionTime) ? duration(self.maxEjectionTime) : duration('5m'))"
// +kubebuilder:validation:XValidation:message="consecutiveErrors is 0 and neither errorPercent nor latencyFactor is set, so nothing would be ejected",rule="!has(self.consecutiveErrors) || self.consecutiveErrors > 0 || has(self.errorPercent) || has(self.latencyFactor)"
// +kubebuilder:validation:XValidation:message="minRequests and interval are for errorPercent and latencyFactor",rule="has(self.errorPercent) || has(self.latencyFactor) || !(has(self.minRequests) || has(self.interval))"
type OutlierDetection struct {
	// ConsecutiveErrors is how many errors in a row eject an endpoint; 0 means
	// that none do. The default is 5.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	ConsecutiveErrors *int32 `json:"consecutiveErrors,omitempty"`
	// ErrorPercent ejects an endpoint if so many percent of its requests in an
	// interval, or more, were errors. Without it, the rate does not matter.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	ErrorPercent *int32 `json:"errorPercent,omitempty"`
	// LatencyFactor ejects an endpoint if the average time to its responses'
	// first bytes in an interval was more than so many times the median of the
	// endpoints' averages. Without it, latency does not matter.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=1000
	LatencyFactor *int32 `json:"latencyFactor,omitempty"`
	// MinRequests is how many requests an endpoint must have had in an interval
	// for errorPercent and latencyFactor to count. The default is 20.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MinRequests *int32 `json:"minRequests,omitempty"`
	// Interval is over which errorPercent and latencyFactor are taken, from 1s to
	// 1h, to the second. The default is 10s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1h",rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')"
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Statuses are the statuses that are errors, such as "500" or "500-599", which
	// is the default. A request that brought no response is one in any case, unless
	// its client gave it up. A gRPC call that fails at once with UNKNOWN, INTERNAL or
	// DATA_LOSS counts as 500, with UNAVAILABLE as 503, with DEADLINE_EXCEEDED as 504.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	Statuses []HTTPStatusRange `json:"statuses,omitempty"`
	// BaseEjectionTime is for how long an endpoint is ejected the first time, from
	// 1s to 1h, and up to a tenth more. Each ejection that follows is longer by so much, and
	// each interval without one takes that back. The default is 30s.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1h",rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')"
	BaseEjectionTime *gatewayv1.Duration `json:"baseEjectionTime,omitempty"`
	// MaxEjectionTime bounds the time of an ejection, from 1s to 24h. The default is 5m.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 24h",rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')"
	MaxEjectionTime *gatewayv1.Duration `json:"maxEjectionTime,omitempty"`
	// MaxEjectionPercent of the endpoints may be out at a time, for whatever reason;
	// beyond that, no outlier is ejected. One of several always may be, the last one
	// that is left never. The default is 50.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	MaxEjectionPercent *int32 `json:"maxEjectionPercent,omitempty"`
}
