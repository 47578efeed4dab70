package upstream

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/headgate/headgate/dataplane/exchange"
)

var errSessionLost = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: "session_lost",
	Err: errors.New("the endpoint of the session is gone or out of use"),
}

// resume returns the endpoint of a session, nil if there is none or it is not to
// be used. One that is draining keeps its sessions to its end.
func (c *Cluster) resume(st *state, session exchange.Session, choice wish) (ep *endpoint, probe bool) {
	if !session.Endpoint.IsValid() {
		return nil, false
	}
	if ep = st.find(session.Endpoint); ep == nil || slices.Contains(choice.Tried[:], &ep.load) {
		return nil, false
	}
	until := ep.load.EjectedUntil.Load()
	if until == 0 || ep.held.Load() { // nothing speaks against one that is held
		return ep, false
	}
	now := c.m.now()
	if until > now {
		if st.usable() {
			return nil, false
		}
		return ep, false // all are out of use: as likely as not the fault is elsewhere
	}
	if ep.load.EjectedUntil.CompareAndSwap(until, now+int64(st.connectTimeout+probeGrace)) {
		return ep, true
	}
	return nil, false
}

// find returns the member at an address, nil if there is none.
func (st *state) find(addr netip.AddrPort) *endpoint {
	i, ok := slices.BinarySearchFunc(st.members, addr, func(m member, addr netip.AddrPort) int { return m.ep.addr.Compare(addr) })
	if !ok {
		return nil
	}
	return st.members[i].ep
}

// usable reports whether any member is not out of use.
func (st *state) usable() bool {
	return slices.ContainsFunc(st.members, func(m member) bool { return m.ep.load.EjectedUntil.Load() == 0 })
}

// tryOnly sends the exchange to its session's endpoint or to none.
func (c *Cluster) tryOnly(ex *exchange.Exchange, st *state, choice wish) (exchange.Lease, error) {
	ep, probe, full := c.admit(st, ex.Session, choice)
	if full {
		left := st.breaker.Queue.Timeout
		got, err := c.queueUp(ex, st, choice, &left)
		if err != nil {
			return nil, err
		}
		st, ep, probe = got.st, got.ep, got.probe
	}
	if ep == nil {
		return nil, errSessionLost
	}
	k, err := c.try(ex, st, ep, probe)
	if err != nil && ex.Abandoned() {
		return nil, exchange.ErrAbandoned
	}
	if up, ok := err.(*exchange.UpstreamError); ok && up.Stage == exchange.Dialing && up.Reason != reasonTimeout {
		return nil, &exchange.UpstreamError{Stage: up.Stage, Reason: errSessionLost.Reason, Unsent: true, Err: up}
	}
	return k, err
}
