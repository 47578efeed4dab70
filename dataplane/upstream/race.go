package upstream

import (
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
// ep is nil.
type runner struct {
	ep *endpoint
	*ahead
}

func (r *runner) finish() <-chan struct{} {
	if r.ep == nil {
		return nil
	}
	return r.done
}

// race finds out whether the endpoint, at which the exchange counts, or one of the
// other family can be connected to, and returns where it counts then. With an
// error it counts nowhere, and the endpoint is the last that was tried.
func (c *Cluster) race(ex *exchange.Exchange, st *state, first *endpoint, choice *wish) (*endpoint, error) {
	if c.known(first) || !st.isNamed(first) {
		return first, nil
	}
	var runners [2]runner
	if !c.enter(&runners[0], first) {
		return first, nil
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
			switch {
			case second == nil:
			case c.known(second), !c.enter(&runners[1], second):
				done()
				c.overtaken(st, first)
				return second, nil
			}
			continue
		case <-ctx.Done():
			failed := &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonConnectTime}
			if done() {
				failed.Reason = reasonTimeout
			}
			var last *endpoint
			for _, r := range runners {
				if r.ep != nil {
					last = r.ep
					last.end()
				}
			}
			failed.Err = fmt.Errorf("no connection to %s in time", last.address)
			return last, failed
		}
		ended, other := runners[i], runners[1-i].ep
		switch {
		case ended.failed == nil:
			done()
			if other != nil {
				c.overtaken(st, other)
			}
			return ended.ep, nil
		case other == nil:
			done()
			ended.ep.end()
			return ended.ep, ended.failed
		}
		ended.ep.end()
		choice.Exclude(&ended.ep.load)
		runners[i].ep = nil
	}
}

// enter begins an attempt to connect to an endpoint, or joins the one that there
// is; false if nothing is begun any more.
func (c *Cluster) enter(r *runner, ep *endpoint) bool {
	a, mine := ep.openAhead()
	if mine && !c.m.warmer.goes(func() { c.makeAhead(c.m.warmer.ctx, ep, a) }) {
		c.makeAhead(c.m.warmer.ctx, ep, a) // whose context has ended, so that it ends at once
		return false
	}
	*r = runner{ep, a}
	return true
}

// overtaken ends the exchange's use of an endpoint that was slower. Until its
// attempt has come to something, nobody needs to wait for it again.
func (c *Cluster) overtaken(st *state, ep *endpoint) {
	ep.end()
	c.eject.Lock()
	defer c.eject.Unlock()
	ep.mu.Lock()
	pending := ep.ahead != nil
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
