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
		return health.Ask(ctx, nc, false, address, settings)
	}
	if settings.GRPC != nil {
		st = st.overHTTP2()
	}
	if st.tlsErr != nil {
		return st.tlsErr
	}
	nc, _, err := ep.cluster.dial(ctx, st, st.tls, address, nil)
	if err != nil {
		return err
	}
	authority := address
	switch {
	case st.tls != nil:
		authority = st.tls.ServerName
	case isSocket(address):
		authority = "localhost"
	}
	return health.Ask(ctx, nc, st.protocol == protocolHTTP2 || isHTTP2(nc), authority, settings)
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
