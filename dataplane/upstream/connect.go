package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/hangup"
)

// Reasons of failures to connect.
const (
	reasonRefused     = "connect_refused"
	reasonReset       = "connect_reset"
	reasonUnreachable = "connect_unreachable"
	reasonConnectTime = "connect_timeout"
	reasonConnect     = "connect_failed"
	reasonResources   = "no_resources"
	// reasonSource: no source address can be connected from, see socket.go.
	reasonSource   = "no_source_address"
	reasonProtocol = "protocol"
	// reasonStreamRefused: REFUSED_STREAM, see package h2.
	reasonStreamRefused = "refused"
	// reasonTimeout: the exchange's own time is over, or its client has given it
	// up, so no other endpoint is tried.
	reasonTimeout = "timeout"
	// reasonCircuitOpen: no endpoint has room, see circuitbreaker.go.
	reasonCircuitOpen = "circuit_open"
)

// connect makes a connection to an endpoint, for which the caller has reserved,
// and ejects the endpoint if it can't.
func (c *Cluster) connect(ex *exchange.Exchange, st *state, ep *endpoint, probe bool) (net.Conn, *exchange.UpstreamError) {
	ctx, done := patience(ex, st.connectTimeout)
	nc, failed := c.attempt(ctx, st, ep, ex.Conn)
	own := done()
	switch {
	case failed == nil:
		return nc, nil
	case own && failed.Reason == reasonConnectTime:
		// It is not known whether the endpoint would have answered in its time.
		failed.Reason = reasonTimeout
		if probe {
			c.refused(st, ep, probe, failed.Err)
		}
	case !ours(failed.Reason):
		c.refused(st, ep, probe, failed.Err)
	}
	return nil, failed
}

// attempt makes a connection to an endpoint, for which the caller has reserved, on
// behalf of a client if from is not nil. It counts the outcome, and a success
// ends an ejection.
func (c *Cluster) attempt(ctx context.Context, st *state, ep *endpoint, from *exchange.Conn) (net.Conn, *exchange.UpstreamError) {
	if st.tlsErr != nil {
		ep.unreserve()
		return nil, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonTLSConfig, Err: st.tlsErr}
	}
	nc, reason, err := c.dial(ctx, st, ep.tls.settings(st.tls), ep.address, from)
	if err != nil {
		ep.unreserve()
		ep.failures.Add(1)
		ep.connectFailures.Add(1)
		ep.tlsFailed(st, reason, err)
		return nil, &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reason, Err: err}
	}
	ep.connects.Add(1)
	ep.reached.Store(c.m.coarse.Load())
	c.accepted(ep)
	ep.tls.succeeded()
	return nc, nil
}

// ours reports whether an attempt to connect has failed by a fault that is not the
// endpoint's.
func ours(reason string) bool {
	return reason == reasonResources || reason == reasonSource || reason == reasonTLSConfig
}

func tooMany(ep *endpoint) *exchange.UpstreamError {
	return &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reasonCircuitOpen,
		Err: fmt.Errorf("%s has %d connections already", ep.address, ep.cluster.state.Load().maxConnections)}
}

// newConn makes a connection that carries one exchange at a time.
func (p *pool) newConn(st *state, nc net.Conn) *conn {
	m := p.ep.cluster.m
	return &conn{pool: p, client: h1.NewClientConn(nc, m.opts.HTTP1), terms: st.terms, quiet: hangup.New(nc), life: newLifetime(m.coarse.Load())}
}

// dial connects to an endpoint, on behalf of a client if from is not nil, and
// with TLS if secure is not nil.
func (c *Cluster) dial(ctx context.Context, st *state, secure *tls.Config, address string, from *exchange.Conn) (nc net.Conn, reason string, err error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, exchange.UnixPrefix); ok {
		network, address = "unix", path
	}
	nc, err = c.open(ctx, st, network, address)
	if err != nil {
		return nil, reasonOf(err, reasonConnect), err
	}
	if st.proxyProtocol != 0 {
		if err := introduce(ctx, nc, st.proxyProtocol, from); err != nil {
			nc.Close()
			return nil, reasonOf(err, reasonConnect), err
		}
	}
	if secure == nil {
		return nc, "", nil
	}
	tc := tls.Client(nc, secure)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, reasonOf(err, tlsReason(err)), err
	}
	if st.protocol == protocolHTTP2 && !isHTTP2(tc) {
		tc.Close()
		return nil, reasonProtocol, errNotHTTP2
	}
	return tc, "", nil
}

// open makes the connection that dial makes more of, or a socket for datagrams.
func (c *Cluster) open(ctx context.Context, st *state, network, address string) (nc net.Conn, err error) {
	if c.m.opts.Dial != nil && network != "udp" {
		return c.m.opts.Dial(ctx, network, address)
	}
	nc, err = st.socket.dial(ctx, network, address)
	if st.socket == nil {
		return nc, err
	}
	var none *sourceError
	if missing := errors.As(err, &none); st.socket.missing.Swap(missing) != missing && missing {
		c.m.opts.Log.Error(err, "Endpoints of the cluster cannot be connected to", "cluster", st.key)
	}
	return nc, err
}

var errNotHTTP2 = errors.New("the endpoint has not chosen h2 by ALPN, and the cluster speaks nothing else")

// isSocket reports whether an address is a Unix socket's.
func isSocket(address string) bool { return strings.HasPrefix(address, exchange.UnixPrefix) }

func reasonOf(err error, otherwise string) string {
	var timeout interface{ Timeout() bool }
	var none *sourceError
	switch {
	case errors.As(err, &none):
		return reasonSource
	case errors.Is(err, syscall.ECONNREFUSED):
		return reasonRefused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reasonReset
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return reasonUnreachable
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.ENOBUFS):
		return reasonResources
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return reasonConnectTime
	}
	return otherwise
}
