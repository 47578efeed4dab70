package exchange

import "fmt"

// Stage is how far a round trip to an endpoint came before it failed.
type Stage uint8

// The stages, in order.
const (
	// Dialing: no connection was made. The request may go to another endpoint.
	Dialing Stage = iota + 1
	// Stale: a reused connection turned out to be closed before the endpoint
	// answered a byte, and the endpoint cannot have acted on the request if it
	// closed before reading it, RFC 9112 section 9.3.1.
	Stale
	// Sending: the request was sent in part or whole, and no byte of a response came.
	Sending
	// Receiving: the response had begun.
	Receiving
)

// UpstreamError is a failed round trip.
type UpstreamError struct {
	Stage Stage
	// Reason is one word for logs and metrics: "connect_refused", "connect_timeout",
	// "reset", "timeout", "malformed_response", "no_endpoint", …
	Reason string
	// Unsent says that the request may go out again whatever its method, RFC 9110
	// section 9.2.2: nothing was sent of it, or the endpoint says that it has not
	// processed it, RFC 9113 section 8.7; and its content is as it was, to be
	// pulled from the beginning.
	Unsent bool
	Err    error
}

func (e *UpstreamError) Error() string { return fmt.Sprintf("upstream: %s: %v", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e *UpstreamError) Unwrap() error { return e.Err }

// ClientError is a failure of the downstream side while the request's body was
// read: the client went away, was too slow, or sent malformed framing. Status
// is what to answer if nothing was answered yet (400, 408, 413, …).
type ClientError struct {
	Status int
	Reason string
	Err    error
}

func (e *ClientError) Error() string { return fmt.Sprintf("client: %s: %v", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e *ClientError) Unwrap() error { return e.Err }
