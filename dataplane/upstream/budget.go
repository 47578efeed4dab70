package upstream

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// retryBudget bounds the retries of a cluster, GEP-3388: all of them together to
// a share of the requests, and never below a rate. It is safe for concurrent use.
type retryBudget struct {
	cfg      *snapshot.RetryBudget
	requests window

	mu      sync.Mutex // guards what follows, so that retries are not allowed together that are too many
	retries window     // over the interval of the share
	recent  window     // over that of the rate
}

// newRetryBudget returns the budget for cfg, nil for none.
func newRetryBudget(cfg *snapshot.RetryBudget) *retryBudget {
	if cfg == nil {
		return nil
	}
	b := &retryBudget{cfg: cfg}
	b.requests.slot = int64(cfg.Interval / slots)
	b.retries.slot = int64(cfg.Interval / slots)
	b.recent.slot = int64(cfg.MinRetryRate.Interval / slots)
	return b
}

// begin counts a request. now is on the Manager's clock, as in take.
func (b *retryBudget) begin(now int64) {
	if b != nil {
		b.requests.add(now)
	}
}

// take reports whether one more retry may be sent, and counts it if so.
func (b *retryBudget) take(now int64) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recent.sum(now) >= int64(b.cfg.MinRetryRate.Count) &&
		100*(b.retries.sum(now)+1) > int64(b.cfg.Percent)*b.requests.sum(now) {
		return false
	}
	b.recent.add(now)
	b.retries.add(now)
	return true
}

// AllowRetry reports whether the retry budget has room for one more retry, and
// takes it if so. Without a budget there always is.
func (c *Cluster) AllowRetry() bool {
	b := c.state.Load().budget
	return b == nil || b.take(c.m.now())
}

// slots is how many parts a window's time is counted in.
const slots = 10

// window counts what happened in the last while: in slots parts of time that
// are slot nanoseconds each. The oldest part is forgotten as a whole.
type window struct {
	slot int64
	// counts are the parts: the number of the part of time above, the count below.
	counts [slots]atomic.Uint64
}

func (w *window) add(now int64) {
	turn := w.turn(now)
	c := &w.counts[turn%slots]
	// What comes in between is of this part of time, or of a later one, and counts there.
	if old := c.Load(); uint32(old>>32) == turn || !c.CompareAndSwap(old, uint64(turn)<<32|1) {
		c.Add(1)
	}
}

func (w *window) sum(now int64) (n int64) {
	turn := w.turn(now)
	for i := range w.counts {
		if c := w.counts[i].Load(); turn-uint32(c>>32) < slots {
			n += int64(uint32(c))
		}
	}
	return n
}

// turn numbers the parts of time. It may begin anew at 0.
func (w *window) turn(now int64) uint32 { return uint32(now / max(w.slot, int64(time.Millisecond))) }
