package exchange

import "strings"

// IsGRPC reports whether the request is a gRPC call, by its content type and
// version: gRPC over HTTP/2, "Requests". gRPC-Web is not meant.
func (r *Request) IsGRPC() bool {
	if r.Proto < HTTP2 {
		return false
	}
	const prefix = "application/grpc"
	t := r.Fields.Value(KeyContentType)
	return len(t) >= len(prefix) && EqualFold(t[:len(prefix)], prefix) &&
		(len(t) == len(prefix) || strings.IndexByte("+; \t", t[len(prefix)]) >= 0)
}

// GRPCStatus returns the status of a gRPC call, "" if the response has none,
// or none yet: it comes in the trailers, or in the header of a response that
// is nothing but trailers.
func (r *Response) GRPCStatus() string {
	if status, ok := r.Trailers.Get("grpc-status"); ok {
		return status
	}
	status, _ := r.Fields.Get("grpc-status")
	return status
}
