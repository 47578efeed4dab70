package upstream

import (
	"context"
	"net"
	"net/netip"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
)

// Connect makes a connection to an endpoint for a client's. One that cannot be connected to is
// ejected and followed by another, up to three in all, as for RoundTrip. It is
// the caller's, who closes it and then releases it, once: it counts until then.
func (c *Cluster) Connect(from *exchange.Conn) (nc net.Conn, release func(), err error) {
	client := from.Remote.Addr()
	ex := &exchange.Exchange{Conn: from, ClientIP: client} // whose deadlines connect goes by: none
	st := c.state.Load()
	if len(st.members) == 0 && st.resolving != nil {
		st = c.await(ex, st)
	}
	return c.stream(st, client, func(ep *endpoint, probe bool, choice *wish) (net.Conn, *endpoint, error) {
		if st.dual && !probe {
			r, err := c.race(ex, st, ep, choice, c.startOwn(st, from))
			if err != nil {
				return nil, r.ep, err
			}
			if ep = r.ep; r.ahead != nil {
				return r.nc, ep, nil
			}
		}
		if !ep.reserve() {
			ep.end()
			return nil, ep, tooMany(ep)
		}
		nc, failed := c.connect(ex, st, ep, probe)
		if failed != nil {
			ep.end()
			return nil, ep, failed
		}
		return nc, ep, nil
	})
}

// Datagrams makes a UDP socket that is connected to an endpoint. Whether
// anybody is there is not known, so no endpoint is ejected. It never waits: while
// the cluster's hosts have not been looked up, it fails. All else is as for Connect.
func (c *Cluster) Datagrams(client netip.Addr) (nc net.Conn, release func(), err error) {
	st := c.state.Load()
	return c.stream(st, client, func(ep *endpoint, _ bool, _ *wish) (net.Conn, *endpoint, error) {
		if !ep.reserve() {
			ep.end()
			return nil, ep, tooMany(ep)
		}
		nc, err := c.open(context.Background(), st, "udp", ep.address)
		if err != nil {
			ep.unreserve()
			ep.failures.Add(1)
			ep.end()
			return nil, ep, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonOf(err, reasonConnect), Err: err}
		}
		return nc, ep, nil
	})
}

// stream picks endpoints until one is connected to. connect is given one that the
// connection counts at, and returns the one that it counts at then; with an
// error it counts nowhere.
func (c *Cluster) stream(st *state, client netip.Addr,
	connect func(ep *endpoint, probe bool, choice *wish) (net.Conn, *endpoint, error)) (net.Conn, func(), error) {
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
		nc, at, err := connect(ep, probe, &choice)
		if err == nil {
			at.requests.Add(1)
			return nc, func() {
				at.unreserve()
				at.end()
			}, nil
		}
		failed, unreachable = err, nil
		if isUnreachable(err) {
			unreachable = at
		}
		choice.Exclude(&at.load)
	}
	return nil, nil, failed
}
