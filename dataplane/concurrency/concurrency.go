// Package concurrency bounds how many requests are in flight by how long they take.
package concurrency

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// Controller finds how many requests a cluster can have in flight before they
// only wait for each other there. It goes by latency, as Envoy's adaptive
// concurrency and Netflix' concurrency-limits do: what the requests of a window
// took is compared with what they take where none waits, the minimal latency, and
// the limit follows the gradient between the two,
//
//	limit ← limit × (1 + tolerance) × minimal latency ÷ latency + √limit
//
// by which a queue of a tolerable length is kept at the cluster, so that none of
// it idles. Three things keep that from drifting or swinging.
//
// A window opens when the requests in flight have ended that there were when the
// limit was set, so each step sees what the one before has done, however long
// requests take. All that end in it count, whenever they began: of those that
// begin in it the slow ones would be missing.
//
// The minimal latency is measured, in probes: the limit is halved as long as that
// makes requests faster. A cluster that bears its load pays nothing for that, as
// its limit is not reached. One that does not is at half of its limit for some
// tens of requests, now and then; and at once if half the limit has made nothing
// faster, as then it is the cluster that has become slower.
//
// The limit grows only if half of it is in use. So it is near what is needed when
// a spike comes, and needs few windows to be where it should.
//
// It has no clock and no goroutine of its own. It is safe for concurrent use.
type Controller struct {
	cfg snapshot.AdaptiveConcurrency

	limit atomic.Int64
	// samples, sum and peak are those of the window: of how many requests the
	// latency is known, what they took together, in nanoseconds, and how many were
	// in flight at most.
	samples, sum, peak atomic.Int64
	// opens is from when on requests count, closes when the window may end, if as
	// many as are wanted have, and expires when it ends without.
	opens, closes, expires, wanted atomic.Int64
	// most is what a request counts for at most, so that a few that hang do not
	// hide what all others take. min is the minimal latency; 0 if it is not known.
	most, min atomic.Int64

	mu sync.Mutex // guards what follows
	// probing says that since began the limit is below what it was before, when
	// requests took initial, in order to measure the minimal latency. fastest is the
	// least latency that the probe has found, again that it has measured twice where
	// a queue grew still.
	probing, again   bool
	began, before    int64
	initial, fastest float64
	// probedAt is the limit as the last probe has left it, nextProbe when the next
	// one is due, and soonest when one may be that is not. pause is from one to the next.
	probedAt           int64
	nextProbe, soonest int64
	pause              time.Duration
}

const (
	// initialLimit is the limit at first, within its bounds.
	initialLimit = 100
	// leastWindow is how long a window is at least. It has two requests for each
	// that may be in flight, in a probe four, from leastSamples on, as few say little,
	// to mostSamples; the very first one has firstSamples. Where these do not come, it
	// ends after mostWindow, or mostLatencies times the latency, and says nothing.
	leastWindow   = 100 * time.Millisecond
	leastSamples  = 25
	firstSamples  = 50
	mostSamples   = 200
	mostWindow    = 10 * time.Second
	mostLatencies = 50
	// outlier is how many times the latency a request counts for at most.
	outlier = 20
	// faster is the part of the latency that half the limit must leave of it to have
	// made requests faster, and what divides one that is really more.
	faster = 0.85
	// leastGradient is the least part of the limit that a step leaves of it.
	leastGradient = 0.5
	// firstPause is from a minimal latency that is new to the next probe; it
	// doubles with each that confirms it. A probe that is not due comes no sooner than
	// probeShare times what the last one took.
	firstPause = time.Second
	probeShare = 20
)

// For returns a Controller with these settings, nil if they are. It is the one from
// before, which may be nil, if that has the same.
func For(cfg *snapshot.AdaptiveConcurrency, before *Controller) *Controller {
	switch {
	case cfg == nil:
		return nil
	case before != nil && before.cfg == *cfg:
		return before
	}
	c := &Controller{cfg: *cfg, pause: firstPause}
	c.limit.Store(c.within(initialLimit))
	c.probedAt = c.limit.Load()
	c.most.Store(math.MaxInt64)
	c.wanted.Store(firstSamples)
	c.expires.Store(math.MaxInt64)
	return c
}

// Limit is how many requests may be in flight.
func (c *Controller) Limit() int64 { return c.limit.Load() }

// MinLatency is the minimal latency; 0 if it is not known.
func (c *Controller) MinLatency() time.Duration { return time.Duration(c.min.Load()) }

func (c *Controller) within(limit float64) int64 {
	return int64(min(max(limit, float64(c.cfg.MinRequests)), float64(c.cfg.MaxRequests)))
}

func (c *Controller) tolerance() float64 { return 1 + float64(c.cfg.LatencyTolerancePercent)/100 }

