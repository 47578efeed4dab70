// Package hangup tells, without reading from it, whether the peer of an idle
// connection has hung up, or has said what nobody has asked for.
package hangup

import (
	"crypto/tls"
	"net"
	"syscall"
)

// Watch looks whether anything is to be read from an idle connection: its end,
// or bytes that nobody asked for. Either way it is of no more use. Over TLS an
// alert that announces the end looks like any other bytes.
//
// It serves connections that the codec cannot look through to their socket.
// Who holds the connection owns it.
type Watch struct {
	raw syscall.RawConn // nil if there is no socket to look at
	// look is a method value made once, and readable its outcome.
	look     func(fd uintptr)
	readable bool
	poll     poll
}

// New returns what looks at a connection; nil for a plain socket, as package h1
// looks at that itself, before it sends anything.
func New(nc net.Conn) *Watch {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		if canPoll {
			return nil
		}
	}
	return watchSocket(nc)
}

// ForEnd returns what looks for the end of a connection alone, whatever else is to be
// read: a server of TLS 1.3 sends tickets that nobody has read before the first response.
func ForEnd(nc net.Conn) *Watch {
	w := watchSocket(nc)
	if w.raw != nil {
		w.look = w.lookForEnd
	}
	return w
}

// watchSocket looks at any connection.
func watchSocket(nc net.Conn) *Watch {
	w := &Watch{}
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if s, ok := nc.(syscall.Conn); ok && canPoll {
		if raw, err := s.SyscallConn(); err == nil {
			w.raw, w.look = raw, w.lookAt
		}
	}
	return w
}

// Blind reports whether there is no socket to look at, so that nothing can be known.
func (w *Watch) Blind() bool { return w.raw == nil }

// Quiet reports whether the connection is open and, unless the Watch is for the end
// alone, silent; false if it can't be known. It allocates nothing.
func (w *Watch) Quiet() bool {
	if w.Blind() {
		return false
	}
	w.readable = true
	// Control and not Read: it does not mind deadlines that have passed.
	return w.raw.Control(w.look) == nil && !w.readable
}

func (w *Watch) lookForEnd(fd uintptr) { w.readable = w.poll.ended(fd) }

func (w *Watch) lookAt(fd uintptr) { w.readable = w.poll.readable(fd) }
