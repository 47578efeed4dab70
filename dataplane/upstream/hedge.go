package upstream

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// hedged is what a cluster keeps of the requests that may be hedged.
type hedged struct {
	latencies latencies
	// budget bounds the hedges where the cluster has no retry budget.
	budget *retryBudget
}

// hedgeBudget is GEP-3388's default.
var hedgeBudget = &snapshot.RetryBudget{
	Percent: 20, Interval: 10 * time.Second, MinRetryRate: snapshot.RequestRate{Count: 10, Interval: time.Second},
}

// HedgeDelay returns the percentile, from 1 to 99, of the times that Answered was
// told lately; 0 while these are too few to say.
func (c *Cluster) HedgeDelay(percentile int) time.Duration {
	if h := c.hedged.Load(); h != nil {
		return h.latencies.percentile(percentile)
	}
	return 0
}

// Answered tells how long a request that may be hedged has waited for its
// response, or until another one was faster.
func (c *Cluster) Answered(took time.Duration) {
	h := c.hedged.Load()
	if h == nil {
		c.hedged.CompareAndSwap(nil, &hedged{budget: newRetryBudget(hedgeBudget)})
		h = c.hedged.Load()
	}
	h.latencies.observe(took)
	h.budget.begin(c.m.now())
}

// AllowHedge reports whether one more request may be sent beside one that is
// under way: it counts as a retry does, in the circuit breaker until EndRetry and in the retry
// budget, or where there is none in one of its own.
func (c *Cluster) AllowHedge() bool {
	if !c.BeginRetry() {
		return false
	}
	budget := c.state.Load().budget
	if h := c.hedged.Load(); budget == nil && h != nil {
		budget = h.budget
	}
	if !budget.take(c.m.now()) {
		c.EndRetry()
		return false
	}
	return true
}

// outrun counts a request that another one was faster than. It would have taken
// longer: so much is known of the endpoint's latency, and nothing else.
func (c *Cluster) outrun(st *state, ep *endpoint, waited time.Duration) {
	ep.observe(waited)
	if st.timed {
		ep.load.Latency.Observe(c.m.now(), waited)
	}
	if st.outliers != nil {
		ep.outcomes.responses.Add(1)
		ep.outcomes.latency.Add(int64(waited))
	}
}

const (
	// leastLatencies are enough for a percentile of them, latencyWindow are when the
	// old ones begin to be forgotten: they are halved then.
	leastLatencies = 100
	latencyWindow  = 1 << 12
	// Latencies are counted in four buckets to each doubling, from 2^latencyFirst ns
	// (131 µs) on, in which all below are; above the last, 69 s, is one more.
	latencyFirst   = 17
	latencyBuckets = 4*19 + 1
)

// latencies are a histogram of the last few thousand. It is safe for concurrent
// use. One that is counted while they are halved may be lost, which a percentile
// can bear.
type latencies struct {
	count   atomic.Int32
	buckets [latencyBuckets]atomic.Int32
}

func (l *latencies) observe(d time.Duration) {
	l.buckets[latencyBucket(d)].Add(1)
	if n := l.count.Add(1); n < latencyWindow || !l.count.CompareAndSwap(n, n/2) {
		return
	}
	for i := range l.buckets {
		b := &l.buckets[i]
		b.Add(-(b.Load() + 1) / 2)
	}
}

// percentile returns the upper bound of the bucket in which it is.
func (l *latencies) percentile(p int) time.Duration {
	if l.count.Load() < leastLatencies {
		return 0
	}
	var counts [latencyBuckets]int32
	all := int64(0)
	for i := range l.buckets {
		counts[i] = l.buckets[i].Load()
		all += int64(counts[i])
	}
	below := int64(0)
	for i, n := range counts {
		if below += int64(n); below*100 >= all*int64(p) {
			return latencyBound(i)
		}
	}
	return latencyBound(latencyBuckets - 1)
}

// latencyBucket returns the index of the first bucket whose bound is not below d.
func latencyBucket(d time.Duration) int {
	n := uint64(max(d-1, 0))
	top := bits.Len64(n) - 1 // the power of two
	if top < latencyFirst {
		return 0
	}
	quarter := int(n>>(top-2)) & 3
	return min(4*(top-latencyFirst)+quarter+1, latencyBuckets-1)
}

// latencyBound is the upper bound of a bucket. The last one has none: what it has is as good.
func latencyBound(i int) time.Duration {
	return time.Duration(4+i%4) << (latencyFirst - 2 + i/4)
}
