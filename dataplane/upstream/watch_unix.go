//go:build unix

package upstream

import "golang.org/x/sys/unix"

const canPoll = true

type poll [1]unix.PollFd

func (p *poll) readable(fd uintptr) bool {
	p[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(p[:], 0)
	return n != 0 || err != nil
}
