package upstream

import (
	"context"
	"net"
	"net/netip"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
)

// Connect makes a connection to an endpoint for a client's. One that cannot be connected to is
// ejected and followed by another, up to three in all, as for RoundTrip, but that
// families do not race. It is
// the caller's, who closes it and then releases it, once: it counts until then.
func (c *Cluster) Connect(from *exchange.Conn) (nc net.Conn, release func(), err error) {
	client := from.Remote.Addr()
	ex := &exchange.Exchange{Conn: from, ClientIP: client} // whose deadlines connect goes by: none
	st := c.state.Load()
	if len(st.members) == 0 && st.resolving != nil {
		st = c.await(ex, st)
	}
	return c.stream(st, client, func(ep *endpoint, probe bool) (net.Conn, error) {
		nc, err := c.connect(ex, st, ep, probe)
		if err != nil {
			return nil, err
		}
		return nc, nil
	})
}

// Datagrams makes a UDP socket that is connected to an endpoint. Whether
// anybody is there is not known, so no endpoint is ejected. It never waits: while
// the cluster's hosts have not been looked up, it fails. All else is as for Connect.
func (c *Cluster) Datagrams(client netip.Addr) (nc net.Conn, release func(), err error) {
	st := c.state.Load()
	return c.stream(st, client, func(ep *endpoint, _ bool) (net.Conn, error) {
		nc, err := c.open(context.Background(), st, "udp", ep.address)
		if err != nil {
			ep.unreserve()
			ep.failures.Add(1)
			return nil, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonOf(err, reasonConnect), Err: err}
		}
		return nc, nil
	})
}

// stream picks endpoints until one is connected to.
func (c *Cluster) stream(st *state, client netip.Addr, connect func(ep *endpoint, probe bool) (net.Conn, error)) (net.Conn, func(), error) {
	choice := wish{Choice: balance.Choice{Hash: balance.HashAddr(client)}}
	var failed error = errNoEndpoint
	var unreachable *endpoint
	for range maxEndpoints {
		var ep *endpoint
		var probe, full bool
		if unreachable != nil {
			ep = c.otherFamily(st, unreachable, &choice)
		}
		if ep == nil {
			ep, probe, full = c.admit(st, exchange.Session{}, choice)
		}
		if full {
			return nil, nil, c.refuse(refusedFull)
		}
		if ep == nil {
			break
		}
		if !ep.reserve() {
			ep.end()
			failed = tooMany(ep)
			choice.Exclude(&ep.load)
			continue
		}
		nc, err := connect(ep, probe)
		if err == nil {
			ep.requests.Add(1)
			return nc, func() {
				ep.unreserve()
				ep.end()
			}, nil
		}
		ep.end()
		failed, unreachable = err, nil
		if isUnreachable(err) {
			unreachable = ep
		}
		choice.Exclude(&ep.load)
	}
	return nil, nil, failed
}
