package upstream

import (
	"context"
	"net"

	"github.com/headgate/headgate/dataplane/exchange"
)

// ahead is a connection that is being made before a request has it: for a pool
// that is to have idle ones, see warm.go, or to find out which IP family has a way,
// see race.go. There is one for each endpoint at a time, so that what is slow to
// accept is not stormed.
type ahead struct {
	// done is closed when it is in the pool, or failed says why it is not.
	done   chan struct{}
	failed *exchange.UpstreamError
	// own says that no pool gets it: it is nc.
	own bool
	nc  net.Conn
}

// openAhead returns the connection that is being made ahead. If there is none
// yet, it is the caller's to make, by makeAhead.
func (ep *endpoint) openAhead() (a *ahead, mine bool) {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	if ep.ahead == nil {
		ep.ahead, mine = &ahead{done: make(chan struct{})}, true
	}
	return ep.ahead, mine
}

// makeAhead connects to the endpoint, as a request would do it, and puts the
// connection into the pool. An endpoint that cannot be connected to is ejected.
func (c *Cluster) makeAhead(ctx context.Context, ep *endpoint, a *ahead) {
	a.failed = c.connectAhead(ctx, ep)
	ep.mu.Lock()
	ep.ahead = nil
	ep.mu.Unlock()
	close(a.done)
	c.release(ep)
}

// attempting counts attempts to connect that are not made by who needs the connection.
func (ep *endpoint) attempting(n int) {
	ep.mu.Lock()
	ep.making += n
	ep.mu.Unlock()
}

// release ends what hold has begun, if nothing has before: behind an attempt that
// may have come to nothing that is the endpoint's fault.
func (c *Cluster) release(ep *endpoint) {
	c.eject.Lock() // which overtaken may have, before it holds the endpoint
	if ep.held.Load() {
		c.readmit(ep)
	}
	c.eject.Unlock()
	if c.queue.length.Load() > 0 {
		c.serveQueue() // it may have waited for the endpoint
	}
}

func (c *Cluster) connectAhead(ctx context.Context, ep *endpoint) *exchange.UpstreamError {
	st, p := c.state.Load(), &ep.shared
	muxed := st.muxed(ep)
	ep.mu.Lock()
	if ep.retired || !ep.hasRoom() {
		ep.mu.Unlock()
		return tooMany(ep)
	}
	ep.total++
	ep.making++
	if muxed {
		p.dialing++
	}
	ep.mu.Unlock()
	defer ep.attempting(-1)

	patient, cancel := context.WithTimeout(ctx, st.connectTimeout)
	defer cancel()
	nc, failed := c.attempt(patient, st, ep, nil)
	switch {
	case failed != nil:
		if muxed {
			p.undialed(failed)
		}
		if ctx.Err() == nil && !ours(failed.Reason) {
			c.refused(st, ep, ep.held.Load(), failed.Err)
		}
		return failed
	case st.protocol == protocolHTTP2, st.protocol == protocolALPN && isHTTP2(nc):
		if !muxed {
			ep.speaksHTTP2.Store(true)
			ep.mu.Lock()
			p.dialing++
			ep.mu.Unlock()
		}
		p.addMux(st, nc, false)
		return nil
	case muxed:
		p.notMuxed()
	}
	if k := p.newConn(st, nc); !p.keep(c.state.Load(), k) {
		k.discard()
	}
	return nil
}
