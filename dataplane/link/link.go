// Package link is what codecs need of a connection beside bytes: deadlines, a
// way to wait for input without holding a buffer, and pools of buffers.
package link

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
)

// Link is a connection with its deadlines, and, if it is a plain socket, with
// a way to wait until there is something to read without holding a buffer.
type Link struct {
	NC net.Conn
	// Raw is nil unless NC is a plain socket that can be used beside package net.
	Raw syscall.RawConn
	// DL is to be started and stopped by the owner.
	DL  deadline.Conn
	One [1]byte

	unwritten []byte
	writeErr  error
	tryWrite  func(fd uintptr) bool // writeSome, made once
}

// Open takes the connection over.
func (l *Link) Open(nc net.Conn) {
	l.NC, l.Raw = nc, RawOf(nc)
	l.tryWrite = l.writeSome
}

// RawOf returns a plain socket for use beside package net, or nil if nc is
// none, or the platform does not allow for it.
func RawOf(nc net.Conn) (raw syscall.RawConn) {
	if !rawSockets {
		return nil
	}
	switch c := nc.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// Write writes all of p. It is for one goroutine at a time.
func (l *Link) Write(p []byte) error {
	if l.Raw == nil {
		_, err := l.NC.Write(p)
		return err
	}
	l.unwritten, l.writeErr = p, nil
	err := l.Raw.Write(l.tryWrite)
	l.unwritten = nil
	if err == nil {
		err = l.writeErr
	}
	return err
}

// writeSome reports false if the socket takes no more for now.
func (l *Link) writeSome(fd uintptr) bool {
	for len(l.unwritten) > 0 {
		n, err := RawWrite(fd, l.unwritten)
		if err == syscall.EAGAIN {
			return false
		}
		if err != nil {
			l.writeErr = os.NewSyscallError("write", err)
			return true
		}
		l.unwritten = l.unwritten[n:]
	}
	return true
}

// LongAgo is a deadline that has passed.
var LongAgo = time.Unix(1, 0)

// IsTimeout reports whether a deadline has passed.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// IsGone reports whether the peer has closed or reset the connection.
func IsGone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
}

// IsAlert reports whether the peer has ended TLS with an alert, RFC 8446
// section 6.2, other than to say that it sends no more.
func IsAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// CloseWrite ends our direction. It reports whether the connection can do that.
func CloseWrite(nc net.Conn) bool {
	c, ok := nc.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// Awaiter waits until something can be read, and reads it into the buffer that
// take provides. Before it waits it calls drop, which puts the buffer away: a
// waiting connection holds none. In the steady state it costs
// the same two system calls as a Read that has to wait.
type Awaiter struct {
	*Link
	take func() []byte
	drop func()
	// N and Err are what the last successful Attempt has read.
	N   int
	Err error
	try func(fd uintptr) bool // a method value made once
}

// Init makes the Awaiter ready for use.
func (a *Awaiter) Init(l *Link, take func() []byte, drop func()) {
	a.Link, a.take, a.drop = l, take, drop
	a.try = a.Attempt
}

// Await waits and reads. It reports io.EOF only if nothing was read.
func (a *Awaiter) Await() (n int, err error) {
	if a.Raw == nil {
		return a.awaitByte()
	}
	a.N, a.Err = 0, nil
	if err := a.Raw.Read(a.try); err != nil {
		return 0, err
	}
	return a.N, a.Err
}

// Attempt is what Await does at each chance, for who waits by Raw.Read himself:
// it reports false if there is nothing to read. N and Err are the result.
func (a *Awaiter) Attempt(fd uintptr) bool {
	n, err := RawRead(fd, a.take())
	if err == syscall.EAGAIN {
		a.drop()
		return false
	}
	a.N, a.Err = n, err
	if n == 0 && err == nil {
		a.Err = io.EOF
	}
	return true
}

// awaitByte waits with a single byte. Who gets one byte of a message and needs
// more reads on.
func (a *Awaiter) awaitByte() (n int, err error) {
	a.drop()
	n, err = a.NC.Read(a.One[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return 0, err
	}
	return copy(a.take(), a.One[:]), nil
}
