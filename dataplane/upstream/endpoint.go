package upstream

import (
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/hangup"
	"github.com/headgate/headgate/dataplane/health"
	"github.com/headgate/headgate/dataplane/loadreport"
)

// endpoint is one address and port of a cluster, or Unix socket, with what it
// has gathered. addr is the exchange.EndpointID of address.
type endpoint struct {
	cluster *Cluster
	addr    netip.AddrPort
	address string
	load    balance.Load

	requests, failures        atomic.Uint64
	connects, connectFailures atomic.Uint64
	ejections                 ejectionCounts
	outcomes                  outcomes
	tls                       tlsState
	// latency is a moving average, in nanoseconds.
	latency atomic.Int64

	// started is when the endpoint began to start slowly; 0 if it has its weight.
	started atomic.Int64
	// reported is what the endpoint last said of its load.
	reported loadreport.Report

	// reached is when it could last be connected to, on the Manager's coarse clock;
	// 0 if it never could.
	reached atomic.Int64

	// check is nil if the endpoint is not checked.
	check     atomic.Pointer[health.Check]
	checkConn atomic.Pointer[checkConn]

	// strikes counts the ejections in a row, and tiers are where the endpoint is
	// chosen from, with a weight: first that of the whole set, then those of its
	// subsets. Cluster.eject guards them and gone.
	strikes    int
	tiers      []*tier
	tierWeight int64
	gone       bool
	// held says that it is out of use until a connection has been made ahead; it
	// changes under Cluster.eject. queued is warmer's.
	held   atomic.Bool
	queued bool

	// mu guards what follows, and what is in the pools.
	mu sync.Mutex
	// total counts the connections, idle, in use and being made, and idle those
	// that are; making those that are being made ahead of requests, and leaving
	// those that only finish what they have.
	total, idle, making, leaving int
	ahead                        *ahead // nil if there is none
	// peak and lastPeak are how many were in use at most, since peakSince and in
	// the time before that; see warm.go.
	peak, lastPeak int
	peakSince      int64
	retired        bool
	// shared has the connections that carry anybody's exchanges, bound those that
	// are said to be one client's: see proxyproto.go.
	shared pool
	bound  map[*exchange.Conn]*pool

	// speaksHTTP2 is what the endpoint chose when it last could, streams how
	// many it last took on a connection; 0 if it is not known.
	speaksHTTP2 atomic.Bool
	streams     atomic.Int32
}

// use is a connection, or a stream of one, for one exchange.
type use interface {
	exchange.Lease
	roundTrip(ex *exchange.Exchange) error
	// abandon ends the use after a round trip that failed.
	abandon()
}

// conn is a connection to an endpoint, and the lease of who uses it.
type conn struct {
	pool   *pool
	client *h1.ClientConn
	// terms are what it was made with.
	terms terms
	// quiet tells whether a connection on which nothing is awaited is still
	// open and silent. It is nil where the codec finds that out by itself.
	quiet *hangup.Watch
	// idleSince is when it was put back, on the Manager's coarse clock.
	idleSince int64
	life      lifetime
	// end tells whether it has ended, for who looks without using it.
	end *hangup.Watch
}

var _ use = (*conn)(nil)

func newEndpoint(c *Cluster, addr netip.AddrPort, address string) *endpoint {
	ep := &endpoint{cluster: c, addr: addr, address: address}
	ep.shared.ep = ep
	return ep
}

// terms are what a connection is made with. One that was made with others than
// the cluster has now is not used.
type terms struct {
	tls           *tls.Config // nil for plaintext
	proxyProtocol int         // the version of its header, 0 for none
	socket        *socket
	http2         *h2.ClientOptions // by which HTTP/2 is spoken
}

// pool is the connections to an endpoint that may carry each other's exchanges.
// endpoint.mu guards it.
type pool struct {
	ep *endpoint
	// gone says that the client's connection that it is bound to has ended.
	gone bool
	// idle is a stack: the connection that was used last is used next, so that
	// those which are not needed grow old at the bottom.
	idle []*conn
	// muxes are the connections that exchanges share, in the order in which they
	// are used; dialing counts those that are being made, until they have said
	// how many streams they take; waiters are exchanges for which there was none.
	muxes   []*mux
	dialing int
	waiters []*waiter
	// waiting is how many these are, to be seen without the lock.
	waiting atomic.Int32
}

