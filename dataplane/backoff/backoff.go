// Package backoff says how long to wait before what failed is tried again.
package backoff

import (
	"math/rand/v2"
	"time"
)

// After returns how long to wait after so many failures in a row: from first
// on doubling up to most, give or take a fifth, so that replicas and endpoints
// do not come back in step.
func After(failures int, first, most time.Duration) time.Duration {
	d := first
	for ; failures > 1 && d < most; failures-- {
		d *= 2
	}
	d = min(d, most)
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
