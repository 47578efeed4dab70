//go:build unix

package h1

import "syscall"

// rawReads says that sockets can be read beside package net.
const rawReads = true

func rawRead(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
