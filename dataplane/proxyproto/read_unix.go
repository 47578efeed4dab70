//go:build unix

package proxyproto

import (
	"io"
	"net"
	"syscall"
)

// peeker looks at what has come without taking it.
type peeker struct{ c *net.TCPConn }

// peek waits for bytes and copies them to b. It never returns none without an error.
func (p peeker) peek(b []byte) (n int, err error) {
	raw, err := p.c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			if n, _, failed = syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK); failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// take takes off the connection what was seen.
func (p peeker) take(b []byte) error {
	_, err := io.ReadFull(p.c, b)
	return err
}

// taken returns what of the bytes that were seen is no longer there for others.
func (peeker) taken([]byte) []byte { return nil }
