package upstream

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// errCircuitOpen is what becomes of a request that no endpoint has room for, and
// the queue neither.
var errCircuitOpen = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: reasonCircuitOpen, Unsent: true,
	Err: errors.New("the cluster has as many requests as its circuit breaker allows"),
}

// refusal is why the circuit breaker has refused something.
type refusal int

const (
	refusedFull refusal = iota
	refusedQueueFull
	refusedQueueTimeout
	refusedRetry
	refusalReasons
)

func (r refusal) String() string {
	return [...]string{"full", "queue_full", "queue_timeout", "max_retries"}[r]
}

// queue is the requests that wait for an endpoint with room. They are served in
// the order in which they came, unless the first of them has waited for more
// than half of the timeout. Then more come than can be served, so that each
// would wait for about as long as it may, for a client whose patience is over: the
// newest goes first, and has its answer at once, until those that are left have
// been served or have left.
type queue struct {
	// length is how many wait, to be seen without the lock.
	length atomic.Int32
	// waits counts those that have waited, and waited for how long, in nanoseconds.
	waits  atomic.Uint64
	waited atomic.Int64

	mu      sync.Mutex // guards what follows
	waiters []*queued  // in the order in which they came
}

// queued is a request in the queue.
type queued struct {
	session exchange.Session
	choice  wish
	since   int64      // on the Manager's clock
	got     chan grant // has room for one
}

// grant is where a request that has waited is counted already. Without an
// endpoint there is none left to wait for, or err says why it is refused.
type grant struct {
	st    *state
	ep    *endpoint
	probe bool
	err   error
}

// noBounds is the circuit breaker where there is none.
var noBounds = &snapshot.CircuitBreaker{}

// setBounds takes over the circuit breaker's bounds, but for what setBound does.
func (c *Cluster) setBounds(st *state) {
	st.breaker = cmp.Or(c.cfg.CircuitBreaker, noBounds)
	per := &st.breaker.PerEndpoint
	st.maxConnections = per.MaxConnections
	if p := c.cfg.Protocol; p != protocolTCP && p != protocolUDP {
		st.concurrency = c.concurrency
	}
}

// maxRequests is how many requests all endpoints together may have in flight; 0
// means any number.
func (st *state) maxRequests() int64 {
	if st.concurrency != nil {
		return st.concurrency.Limit()
	}
	return int64(st.breaker.MaxRequests)
}

// adapt tells the cluster's adaptive concurrency what a request took, and gives
// the room that there may be more of then to who waits for it. What fails at once
// says nothing about how busy the endpoints are. What fails late does, and be it
// that its time was over or its client has left. r is nil without a response.
func (c *Cluster) adapt(st *state, r *exchange.Response, took time.Duration) {
	by := st.concurrency
	if by == nil {
		return
	}
	if served := r != nil && statusOf(r) < 500; !served && !by.TooLong(took) {
		return
	}
	if by.Observe(c.m.now(), took, c.inFlight.Load()) {
		c.serveQueue()
	}
}

// boundsEndpoints reports whether endpoints may have as much as they can.
func (c *Cluster) boundsEndpoints() bool {
	per := &cmp.Or(c.cfg.CircuitBreaker, noBounds).PerEndpoint
	return per.MaxConnections > 0 || per.MaxRequests > 0
}

// setBound says how many requests the endpoint may have in flight: so many that
// each finds a connection, or a stream of one. ep.mu is held, so that who goes by
// a state that is replaced meanwhile is not the last.
func (ep *endpoint) setBound() {
	st := ep.cluster.state.Load()
	carried := st.breaker.PerEndpoint.MaxConnections
	if st.muxed(ep) {
		carried *= int(ep.streams.Load()) // 0 while that is not known
	}
	ep.load.MaxInFlight.Store(int64(least(st.breaker.PerEndpoint.MaxRequests, carried)))
}

