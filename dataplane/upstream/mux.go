package upstream

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

const (
	// defaultMaxMuxes is how many shared connections there are to an endpoint at
	// most. One carries as many exchanges as the endpoint's SETTINGS allow; where
	// that is not enough, another is opened.
	defaultMaxMuxes = 64
	// maxWaiting bounds the exchanges that wait for a stream of an endpoint.
	maxWaiting = 1024
	// perDial is how many of them wait for one connection that is being made.
	perDial = 100
)

// mux is a connection to an endpoint that many exchanges share.
type mux struct {
	pool   *pool
	client *h2.ClientConn
	// terms are what it was made with.
	terms terms
	life  lifetime // guarded by ep.mu
	// used is when an exchange last ended, on the Manager's coarse clock.
	used atomic.Int64
	// settling says that it counts in pool.dialing, leaving that it counts in
	// ep.leaving, and gone that it does not count in ep.total any more; all are
	// guarded by ep.mu.
	settling, leaving, gone bool
}

// stream is the use of a mux by one exchange, and its lease.
type stream struct {
	mux *mux
	s   *h2.ClientStream
}

var _ use = (*stream)(nil)

var streams = sync.Pool{New: func() any { return new(stream) }}

// Release implements exchange.Lease. It must be called once per lease.
func (s *stream) Release() {
	ep := s.mux.pool.ep
	s.abandon()
	ep.end() // last, so that who comes for its place finds its stream
}

func (s *stream) roundTrip(ex *exchange.Exchange) error { return s.s.RoundTrip(ex) }

func (s *stream) abandon() {
	k := s.mux
	s.s.Finish()
	*s = stream{}
	streams.Put(s)
	p := k.pool
	k.used.Store(p.ep.cluster.m.coarse.Load())
	if p.waiting.Load() > 0 {
		p.ep.mu.Lock()
		p.serveWaiters()
		p.ep.mu.Unlock()
	}
}

// waiter is an exchange that waits for a stream. It gets one of: a stream, an
// error, or neither, which means to try again.
type waiter struct {
	terms terms
	got   chan waited // has room for one
}

type waited struct {
	s   *stream
	err *exchange.UpstreamError
}

// openStream finds a stream to an endpoint: on a connection that has one free,
// else on a new one, else when another exchange is done with it.
func (c *Cluster) openStream(ex *exchange.Exchange, st *state, p *pool, probe bool) (use, *exchange.UpstreamError) {
	ep := p.ep
	for {
		if probe {
			p.makeRoom()
		}
		ep.mu.Lock()
		if !probe && len(p.waiters) == 0 { // that it can be connected to is what a probe is to find out
			if s := p.openStream(st.terms); s != nil {
				ep.mu.Unlock()
				return s, nil
			}
		}
		if (probe || len(p.waiters) >= p.dialing*perDial) && len(p.muxes)+p.dialing < c.m.maxMuxes && ep.reserveLocked() {
			p.dialing++
			ep.mu.Unlock()
			return c.dialStream(ex, st, p, probe)
		}
		if len(p.muxes)+p.dialing == 0 {
			ep.mu.Unlock()
			return nil, tooMany(ep)
		}
		if len(p.waiters) >= maxWaiting {
			ep.mu.Unlock()
			return nil, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonCircuitOpen,
				Err: fmt.Errorf("%d requests wait for %s already", maxWaiting, ep.address)}
		}
		w := &waiter{terms: st.terms, got: make(chan waited, 1)}
		p.waiters = append(p.waiters, w)
		p.waiting.Store(int32(len(p.waiters)))
		ep.mu.Unlock()
		switch got := awaitStream(ex, st, p, w); {
		case got.s != nil:
			return got.s, nil
		case got.err != nil:
			return nil, got.err
		}
	}
}

