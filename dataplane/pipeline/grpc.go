package pipeline

import (
	"math"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// grpcStatus is the gRPC status of an answer that Headgate makes itself. It is
// gRPC's doc/http-grpc-status-mapping.md where that is exact. Beyond it, what
// an answer of ours means is known, and doc/statuscodes.md has a word for it:
// our 504 is a deadline that passed, our 413 and 431 a bound that was passed,
// our 500 a fault of ours. A backend that is missing is UNAVAILABLE by
// GRPCRouteRule.backendRefs.
func grpcStatus(status int, reason string) (code string) {
	const (
		unknown           = "2"
		deadlineExceeded  = "4"
		permissionDenied  = "7"
		resourceExhausted = "8"
		unimplemented     = "12"
		internal          = "13"
		unavailable       = "14"
		unauthenticated   = "16"
	)
	switch status {
	case 400:
		return internal
	case 401:
		return unauthenticated
	case 403:
		return permissionDenied
	case 404:
		return unimplemented
	case 408, 504:
		return deadlineExceeded
	case 413, 431:
		return resourceExhausted
	case 421, 429, 502, 503:
		return unavailable
	case 500:
		if reason == "no_backend" || reason == "unresolved_backend" {
			return unavailable
		}
		return internal
	}
	return unknown
}

// answerGRPC turns an error that Headgate answers by itself into what a gRPC
// client reads: a response that is nothing but trailers, gRPC over HTTP/2,
// "Responses". Fields that filters have set stay.
func answerGRPC(ex *exchange.Exchange) {
	r := &ex.Response
	if !r.Local || r.Status < 400 || !ex.In.IsGRPC() {
		return
	}
	code := grpcStatus(r.Status, r.LocalReason)
	message := ""
	if r.Body != nil {
		if r.Body.Ready() {
			text, _ := r.Body.Next()
			message = grpcMessage(text, &ex.Arena)
		}
		r.Body.Close()
		r.Body = nil
	}
	r.Status, r.Length = http200, 0
	r.Fields.DelKey(exchange.KeyContentEncoding)
	r.Fields.DelKey(exchange.KeyContentType)
	r.Fields = append(r.Fields,
		exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "application/grpc"},
		exchange.Field{Name: "Grpc-Status", Value: code})
	if message != "" {
		r.Fields = append(r.Fields, exchange.Field{Name: "Grpc-Message", Value: message})
	}
}

// maxMessage is how much of a text becomes grpc-message, in bytes: clients bound
// the header sections that they take, to 8 KiB and more.
const maxMessage = 1 << 10

// grpcMessage writes a text as grpc-message has it, Percent-Encoded there,
// without a newline at its end.
func grpcMessage(text []byte, arena *exchange.Arena) string {
	text = text[:min(len(text), maxMessage)]
	for len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	return arena.Append(func(b []byte) []byte {
		for _, c := range text {
			if c < ' ' || c > '~' || c == '%' {
				b = append(b, '%', "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
			} else {
				b = append(b, c)
			}
		}
		return b
	})
}

// grpcTimeout returns what grpc-timeout of a gRPC call says; false if it is not
// there, is malformed (the server will say so), or is beyond what there is.
func grpcTimeout(r *exchange.Request) (time.Duration, bool) {
	if !r.IsGRPC() {
		return 0, false
	}
	value, ok := r.Fields.Get("grpc-timeout")
	if !ok {
		return 0, false
	}
	return parseGRPCTimeout(value)
}

// parseGRPCTimeout reads 1 to 8 digits and a unit.
func parseGRPCTimeout(value string) (time.Duration, bool) {
	last := len(value) - 1
	if last < 1 || last > 8 {
		return 0, false
	}
	n := int64(0)
	for i := 0; i < last; i++ {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(value[i]-'0')
	}
	unit := time.Duration(0)
	switch value[last] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	if n > math.MaxInt64/int64(unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}
