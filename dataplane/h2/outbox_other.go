//go:build !unix

package h2

import "errors"

const rawWrites = false

func rawWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
