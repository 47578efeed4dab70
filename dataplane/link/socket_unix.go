//go:build unix && (!linux || race)

package link

import "syscall"

const rawSockets = true

// RawRead reads from a socket once, without waiting.
func RawRead(fd uintptr, p []byte) (int, error) { return once(syscall.Read, fd, p) }

// RawWrite writes to a socket once, without waiting.
func RawWrite(fd uintptr, p []byte) (int, error) { return once(syscall.Write, fd, p) }

func once(call func(int, []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
