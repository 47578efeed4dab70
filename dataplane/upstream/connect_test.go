package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestConnectTimeout has one endpoint that never accepts.
func TestConnectTimeout(t *testing.T) {
	b := newBackend(t, ok)
	silent := netip.MustParseAddrPort("127.0.0.1:1")
	dials := 0
	opts := Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == silent.String() {
			dials++
			<-ctx.Done()
			return nil, &net.OpError{Op: "dial", Net: network, Err: ctx.Err()}
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
	x := cfg()
	x.ConnectTimeout = 500 * time.Millisecond // which the other one does not need
	c := newManagerFor(t, opts).NewCluster(x, endpoints(silent, b.addr))
	for range 6 {
		send(t, c, "GET", "")
	}
	if s := stateOf(t, c, silent); dials != 1 || s.State != "ejected" {
		t.Errorf("%d dials, %+v", dials, s)
	}

	c.SetEndpoints(endpoints(silent))
	ex := newExchange("GET", "")
	if up := fail(t, c, ex); up.Reason != "connect_timeout" {
		t.Errorf("%v", up)
	}
	if ex.Upstream.Wait < x.ConnectTimeout/2 {
		t.Errorf("the wait of %v is not that for the upstream", ex.Upstream.Wait)
	}
}

// TestDeadlinesBoundConnecting: when the exchange's time is over, no other
// endpoint is tried, and the endpoint is not to blame.
func TestDeadlinesBoundConnecting(t *testing.T) {
	for _, which := range []string{"Deadline", "TryDeadline"} {
		dials := 0
		c := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			<-ctx.Done()
			return nil, ctx.Err()
		}}).NewCluster(cfg(), endpoints(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")))
		ex := newExchange("GET", "")
		at := time.Now().Add(500 * time.Millisecond) // the first is tried by then
		if which == "Deadline" {
			ex.Deadline, ex.TryDeadline = at, at.Add(time.Hour)
		} else {
			ex.TryDeadline = at
		}
		up := fail(t, c, ex)
		if up.Reason != "timeout" || dials != 1 {
			t.Errorf("%s: %v after %d dials", which, up, dials)
		}
		for _, s := range c.State() {
			if s.State != "ready" {
				t.Errorf("%s: %+v", which, s)
			}
		}
	}
}