// awaitStream waits as long as connecting may take.
func awaitStream(ex *exchange.Exchange, st *state, p *pool, w *waiter) waited {
	ctx, done := patience(ex, st.connectTimeout)
	select {
	case got := <-w.got:
		done()
		return got
	case <-ctx.Done():
	}
	own := done()
	p.ep.mu.Lock()
	if i := slices.Index(p.waiters, w); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		p.waiting.Store(int32(len(p.waiters)))
	}
	p.ep.mu.Unlock()
	select {
	case got := <-w.got: // in the meantime
		return got
	default:
	}
	reason := reasonCircuitOpen
	if own {
		reason = reasonTimeout
	}
	return waited{err: &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reason,
		Err: fmt.Errorf("no stream to %s became free in time", p.ep.address)}}
}

// dialStream makes a connection, for which the caller has reserved, and opens
// a stream on it.
func (c *Cluster) dialStream(ex *exchange.Exchange, st *state, p *pool, probe bool) (use, *exchange.UpstreamError) {
	ep := p.ep
	nc, err := c.connect(ex, st, ep, probe)
	if err == nil && st.protocol == protocolALPN && !isHTTP2(nc) {
		p.notMuxed()
		return p.newConn(st, nc), nil
	}
	if err != nil {
		p.undialed(err)
		return nil, err
	}
	s := p.addMux(st, nc, true)
	if s == nil {
		return nil, noStreams(ep)
	}
	return s, nil
}

// undialed has a connection that counts in p.dialing fail.
func (p *pool) undialed(err *exchange.UpstreamError) {
	p.ep.mu.Lock()
	defer p.ep.mu.Unlock()
	p.dialing--
	if p.dialing == 0 && len(p.muxes) == 0 {
		if err.Reason == reasonTimeout {
			p.wakeWaiters(nil) // it was one exchange's time that was over
		} else {
			p.wakeWaiters(err)
		}
	}
}

// notMuxed is undialed for a connection to who spoke HTTP/2 before, and does not
// any more.
func (p *pool) notMuxed() {
	p.ep.mu.Lock()
	defer p.ep.mu.Unlock()
	p.dialing--
	p.ep.speaksHTTP2.Store(false)
	p.wakeWaiters(nil)
}

func noStreams(ep *endpoint) *exchange.UpstreamError {
	return &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonReset,
		Err: fmt.Errorf("%s takes no requests on a new connection", ep.address)}
}

// addMux adds a new connection, which is counted in p.dialing, and opens its
// first stream if that is wanted; nil if it can't.
func (p *pool) addMux(st *state, nc net.Conn, open bool) (s *stream) {
	ep := p.ep
	m := ep.cluster.m
	opts := *st.http2
	// Only who knows the endpoint sends it more than one exchange before it has
	// said how many it takes: others would be refused.
	opts.AssumedStreams = max(1, int(ep.streams.Load()))
	k := &mux{pool: p, client: h2.NewClientConn(nc, &opts), terms: st.terms, life: newLifetime(m.coarse.Load()), settling: true}
	k.used.Store(m.coarse.Load())
	if open {
		s = k.open()
	}
	ep.mu.Lock()
	unwanted := ep.retired || p.gone || st.terms != ep.cluster.state.Load().terms || k.over()
	if unwanted {
		k.leave()
	} else {
		p.muxes = append(p.muxes, k)
	}
	ep.mu.Unlock()
	k.client.Start(k.changed)
	if unwanted {
		k.client.Drain()
	}
	return s
}

// open opens a stream, or returns nil. ep.mu is held, if others know the connection.
func (k *mux) open() *stream {
	hs := k.client.Open()
	if hs == nil {
		return nil
	}
	k.life.requests++
	s := streams.Get().(*stream)
	s.mux, s.s = k, hs
	return s
}

// openStream opens a stream on a connection that has one free, or returns nil.
// p.ep.mu is held.
func (p *pool) openStream(on terms) *stream {
	for i, k := range p.muxes {
		if k.terms == on {
			if s := k.open(); s != nil {
				if k.over() { // after this one
					p.muxes = slices.Delete(p.muxes, i, i+1)
					k.leave()
					k.client.Drain()
				}
				return s
			}
		}
	}
	return nil
}

