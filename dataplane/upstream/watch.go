package upstream

import (
	"crypto/tls"
	"net"
	"syscall"
)

// watch looks whether anything is to be read from an idle connection: its end,
// or bytes that nobody asked for. Either way it is of no more use. Over TLS an
// alert that announces the end looks like any other bytes.
//
// It serves connections that the codec cannot look through to their socket.
// Who holds the connection owns it.
type watch struct {
	raw syscall.RawConn // nil if there is no socket to look at
	// look is a method value made once, and readable its outcome.
	look     func(fd uintptr)
	readable bool
	poll     poll
}

// newWatch returns nil for plain sockets: package h1 looks at them itself,
// before it sends anything.
func newWatch(nc net.Conn) *watch {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		if canPoll {
			return nil
		}
	}
	return watchSocket(nc)
}

// watchEnd looks for the end of a connection alone, whatever else is to be read: a
// server of TLS 1.3 sends tickets that nobody has read before the first response.
func watchEnd(nc net.Conn) *watch {
	w := watchSocket(nc)
	if w.raw != nil {
		w.look = w.lookForEnd
	}
	return w
}

// watchSocket looks at any connection.
func watchSocket(nc net.Conn) *watch {
	w := &watch{}
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

// quiet reports whether the connection is open and silent; false if it can't
// be known.
func (w *watch) quiet() bool {
	if w.raw == nil {
		return false
	}
	w.readable = true
	// Control and not Read: it does not mind deadlines that have passed.
	return w.raw.Control(w.look) == nil && !w.readable
}

func (w *watch) lookForEnd(fd uintptr) { w.readable = w.poll.ended(fd) }

func (w *watch) lookAt(fd uintptr) { w.readable = w.poll.readable(fd) }
