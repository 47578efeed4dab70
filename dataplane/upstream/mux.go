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
	// maxMuxes bounds the shared connections to an endpoint. One carries as many
	// exchanges as the endpoint's SETTINGS allow; where that is not enough,
	// another is opened.
	maxMuxes = 64
	// maxWaiting bounds the exchanges that wait for a stream of an endpoint.
	maxWaiting = 1024
	// perDial is how many of them wait for one connection that is being made.
	perDial = 100
)

// mux is a connection to an endpoint that many exchanges share.
type mux struct {
	ep     *endpoint
	client *h2.ClientConn
	// tls is what it was made with.
	tls *tls.Config
	// used is when an exchange last ended, on the Manager's coarse clock.
	used atomic.Int64
	// settling says that it counts in ep.dialing, gone that it does not count in
	// ep.total any more; both are guarded by ep.mu.
	settling, gone bool
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
	s.mux.ep.load.InFlight.Add(-1)
	s.abandon()
}

func (s *stream) roundTrip(ex *exchange.Exchange) error { return s.s.RoundTrip(ex) }

func (s *stream) abandon() {
	k := s.mux
	s.s.Finish()
	*s = stream{}
	streams.Put(s)
	k.used.Store(k.ep.cluster.m.coarse.Load())
	if k.ep.waiting.Load() > 0 {
		k.ep.mu.Lock()
		k.ep.serveWaiters()
		k.ep.mu.Unlock()
	}
}

// waiter is an exchange that waits for a stream. It gets one of: a stream, an
// error, or neither, which means to try again.
type waiter struct {
	tls *tls.Config
	got chan waited // has room for one
}

type waited struct {
	s   *stream
	err *exchange.UpstreamError
}

// openStream finds a stream to an endpoint: on a connection that has one free,
// else on a new one, else when another exchange is done with it.
func (c *Cluster) openStream(ex *exchange.Exchange, st *state, ep *endpoint, probe bool) (use, *exchange.UpstreamError) {
	for {
		ep.mu.Lock()
		if !probe && len(ep.waiters) == 0 { // that it can be connected to is what a probe is to find out
			if s := ep.openStream(st.tls); s != nil {
				ep.mu.Unlock()
				return s, nil
			}
		}
		if (probe || len(ep.waiters) >= ep.dialing*perDial) && len(ep.muxes)+ep.dialing < maxMuxes && ep.reserveLocked() {
			ep.dialing++
			ep.mu.Unlock()
			return c.dialStream(ex, st, ep, probe)
		}
		if len(ep.muxes)+ep.dialing == 0 {
			ep.mu.Unlock()
			return nil, tooMany(ep)
		}
		if len(ep.waiters) >= maxWaiting {
			ep.mu.Unlock()
			return nil, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonLimit,
				Err: fmt.Errorf("%d requests wait for %s already", maxWaiting, ep.address)}
		}
		w := &waiter{tls: st.tls, got: make(chan waited, 1)}
		ep.waiters = append(ep.waiters, w)
		ep.waiting.Store(int32(len(ep.waiters)))
		ep.mu.Unlock()
		switch got := awaitStream(ex, st, ep, w); {
		case got.s != nil:
			return got.s, nil
		case got.err != nil:
			return nil, got.err
		}
	}
}

// awaitStream waits as long as connecting may take.
func awaitStream(ex *exchange.Exchange, st *state, ep *endpoint, w *waiter) waited {
	ctx, done := patience(ex, st.connectTimeout)
	select {
	case got := <-w.got:
		done()
		return got
	case <-ctx.Done():
	}
	own := done()
	ep.mu.Lock()
	if i := slices.Index(ep.waiters, w); i >= 0 {
		ep.waiters = slices.Delete(ep.waiters, i, i+1)
		ep.waiting.Store(int32(len(ep.waiters)))
	}
	ep.mu.Unlock()
	select {
	case got := <-w.got: // in the meantime
		return got
	default:
	}
	reason := reasonLimit
	if own {
		reason = reasonTimeout
	}
	return waited{err: &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reason,
		Err: fmt.Errorf("no stream to %s became free in time", ep.address)}}
}

