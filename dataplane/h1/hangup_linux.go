package h1

import "golang.org/x/sys/unix"

// hangupKnown says that the system tells what a peer has closed.
const hangupKnown = true

// hangupOf reads nothing, so that it sees also behind what was not read yet.
func hangupOf(fd uintptr) hangup {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if _, err := unix.Poll(p[:], 0); err != nil {
		return hangupNone
	}
	switch {
	case p[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
		return hangupBoth
	case p[0].Revents&unix.POLLRDHUP != 0:
		return hangupHalf
	}
	return hangupNone
}