// least returns the lesser of two bounds, of which 0 is none.
func least(a, b int) int {
	if a <= 0 || b <= 0 {
		return max(a, b)
	}
	return min(a, b)
}

// admit finds an endpoint for a request and counts the request there. full says
// that there is none because all have as many requests as they may, or because
// others wait already.
func (c *Cluster) admit(st *state, session exchange.Session, choice wish) (ep *endpoint, probe, full bool) {
	if c.queue.length.Load() > 0 {
		return nil, false, true
	}
	return c.choose(st, session, choice)
}

// choose is admit for who is next.
func (c *Cluster) choose(st *state, session exchange.Session, choice wish) (ep *endpoint, probe, full bool) {
	for {
		if most := st.maxRequests(); most > 0 && c.inFlight.Load() >= most {
			return nil, false, true
		}
		ep, probe = c.resume(st, session, choice)
		full = ep != nil && ep.load.Full()
		if session.Strict && (ep == nil || full) {
			return nil, false, full
		}
		if ep == nil || full {
			if ep, probe, full = c.pick(st, choice); ep == nil {
				return nil, false, full
			}
		}
		if c.begin(st, ep) {
			return ep, probe, false
		}
	}
}

// begin counts a request to the endpoint, from before its connection is found
// until ep.end, and reports false if others have been faster to take the room.
func (c *Cluster) begin(st *state, ep *endpoint) bool {
	if !addBelow(&c.inFlight, st.maxRequests()) {
		return false
	}
	if !addBelow(&ep.load.InFlight, ep.load.MaxInFlight.Load()) {
		c.inFlight.Add(-1)
		return false
	}
	return true
}

// addBelow adds one to n, unless n has come to the bound, of which 0 is none.
func addBelow(n *atomic.Int64, bound int64) bool {
	if bound <= 0 {
		n.Add(1)
		return true
	}
	for {
		now := n.Load()
		if now >= bound {
			return false
		}
		if n.CompareAndSwap(now, now+1) {
			return true
		}
	}
}

// queueUp waits for an endpoint with room: as long as it may, which it takes
// from left, and as long as the exchange goes on.
func (c *Cluster) queueUp(ex *exchange.Exchange, st *state, choice wish, left *time.Duration) (grant, error) {
	w := &queued{session: ex.Session, choice: choice, since: c.m.now(), got: make(chan grant, 1)}
	if err := c.enqueue(st, w); err != nil {
		return grant{}, err
	}
	// What became free before the request was in the queue has told nobody.
	c.serveQueue()

	ctx, done := patience(ex, *left)
	var got grant
	select {
	case got = <-w.got:
		done()
	case <-ctx.Done():
		own := done()
		switch {
		case !c.queue.leave(w):
			got = <-w.got // it has come in the meantime
		case own:
			got.err = &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonTimeout, Unsent: true,
				Err: errors.New("no endpoint had room for the request in its time")}
		default:
			got.err = c.refuse(refusedQueueTimeout)
		}
	}
	waited := c.m.now() - w.since
	*left -= time.Duration(waited)
	c.queue.waits.Add(1)
	c.queue.waited.Add(waited)
	if ex.Abandoned() {
		if got.ep != nil {
			got.ep.end()
		}
		return grant{}, exchange.ErrAbandoned
	}
	return got, got.err
}

// enqueue adds a request at the end of the queue, if that has room or makes some.
func (c *Cluster) enqueue(st *state, w *queued) error {
	q := &c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if st.breaker.Queue.MaxRequests <= 0 {
		return c.refuse(refusedFull)
	}
	if len(q.waiters) >= st.breaker.Queue.MaxRequests {
		if !q.overloaded(st, w.since) {
			return c.refuse(refusedQueueFull)
		}
		q.take(0).got <- grant{err: c.refuse(refusedQueueFull)} // who will hardly be served any more
	}
	q.waiters = append(q.waiters, w)
	q.length.Store(int32(len(q.waiters)))
	return nil
}

