package upstream

import (
	"time"

	"golang.org/x/sys/unix"
)

// setOptions prepares a TCP socket that is about to be bound, if it has a source
// address, and connected.
func setOptions(fd int, userTimeout time.Duration, source bool) error {
	if userTimeout > 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds())); err != nil {
			return err
		}
	}
	if source {
		// Without it bind(2) takes a port that no other endpoint can be connected to
		// from, see ip(7); so it is worth a try, and no reason to fail.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}
	return nil
}
