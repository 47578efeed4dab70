package backoff

import (
	"math"
	"testing"
	"time"
)

func TestAfter(t *testing.T) {
	const first, most = time.Second, 30 * time.Second
	for failures, want := range map[int]time.Duration{
		0: first, 1: first, 2: 2 * first, 3: 4 * first, 5: 16 * first, 6: most, 7: most, math.MaxInt: most,
	} {
		for range 100 {
			if d := After(failures, first, most); d < want*4/5 || d > want*6/5 {
				t.Errorf("after %d failures it is %s, want %s give or take a fifth", failures, d, want)
			}
		}
	}
	if d := After(1, time.Minute, time.Second); d > 2*time.Second {
		t.Errorf("it is %s, and should be a second at most", d)
	}
}