// dialStream makes a connection, for which the caller has reserved, and opens
// a stream on it.
func (c *Cluster) dialStream(ex *exchange.Exchange, st *state, ep *endpoint, probe bool) (use, *exchange.UpstreamError) {
	nc, err := c.connect(ex, st, ep, probe)
	if err == nil && st.protocol == protocolALPN && !isHTTP2(nc) {
		// It spoke HTTP/2 before, and does not any more.
		ep.mu.Lock()
		ep.dialing--
		ep.speaksHTTP2.Store(false)
		ep.wakeWaiters(nil)
		ep.mu.Unlock()
		return ep.newConn(st, nc), nil
	}
	if err != nil {
		ep.mu.Lock()
		defer ep.mu.Unlock()
		ep.dialing--
		if ep.dialing == 0 && len(ep.muxes) == 0 {
			if err.Reason == reasonTimeout {
				ep.wakeWaiters(nil) // it was this exchange's time that was over
			} else {
				ep.wakeWaiters(err)
			}
		}
		return nil, err
	}
	s := ep.addMux(st, nc)
	if s == nil {
		return nil, noStreams(ep)
	}
	return s, nil
}

func noStreams(ep *endpoint) *exchange.UpstreamError {
	return &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonReset,
		Err: fmt.Errorf("%s takes no requests on a new connection", ep.address)}
}

// addMux adds a new connection, which is counted in ep.dialing, and opens its
// first stream; nil if it can't.
func (ep *endpoint) addMux(st *state, nc net.Conn) *stream {
	m := ep.cluster.m
	opts := h2.ClientOptions{}
	if m.opts.HTTP2 != nil {
		opts = *m.opts.HTTP2
	}
	// Only who knows the endpoint sends it more than one exchange before it has
	// said how many it takes: others would be refused.
	opts.AssumedStreams = max(1, int(ep.streams.Load()))
	k := &mux{ep: ep, client: h2.NewClientConn(nc, &opts), tls: st.tls, settling: true}
	k.used.Store(m.coarse.Load())
	s := k.open()
	ep.mu.Lock()
	unwanted := ep.retired || st.tls != ep.cluster.state.Load().tls
	if !unwanted {
		ep.muxes = append(ep.muxes, k)
	}
	ep.mu.Unlock()
	k.client.Start(k.changed)
	if unwanted {
		k.client.Drain()
	}
	return s
}

// open opens a stream, or returns nil.
func (k *mux) open() *stream {
	hs := k.client.Open()
	if hs == nil {
		return nil
	}
	s := streams.Get().(*stream)
	s.mux, s.s = k, hs
	return s
}

// openStream opens a stream on a connection that has one free, or returns nil.
// ep.mu is held.
func (ep *endpoint) openStream(settings *tls.Config) *stream {
	for _, k := range ep.muxes {
		if k.tls == settings {
			if s := k.open(); s != nil {
				return s
			}
		}
	}
	return nil
}

// serveWaiters gives streams that are free to those who wait, in their order.
// ep.mu is held.
func (ep *endpoint) serveWaiters() {
	for len(ep.waiters) > 0 {
		s := ep.openStream(ep.waiters[0].tls)
		if s == nil {
			// The first may make another connection, if nobody does.
			if ep.dialing > 0 || len(ep.muxes) >= maxMuxes || !ep.hasRoom() {
				break
			}
		}
		ep.waiters[0].got <- waited{s: s}
		ep.waiters = slices.Delete(ep.waiters, 0, 1)
		if s == nil {
			break
		}
	}
	ep.waiting.Store(int32(len(ep.waiters)))
}

// wakeWaiters makes all who wait try again, or fail. ep.mu is held.
func (ep *endpoint) wakeWaiters(err *exchange.UpstreamError) {
	for _, w := range ep.waiters {
		w.got <- waited{err: err}
	}
	clear(ep.waiters)
	ep.waiters = ep.waiters[:0]
	ep.waiting.Store(0)
}

// changed is called when the connection may take more streams, or none any more.
func (k *mux) changed() {
	ep := k.ep
	ep.mu.Lock()
	defer ep.mu.Unlock()
	load := k.client.Load()
	if load.Settled {
		ep.streams.Store(int32(load.Most))
	}
	if k.settling && (load.Settled || load.Ended) {
		k.settling = false
		ep.dialing--
	}
	if !load.Usable {
		if i := slices.Index(ep.muxes, k); i >= 0 {
			ep.muxes = slices.Delete(ep.muxes, i, i+1)
		}
	}
	if load.Ended && !k.gone {
		k.gone = true
		ep.total--
	}
	ep.serveWaiters()
	if len(ep.muxes)+ep.dialing == 0 {
		ep.wakeWaiters(nil) // nobody else will
	}
}

// drainMuxes lets the connections that which holds for finish what they have,
// and takes no new exchanges to them.
func (ep *endpoint) drainMuxes(which func(k *mux) bool) {
	ep.mu.Lock()
	var drained []*mux
	ep.muxes = slices.DeleteFunc(ep.muxes, func(k *mux) bool {
		if which(k) {
			drained = append(drained, k)
			return true
		}
		return false
	})
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
