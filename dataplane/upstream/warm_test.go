package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// together has n exchanges at the same time.
func together(t *testing.T, c *Cluster, n int) {
	t.Helper()
	exs, leases := make([]*exchange.Exchange, n), make([]exchange.Lease, n)
	for i := range n {
		exs[i] = newExchange("GET", "")
		var err error
		if leases[i], err = c.RoundTrip(exs[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		finish(t, exs[i], leases[i])
	}
}

func TestMinIdle(t *testing.T) {
	var now clock
	b := newBackend(t, ok)
	m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
	x := cfg()
	x.Pool = snapshot.Pool{MinIdle: 3, IdleTimeout: 10 * time.Second}
	c := m.NewCluster(x, endpoints(b.addr))
	idle := func(n int) {
		t.Helper()
		eventually(t, "there are as many idle ones as there should be", func() bool {
			s := stateOf(t, c, b.addr)
			return s.Idle == n && s.Connections == n && b.openConns() == n
		})
	}
	idle(3)
	if n := b.conns.Load(); n != 3 {
		t.Errorf("%d connections were made", n)
	}
	together(t, c, 5)
	idle(5)
	now.advance(11 * time.Second)
	m.sweep()
	idle(3)
	if n := b.conns.Load(); n != 5 {
		t.Errorf("%d connections were made: those that were there should have been used first, and kept", n)
	}

	// The endpoint closes them, and others take their place.
	b.closeAll()
	eventually(t, "there are others", func() bool {
		m.sweep()
		return b.conns.Load() == 8 && b.openConns() == 3
	})
	idle(3)
	if s := stateOf(t, c, b.addr); s.State != "ready" || s.Failures != 0 {
		t.Errorf("%+v", s)
	}

	// They grow old, and others take their place.
	y := cfg()
	y.Pool = x.Pool
	y.Pool.MaxAge = time.Minute
	c.Update(y)
	now.advance(time.Minute)
	m.sweep()
	eventually(t, "there are others again", func() bool { return b.conns.Load() == 11 })
	idle(3)

	c.Update(cfg())
	now.advance(2 * time.Minute)
	m.sweep()
	idle(0)
}

func TestMinIdleHTTP2(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	for name, tt := range map[string]struct {
		protocol string
		certs    bool
	}{"prior knowledge": {"h2c", false}, "ALPN": {"alpn", true}} {
		t.Run(name, func(t *testing.T) {
			var now clock
			x := cfg()
			x.Protocol = tt.protocol
			x.Pool = snapshot.Pool{MinIdle: 8, IdleTimeout: 10 * time.Second}
			b := newH2Backend(t, 100, nil)
			if tt.certs {
				b = newH2Backend(t, 100, nil, cert)
				x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
			}
			m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
			c := m.NewCluster(x, endpoints(b.addr))
			one := func() bool { s := stateOf(t, c, b.addr); return s.Connections == 1 && s.Idle == 1 }
			eventually(t, "there is one", one)
			sendMany(t, c, 10, 2, "GET", "")
			now.advance(11 * time.Second)
			m.sweep()
			eventually(t, "there is one still", one)
			if n := b.conns.Load(); n != 1 {
				t.Errorf("%d connections were made", n)
			}
		})
	}
}

// TestMinIdleTLS has connections made ahead whose tickets nobody has read. They
// are kept, and carry requests that can be sent once only.
func TestMinIdleTLS(t *testing.T) {
	var now clock
	cert, roots := authority(t, "web.internal")
	// Who asks for a certificate sends tickets behind the handshake, as OpenSSL always does.
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	b := serveOn(t, l, ok)
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	x.Pool.MinIdle = 2
	m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
	c := m.NewCluster(x, endpoints(b.addr))
	two := func() bool {
		s := stateOf(t, c, b.addr)
		return s.Idle == 2 && s.Connections == 2 && b.openConns() == 2
	}
	eventually(t, "there are two", two)
	eventually(t, "the tickets have come", func() bool {
		ep := c.byAddr[b.addr]
		ep.mu.Lock()
		defer ep.mu.Unlock()
		for _, k := range ep.shared.idle {
			if k.quiet.Quiet() {
				return false
			}
		}
		return true
	})
	for range 3 {
		m.sweep()
	}
	// While it looks whether there are enough, one in use would be made up for.
	eventually(t, "there are two still, and no more are made", func() bool {
		m.warmer.mu.Lock()
		defer m.warmer.mu.Unlock()
		return m.warmer.running == 0 && two()
	})
	send(t, c, "POST", "content")
	send(t, c, "POST", "content")
	if n := b.conns.Load(); n != 2 {
		t.Errorf("%d connections were made", n)
	}
	b.closeAll()
	eventually(t, "there are others", func() bool {
		m.sweep()
		return b.conns.Load() == 4 && two()
	})
}

// TestMinIdleIsBounded by what the endpoint may have.
func TestMinIdleIsBounded(t *testing.T) {
	b := newBackend(t, ok)
	m := newManagerFor(t, Options{SweepInterval: time.Millisecond})
	x := cfg()
	x.Pool = snapshot.Pool{MinIdle: 8}
	x.CircuitBreaker = &snapshot.CircuitBreaker{PerEndpoint: snapshot.PerEndpointBounds{MaxConnections: 2}}
	c := m.NewCluster(x, endpoints(b.addr))
	eventually(t, "there are two", func() bool { return stateOf(t, c, b.addr).Idle == 2 })
	send(t, c, "GET", "")
	if n := b.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

// TestWarmAtOnce starts with many endpoints. None of them has more than one
// connection made at a time, and not all do at once.
func TestWarmAtOnce(t *testing.T) {
	b := newBackend(t, ok)
	const count = 3 * warmAtOnce
	var mu sync.Mutex
	dialing, most, dialled := map[string]int{}, 0, 0
	proceed := make(chan struct{})
	m := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		dialing[address]++
		if dialing[address] > 1 {
			t.Errorf("%s is connected to twice at a time", address)
		}
		dialled++
		most = max(most, len(dialing))
		mu.Unlock()
		<-proceed
		mu.Lock()
		delete(dialing, address)
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, b.addr.String())
	}})
	var addrs []netip.AddrPort
	for i := range count {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80))
	}
	x := cfg()
	x.Pool.MinIdle, x.ConnectTimeout = 2, time.Minute // who waits is not late
	c := m.NewCluster(x, endpoints(addrs...))
	eventually(t, "as many are made as may be", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return dialled == warmAtOnce
	})
	close(proceed)
	eventually(t, "all have what they should", func() bool {
		for _, s := range c.State() {
			if s.Idle != 2 {
				return false
			}
		}
		return true
	})
	if most > warmAtOnce || dialled != 2*count {
		t.Errorf("%d connections, %d at a time", dialled, most)
	}
}

