//go:build linux && !race

package link

import (
	"syscall"
	"unsafe"
)

const rawSockets = true

// RawRead reads from a socket once, without waiting.
func RawRead(fd uintptr, p []byte) (int, error) { return once(syscall.SYS_READ, fd, p) }

// RawWrite writes to a socket once, without waiting.
func RawWrite(fd uintptr, p []byte) (int, error) { return once(syscall.SYS_WRITE, fd, p) }

// once makes a system call that cannot block, as sockets here never do: the
// scheduler, which would have another thread take over if it did, need not know.
func once(call, fd uintptr, p []byte) (int, error) {
	for {
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch err {
		case 0:
			return int(n), nil
		case syscall.EINTR:
			continue
		}
		return 0, err
	}
}
