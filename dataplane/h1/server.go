package h1

import (
	"net"

	"github.com/headgate/headgate/dataplane/exchange"
)

// ServerConn serves one client's connection.
type ServerConn struct{}

// NewServerConn makes the server side of an accepted connection. A nil opts
// means the defaults. The connection belongs to the ServerConn from here on.
func NewServerConn(c net.Conn, info *exchange.Conn, h exchange.Handler, opts *ServerOptions) *ServerConn {
	return &ServerConn{}
}

// Unread gives bytes that somebody has read off the connection already, to
// find out which protocol it speaks. It must be called before Serve.
func (s *ServerConn) Unread(b []byte) {}

// Serve reads requests and answers them, in order, until the connection ends.
// Tunnels run inside it. It closes the connection before it returns.
func (s *ServerConn) Serve() {}

// Drain ends the connection soon: at once if it is idle, else after the
// exchange in progress, whose response says Connection: close. A tunnel goes
// on until it ends by itself. Drain may be called from any goroutine, more than once.
func (s *ServerConn) Drain() {}

// Close cuts the connection off at once. It may be called from any goroutine.
func (s *ServerConn) Close() error { return nil }