// pools are the endpoint's. ep.mu is held.
func (ep *endpoint) pools(yield func(*pool) bool) {
	if !yield(&ep.shared) {
		return
	}
	for _, p := range ep.bound {
		if !yield(p) {
			return
		}
	}
}

// end is the end of a request that Cluster.begin has counted. Who waits for its
// place has it then.
func (ep *endpoint) end() {
	ep.load.InFlight.Add(-1)
	ep.cluster.inFlight.Add(-1)
	if ep.cluster.queue.length.Load() > 0 {
		ep.cluster.serveQueue()
	}
}

// Release implements exchange.Lease. It must be called once per lease.
func (k *conn) Release() {
	ep := k.pool.ep // k may be somebody else's as soon as it is put back
	if !k.client.Finish() || !k.pool.put(k) {
		k.discard()
	}
	ep.end() // last, so that who comes for its place finds its connection
}

func (k *conn) roundTrip(ex *exchange.Exchange) error { return k.client.RoundTrip(ex) }

func (k *conn) abandon() {
	k.client.Finish()
	k.discard()
}

// discard closes a connection that is not in the pool.
func (k *conn) discard() {
	k.client.Close()
	k.pool.ep.unreserve()
}

// get takes an idle connection that was made on these terms, or nil.
// With care it takes none that the peer has closed, as far as can be known.
func (p *pool) get(on terms, care bool) *conn {
	for {
		p.ep.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.ep.mu.Unlock()
			return nil
		}
		k := p.idle[n-1]
		p.idle[n-1] = nil
		p.idle = p.idle[:n-1]
		p.ep.idle--
		p.ep.notePeak()
		p.ep.mu.Unlock()
		if k.terms == on && (!care || k.silent()) {
			return k
		}
		k.discard()
	}
}

// put gives a connection back, and reports false if it is not wanted.
func (p *pool) put(k *conn) bool {
	ep := p.ep
	st := ep.cluster.state.Load()
	k.life.requests++
	return !k.life.over(&st.pool, ep.cluster.m.coarse.Load()) && p.keep(st, k)
}

// keep is put for a connection that may have been in use or not.
func (p *pool) keep(st *state, k *conn) bool {
	ep := p.ep
	k.idleSince = ep.cluster.m.coarse.Load()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.retired || p.gone || ep.idle >= st.pool.MaxIdle || k.terms != st.terms {
		return false
	}
	p.idle = append(p.idle, k)
	ep.idle++
	return true
}

// reserve counts a connection that is about to be made, and reports false if
// there are as many as may be. Of those an idle one makes room: it is there
// because it can't be used for what the new one is for.
func (ep *endpoint) reserve() bool {
	var old *conn
	ep.mu.Lock()
	if !ep.hasRoom() {
		for p := range ep.pools {
			if len(p.idle) > 0 {
				old = p.takeIdle(1)[0]
				ep.total--
				break
			}
		}
	}
	ok := ep.reserveLocked()
	ep.mu.Unlock()
	if old != nil {
		old.client.Close()
	}
	return ok
}

func (ep *endpoint) reserveLocked() bool {
	if !ep.hasRoom() {
		return false
	}
	ep.total++
	ep.notePeak()
	return true
}

// hasRoom reports whether another connection may be made, be it in the place of
// one that is leaving. ep.mu is held.
func (ep *endpoint) hasRoom() bool {
	most := ep.cluster.state.Load().maxConnections
	return most <= 0 || ep.total-ep.leaving < most
}

func (ep *endpoint) unreserve() {
	ep.mu.Lock()
	ep.total--
	ep.mu.Unlock()
}

// sweep closes connections that have been idle for too long, but for as many as
// the pool is to have, and those whose lifetime is over.
func (ep *endpoint) sweep(st *state, now int64) {
	then := now - int64(st.pool.IdleTimeout)
	wanted, muxes := 0, 0
	if st.warms {
		ep.mu.Lock()
		ep.turnPeak(st, now)
		wanted, muxes = ep.wanted(st), len(ep.shared.muxes)
		ep.mu.Unlock()
	}
	ep.drainMuxes(func(k *mux) bool {
		idle := k.used.Load() < then && k.client.Load().Open == 0 && !(wanted > 0 && muxes == 1)
		if idle || k.life.over(&st.pool, now) {
			muxes--
			return true
		}
		return false
	})
	ep.mu.Lock()
	var old []*conn
	for p := range ep.pools {
		kept := p.idle[:0]
		for i, k := range p.idle {
			// Those that are kept for longer may have been closed by the endpoint.
			idle := k.idleSince < then && len(p.idle)-i > wanted || i < wanted && !k.alive()
			if idle || k.life.over(&st.pool, now) {
				old = append(old, k)
			} else {
				kept = append(kept, k)
			}
		}
		clear(p.idle[len(kept):])
		ep.idle -= len(p.idle) - len(kept)
		p.idle = kept
	}
	ep.forgetUnused()
	ep.mu.Unlock()
	for _, k := range old {
		k.discard()
	}
}

