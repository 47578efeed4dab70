package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
)

// maxEndpoints is how many endpoints one round trip tries to connect to.
const maxEndpoints = balance.MaxTried

var errNoEndpoint = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: "no_endpoint",
	Err: errors.New("the cluster has no endpoints that could be tried"),
}

// RoundTrip sends ex.Out to an endpoint and fills ex.Response with the head of
// what it answers. The lease must be released when the response's body is no
// longer needed. The error is an *exchange.UpstreamError, or an
// *exchange.ClientError if the request's content could not be read or the
// client has given the exchange up.
//
// An endpoint that cannot be connected to is followed by another, up to three
// in all; one that cannot be reached, by one of the other IP family if there is any,
// and one that is slow to be reached is joined by such a one, see race. A request that a reused connection never carried, because the
// endpoint had closed it, goes out once more on a new one, RFC 9112 section
// 9.3.1; so does one that the endpoint says it has not processed, RFC 9113
// section 8.7, and then to another endpoint. Nothing else is repeated: that is
// for the rule's retry to say. Endpoints of ex.Avoid are the last choice, of an ex.Hedge none.
// ex.Session's endpoint is the first one, be it draining or not. Where all have
// as many requests as they may, the exchange waits in the cluster's queue, or
// fails as errCircuitOpen.
func (c *Cluster) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	st := c.state.Load()
	if len(st.members) == 0 && st.resolving != nil {
		st = c.await(ex, st)
	}
	ex.Upstream.Cluster = st.key
	st.setTimeouts(ex)
	if st.budget != nil && len(ex.Avoid) == 0 {
		st.budget.begin(c.m.now())
	}
	choice := wish{subset: st.subsetOf(ex)}
	if ex.Session.Strict {
		return c.tryOnly(ex, st, choice)
	}
	if st.hashes {
		choice.Hash = st.hash(ex)
	}
	avoiding := len(ex.Avoid) > 0
	if avoiding {
		st.avoid(&choice, ex.Avoid)
	}
	failed := errNoEndpoint
	left := st.breaker.Queue.Timeout
	var unreachable *endpoint
	for range maxEndpoints {
		var ep *endpoint
		var probe, full bool
		if unreachable != nil {
			ep = c.otherFamily(st, unreachable, &choice)
		}
		if ep == nil {
			ep, probe, full = c.admit(st, ex.Session, choice)
		}
		if ep == nil && avoiding && !ex.Hedge {
			// Rather one that has failed before than none.
			avoiding, choice.Tried = false, [balance.MaxTried]*balance.Load{}
			ep, probe, full = c.admit(st, ex.Session, choice)
		}
		if full && ex.Hedge {
			return nil, errCircuitOpen
		}
		if full {
			got, err := c.queueUp(ex, st, choice, &left)
			if err != nil {
				return nil, err
			}
			st, ep, probe = got.st, got.ep, got.probe
		}
		if ep != nil && ex.Hedge && !probe && ep.load.EjectedUntil.Load() != 0 {
			ep.end()
			ep = nil // it is one of those that serve only if there are no others
		}
		if ep == nil {
			break
		}
		var k exchange.Lease
		var err error
		if st.dual && !probe {
			var r runner
			r, err = c.race(ex, st, ep, &choice, c.startShared)
			ep = r.ep
		}
		if err == nil {
			k, err = c.try(ex, st, ep, probe)
		}
		if err == nil {
			return k, nil
		}
		if ex.Abandoned() {
			return nil, exchange.ErrAbandoned
		}
		up, ok := err.(*exchange.UpstreamError)
		if !ok || up.Stage != exchange.Dialing && !up.Unsent || up.Reason == reasonTimeout {
			return nil, err
		}
		failed, unreachable = up, nil
		if isUnreachable(up) {
			unreachable = ep
		}
		choice.Exclude(&ep.load)
	}
	if failed.Reason == reasonCircuitOpen {
		c.refusals[refusedFull].Add(1)
	}
	return nil, failed
}