// TestNewEndpointIsWarm has an endpoint come to others. It gets requests when
// there is a connection to it.
func TestNewEndpointIsWarm(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	proceed := make(chan struct{})
	m := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == b.addr.String() {
			<-proceed
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	x := cfg()
	x.Pool.MinIdle = 1
	c := m.NewCluster(x, endpoints(a.addr))
	send(t, c, "GET", "")
	c.SetEndpoints(endpoints(a.addr, b.addr))
	for range 10 {
		send(t, c, "GET", "")
	}
	if s := stateOf(t, c, b.addr); s.State != "warming" || s.Requests != 0 || s.Ejections != nil {
		t.Errorf("%+v", s)
	}
	close(proceed)
	eventually(t, "it is ready", func() bool { return stateOf(t, c, b.addr).State == "ready" })
	for range 10 {
		send(t, c, "GET", "")
	}
	if s := stateOf(t, c, b.addr); s.Requests != 5 {
		t.Errorf("%+v: want half of the requests", s)
	}

	t.Run("refuses", func(t *testing.T) {
		bad := refusing(t)
		c.SetEndpoints(endpoints(a.addr, b.addr, bad))
		eventually(t, "it is ejected", func() bool { return stateOf(t, c, bad).State == "ejected" })
		if s := stateOf(t, c, bad); s.Requests != 0 || s.Ejections["connect"] != 1 {
			t.Errorf("%+v", s)
		}
		for range 10 {
			if ex := send(t, c, "GET", ""); ex.Upstream.Endpoint == bad.String() {
				t.Error("a request has found it out")
			}
		}
	})
	t.Run("all are new", func(t *testing.T) {
		other := newBackend(t, ok)
		c.SetEndpoints(endpoints(other.addr))
		if s := stateOf(t, c, other.addr); s.State != "ready" {
			t.Errorf("%+v: there is nobody to leave requests to", s)
		}
		send(t, c, "GET", "")
	})
}

// TestPreconnect follows what was needed of late.
func TestPreconnect(t *testing.T) {
	var now clock
	a := newBackend(t, ok)
	m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
	x := cfg()
	x.Pool = snapshot.Pool{PreconnectPercent: 150, IdleTimeout: 10 * time.Second}
	c := m.NewCluster(x, endpoints(a.addr))
	idle := func(b *backend, n int) {
		t.Helper()
		eventually(t, "there are as many idle ones as there should be", func() bool {
			m.sweep()
			s := stateOf(t, c, b.addr)
			return s.Idle == n && s.Connections == n
		})
	}
	idle(a, 0)
	together(t, c, 4)
	idle(a, 6) // half more than there were at a time
	b := newBackend(t, ok)
	c.SetEndpoints(endpoints(a.addr, b.addr))
	idle(b, 6) // as the others have
	for range 3 {
		now.advance(10 * time.Second)
		m.sweep()
	}
	idle(a, 0)
	idle(b, 0)
}

// TestWarmEnds closes what makes connections, and one that is not there.
func TestWarmEnds(t *testing.T) {
	dials := make(chan struct{}, 10)
	m := NewManager(Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	x := cfg()
	x.Pool.MinIdle = 4
	x.ConnectTimeout = time.Hour
	c := m.NewCluster(x, endpoints(netip.MustParseAddrPort("192.0.2.1:80")))
	<-dials
	m.Close()
	if s := c.State()[0]; s.Connections != 0 || s.State != "ready" {
		t.Errorf("%+v", s)
	}
}

// closeAll closes the connections that the backend has.
func (b *backend) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for nc := range b.open {
		nc.Close()
	}
}
