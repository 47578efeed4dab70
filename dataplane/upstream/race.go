package upstream

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// Where a host has addresses of both IP families, one of these may have no way
// there, and nothing says so but silence. So an attempt to connect to the endpoint
// that was chosen, if it takes long, is joined by one to an endpoint of the other
// family, and the first to succeed has the request: Happy Eyeballs, RFC 8305 section
// 5. Both attempts go on to their ends, as connections made ahead: the one that
// comes late is for the pool, and one that fails ejects its endpoint.

const (
	// attemptDelay is the Connection Attempt Delay that RFC 8305 section 5 recommends.
	attemptDelay = 250 * time.Millisecond
	// knownFor is for how long an endpoint that could be connected to is not doubted.
	knownFor = 10 * time.Second
)

// runner is an endpoint that an attempt to connect is made to. There is none where
// ep is nil, and no attempt was needed where ahead is.
type runner struct {
	ep *endpoint
	*ahead
}

// starter begins an attempt to connect to an endpoint, or joins the one that there
// is; false if nothing is begun any more.
type starter func(ep *endpoint) (runner, bool)

func (r *runner) finish() <-chan struct{} {
	if r.ep == nil {
		return nil
	}
	return r.done
}

// race finds out whether the endpoint, at which the exchange counts, or one of the
// other family can be connected to, and returns where it counts then. With an
// error it counts nowhere, and the endpoint is the last that was tried.
func (c *Cluster) race(ex *exchange.Exchange, st *state, first *endpoint, choice *wish, start starter) (runner, error) {
	if c.known(first) || !st.isNamed(first) {
		return runner{ep: first}, nil
	}
	var runners [2]runner
	var ok bool
	if runners[0], ok = start(first); !ok {
		return runner{ep: first}, nil
	}
	ex.Upstream.Endpoint = first.address
	ctx, done := patience(ex, st.connectTimeout+attemptDelay)
	delay := time.NewTimer(attemptDelay)
	defer delay.Stop()
	for {
		i := 0
		select {
		case <-runners[0].finish():
		case <-runners[1].finish():
			i = 1
		case <-delay.C:
			second := c.otherFamily(st, first, choice)
			if second == nil {
				continue
			}
			if !c.known(second) {
				if runners[1], ok = start(second); ok {
					continue
				}
			}
			done()
			c.overtaken(st, runners[0])
			return runner{ep: second}, nil
		case <-ctx.Done():
			failed := &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonConnectTime}
			if done() {
				failed.Reason = reasonTimeout
			}
			var last runner
			for _, r := range runners {
				if r.ep != nil {
					last = r
					r.ep.end()
					c.leave(r)
				}
			}
			failed.Err = fmt.Errorf("no connection to %s in time", last.ep.address)
			return last, failed
		}
		ended, other := runners[i], runners[1-i]
		switch {
		case ended.failed == nil:
			done()
			if other.ep != nil {
				c.overtaken(st, other)
			}
			return ended, nil
		case other.ep == nil:
			done()
			ended.ep.end()
			return ended, ended.failed
		}
		ended.ep.end()
		choice.Exclude(&ended.ep.load)
		runners[i].ep = nil
	}
}

// startShared is a starter whose connections are for the pool.
func (c *Cluster) startShared(ep *endpoint) (runner, bool) {
	a, mine := ep.openAhead()
	if mine && !c.m.warmer.goes(func() { c.makeAhead(c.m.warmer.ctx, ep, a) }) {
		c.makeAhead(c.m.warmer.ctx, ep, a) // whose context has ended, so that it ends at once
		return runner{}, false
	}
	return runner{ep, a}, true
}

// startOwn returns a starter whose connections are made for one client's, and for
// whom there is no pool.
func (c *Cluster) startOwn(st *state, from *exchange.Conn) starter {
	return func(ep *endpoint) (runner, bool) {
		a := &ahead{done: make(chan struct{}), own: true}
		if !ep.reserve() {
			return runner{}, false
		}
		ep.attempting(1)
		ok := c.m.warmer.goes(func() {
			ctx, cancel := context.WithTimeout(c.m.warmer.ctx, st.connectTimeout)
			defer cancel()
			a.nc, a.failed = c.attempt(ctx, st, ep, from)
			if a.failed != nil && c.m.warmer.ctx.Err() == nil && !ours(a.failed.Reason) {
				c.refused(st, ep, ep.held.Load(), a.failed.Err)
			}
			ep.attempting(-1)
			close(a.done)
			c.release(ep)
		})
		if !ok {
			ep.attempting(-1)
			ep.unreserve()
		}
		return runner{ep, a}, ok
	}
}

// leave has an attempt go on with nobody who waits for it. Its connection, if it
// is no pool's, is closed.
func (c *Cluster) leave(r runner) {
	if !r.own {
		return
	}
	drop := func() {
		if <-r.done; r.nc != nil {
			r.nc.Close()
			r.ep.unreserve()
		}
	}
	if !c.m.warmer.goes(drop) {
		drop() // its context has ended, and so does it
	}
}

// overtaken ends the use of an endpoint that was slower. Until its attempt has
// come to something, nobody needs to wait for it again.
func (c *Cluster) overtaken(st *state, r runner) {
	ep := r.ep
	ep.end()
	c.leave(r)
	c.eject.Lock()
	defer c.eject.Unlock()
	ep.mu.Lock()
	pending := ep.making > 0
	ep.mu.Unlock()
	if pending && c.othersThan(st, ep) {
		c.hold(st, ep)
	}
}

// known reports whether the endpoint can be connected to, as far as that is known
// from its connections.
func (c *Cluster) known(ep *endpoint) bool {
	if at := ep.reached.Load(); at != 0 && c.m.coarse.Load()-at < int64(knownFor) {
		return true
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	return len(ep.shared.idle)+len(ep.shared.muxes) > 0
}

// isNamed reports whether the endpoint is one of a host that has addresses of both families.
func (st *state) isNamed(ep *endpoint) bool {
	return slices.ContainsFunc(st.members, func(m member) bool { return m.ep == ep && m.named })
}
