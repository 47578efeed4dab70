//go:build !unix

package link

import "syscall"

const rawSockets = false

// RawRead reads from a socket once, without waiting.
func RawRead(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }

// RawWrite writes to a socket once, without waiting.
func RawWrite(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
