//go:build unix

package link

import "syscall"

// rawReads says that sockets can be read beside package net.
const rawReads = true

// RawRead reads from a socket once, without waiting.
func RawRead(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
