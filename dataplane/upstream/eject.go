package upstream

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/backoff"
	"github.com/headgate/headgate/dataplane/balance"
)

// How long an endpoint that could not be connected to gets no requests: ejectFirst
// after the first time, twice as long after each that follows at once, at most
// ejectMost, or ejectMostRefused if it says no at once, so that to ask costs
// next to nothing. Then one request probes it; others keep away until that has had
// the connect timeout and probeGrace to come back.
const (
	ejectFirst       = time.Second
	ejectMost        = 30 * time.Second
	ejectMostRefused = 5 * time.Second
	probeGrace       = time.Second
)

// ejection is a reason to eject an endpoint.
type ejection int

const (
	ejectedConnect ejection = iota
	ejectedErrors
	ejectedErrorRate
	ejectedLatency
	ejectionReasons
)

func (e ejection) String() string {
	return [...]string{"connect", "consecutive_errors", "error_percent", "latency"}[e]
}

// ejectionCounts counts ejections by their reasons.
type ejectionCounts [ejectionReasons]atomic.Uint64

// snapshot returns those that are not 0, by name; nil if there are none.
func (n *ejectionCounts) snapshot() map[string]uint64 {
	var counts map[string]uint64
	for i := range n {
		if v := n[i].Load(); v > 0 {
			if counts == nil {
				counts = map[string]uint64{}
			}
			counts[ejection(i).String()] = v
		}
	}
	return counts
}

// refused ejects an endpoint that could not be connected to, unless no other
// is left: then requests may as well try.
func (c *Cluster) refused(st *state, ep *endpoint, probe bool, cause error) {
	now := c.m.now()
	c.eject.Lock()
	defer c.eject.Unlock()
	until := ep.load.EjectedUntil.Load()
	if ep.gone || until == balance.Unhealthy || until > now && !probe {
		return // others have found out before
	}
	if until == 0 && !c.othersThan(st, ep) {
		c.outage.Store(true)
		return
	}
	ep.strikes++
	ep.ejections[ejectedConnect].Add(1)
	most := ejectMost
	if errors.Is(cause, syscall.ECONNREFUSED) {
		most = ejectMostRefused
	}
	d := backoff.After(ep.strikes, ejectFirst, most)
	c.takeOut(ep, now+int64(d))
	c.m.opts.Log.Info("Endpoint ejected", "cluster", st.key, "endpoint", ep.address, "for", d.String(), "cause", cause.Error())
}

// othersThan reports whether another endpoint takes requests, and ep is among
// those that do.
func (c *Cluster) othersThan(st *state, ep *endpoint) bool {
	others, member := false, false
	for e := range st.inUse {
		if e == ep {
			member = true
		} else if e.load.EjectedUntil.Load() == 0 {
			others = true
		}
	}
	return others && member
}

// accepted ends an ejection: the endpoint could be connected to. Whether an
// unhealthy one is healthy again is for its checks to say.
func (c *Cluster) accepted(ep *endpoint) {
	if c.outage.Load() && c.outage.CompareAndSwap(true, false) {
		c.probeAll()
	}
	if ep.load.EjectedUntil.Load() == 0 {
		return
	}
	c.eject.Lock()
	defer c.eject.Unlock()
	if until := ep.load.EjectedUntil.Load(); until != 0 && until != balance.Unhealthy {
		held := ep.held.Load()
		c.readmit(ep)
		if held {
			return // it was not away
		}
		c.m.opts.Log.Info("Endpoint is back", "cluster", c.Key(), "endpoint", ep.address)
	}
}

// probeAll ends the time of all ejections: one request finds out how each
// endpoint is. After an outage of all, they are most likely back together, and
// the first one that is found to be must not have all requests until the times of
// the others are over.
func (c *Cluster) probeAll() {
	c.eject.Lock()
	defer c.eject.Unlock()
	st, now := c.state.Load(), c.m.now()
	for ep := range st.inUse {
		switch until := ep.load.EjectedUntil.Load(); {
		case until == 0:
			ep.startSlowly(st, now) // it has been away as well, though it was the last to be ejected
		case until > now && until != balance.Unhealthy:
			ep.load.EjectedUntil.Store(now)
		}
	}
}

// takeOut keeps requests from the endpoint until then. c.eject is held.
func (c *Cluster) takeOut(ep *endpoint, until int64) {
	ep.held.Store(false)
	if ep.load.EjectedUntil.Swap(until) == 0 {
		c.ejected.Add(1)
		for _, t := range ep.tiers {
			t.down.Add(ep.tierWeight)
		}
	}
}

// readmit lets the endpoint have requests again. c.eject is held.
func (c *Cluster) readmit(ep *endpoint) {
	if ep.load.EjectedUntil.Swap(0) != 0 {
		c.ejected.Add(-1)
		for _, t := range ep.tiers {
			t.down.Add(-ep.tierWeight)
		}
		ep.startSlowly(c.state.Load(), c.m.now())
	}
	ep.held.Store(false)
	ep.strikes = 0
}
