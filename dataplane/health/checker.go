// Package health asks endpoints whether they can serve, again and again: by
// HTTP, by gRPC's health checking protocol, by bytes over TCP or UDP, or by
// connecting to them.
//
// A Checker runs the checks of all endpoints of a process. A check that waits
// costs its memory alone: one timer serves all of them, and there is a
// goroutine and a connection only while an endpoint is asked. Unless the settings
// say otherwise, each check has a connection of its own, since what is to be found
// out is whether the endpoint takes new ones, too.
package health

import (
	"cmp"
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// defaultAtOnce is how many endpoints are asked at a time: with checks of 10 s
// and 1 s of patience, half of 10,000 endpoints may be silent before the checks
// of the others come late.
const defaultAtOnce = 512

// firstApart is between the first checks of endpoints that come together: a thousand
// are asked in a second, as often as 10,000 are that are asked every 10 s.
const firstApart = time.Millisecond

// Checker runs checks. It is safe for concurrent use.
type Checker struct {
	ctx    context.Context
	cancel context.CancelFunc
	atOnce int
	asking sync.WaitGroup

	mu      sync.Mutex
	due     queue
	timer   *time.Timer // fires when the first of due is
	first   time.Time   // when the last first check is
	running int
	closed  bool
}

// NewChecker returns a Checker that asks at most atOnce endpoints at a time; 0
// means 512. What is due then waits for its turn.
func NewChecker(atOnce int) *Checker {
	c := &Checker{atOnce: cmp.Or(atOnce, defaultAtOnce)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends all checks, and waits for those that are under way. Targets are
// told nothing any more.
func (c *Checker) Close() {
	c.cancel()
	c.mu.Lock()
	c.closed, c.due = true, nil
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	c.asking.Wait()
}

// Start begins to check an endpoint, which counts as healthy to begin with. The
// first check is at once, as far as many that begin together can be, and its
// outcome counts without regard to thresholds.
func (c *Checker) Start(target Target, settings *snapshot.HealthCheck) *Check {
	k := &Check{checker: c, target: target, settings: settings, healthy: true, fresh: true, index: -1}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.schedule(k, c.soon(settings))
	return k
}

// soon is when the first check by some settings is: within a tenth of the interval,
// and later only where many begin together.
func (c *Checker) soon(s *snapshot.HealthCheck) time.Time {
	now, every := time.Now(), interval(s)
	at := now.Add(time.Duration(rand.Float64() * 0.1 * float64(every)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first.Before(now) {
		c.first = now
	}
	if c.first = c.first.Add(firstApart); c.first.After(at) {
		at = c.first
	}
	if at.Sub(now) > every { // there are more than that
		at = now.Add(time.Duration(rand.Float64() * float64(every)))
	}
	return at
}

// later is when a check is that need not be sooner than another: at some time within the interval.
func later(s *snapshot.HealthCheck) time.Time {
	return time.Now().Add(time.Duration(rand.Float64() * float64(interval(s))))
}

// next is when the check is that follows one. Replicas and endpoints that began
// together do not stay in step.
func next(s *snapshot.HealthCheck, began time.Time) time.Time {
	return began.Add(time.Duration((0.8 + 0.4*rand.Float64()) * float64(interval(s))))
}

func interval(s *snapshot.HealthCheck) time.Duration {
	return cmp.Or(s.Interval, snapshot.HealthCheckInterval)
}

// schedule says when a check is due; it may be scheduled already. k.mu is held.
func (c *Checker) schedule(k *Check, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	k.at = at
	if k.index < 0 {
		heap.Push(&c.due, k)
	} else {
		heap.Fix(&c.due, k.index)
	}
	if k.index == 0 {
		c.arm()
	}
}

// unschedule takes a check out. k.mu is held.
func (c *Checker) unschedule(k *Check) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.index >= 0 {
		heap.Remove(&c.due, k.index)
	}
}

// arm sets the timer for the first check that is due. c.mu is held.
func (c *Checker) arm() {
	wait := time.Until(c.due[0].at)
	if c.timer == nil {
		c.timer = time.AfterFunc(wait, c.dispatch)
	} else {
		c.timer.Reset(wait)
	}
}

// dispatch begins the checks that are due, as far as there is room.
func (c *Checker) dispatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.due) > 0 && c.running < c.atOnce {
		if time.Until(c.due[0].at) > 0 {
			c.arm()
			return
		}
		k := heap.Pop(&c.due).(*Check)
		c.running++
		c.asking.Go(func() {
			k.run()
			c.mu.Lock()
			c.running--
			waiting := c.running == c.atOnce-1
			c.mu.Unlock()
			if waiting {
				c.dispatch()
			}
		})
	}
}

// queue is a heap of checks, the one that is due first in front.
type queue []*Check

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	k := x.(*Check)
	k.index = len(*q)
	*q = append(*q, k)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	k := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	k.index = -1
	return k
}
