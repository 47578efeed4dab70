package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// QUIC makes sessions for the protocol that is spoken over QUIC.
type QUIC struct {
	// ALPN is the protocol's name in TLS: "h3".
	ALPN string
	// Config returns what connections are accepted with. clients are the settings
	// of all listeners of the port: which of them a connection is for is not known yet.
	Config func(clients []*snapshot.Client) *quic.Config
	// New takes a connection over. client is the settings of its listener, nil
	// for defaults.
	New func(c *quic.Conn, info *exchange.Conn, client *snapshot.Client) Session
}

// transport is a UDP socket with the QUIC connections that share it. It outlives
// the port that bound it until the last of its connections is over; a port that
// comes back meanwhile takes it up again.
type transport struct {
	quic.Transport
	socket  *net.UDPConn
	address string
	users   int // ports, those that drain included; guarded by Set.mu
	// port is whose new connections are.
	port atomic.Pointer[port]
	// shaking counts the handshakes that are not over.
	shaking atomic.Int64
}

// maxUnverified is how many handshakes may be on their way before clients have
// to show that their address is theirs, RFC 9000 section 8.1.2.
const maxUnverified = 256

// attempt is a connection from its first packet on.
type attempt struct {
	picked   *terminator // set during the handshake
	accepted atomic.Bool
	shaken   atomic.Bool // the handshake is over
}

// attemptKey carries an *attempt in a connection's context.
type attemptKey struct{}

// errRoom refuses a connection that is one too many.
var errRoom = errors.New("listener: too many connections")

// transport returns the socket at an address, which it binds unless it is there.
// mu is held.
func (s *Set) transport(address string) (*transport, error) {
	if t := s.transports[address]; t != nil {
		t.users++
		return t, nil
	}
	at, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", at)
	if err != nil {
		return nil, err
	}
	t := &transport{socket: socket, address: address, users: 1}
	t.Conn = socket
	t.ConnContext = t.attempt
	t.VerifySourceAddress = func(client net.Addr) bool {
		// Nor may anybody use up what another client may have.
		return t.shaking.Load() > maxUnverified || t.port.Load().admission.crowded(addrPort(client).Addr())
	}
	s.transports[address] = t
	return t, nil
}

// release gives up a use of a socket. mu is held.
func (s *Set) release(t *transport) {
	if t.users--; t.users > 0 {
		return
	}
	delete(s.transports, t.address)
	_ = t.Close()
	_ = t.socket.Close()
}

// attempt is quic.Transport.ConnContext: it makes room for a connection, or
// refuses it.
func (t *transport) attempt(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	p, client := t.port.Load(), addrPort(info.RemoteAddr).Addr()
	leave, refused := p.admission.flow(client)
	if refused != "" {
		return nil, errRoom
	}
	select {
	case p.set.room <- struct{}{}:
	default:
		leave()
		p.metrics.Rejected("limit")
		return nil, errRoom
	}
	a := &attempt{}
	t.shaking.Add(1)
	context.AfterFunc(ctx, func() {
		<-p.set.room
		leave()
		t.settle(a)
		if !a.accepted.Swap(true) {
			p.rejectQUIC(context.Cause(ctx))
		}
	})
	return context.WithValue(ctx, attemptKey{}, a), nil
}

// settle ends the counting of a handshake.
func (t *transport) settle(a *attempt) {
	if !a.shaken.Swap(true) {
		t.shaking.Add(-1)
	}
}

// rejectQUIC accounts for a handshake that failed.
func (p *port) rejectQUIC(err error) {
	p.metrics.Rejected("tls_handshake")
	p.set.opts.Log.V(1).Info("QUIC handshake failed", "port", p.key, "error", fmt.Sprint(err))
}

// bindQUIC opens a UDP socket and accepts QUIC connections from it.
func (k *socket) bindQUIC(p *port) error {
	t, err := p.set.transport(k.address)
	if err == nil {
		t.port.Store(p)
		if k.quic, err = t.ListenEarly(p.outer, p.quicConfig()); err == nil {
			k.local, k.err = k.quic.Addr(), nil
			p.transports = append(p.transports, t)
			p.accepting.Add(1)
			p.busy.Add(1)
			go p.acceptQUIC(t, k.quic)
			return nil
		}
		p.set.release(t)
	}
	k.err = fmt.Errorf("port %s cannot be bound: %w", p.key, err)
	return k.err
}

// quicConfig asks for each connection anew.
func (p *port) quicConfig() *quic.Config {
	return &quic.Config{GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) {
		t := p.table.Load()
		config := p.set.opts.QUIC.Config(t.clients)
		config.Allow0RTT = t.earlyData
		config.HandshakeIdleTimeout = max(p.set.opts.HandshakeTimeout/2, 1) // a handshake may take twice that
		return config, nil
	}}
}

// acceptQUIC accepts connections until the port is stopped.
func (p *port) acceptQUIC(t *transport, ln *quic.EarlyListener) {
	defer p.busy.Done()
	defer p.accepting.Done()
	for {
		qc, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		a, ok := qc.Context().Value(attemptKey{}).(*attempt)
		if !ok || a.accepted.Swap(true) {
			continue // it is over already
		}
		p.busy.Add(1)
		go p.serveQUIC(t, qc, a)
	}
}

// serveQUIC is the life of a QUIC connection.
func (p *port) serveQUIC(t *transport, qc *quic.Conn, a *attempt) {
	c := &conn{port: p, nc: quicCloser{qc}, since: time.Now()}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	p.metrics.Accepted()
	defer func() {
		if bug := recover(); bug != nil {
			p.set.opts.Log.Error(fmt.Errorf("panic: %v", bug), "serving a connection", "port", p.key, "stack", string(debug.Stack()))
		}
		_ = c.nc.Close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		p.metrics.Closed()
		p.busy.Done()
	}()
	// Without early data there is nothing to do before the handshake is over, and
	// it is not known before who the client is.
	if !qc.ConnectionState().Used0RTT {
		select {
		case <-qc.HandshakeComplete():
		case <-qc.Context().Done():
		}
		if err := context.Cause(qc.Context()); err != nil {
			p.rejectQUIC(err)
			return
		}
	}
	t.settle(a)
	state := qc.ConnectionState().TLS
	info := &exchange.Conn{
		ID: p.set.lastID.Add(1), Port: p.handle,
		Remote: addrPort(qc.RemoteAddr()), Local: addrPort(qc.LocalAddr()),
		TLS: a.picked.settled(&state),
	}
	defer info.End()
	c.info, c.aging = info, agingOf(a.picked.client)
	session := p.set.opts.QUIC.New(qc, info, a.picked.client)
	p.mu.Lock()
	c.session = session
	c.greet()
	p.mu.Unlock()
	session.Serve()
}

// quicCloser closes a connection at once.
type quicCloser struct{ *quic.Conn }

// Close implements io.Closer.
func (c quicCloser) Close() error { return c.CloseWithError(0, "") }