// TestLocalTrouble: that this machine is out of sockets is no endpoint's fault.
func TestLocalTrouble(t *testing.T) {
	c := newManagerFor(t, Options{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
	}}).NewCluster(cfg(), endpoints(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")))
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "no_resources" {
		t.Errorf("%v", up)
	}
	for _, s := range c.State() {
		if s.State != "ready" {
			t.Errorf("%+v", s)
		}
	}
}

// TestPool looks at what is kept, and for how long.
func TestPool(t *testing.T) {
	var now clock
	b := newBackend(t, ok)
	m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
	x := cfg()
	x.Pool.MaxIdle, x.Pool.IdleTimeout = 3, 10*time.Second
	c := m.NewCluster(x, endpoints(b.addr))
	// together holds n connections at the same time.
	together := func(n int) {
		t.Helper()
		exs, leases := make([]*exchange.Exchange, n), make([]exchange.Lease, n)
		for i := range n {
			exs[i] = newExchange("GET", "")
			var err error
			if leases[i], err = c.RoundTrip(exs[i]); err != nil {
				t.Fatal(err)
			}
		}
		if s := stateOf(t, c, b.addr); s.InFlight != int64(n) || s.Connections < n {
			t.Errorf("%+v, want %d in flight", s, n)
		}
		for i := range n {
			finish(t, exs[i], leases[i])
		}
	}
	idle := func(want int) {
		t.Helper()
		if s := stateOf(t, c, b.addr); s.Idle != want || s.Connections != want || s.InFlight != 0 {
			t.Errorf("%+v, want %d idle", s, want)
		}
		eventually(t, "what is not kept is closed", func() bool { return b.openConns() == want })
	}
	together(5)
	idle(3)
	now.advance(6 * time.Second)
	m.sweep()
	together(1) // the last one is used first, the others grow old
	now.advance(5 * time.Second)
	m.sweep()
	idle(1)
	now.advance(6 * time.Second)
	m.sweep()
	idle(0)
	if b.conns.Load() != 5 {
		t.Errorf("%d connections were made, want 5", b.conns.Load())
	}
}

func TestMaxConnections(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	x := cfg()
	x.CircuitBreaker = &snapshot.CircuitBreaker{PerEndpoint: snapshot.PerEndpointBounds{MaxConnections: 1}}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(a.addr, b.addr))
	var exs [2]*exchange.Exchange
	var leases [2]exchange.Lease
	for i := range exs {
		exs[i] = newExchange("GET", "")
		var err error
		if leases[i], err = c.RoundTrip(exs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" || up.Stage != exchange.Dialing {
		t.Errorf("%v", up)
	}
	for i := range exs {
		finish(t, exs[i], leases[i])
	}
	send(t, c, "GET", "")
	if a.conns.Load() != 1 || b.conns.Load() != 1 {
		t.Errorf("%d and %d connections", a.conns.Load(), b.conns.Load())
	}
	for _, s := range c.State() {
		if s.State != "ready" {
			t.Errorf("a full endpoint was ejected: %+v", s)
		}
	}
}

// authority makes a certificate for name that is its own root.
func authority(t testing.TB, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func newTLSBackend(t testing.TB, cert tls.Certificate, serve func(n int64, r *http.Request, c net.Conn) bool) *backend {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, serve)
}

func TestTLS(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	b := newTLSBackend(t, cert, func(n int64, r *http.Request, c net.Conn) bool {
		if state := c.(*tls.Conn).ConnectionState(); state.ServerName != "web.internal" {
			t.Errorf("server name %q", state.ServerName)
		}
		return ok(n, r, c)
	})
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
	for _, method := range []string{"GET", "POST", "GET", "PUT"} {
		body := ""
		if method[0] == 'P' {
			body = "content"
		}
		send(t, c, method, body)
	}
	if b.conns.Load() != 1 {
		t.Errorf("%d connections, want 1", b.conns.Load())
	}

	// Other settings: nothing that was made before is used again.
	again := cfg()
	again.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: append([]byte("\n"), roots...)}
	c.Update(again)
	eventually(t, "the connection is closed", func() bool { return b.openConns() == 0 })
	send(t, c, "GET", "")

	for _, tc := range []struct {
		tls  snapshot.UpstreamTLS
		want string
	}{
		{snapshot.UpstreamTLS{ServerName: "other.internal", Roots: roots}, "tls_name_mismatch"},
		{snapshot.UpstreamTLS{ServerName: "web.internal"}, "tls_unknown_authority"},
		{snapshot.UpstreamTLS{ServerName: "web.internal", Roots: []byte("nonsense")}, "tls_config"},
		{snapshot.UpstreamTLS{Roots: roots}, "tls_config"},
	} {
		y := cfg()
		y.TLS = &tc.tls
		c.Update(y)
		before := b.requests.Load()
		if up := fail(t, c, newExchange("GET", "")); up.Reason != tc.want {
			t.Errorf("%q: %v, want %s", tc.tls.ServerName, up, tc.want)
		}
		if b.requests.Load() != before {
			t.Errorf("%q: a request arrived", tc.tls.ServerName)
		}
	}
	c.Update(cfg())
	if up := fail(t, c, newExchange("GET", "")); up.Stage == exchange.Dialing {
		t.Errorf("plaintext to TLS: %v", up)
	}
}

// TestTLSStale closes TLS connections behind the pool's back.
func TestTLSStale(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	closed := make(chan struct{}, 1)
	b := newTLSBackend(t, cert, func(n int64, r *http.Request, c net.Conn) bool {
		ok(n, r, c)
		c.Close()
		closed <- struct{}{}
		return false
	})
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
	for _, method := range []string{"GET", "POST", "GET", "PUT", "PATCH"} {
		body := ""
		if method[0] == 'P' {
			body = "content"
		}
		send(t, c, method, body)
		<-closed
		awaitEnd(t, c)
	}
	if b.requests.Load() != 5 {
		t.Errorf("%d requests arrived, want 5", b.requests.Load())
	}
}
