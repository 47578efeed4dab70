package upstream

import (
	"context"
	"net/netip"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/health"
	"github.com/headgate/headgate/dataplane/snapshot"
)

var _ health.Target = (*endpoint)(nil)

// checkBy has the endpoint checked as settings say; nil ends that. Its
// Cluster.mu is held.
func (ep *endpoint) checkBy(settings *snapshot.HealthCheck) {
	if settings != nil && settings.UDP != nil && isSocket(ep.address) {
		settings = nil // it takes no datagrams, and is none the worse for it
	}
	check := ep.check.Load()
	switch {
	case settings == nil && check != nil:
		ep.check.Store(nil)
		check.Stop()
		ep.keepCheckConn(nil)
	case settings == nil:
	case check == nil:
		ep.check.Store(ep.cluster.m.checker.Start(ep, settings))
	default:
		check.Update(settings)
	}
}

// Ask implements health.Target. But for UDP, it goes by the TLS and protocol that
// the cluster has now.
func (ep *endpoint) Ask(ctx context.Context, settings *snapshot.HealthCheck) error {
	address := ep.address
	if settings.Port != 0 && !isSocket(address) {
		address = netip.AddrPortFrom(ep.addr.Addr(), settings.Port).String()
	}
	st := ep.cluster.state.Load()
	if settings.UDP != nil {
		nc, err := ep.cluster.open(ctx, st, "udp", address)
		if err != nil {
			return err
		}
		return askOnce(ctx, health.NewConn(nc, false), address, settings)
	}
	on := st.terms
	if settings.GRPC != nil {
		st = st.overHTTP2()
	}
	if st.tlsErr != nil {
		return st.tlsErr
	}
	authority := address
	switch {
	case st.tls != nil:
		authority = st.tls.ServerName
	case isSocket(address):
		authority = "localhost"
	}
	if k := ep.checkConn.Swap(nil); k != nil {
		if k.terms == on && k.settings == settings {
			why := k.Ask(ctx, authority, settings)
			if why != health.ErrStale {
				ep.keepCheckConn(k)
				return why
			}
		}
		k.Close()
	}
	nc, _, err := ep.cluster.dial(ctx, st, st.tls, address, nil)
	if err != nil {
		return err
	}
	k := &checkConn{health.NewConn(nc, st.protocol == protocolHTTP2 || isHTTP2(nc)), on, settings}
	if !settings.ReuseConnection {
		return askOnce(ctx, k.Conn, authority, settings)
	}
	why := k.Ask(ctx, authority, settings)
	ep.keepCheckConn(k)
	return why
}

func askOnce(ctx context.Context, k *health.Conn, authority string, settings *snapshot.HealthCheck) error {
	defer k.Close()
	return k.Ask(ctx, authority, settings)
}

// checkConn is a connection over which the endpoint is asked again, by the same
// settings and as long as the cluster's connections are made on the same terms.
type checkConn struct {
	*health.Conn
	terms    terms
	settings *snapshot.HealthCheck
}

// keepCheckConn keeps a connection for the next check, if there will be one and
// the connection can carry it, and closes the one that was kept.
func (ep *endpoint) keepCheckConn(k *checkConn) {
	if k != nil && !k.Open() {
		k.Close()
		k = nil
	}
	if old := ep.checkConn.Swap(k); old != nil {
		old.Close()
	}
	if k != nil && ep.check.Load() == nil { // the check has ended, and looked for it before
		ep.keepCheckConn(nil)
	}
}

// overHTTP2 returns a state that speaks nothing but HTTP/2, to dial by.
func (st *state) overHTTP2() *state {
	if st.protocol == protocolHTTP2 {
		return st
	}
	other := *st
	other.protocol = protocolHTTP2
	if st.tls != nil {
		other.tls = st.tls.Clone()
		other.tls.NextProtos = offers[protocolHTTP2]
	}
	return &other
}

// SetHealthy implements health.Target: an unhealthy endpoint gets requests only
// if there is no other. Its ejection, if it was ejected, is not of interest then.
func (ep *endpoint) SetHealthy(healthy bool, why error) {
	c := ep.cluster
	c.eject.Lock()
	defer c.eject.Unlock()
	if ep.gone {
		return
	}
	log := c.m.opts.Log.WithValues("cluster", c.Key(), "endpoint", ep.address)
	if why != nil {
		log = log.WithValues("cause", why.Error())
	}
	if healthy {
		c.readmit(ep)
		log.Info("Endpoint is healthy")
		return
	}
	c.takeOut(ep, balance.Unhealthy)
	ep.drain()
	log.Info("Endpoint is unhealthy")
}
