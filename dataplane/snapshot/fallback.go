package snapshot

// Fallback is what stands in for a backend that is out.
type Fallback struct {
	// Conditions are what must become of a request: "CircuitOpen", "ConnectFailure",
	// "NoEndpoint", "Reset" and "Timeout", sorted.
	Conditions []string `json:"conditions,omitempty"`
	// Codes are response status codes, GRPCCodes those of gRPC that come instead of
	// a response's content; both sorted.
	Codes     []int `json:"codes,omitempty"`
	GRPCCodes []int `json:"grpcCodes,omitempty"`
	// MinHealthyPercent is the share of the endpoints that must be healthy, by weight, for the
	// backend to have all requests. With less, it has the share that is left of that.
	MinHealthyPercent int `json:"minHealthyPercent"`
	// Backends stand in, the first that has a healthy endpoint. They have only a
	// cluster, which is there, filters, which act on no response, a retry and a hedge.
	Backends []Backend `json:"backends,omitempty"`
	// Response is the answer where no backend gives one; nil for the failure's own.
	Response *FallbackResponse `json:"response,omitempty"`
}

// FallbackResponse is a response in a backend's place.
type FallbackResponse struct {
	// Status is 0 for that of the failure.
	Status int `json:"status,omitempty"`
	// ContentType is "" for text/plain in UTF-8.
	ContentType string        `json:"contentType,omitempty"`
	Headers     []HeaderField `json:"headers,omitempty"`
	Body        string        `json:"body,omitempty"`
}
