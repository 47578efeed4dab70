//go:build !unix

package link

import "syscall"

const rawReads = false

// RawRead reads from a socket once, without waiting.
func RawRead(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
