package listener

import (
	"context"
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Keep-alive of TCP, as package net would have it: the first probe comes after
// so many seconds of silence, the next ones after as many each, and after so
// many without an answer the connection is over.
const (
	keepAliveSeconds = 15
	keepAliveProbes  = 9
)

// listen listens for TCP. Connections inherit keep-alive from the socket that
// accepts them, tcp(7): package net would set it on each, with four system calls.
func listen(address string) (net.Listener, error) {
	inherited := net.ListenConfig{KeepAlive: -1, Control: setKeepAlive} // package net leaves it alone
	ln, err := inherited.Listen(context.Background(), "tcp", address)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT) {
		// Package net listens for Multipath TCP, which older kernels cannot tell this.
		return net.Listen("tcp", address)
	}
	return ln, err
}

func setKeepAlive(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveSeconds),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveSeconds),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes),
		)
	})
	return errors.Join(err, failed)
}