// alive reports whether the peer has an idle connection open still, as far as can
// be known. ep.mu is held.
func (k *conn) alive() bool {
	if k.end == nil {
		k.end = hangup.ForEnd(k.client.NC)
	}
	return k.end.Blind() || k.end.Quiet()
}

// silent reports whether the peer of an idle connection has it open and has said
// nothing, as far as can be known.
func (k *conn) silent() bool {
	if k.quiet == nil || k.quiet.Quiet() {
		return true
	}
	tc, ok := k.client.NC.(*tls.Conn)
	if !ok || k.life.requests > 0 {
		return false
	}
	// Over a connection that was made ahead, tickets are yet to be read: it is
	// silent if they are all there is. On a busy machine the deadline may have
	// passed before anything is read.
	defer func() { _ = tc.SetReadDeadline(time.Time{}) }()
	for range 10 {
		_ = tc.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := tc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if k.quiet.Quiet() {
			return true
		}
	}
	return false
}

func (ep *endpoint) closeIdle() {
	ep.mu.Lock()
	var idle []*conn
	for p := range ep.pools {
		idle = append(idle, p.takeIdle(len(p.idle))...)
	}
	ep.mu.Unlock()
	for _, k := range idle {
		k.discard()
	}
}

// takeIdle takes the n connections out that have been idle for the longest.
// ep.mu is held.
func (p *pool) takeIdle(n int) []*conn {
	taken := append([]*conn(nil), p.idle[:n]...)
	kept := copy(p.idle, p.idle[n:])
	clear(p.idle[kept:])
	p.idle = p.idle[:kept]
	p.ep.idle -= n
	return taken
}

// retire makes the endpoint keep no connections any more.
func (c *Cluster) retire(ep *endpoint) {
	c.eject.Lock()
	ep.gone = true
	c.readmit(ep)
	c.eject.Unlock()
	ep.checkBy(nil)

	ep.mu.Lock()
	ep.retired = true
	ep.mu.Unlock()
	ep.drain()
}

// drain keeps no connections; those that are in use finish what they have.
func (ep *endpoint) drain() {
	ep.closeIdle()
	ep.drainMuxes(func(*mux) bool { return true })
}

// observe adds a latency to the moving average. Of two that come at the same
// time one may be lost, which an average can bear.
func (ep *endpoint) observe(d time.Duration) {
	old := ep.latency.Load()
	if old == 0 {
		ep.latency.Store(int64(d))
		return
	}
	ep.latency.Store(old + (int64(d)-old)/16)
}

func (ep *endpoint) snapshot() EndpointState {
	s := EndpointState{
		Address:         ep.address,
		InFlight:        ep.load.InFlight.Load(),
		MaxInFlight:     ep.load.MaxInFlight.Load(),
		Requests:        ep.requests.Load(),
		Failures:        ep.failures.Load(),
		Connects:        ep.connects.Load(),
		ConnectFailures: ep.connectFailures.Load(),
		Ejections:       ep.ejections.snapshot(),
		TLSFailures:     ep.tls.snapshot(),
		Latency:         time.Duration(ep.latency.Load()),
	}
	if check := ep.check.Load(); check != nil {
		outcome := check.Outcome()
		s.ChecksPassed, s.ChecksFailed = outcome.Passed, outcome.Failed
		if outcome.Why != nil {
			s.CheckFailure = outcome.Why.Error()
		}
	}
	ep.mu.Lock()
	s.Idle, s.Connections = ep.idle, ep.total
	for p := range ep.pools {
		for _, k := range p.muxes {
			if k.client.Load().Open == 0 {
				s.Idle++
			}
		}
	}
	ep.mu.Unlock()
	return s
}
