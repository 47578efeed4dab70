package upstream

import (
	"context"
	"sync"
)

// warmAtOnce is how many connections are made ahead at a time, over all clusters.
const warmAtOnce = 64

// warmer makes connections ahead to endpoints whose pools are to have idle ones.
// They have their turns: each gets one before any gets another. It is safe for
// concurrent use.
type warmer struct {
	ctx context.Context
	wg  sync.WaitGroup

	mu      sync.Mutex // guards what follows, and endpoint.queued
	waiting []*endpoint
	running int
	closed  bool
}

// add has the endpoint warmed up.
func (w *warmer) add(ep *endpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ep.queued || w.closed {
		return
	}
	ep.queued = true
	w.waiting = append(w.waiting, ep)
	if w.running < warmAtOnce {
		w.running++
		w.wg.Go(w.run)
	}
}

// goes has f run beside the others, and waits for its end in close; false, and f is
// not run, if that was called.
func (w *warmer) goes(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.wg.Go(f)
	}
	return !w.closed
}

// run warms up until nobody waits for it.
func (w *warmer) run() {
	for {
		w.mu.Lock()
		if len(w.waiting) == 0 {
			w.waiting = nil
			w.running--
			w.mu.Unlock()
			return
		}
		ep := w.waiting[0]
		w.waiting = w.waiting[1:]
		ep.queued = false
		w.mu.Unlock()
		if ep.cluster.warm(w.ctx, ep) {
			w.add(ep)
		}
	}
}

// close takes no more, and waits for the connections that are being made, whose
// context has ended.
func (w *warmer) close() {
	w.mu.Lock()
	w.closed, w.waiting = true, nil
	w.mu.Unlock()
	w.wg.Wait()
}

// warmUp has those endpoints warmed up that need it.
func (c *Cluster) warmUp(st *state) {
	if !st.warms {
		return
	}
	for ep := range st.inUse {
		if ep.coldNow(st) {
			c.m.warmer.add(ep)
		}
	}
}

// warm makes one connection to the endpoint, if it needs it, and reports whether
// it may need another.
func (c *Cluster) warm(ctx context.Context, ep *endpoint) (again bool) {
	if !ep.coldNow(c.state.Load()) {
		c.release(ep) // there is no room for connections ahead, or enough of them
		return false
	}
	a, mine := ep.openAhead()
	if !mine {
		return false // the next sweep sees to it
	}
	c.makeAhead(ctx, ep, a)
	return a.failed == nil
}

// coldNow reports whether the endpoint is to have another connection ahead.
// One that is out of use gets none, until a request has found it well.
func (ep *endpoint) coldNow(st *state) bool {
	if ep.load.EjectedUntil.Load() != 0 && !ep.held.Load() {
		return false
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.retired || !ep.hasRoom() {
		return false
	}
	if st.muxed(ep) {
		return ep.wanted(st) > 0 && len(ep.shared.muxes)+ep.shared.dialing == 0
	}
	return ep.idle < ep.wanted(st)
}

// wanted is how many connections are to be idle, of those that carry one request
// at a time; of HTTP/2 one is enough, in use or not. ep.mu is held.
func (ep *endpoint) wanted(st *state) int {
	if !st.warms {
		return 0
	}
	n := st.pool.MinIdle
	if percent := st.pool.PreconnectPercent; percent > 0 {
		n = max(n, (ep.recentPeak()*percent+99)/100-ep.inUse())
	}
	return min(n, st.pool.MaxIdle)
}

// inUse is how many connections requests have, or wait for. ep.mu is held.
func (ep *endpoint) inUse() int { return ep.total - ep.idle - ep.making }

// notePeak is called when another one is. ep.mu is held.
func (ep *endpoint) notePeak() { ep.peak = max(ep.peak, ep.inUse()) }

// recentPeak is how many were in use at a time at most, in the last one to two
// of the pool's idle times. ep.mu is held.
func (ep *endpoint) recentPeak() int { return max(ep.peak, ep.lastPeak) }

// turnPeak begins another such time, when the last one is over. ep.mu is held.
func (ep *endpoint) turnPeak(st *state, now int64) {
	if now-ep.peakSince >= int64(st.pool.IdleTimeout) {
		ep.lastPeak, ep.peak, ep.peakSince = ep.peak, ep.inUse(), now
	}
}

// expect has a new endpoint wanted as much as the others are, on average.
func (c *Cluster) expect(ep *endpoint, now int64) {
	sum := 0
	for _, other := range c.byAddr {
		other.mu.Lock()
		sum += other.recentPeak()
		other.mu.Unlock()
	}
	ep.mu.Lock()
	ep.lastPeak, ep.peakSince = (sum+len(c.byAddr)-1)/len(c.byAddr), now
	ep.mu.Unlock()
}

// hold keeps requests from an endpoint until a connection to it has been made
// ahead, or as long as that may take; then a request finds out how it is.
// c.eject is held.
func (c *Cluster) hold(st *state, ep *endpoint) {
	if !ep.gone && ep.load.EjectedUntil.Load() == 0 {
		c.takeOut(ep, c.m.now()+int64(st.connectTimeout))
		ep.held.Store(true)
	}
}