func (c *Cluster) refuse(why refusal) error {
	c.refusals[why].Add(1)
	return errCircuitOpen
}

// serveQueue gives the room that there is to who waits for it, and wakes nobody
// else. It must be called whenever there may be more room.
func (c *Cluster) serveQueue() {
	q := &c.queue
	if q.length.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	st := c.state.Load()
	newest := q.overloaded(st, c.m.now())
	for skipped := 0; skipped < len(q.waiters); {
		at := skipped
		if newest {
			at = len(q.waiters) - 1 - skipped
		}
		w := q.waiters[at]
		ep, probe, full := c.choose(st, w.session, w.choice)
		if !full {
			q.take(at).got <- grant{st: st, ep: ep, probe: probe}
			continue
		}
		if !w.particular() {
			break // there is no room for anybody
		}
		skipped++
	}
}

// particular reports whether there may be endpoints with room of which none is
// for this request.
func (w *queued) particular() bool {
	return w.session.Strict || w.choice.subset != "" || w.choice.Tried[0] != nil
}

// overloaded reports whether the one that has waited the longest has waited too
// long. q.mu is held.
func (q *queue) overloaded(st *state, now int64) bool {
	return len(q.waiters) > 0 && now-q.waiters[0].since > int64(st.breaker.Queue.Timeout/2)
}

// take removes a request from the queue. q.mu is held.
func (q *queue) take(i int) *queued {
	w := q.waiters[i]
	q.waiters = slices.Delete(q.waiters, i, i+1)
	q.length.Store(int32(len(q.waiters)))
	return w
}

// leave removes a request that waits no more, and reports false if it has got something.
func (q *queue) leave(w *queued) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiters, w)
	if i >= 0 {
		q.take(i)
	}
	return i >= 0
}

// BeginRetry reports whether one more request may be under way again, and counts
// it until EndRetry if so.
func (c *Cluster) BeginRetry() bool {
	if !addBelow(&c.retries, int64(c.state.Load().breaker.MaxRetries)) {
		c.refusals[refusedRetry].Add(1)
		return false
	}
	return true
}

// EndRetry is the end of a retry that BeginRetry has allowed.
func (c *Cluster) EndRetry() { c.retries.Add(-1) }

// CircuitState is how a cluster's circuit breaker is doing, for people and metrics.
type CircuitState struct {
	// InFlight counts requests, MaxInFlight is how many they may be at the moment,
	// 0 for any number. Retries counts those that are under way again, and Queued
	// those that wait for an endpoint with room.
	InFlight    int64 `json:"inFlight"`
	MaxInFlight int64 `json:"maxInFlight,omitempty"`
	// MinLatency is what requests take where none waits for another, as adaptive
	// concurrency has measured it; 0 if it has not.
	MinLatency time.Duration `json:"minLatency,omitempty"`
	Retries    int64         `json:"retries"`
	Queued     int           `json:"queued"`
	// Waits counts the requests that have waited, and Waited for how long.
	Waits  uint64        `json:"waits"`
	Waited time.Duration `json:"waited"`
	// Refused counts what was refused, by each reason there is.
	Refused map[string]uint64 `json:"refused"`
}

// Circuit returns the state of the circuit breaker, nil if there is none.
func (c *Cluster) Circuit() *CircuitState {
	st := c.state.Load()
	if st.breaker == noBounds {
		return nil
	}
	s := &CircuitState{
		InFlight: c.inFlight.Load(), MaxInFlight: st.maxRequests(), Retries: c.retries.Load(), Queued: int(c.queue.length.Load()),
		Waits: c.queue.waits.Load(), Waited: time.Duration(c.queue.waited.Load()),
		Refused: map[string]uint64{},
	}
	if st.concurrency != nil {
		s.MinLatency = st.concurrency.MinLatency()
	}
	for i := range c.refusals {
		s.Refused[refusal(i).String()] = c.refusals[i].Load()
	}
	return s
}