// Observe counts a request that took so long, and is one of so many in flight. now
// is in nanoseconds, above 0, on any clock. grown says that there may be more now.
func (c *Controller) Observe(now int64, took time.Duration, inFlight int64) (grown bool) {
	if now < c.opens.Load() {
		return false
	}
	c.sum.Add(min(int64(took), c.most.Load()))
	samples := c.samples.Add(1)
	if inFlight > c.peak.Load() {
		c.peak.Store(inFlight) // of two at the same time the lesser may win
	}
	enough := samples >= c.wanted.Load() && now >= c.closes.Load()
	if !enough && now < c.expires.Load() || !c.mu.TryLock() {
		return false
	}
	defer c.mu.Unlock()
	if now < c.opens.Load() {
		return false // another has been faster
	}
	old := c.limit.Load()
	latency := max(1, float64(c.sum.Load())/float64(c.samples.Load()))
	if enough {
		c.step(now, latency, c.peak.Load())
		c.most.Store(int64(outlier * max(latency, float64(c.min.Load()))))
	} else if c.probing {
		c.endProbe(now, 0)
	}
	// While a queue grows, requests take twice the average at the end of a window.
	c.open(now+2*int64(latency), max(int64(latency), int64(took)))
	return c.limit.Load() > old
}

// open begins a window, where requests take about so long.
func (c *Controller) open(at, latency int64) {
	c.opens.Store(at)
	c.closes.Store(at + int64(leastWindow))
	c.expires.Store(at + max(int64(mostWindow), mostLatencies*latency))
	wanted := min(max(2*c.limit.Load(), leastSamples), mostSamples)
	if c.probing {
		wanted *= 2
	}
	c.wanted.Store(wanted)
	c.samples.Store(0)
	c.sum.Store(0)
	c.peak.Store(0)
}

// TooLong reports whether that is more than what requests should take.
func (c *Controller) TooLong(took time.Duration) bool {
	known := c.min.Load()
	return known > 0 && float64(took) > c.tolerance()*float64(known)
}

// step is the end of a window with a latency, in nanoseconds, and so many
// requests in flight at most. c.mu is held, here and below.
func (c *Controller) step(now int64, latency float64, peak int64) {
	limit := c.limit.Load()
	if c.probing {
		switch {
		case latency > c.fastest/faster && !c.again:
			c.fastest, c.again = latency, true // a queue grew still
		case latency < c.fastest*faster && limit > int64(c.cfg.MinRequests):
			c.fastest = latency
			c.limit.Store(c.within(float64(limit) / 2))
		default:
			c.endProbe(now, (latency+c.fastest)/2) // two measurements of the same
		}
		return
	}
	known := float64(c.min.Load())
	next := c.next(limit, latency)
	inUse, falls := peak >= limit/2, next < limit*9/10
	switch {
	case known == 0 && peak < limit:
		c.measured(now, latency)
		return
	case latency < known/c.tolerance():
		c.min.Store(int64(latency+known) / 2) // the cluster has become faster
	case known > 0 && (falls || now < c.nextProbe):
	case peak >= limit:
		c.probe(now, latency, limit)
		return
	case !inUse: // nobody waits then, so this is as good as a probe
		c.measured(now, latency)
		c.pause = firstPause
	}
	if next > limit && !inUse {
		return
	}
	c.limit.Store(next)
	slow := latency > c.tolerance()*known
	if slow && now >= c.soonest && (next <= c.probedAt/2 || next == int64(c.cfg.MinRequests)) {
		c.probe(now, latency, min(next, peak)) // fewer take as long: is it the cluster?
	}
}

// next is what a limit becomes when requests take so long.
func (c *Controller) next(limit int64, latency float64) int64 {
	gradient := max(leastGradient, c.tolerance()*float64(c.min.Load())/latency)
	return c.within(float64(limit)*min(gradient, c.tolerance()) + math.Sqrt(float64(limit)))
}

// probe begins to measure the minimal latency, where so many requests in flight take so long.
func (c *Controller) probe(now int64, latency float64, inFlight int64) {
	c.probing, c.again, c.before, c.began = true, false, c.limit.Load(), now
	c.initial, c.fastest = latency, latency
	c.limit.Store(c.within(float64(inFlight) / 2))
}

// endProbe ends a probe that has come to a minimal latency, or to nothing if that is 0.
func (c *Controller) endProbe(now int64, latency float64) {
	c.probing = false
	c.limit.Store(c.before)
	c.soonest = now + probeShare*(now-c.began)
	if latency > 0 {
		c.measured(now, latency)
		if c.initial > c.tolerance()*latency {
			// Not by half at most: it is known how far it is too high.
			c.limit.Store(c.within(float64(c.before)*c.tolerance()*latency/c.initial + math.Sqrt(float64(c.before))))
		}
	}
	c.probedAt = c.limit.Load()
}

// measured takes over a minimal latency. One that is near what is known already
// moves that a little, so that chance does not.
func (c *Controller) measured(now int64, latency float64) {
	known := float64(c.min.Load())
	if latency < known*c.tolerance() && latency > known/c.tolerance() {
		latency = known + (latency-known)/4
		c.pause = min(2*c.pause, c.cfg.MinLatencyInterval)
	} else {
		c.pause = min(firstPause, c.cfg.MinLatencyInterval)
	}
	c.min.Store(max(1, int64(latency)))
	// Give or take a fifth: replicas should not probe together.
	c.nextProbe = max(c.soonest, now+int64(float64(c.pause)*(0.8+0.4*rand.Float64())))
}
