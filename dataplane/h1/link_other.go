//go:build !unix

package h1

import "syscall"

const rawReads = false

func rawRead(uintptr, []byte) (int, error) { return 0, syscall.ENOSYS }
