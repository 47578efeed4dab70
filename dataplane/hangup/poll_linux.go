package hangup

import "golang.org/x/sys/unix"

const peerEnded = unix.POLLRDHUP
