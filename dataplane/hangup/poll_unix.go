//go:build unix

package hangup

import "golang.org/x/sys/unix"

const canPoll = true

type poll [1]unix.PollFd

// ended reports whether the peer has closed its side, as far as the system tells that
// apart from what is unread.
func (p *poll) ended(fd uintptr) bool {
	p[0] = unix.PollFd{Fd: int32(fd), Events: peerEnded}
	n, err := unix.Poll(p[:], 0)
	return n != 0 || err != nil
}

func (p *poll) readable(fd uintptr) bool {
	p[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(p[:], 0)
	return n != 0 || err != nil
}