// setTimeouts has the exchange keep the cluster's timeouts.
func (st *state) setTimeouts(ex *exchange.Exchange) {
	t := &st.timeouts
	ex.Timeouts.Idle, ex.Timeouts.Tunnel = t.Idle, t.Tunnel
	if t.Stream > 0 {
		end := ex.Start.Add(t.Stream)
		ex.Timeouts.End = end
		if ex.Deadline.IsZero() || end.Before(ex.Deadline) {
			ex.Deadline = end
		}
	}
}

// maxRepeats is how often a request goes out again to one endpoint, on
// connections that had ended. What an endpoint refuses, it has reasons to, and
// gets once more at most.
const maxRepeats = 4

// try sends the exchange to one endpoint, which counts it already.
func (c *Cluster) try(ex *exchange.Exchange, st *state, ep *endpoint, probe bool) (exchange.Lease, error) {
	ex.Upstream.Endpoint = ep.address
	fresh := probe // that it can be connected to is what a probe is to find out
	for repeats := 0; ; repeats++ {
		u, failed := c.find(ex, st, ep, fresh, probe)
		if failed != nil {
			ep.end()
			return nil, failed
		}
		before := ex.Upstream.Wait
		err := u.roundTrip(ex)
		if err == nil {
			ex.Upstream.Tries++
			ep.requests.Add(1)
			took := ex.Upstream.Wait - before
			ep.observe(took)
			if st.timed {
				ep.load.Latency.Observe(c.m.now(), took)
			}
			if st.loadReports {
				ep.reported.Read(&ex.Response, c.m.coarse.Load())
			}
			c.judge(st, ep, ex, nil, took)
			c.adapt(st, &ex.Response, took)
			return u, nil
		}
		u.abandon()
		up, ok := err.(*exchange.UpstreamError)
		if !ok || !up.Unsent {
			ex.Upstream.Tries++
			ep.requests.Add(1)
		}
		if ex.WasOutrun() {
			c.outrun(st, ep, ex.Upstream.Wait-before)
		}
		if ok && up.Stage == exchange.Stale && repeats < maxRepeats && (up.Unsent || repeatable(&ex.Out)) {
			if up.Reason == reasonStreamRefused {
				repeats = maxRepeats - 1
			}
			fresh = true
			continue
		}
		if ok {
			ep.failures.Add(1)
			c.judge(st, ep, ex, up, 0)
		}
		c.adapt(st, nil, ex.Upstream.Wait-before)
		ep.end()
		return nil, err
	}
}

// find gets a connection to the endpoint, or a stream of one. A fresh one is
// not one that has been idle.
func (c *Cluster) find(ex *exchange.Exchange, st *state, ep *endpoint, fresh, probe bool) (use, *exchange.UpstreamError) {
	p := ep.poolFor(st, ex.Conn)
	if st.muxed(ep) {
		return c.openStream(ex, st, p, probe)
	}
	if !fresh {
		if k := p.get(st.terms, !repeatable(&ex.Out)); k != nil {
			return k, nil
		}
	}
	if !ep.reserve() {
		return nil, tooMany(ep)
	}
	nc, err := c.connect(ex, st, ep, probe)
	if err != nil {
		return nil, err
	}
	if st.protocol == protocolALPN && isHTTP2(nc) {
		ep.speaksHTTP2.Store(true)
		ep.mu.Lock()
		p.dialing++
		ep.mu.Unlock()
		if s := p.addMux(st, nc, true); s != nil {
			return s, nil
		}
		return nil, noStreams(ep)
	}
	return p.newConn(st, nc), nil
}

// muxed reports whether the endpoint's connections carry many exchanges at a time,
// as far as is known.
func (st *state) muxed(ep *endpoint) bool {
	return st.protocol == protocolHTTP2 || st.protocol == protocolALPN && ep.speaksHTTP2.Load()
}

// repeatable reports whether a request may be sent again although an endpoint
// may have acted on it: it is idempotent, and there is no content that was
// pulled already.
func repeatable(r *exchange.Request) bool { return r.Body == nil && r.Idempotent() }

