package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// ConnectionPool says how many idle connections are kept to each endpoint, and
// how long a connection is used. It is for requests: the connections of TCPRoutes
// and TLSRoutes are made for one client's, and end with it.
// +kubebuilder:validation:XValidation:message="one of maxIdle, minIdle, preconnectPercent, idleTimeout, maxAge and maxRequests must be set",rule="has(self.maxIdle) || has(self.minIdle) || has(self.preconnectPercent) || has(self.idleTimeout) || has(self.maxAge) || has(self.maxRequests)"
// +kubebuilder:validation:XValidation:message="minIdle must not be more than maxIdle, which is 256 unless it is set",rule="!has(self.minIdle) || self.minIdle <= (has(self.maxIdle) ? self.maxIdle : 256)"
type ConnectionPool struct {
	// MaxIdle is how many idle connections are kept to each endpoint. The
	// default is 256.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65536
	MaxIdle *int32 `json:"maxIdle,omitempty"`
	// MinIdle is how many idle connections there are to each endpoint, ahead of the
	// requests that want them. A new endpoint gets requests when the first one is
	// made. Of HTTP/2, there is one, idle or not. By default none are made ahead.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MinIdle *int32 `json:"minIdle,omitempty"`
	// PreconnectPercent is how many connections there are to each endpoint, idle
	// ones included, in percent of the most that were in use at a time during the
	// last one to two of idleTimeout; of a new endpoint, of what the others had on
	// average. Those that lack are made ahead, as for minIdle, up to maxIdle. By default none are.
	// +optional
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=300
	PreconnectPercent *int32 `json:"preconnectPercent,omitempty"`
	// IdleTimeout is after how long an idle connection is closed, from 1s to
	// 1h. The default is 60s.
	// +optional
	IdleTimeout *gatewayv1.Duration `json:"idleTimeout,omitempty"`
	// MaxAge is after how long a connection gets no more requests, less up to a
	// fifth, so that those that were made together do not end together. It is
	// closed when the last one ends. It is from 1s to 24h; by default there is no bound.
	// +optional
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// MaxRequests is how many requests a connection gets. By default there is no bound.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
}

// TCPKeepalive is the keep-alive of TCP, RFC 9293 section 3.8.4. Times are taken
// in whole seconds.
// +kubebuilder:validation:XValidation:message="one of idleTime, interval and probes must be set",rule="has(self.idleTime) || has(self.interval) || has(self.probes)"
type TCPKeepalive struct {
	// IdleTime is how long a connection is silent until the first probe, from 1s
	// to 2h. The default is 15s.
	// +optional
	IdleTime *gatewayv1.Duration `json:"idleTime,omitempty"`
	// Interval is from one probe to the next, from 1s to 2h. The default is 15s.
	// +optional
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Probes is how many may go unanswered until the connection is given up. The
	// default is 9.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=127
	Probes *int32 `json:"probes,omitempty"`
}

// HTTP2Keepalive are PING frames, RFC 9113 section 6.7, on connections with
// requests from which nothing is heard. Idle ones are left to TCPKeepalive.
// +kubebuilder:validation:XValidation:message="one of interval and timeout must be set",rule="has(self.interval) || has(self.timeout)"
type HTTP2Keepalive struct {
	// Interval is how long a connection is silent until a PING is sent, from 1s to
	// 1h. The default is 15s.
	// +optional
	Interval *gatewayv1.Duration `json:"interval,omitempty"`
	// Timeout is for how long its answer is awaited until the connection is given
	// up, from 100ms to 1m. The default is 15s.
	// +optional
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
}

// IPAddress is an IPv4 or IPv6 address.
// +kubebuilder:validation:MinLength=2
// +kubebuilder:validation:MaxLength=45
// +kubebuilder:validation:XValidation:message="must be an IP address",rule="isIP(self)"
type IPAddress string
