package h1

import (
	"net"

	"github.com/headgate/headgate/dataplane/exchange"
)

// ClientConn is one connection to an upstream. It carries one exchange at a
// time and is not safe for concurrent use, except for Close.
//
// For each exchange call RoundTrip, pull ex.Response.Body, then Finish.
type ClientConn struct{}

// NewClientConn makes the client side of a connection. A nil opts means the defaults.
func NewClientConn(c net.Conn, opts *ClientOptions) *ClientConn { return &ClientConn{} }

// RoundTrip sends ex.Out and fills ex.Response with the final response's head;
// interim responses go to ex.Client. The error is an *exchange.UpstreamError
// or, if it was the request's content that failed, an *exchange.ClientError.
// Finish must be called after an error, too.
//
// Before anything is sent or any content is pulled from ex.Out.Body, a reused
// plain-text connection is checked: if the peer has closed it, or said
// something unasked, the error has Stage Stale and the request, whatever its
// method and content, can go out on another connection as it is.
func (c *ClientConn) RoundTrip(ex *exchange.Exchange) error { return nil }

// Finish ends the exchange's use of the connection: the response's strings and
// body are no longer valid, and ex.Out.Body is nobody's but the caller's. It
// reports whether the connection can carry another exchange; if not, the
// caller closes it.
func (c *ClientConn) Finish() (reusable bool) { return false }

// Close closes the connection. It may be called from any goroutine.
func (c *ClientConn) Close() error { return nil }
