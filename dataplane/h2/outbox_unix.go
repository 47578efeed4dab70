//go:build unix

package h2

import "syscall"

// rawWrites says that sockets can be written to beside package net.
const rawWrites = true

func rawWrite(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Write(int(fd), p)
		if err == syscall.EINTR {
			continue
		}
		return max(n, 0), err
	}
}