// over reports whether the connection gets no more streams. ep.mu is held.
func (k *mux) over() bool {
	c := k.pool.ep.cluster
	return k.life.over(&c.state.Load().pool, c.m.coarse.Load())
}

// makeRoom has the oldest connection finish what it has, if there are as many as
// may be: only a new one tells that there are any.
func (p *pool) makeRoom() {
	ep := p.ep
	ep.mu.Lock()
	var old *mux
	if len(p.muxes) > 0 && (len(p.muxes)+p.dialing >= ep.cluster.m.maxMuxes || !ep.hasRoom()) {
		old = p.muxes[0]
		p.muxes = slices.Delete(p.muxes, 0, 1)
		old.leave()
	}
	ep.mu.Unlock()
	if old != nil {
		old.client.Drain()
	}
}

// leave says that the connection gets no more streams: another one may be made in
// its place, however long those take that it has. ep.mu is held.
func (k *mux) leave() {
	if !k.leaving && !k.gone {
		k.leaving = true
		k.pool.ep.leaving++
	}
}

// serveWaiters gives streams that are free to those who wait, in their order.
// p.ep.mu is held.
func (p *pool) serveWaiters() {
	for len(p.waiters) > 0 {
		s := p.openStream(p.waiters[0].terms)
		if s == nil {
			// The first may make another connection, if nobody does.
			if p.dialing > 0 || len(p.muxes) >= p.ep.cluster.m.maxMuxes || !p.ep.hasRoom() {
				break
			}
		}
		p.waiters[0].got <- waited{s: s}
		p.waiters = slices.Delete(p.waiters, 0, 1)
		if s == nil {
			break
		}
	}
	p.waiting.Store(int32(len(p.waiters)))
}

// wakeWaiters makes all who wait try again, or fail. ep.mu is held.
func (p *pool) wakeWaiters(err *exchange.UpstreamError) {
	for _, w := range p.waiters {
		w.got <- waited{err: err}
	}
	clear(p.waiters)
	p.waiters = p.waiters[:0]
	p.waiting.Store(0)
}

// changed is called when the connection may take more streams, or none any more.
func (k *mux) changed() {
	p, ep := k.pool, k.pool.ep
	ep.mu.Lock()
	defer ep.mu.Unlock()
	load := k.client.Load()
	if load.Settled {
		ep.streams.Store(int32(load.Most))
		ep.setBound()
	}
	if k.settling && (load.Settled || load.Ended) {
		k.settling = false
		p.dialing--
	}
	if !load.Usable {
		if i := slices.Index(p.muxes, k); i >= 0 {
			p.muxes = slices.Delete(p.muxes, i, i+1)
		}
		k.leave()
	}
	if load.Ended && !k.gone {
		k.gone = true
		ep.total--
		ep.leaving--
	}
	p.serveWaiters()
	if len(p.muxes)+p.dialing == 0 {
		p.wakeWaiters(nil) // nobody else will
	}
}

// drainMuxes lets the connections that which holds for finish what they have,
// and takes no new exchanges to them.
func (ep *endpoint) drainMuxes(which func(k *mux) bool) {
	ep.mu.Lock()
	var drained []*mux
	for p := range ep.pools {
		p.muxes = slices.DeleteFunc(p.muxes, func(k *mux) bool {
			if which(k) {
				drained = append(drained, k)
				k.leave()
				return true
			}
			return false
		})
	}
	ep.mu.Unlock()
	for _, k := range drained {
		k.client.Drain()
	}
}

// isHTTP2 reports whether the endpoint has chosen HTTP/2.
func isHTTP2(nc net.Conn) bool {
	tc, ok := nc.(*tls.Conn)
	return ok && tc.ConnectionState().NegotiatedProtocol == "h2"
}