// pick chooses an endpoint, or returns nil if all were tried or, as full says,
// have no room. probe says that it was ejected, and that this request is the one
// to find out how it is.
func (c *Cluster) pick(st *state, choice wish) (ep *endpoint, probe, full bool) {
	t := st.in(choice.subset)
	if c.ejected.Load() == 0 && !t.short {
		if st.timed {
			choice.Now = c.m.now()
		}
		ep, full = t.pick(0, choice.Choice)
		return ep, false, full
	}
	choice.Now = c.m.now()
	choice.Settled = choice.Tried[0] != nil // one endpoint in vain is enough for a request
	var first int
	first, choice.Panic = t.first()
	for {
		if ep, full = t.pick(first, choice.Choice); full {
			return nil, false, true
		}
		if ep == nil {
			// Everything is ejected: as likely as not the fault is elsewhere.
			choice.Panic = true
			ep, full = t.pick(first, choice.Choice)
			return ep, false, full
		}
		until := ep.load.EjectedUntil.Load()
		if until == 0 || choice.Panic {
			return ep, false, false
		}
		// Its time is over. One request goes there; the others stay away until
		// its outcome is known.
		if ep.load.EjectedUntil.CompareAndSwap(until, choice.Now+int64(st.connectTimeout+probeGrace)) {
			return ep, true, false
		}
	}
}

// avoid excludes the last of these endpoints, as many as leave room for one
// that cannot be connected to.
func (st *state) avoid(choice *wish, addresses []string) {
	for _, address := range addresses[max(0, len(addresses)-(balance.MaxTried-1)):] {
		for i := range st.members {
			if ep := st.members[i].ep; ep.address == address {
				choice.Exclude(&ep.load)
			}
		}
	}
}

// isUnreachable reports whether an endpoint was not even refused by.
func isUnreachable(err error) bool {
	var up *exchange.UpstreamError
	return errors.As(err, &up) && (up.Reason == reasonUnreachable || up.Reason == reasonConnectTime)
}

// otherFamily admits the request to an endpoint of the other IP family than one that
// is unreachable, and returns nil if there is none: as likely as not it is the family that has
// no way there, and its other addresses would be waited for in vain, RFC 8305
// section 4. Only what is preferred as much and in use is taken.
func (c *Cluster) otherFamily(st *state, unreachable *endpoint, choice *wish) *endpoint {
	if isSocket(unreachable.address) {
		return nil
	}
	for _, t := range st.in(choice.subset).ready {
		if !slices.Contains(t.endpoints, unreachable) {
			continue
		}
		// They are sorted by family: from a random one on, so that not all go to the first.
		for n, from := 0, rand.IntN(len(t.endpoints)); n < len(t.endpoints); n++ {
			ep := t.endpoints[(from+n)%len(t.endpoints)]
			if !isSocket(ep.address) && ep.addr.Addr().Is4() != unreachable.addr.Addr().Is4() &&
				ep.load.EjectedUntil.Load() == 0 && !slices.Contains(choice.Tried[:], &ep.load) && c.begin(st, ep) {
				return ep
			}
		}
	}
	return nil
}

// await waits for the first answer to the cluster's lookups, as long as
// connecting may take.
func (c *Cluster) await(ex *exchange.Exchange, st *state) *state {
	ctx, done := patience(ex, st.connectTimeout)
	defer done()
	select {
	case <-st.resolving:
	case <-ctx.Done():
	}
	return c.state.Load()
}

// patience bounds a wait on behalf of an exchange: by a timeout, by the
// exchange's deadlines, and by its client, who may give it up. done must be
// called behind the wait; it reports whether the end of the exchange was, or
// would have been, the end of the wait.
func patience(ex *exchange.Exchange, timeout time.Duration) (ctx context.Context, done func() (own bool)) {
	start := time.Now()
	until, own := start.Add(timeout), false
	for _, d := range [2]time.Time{ex.Deadline, ex.TryDeadline} {
		if !d.IsZero() && d.Before(until) {
			until, own = d, true
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	if !ex.Await(closer(cancel)) {
		cancel()
	}
	return ctx, func() bool {
		ex.Await(nil)
		own = own || errors.Is(ctx.Err(), context.Canceled)
		cancel()
		ex.Upstream.Wait += time.Since(start)
		return own
	}
}

// closer makes an exchange.Closer of a function.
type closer func()

func (f closer) Close() { f() }
