//go:build !linux

package upstream

import (
	"errors"
	"time"
)

func setOptions(_ int, userTimeout time.Duration, _ bool) error {
	if userTimeout > 0 {
		return errors.New("TCP_USER_TIMEOUT is of Linux")
	}
	return nil
}
