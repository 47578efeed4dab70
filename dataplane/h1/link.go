package h1

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
)

// link is a connection with its deadlines, and, if it is a plain socket, with
// a way to wait until there is something to read without holding a buffer.
type link struct {
	nc  net.Conn
	raw syscall.RawConn // nil unless nc is a plain socket
	dl  deadline.Conn
	one [1]byte
}

func (l *link) open(nc net.Conn) {
	l.nc = nc
	switch c := nc.(type) {
	case *net.TCPConn:
		l.raw, _ = c.SyscallConn()
	case *net.UnixConn:
		l.raw, _ = c.SyscallConn()
	}
	if !rawReads {
		l.raw = nil
	}
}

var (
	errTimeout = os.ErrDeadlineExceeded
	longAgo    = time.Unix(1, 0)
)

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// isGone reports whether the peer has closed or reset the connection.
func isGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
}

// closeWrite ends our direction. It reports whether the connection can do that.
func closeWrite(nc net.Conn) bool {
	c, ok := nc.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// awaiter waits until something can be read, and reads it into the buffer that
// take provides. Before it waits it calls drop, which puts the buffer away: a
// waiting connection holds none. In the steady state it costs
// the same two system calls as a Read that has to wait.
type awaiter struct {
	*link
	take func() []byte
	drop func()
	n    int
	err  error
	try  func(fd uintptr) bool // a method value made once
}

func (a *awaiter) init(l *link, take func() []byte, drop func()) {
	a.link, a.take, a.drop = l, take, drop
	a.try = a.attempt
}

func (a *awaiter) await() (n int, err error) {
	if a.raw == nil {
		return a.awaitByte()
	}
	a.n, a.err = 0, nil
	if err := a.raw.Read(a.try); err != nil {
		return 0, err
	}
	return a.n, a.err
}

func (a *awaiter) attempt(fd uintptr) bool {
	n, err := rawRead(fd, a.take())
	if err == syscall.EAGAIN {
		a.drop()
		return false
	}
	a.n, a.err = n, err
	if n == 0 && err == nil {
		a.err = io.EOF
	}
	return true
}

// awaitByte waits with a single byte. Who gets one byte of a message and needs
// more reads on.
func (a *awaiter) awaitByte() (n int, err error) {
	a.drop()
	n, err = a.nc.Read(a.one[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return 0, err
	}
	return copy(a.take(), a.one[:]), nil
}
