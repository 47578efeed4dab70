package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// sickness is what a backend's health checks find.
type sickness struct {
	status atomic.Int64 // of answers to checks; 0 is 200
	checks atomic.Int64
}

// answer answers checks; all else is "ok".
func (s *sickness) answer(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz":
		s.checks.Add(1)
		w.WriteHeader(max(200, int(s.status.Load())))
	case "/grpc.health.v1.Health/Check":
		s.checks.Add(1)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 8, 1 + byte(s.status.Load()/503)})
		w.Header().Set("Grpc-Status", "0")
	default:
		w.Write([]byte("ok"))
	}
}

type checked struct {
	*h2Backend
	sickness
}

func newChecked(t testing.TB, certs ...tls.Certificate) *checked {
	t.Helper()
	b := &checked{}
	b.h2Backend = newH2Backend(t, 100, b.answer, certs...)
	return b
}

// often checks far more often than anybody should, and as patiently as a busy
// machine needs.
func often(by snapshot.HealthCheck) *snapshot.HealthCheck {
	by.Interval, by.Timeout = 10*time.Millisecond, 30*time.Second
	return &by
}

func healthz() *snapshot.HealthCheck {
	return often(snapshot.HealthCheck{UnhealthyThreshold: 2, HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}})
}

func withCheck(x *snapshot.Cluster, by *snapshot.HealthCheck) *snapshot.Cluster {
	x.HealthCheck = by
	return x
}

func becomes(t testing.TB, c *Cluster, addr netip.AddrPort, state string) {
	t.Helper()
	eventually(t, addr.String()+" is "+state, func() bool { return stateOf(t, c, addr).State == state })
}

func TestUnhealthyGetsNothing(t *testing.T) {
	for _, algorithm := range balance.Algorithms() {
		if algorithm == "FirstAvailable" || algorithm == "PeakEWMA" {
			continue // one endpoint may have all these requests, whoever is healthy
		}
		t.Run(algorithm, func(t *testing.T) {
			a, b, ill := newChecked(t), newChecked(t), newChecked(t)
			x := withCheck(cfg(), healthz())
			x.Balance.Algorithm = algorithm
			x.Balance.HashOn = []snapshot.HashKey{{Type: "ClientIP"}}
			c := newManagerFor(t, Options{}).NewCluster(x, endpoints(a.addr, b.addr, ill.addr))
			all := func() {
				for i := range byte(100) { // clients, so that IPHash has some for each endpoint
					ex := newExchange("GET", "")
					ex.ClientIP = netip.AddrFrom4([4]byte{192, 0, 2, i})
					lease, err := c.RoundTrip(ex)
					if err != nil {
						t.Fatal(err)
					}
					finish(t, ex, lease)
				}
			}
			eventually(t, "all are checked", func() bool { return a.checks.Load() > 2 && b.checks.Load() > 2 && ill.checks.Load() > 2 })
			all()
			if s := stateOf(t, c, ill.addr); s.State != "ready" || s.Idle == 0 || s.ChecksPassed == 0 || s.CheckFailure != "" {
				t.Fatalf("%+v", s)
			}

			ill.status.Store(503)
			becomes(t, c, ill.addr, "unhealthy")
			if s := stateOf(t, c, ill.addr); s.Idle != 0 || s.Connections != 0 || s.ChecksFailed < 2 || s.CheckFailure != "status 503" {
				t.Errorf("its idle connections are kept, or it is not said why: %+v", s)
			}
			before := stateOf(t, c, ill.addr).Requests
			all()
			if after := stateOf(t, c, ill.addr).Requests; after != before {
				t.Errorf("it got %d requests while unhealthy", after-before)
			}

			ill.status.Store(200)
			becomes(t, c, ill.addr, "ready")
			all()
			if s := stateOf(t, c, ill.addr); s.CheckFailure != "" || s.Requests == before {
				t.Errorf("it did not come back: %+v", s)
			}
			if n := c.ejected.Load(); n != 0 {
				t.Errorf("%d are counted as ejected", n)
			}
		})
	}
}

// TestAllUnhealthy holds that a check that nobody passes costs no request, and
// that requests which succeed do not make anybody healthy.
func TestAllUnhealthy(t *testing.T) {
	a, b := newChecked(t), newChecked(t)
	a.status.Store(500)
	b.status.Store(500)
	c := newManagerFor(t, Options{}).NewCluster(withCheck(cfg(), healthz()), endpoints(a.addr, b.addr))
	becomes(t, c, a.addr, "unhealthy")
	becomes(t, c, b.addr, "unhealthy")
	for range 10 {
		send(t, c, "GET", "")
	}
	for _, s := range c.State() {
		if s.State != "unhealthy" || s.Requests != 5 || s.Ejections["connect"] != 0 {
			t.Errorf("%+v", s)
		}
	}
	b.status.Store(200)
	becomes(t, c, b.addr, "ready")
	for range 10 {
		send(t, c, "GET", "")
	}
	if s := stateOf(t, c, a.addr); s.Requests != 5 {
		t.Errorf("it got requests though another is healthy: %+v", s)
	}
}

// TestUnhealthyAndEjected holds that the two have one order: what is unhealthy
// is not ejected besides, and an ejection ends neither one.
func TestUnhealthyAndEjected(t *testing.T) {
	var now clock
	good, doctor, dead := newChecked(t), newChecked(t), refusing(t)
	// The checks ask another port: the endpoint refuses requests all the while.
	by := healthz()
	by.Port = doctor.addr.Port()
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(withCheck(cfg(), by), endpoints(good.addr, dead))
	eventually(t, "both are checked", func() bool { return doctor.checks.Load() > 2 })
	send(t, c, "GET", "")
	send(t, c, "GET", "")
	if s := stateOf(t, c, dead); s.State != "ejected" || s.Ejections["connect"] != 1 || s.ChecksFailed != 0 {
		t.Fatalf("%+v", s)
	}
	passed := stateOf(t, c, dead).ChecksPassed
	eventually(t, "it passes checks", func() bool { return stateOf(t, c, dead).ChecksPassed > passed+1 })
	if s := stateOf(t, c, dead); s.State != "ejected" {
		t.Errorf("a check ended an ejection: %+v", s)
	}

	doctor.status.Store(503)
	becomes(t, c, dead, "unhealthy")
	becomes(t, c, good.addr, "unhealthy")
	now.advance(time.Hour)
	for range 10 {
		send(t, c, "GET", "") // all are tried
	}
	if s := stateOf(t, c, dead); s.State != "unhealthy" || s.Ejections["connect"] != 1 || s.ConnectFailures < 2 {
		t.Errorf("%+v", s)
	}
	if n := c.ejected.Load(); n != 2 {
		t.Errorf("%d are counted as ejected, want 2", n)
	}

	doctor.status.Store(200)
	becomes(t, c, dead, "ready")
	becomes(t, c, good.addr, "ready")
	send(t, c, "GET", "")
	send(t, c, "GET", "")
	if s := stateOf(t, c, dead); s.State != "ejected" || s.Ejections["connect"] != 2 {
		t.Errorf("%+v", s)
	}
	now.advance(1300 * time.Millisecond) // the first ejection again, not the second in a row
	send(t, c, "GET", "")
	send(t, c, "GET", "")
	if s := stateOf(t, c, dead); s.Ejections["connect"] != 3 {
		t.Errorf("%+v", s)
	}
}

// TestLateProbe is of a request that was sent to an ejected endpoint to find
// out how it is, and comes back after the checks have.
func TestLateProbe(t *testing.T) {
	a, b := newChecked(t), newChecked(t)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr, b.addr))
	st, ep := c.state.Load(), c.byAddr[b.addr]
	for name, outcome := range map[string]func(){
		"fails":    func() { c.refused(st, ep, true, errors.New("refused")) },
		"succeeds": func() { c.accepted(ep) },
	} {
		c.refused(st, ep, false, errors.New("refused"))
		becomes(t, c, b.addr, "ejected")
		ep.SetHealthy(false, errors.New("ill"))
		outcome()
		if s := stateOf(t, c, b.addr); s.State != "unhealthy" || c.ejected.Load() != 1 {
			t.Errorf("%s: %+v", name, s)
		}
		ep.SetHealthy(true, nil)
		if s := stateOf(t, c, b.addr); s.State != "ready" || c.ejected.Load() != 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// TestChecks is of what is asked how, by protocol and TLS.
func TestChecks(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	over := func(name string) *snapshot.UpstreamTLS { return &snapshot.UpstreamTLS{ServerName: name, Roots: roots} }
	onHTTP := often(snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}})
	onGRPC := often(snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{Service: "shop.Orders"}})
	onTCP := often(snapshot.HealthCheck{})
	for _, tt := range []struct {
		name     string
		protocol string
		tls      *snapshot.UpstreamTLS
		by       *snapshot.HealthCheck
		why      string // "" if they pass
	}{
		{"HTTP", "http1", nil, onHTTP, ""},
		{"HTTP over h2c", "h2c", nil, onHTTP, ""},
		{"HTTP over TLS", "http1", over("web.internal"), onHTTP, ""},
		{"HTTP over TLS, h2", "h2c", over("web.internal"), onHTTP, ""},
		{"HTTP over TLS, by ALPN", "alpn", over("web.internal"), onHTTP, ""},
		{"gRPC", "h2c", nil, onGRPC, ""},
		{"gRPC where requests are HTTP/1.1", "http1", nil, onGRPC, ""},
		{"gRPC over TLS", "h2c", over("web.internal"), onGRPC, ""},
		{"gRPC over TLS, by ALPN", "alpn", over("web.internal"), onGRPC, ""},
		{"gRPC over TLS where requests are HTTP/1.1", "http1", over("web.internal"), onGRPC, ""},
		{"TCP", "http1", nil, onTCP, ""},
		{"TCP and TLS", "alpn", over("web.internal"), onTCP, ""},
		{"HTTP with another's name", "http1", over("other.internal"), onHTTP, "certificate is valid for web.internal"},
		{"gRPC with another's name", "h2c", over("other.internal"), onGRPC, "certificate is valid for web.internal"},
		{"TCP with another's name", "http1", over("other.internal"), onTCP, "certificate is valid for web.internal"},
		{"without a name", "http1", over(""), onTCP, "no server name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var certs []tls.Certificate
			if tt.tls != nil {
				certs = append(certs, cert)
			}
			b := newChecked(t, certs...)
			x := withCheck(&snapshot.Cluster{Key: "c", Protocol: tt.protocol, TLS: tt.tls}, tt.by)
			c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
			if tt.why != "" {
				becomes(t, c, b.addr, "unhealthy")
				if s := stateOf(t, c, b.addr); !strings.Contains(s.CheckFailure, tt.why) || s.ChecksPassed != 0 {
					t.Errorf("%+v, want %q", s, tt.why)
				}
				return
			}
			eventually(t, "checks pass", func() bool { return stateOf(t, c, b.addr).ChecksPassed > 2 })
			if s := stateOf(t, c, b.addr); s.State != "ready" || s.ChecksFailed != 0 || s.Connections != 0 || s.Connects != 0 {
				t.Errorf("%+v", s)
			}
			if tt.by == onTCP {
				b.server.Close()
			} else {
				b.status.Store(503)
			}
			becomes(t, c, b.addr, "unhealthy")
		})
	}
}

func TestCheckOfAnEndpointThatOnlySpeaksHTTP1(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	b := newTLSBackend(t, cert, ok)
	x := withCheck(cfg(), often(snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}))
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
	becomes(t, c, b.addr, "unhealthy")
}

// TestCheckIsOurOwn holds that a check says with the PROXY protocol that it is
// nobody's request.
func TestCheckIsOurOwn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		line, _ := bufio.NewReader(c).ReadString('\n')
		first <- line
	}()
	defer func() { l.Close(); <-done }()
	x := withCheck(cfg(), often(snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}}))
	x.ProxyProtocol = "V1"
	newManagerFor(t, Options{}).NewCluster(x, endpoints(netip.MustParseAddrPort(l.Addr().String())))
	select {
	case got := <-first:
		if got != "PROXY UNKNOWN\r\n" {
			t.Errorf("the check begins with %q", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("no check came")
	}
}

// TestHealthOutlivesSwaps changes a cluster in all ways and looks what becomes
// of an endpoint that its checks have found unhealthy.
func TestHealthOutlivesSwaps(t *testing.T) {
	a, ill := newChecked(t), newChecked(t)
	ill.status.Store(503)
	c := newManagerFor(t, Options{}).NewCluster(withCheck(cfg(), healthz()), endpoints(a.addr, ill.addr))
	becomes(t, c, ill.addr, "unhealthy")
	still := func(what string) {
		t.Helper()
		if s := stateOf(t, c, ill.addr); s.State != "unhealthy" {
			t.Fatalf("%s: %+v", what, s)
		}
	}
	check := c.byAddr[ill.addr].check.Load()

	other := withCheck(cfg(), healthz())
	other.Balance.Algorithm, other.Pool.MaxIdle = "LeastRequest", 3
	c.Update(other)
	still("other settings")
	b := newChecked(t)
	c.SetEndpoints(endpoints(a.addr, b.addr, ill.addr))
	still("another endpoint")
	eventually(t, "the new one is checked", func() bool { return b.checks.Load() > 1 })
	slow := healthz()
	slow.Interval = time.Hour
	c.Update(withCheck(cfg(), slow))
	still("another interval")
	if c.byAddr[ill.addr].check.Load() != check {
		t.Error("its check is another one")
	}

	// The new settings have it asked once, in six minutes at most; not again.
	c.Update(withCheck(cfg(), healthz()))
	n := ill.checks.Load()
	eventually(t, "it is checked as before", func() bool { return ill.checks.Load() > n+2 })
	still("the first interval")
	draining := endpoints(a.addr, b.addr, ill.addr)
	for i := range draining.Endpoints {
		draining.Endpoints[i].Draining = draining.Endpoints[i].Port == ill.addr.Port()
	}
	c.SetEndpoints(draining)
	still("draining")

	c.SetEndpoints(endpoints(a.addr, b.addr))
	if n := c.ejected.Load(); n != 0 {
		t.Errorf("%d are counted as ejected", n)
	}
	quiet(t, ill)
	c.SetEndpoints(endpoints(a.addr, ill.addr))
	if s := stateOf(t, c, ill.addr); s.State != "ready" && s.State != "unhealthy" || s.Requests != 0 {
		t.Errorf("one that is new again: %+v", s)
	}
	becomes(t, c, ill.addr, "unhealthy")

	c.Update(cfg())
	if s := stateOf(t, c, ill.addr); s.State != "ready" || s.ChecksFailed != 0 || s.CheckFailure != "" {
		t.Errorf("without checks: %+v", s)
	}
	quiet(t, ill)
	quiet(t, a)

	c.Update(withCheck(cfg(), healthz()))
	becomes(t, c, ill.addr, "unhealthy")
	c.Close()
	quiet(t, a)
	quiet(t, ill)
}

// quiet holds that a backend is not checked any more, once a check that was
// under way has come in.
func quiet(t *testing.T, b *checked) {
	t.Helper()
	eventually(t, "no checks come any more", func() bool {
		n := b.checks.Load()
		time.Sleep(100 * time.Millisecond)
		return b.checks.Load() == n
	})
}

// TestStreamsAndHealth holds that connections that are passed on unread stay
// away from who is unhealthy.
func TestStreamsAndHealth(t *testing.T) {
	a, ill := newChecked(t), newChecked(t)
	ill.server.Close()
	by := often(snapshot.HealthCheck{UnhealthyThreshold: 1})
	c := newManagerFor(t, Options{}).NewCluster(withCheck(cfg(), by), endpoints(a.addr, ill.addr))
	becomes(t, c, ill.addr, "unhealthy")
	for range 10 {
		nc, release, err := c.Connect(&exchange.Conn{Remote: netip.MustParseAddrPort("192.0.2.1:1")})
		if err != nil {
			t.Fatal(err)
		}
		if nc.RemoteAddr().String() != a.addr.String() {
			t.Errorf("connected to %v", nc.RemoteAddr())
		}
		nc.Close()
		release()
	}
	if s := stateOf(t, c, ill.addr); s.ConnectFailures != 0 {
		t.Errorf("it was tried: %+v", s)
	}
}

func TestNoAllocationsBesideUnhealthy(t *testing.T) {
	peer := leanPeer(t)
	c := newManagerFor(t, Options{SweepInterval: time.Hour}).NewCluster(cfg(), endpoints(peer, netip.MustParseAddrPort("192.0.2.1:1")))
	c.byAddr[netip.MustParseAddrPort("192.0.2.1:1")].SetHealthy(false, errors.New("ill"))
	ex := newExchange("GET", "")
	if n := testing.AllocsPerRun(500, func() { roundTrip(t, c, ex) }); n != 0 {
		t.Errorf("%v allocations per round trip", n)
	}
}

// TestReuseConnection has checks share a connection, until one fails, the endpoint closes
// it, or there are no more checks.
func TestReuseConnection(t *testing.T) {
	cert, roots := authority(t, "web.internal")
	over := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	byHTTP := snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}
	byGRPC := snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}
	for name, tt := range map[string]struct {
		x  *snapshot.Cluster
		by snapshot.HealthCheck
	}{
		"HTTP/1.1":          {cfg(), byHTTP},
		"HTTP/2":            {h2cfg(), byHTTP},
		"gRPC":              {cfg(), byGRPC},
		"HTTP/1.1 over TLS": {&snapshot.Cluster{Key: "c", Protocol: "http1", TLS: over}, byHTTP},
		"gRPC over TLS":     {&snapshot.Cluster{Key: "c", Protocol: "alpn", TLS: over}, byGRPC},
	} {
		t.Run(name, func(t *testing.T) {
			var certs []tls.Certificate
			if tt.x.TLS != nil {
				certs = append(certs, cert)
			}
			b := newChecked(t, certs...)
			by := often(tt.by)
			by.ReuseConnection, by.UnhealthyThreshold = true, 1
			c := newManagerFor(t, Options{}).NewCluster(withCheck(tt.x, by), endpoints(b.addr))
			passes := func(n uint64) {
				t.Helper()
				from := c.State()[0].ChecksPassed
				eventually(t, "it is asked", func() bool { return c.State()[0].ChecksPassed >= from+n })
			}
			passes(10)
			if n := b.conns.Load(); n > 2 { // the first may have come before its Check was known
				t.Errorf("%d connections for %d checks", n, b.checks.Load())
			}
			b.server.Close() // it takes no new ones; this server's other end goes, too
			eventually(t, "it is unhealthy", func() bool { return c.State()[0].State == "unhealthy" })
			c.Update(cfg())
			if k := c.byAddr[b.addr].checkConn.Load(); k != nil {
				t.Error("a connection is kept for checks that are over")
			}
		})
	}
	t.Run("closed by the endpoint", func(t *testing.T) {
		b := newBackend(t, ok)
		x := withCheck(cfg(), &snapshot.HealthCheck{Interval: time.Hour, ReuseConnection: true, HTTP: &snapshot.HTTPHealthCheck{}})
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		ep := c.byAddr[b.addr]
		for n := range int64(3) {
			if err := ep.Ask(t.Context(), x.HealthCheck); err != nil {
				t.Errorf("it counts against the endpoint: %v", err)
			}
			if got := b.conns.Load(); got != n+1 {
				t.Errorf("%d connections, want %d", got, n+1)
			}
			if ep.Ask(t.Context(), x.HealthCheck) != nil || b.conns.Load() != n+1 {
				t.Errorf("%d connections, want the same one", b.conns.Load())
			}
			b.mu.Lock()
			for nc := range b.open {
				nc.Close()
			}
			b.mu.Unlock()
			eventually(t, "it is closed", func() bool { return b.openConns() == 0 })
		}
	})
	t.Run("after a failure", func(t *testing.T) {
		b := newChecked(t)
		x := withCheck(cfg(), &snapshot.HealthCheck{Interval: time.Hour, ReuseConnection: true, HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}})
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		ep := c.byAddr[b.addr]
		_ = ep.Ask(t.Context(), x.HealthCheck)
		b.status.Store(503)
		if ep.Ask(t.Context(), x.HealthCheck) == nil || ep.checkConn.Load() != nil {
			t.Error("the connection is kept")
		}
	})
}

// BenchmarkHealthCheck is one check, with the other side of it.
func BenchmarkHealthCheck(b *testing.B) {
	cert, roots := authority(b, "web.internal")
	over := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	for _, bb := range []struct {
		name string
		x    *snapshot.Cluster
		by   snapshot.HealthCheck
	}{
		{"TCP", cfg(), snapshot.HealthCheck{}},
		{"HTTP1", cfg(), snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}},
		{"HTTP2", h2cfg(), snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}},
		{"GRPC", h2cfg(), snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}},
		{"HTTP1overTLS", &snapshot.Cluster{Key: "c", Protocol: "http1", TLS: over}, snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}},
		{"HTTP1reused", cfg(), snapshot.HealthCheck{ReuseConnection: true, HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}},
		{"HTTP1overTLSreused", &snapshot.Cluster{Key: "c", Protocol: "http1", TLS: over},
			snapshot.HealthCheck{ReuseConnection: true, HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"}}},
		{"GRPCreused", h2cfg(), snapshot.HealthCheck{ReuseConnection: true, GRPC: &snapshot.GRPCHealthCheck{}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var certs []tls.Certificate
			if bb.x.TLS != nil {
				certs = append(certs, cert)
			}
			peer := newChecked(b, certs...)
			// A check of its own keeps what is kept between checks, and never comes.
			c := newManagerFor(b, Options{}).NewCluster(withCheck(bb.x, &snapshot.HealthCheck{Interval: time.Hour}), endpoints(peer.addr))
			ep := c.byAddr[peer.addr]
			b.ReportAllocs()
			for b.Loop() {
				ctx, cancel := context.WithTimeout(b.Context(), time.Second)
				if err := ep.Ask(ctx, &bb.by); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}

// BenchmarkManyChecked has 10,000 endpoints asked every 10 s, and tells what that
// costs with the other side, which is in this process: CPU as a share of one core and
// for each check, goroutines of both sides at most and when nobody is asked, and
// memory of both sides for each endpoint beyond what it costs unchecked. It needs a
// machine on which all of 127/8 is loopback. Where both ends of 10,000 connections
// are more files than may be open, there are fewer endpoints.
func BenchmarkManyChecked(b *testing.B) {
	cert, roots := authority(b, "web.internal")
	over := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: roots}
	byHTTP := snapshot.HealthCheck{HTTP: &snapshot.HTTPHealthCheck{}}
	byGRPC := snapshot.HealthCheck{GRPC: &snapshot.GRPCHealthCheck{}}
	reused := func(by snapshot.HealthCheck) snapshot.HealthCheck {
		by.ReuseConnection = true
		return by
	}
	for _, bb := range []struct {
		name string
		x    *snapshot.Cluster
		by   snapshot.HealthCheck
	}{
		{"TCP", cfg(), snapshot.HealthCheck{}},
		{"HTTP1", cfg(), byHTTP},
		{"HTTP1reused", cfg(), reused(byHTTP)},
		{"HTTP1overTLS", &snapshot.Cluster{Key: "c", Protocol: "http1", TLS: over}, byHTTP},
		{"HTTP1overTLSreused", &snapshot.Cluster{Key: "c", Protocol: "http1", TLS: over}, reused(byHTTP)},
		{"GRPC", h2cfg(), byGRPC},
		{"GRPCreused", h2cfg(), reused(byGRPC)},
	} {
		b.Run(bb.name, func(b *testing.B) { manyChecked(b, bb.x, bb.by, cert) })
	}
}

func manyChecked(b *testing.B, x *snapshot.Cluster, by snapshot.HealthCheck, cert tls.Certificate) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		b.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	switch {
	case by.GRPC != nil:
		peer := &checked{h2Backend: &h2Backend{}}
		peer.serve(b, l, 100, peer.answer)
	case x.TLS != nil:
		serveOn(b, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}}), ok)
	default:
		serveOn(b, l, ok)
	}
	const every = 10 * time.Second
	count := 10_000
	if by.ReuseConnection {
		var files syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			b.Fatal(err)
		}
		count = min(count, int(files.Cur-1000)/2)
	}
	eps := &snapshot.Endpoints{}
	for i := range count {
		eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{Address: fmt.Sprintf("127.1.%d.%d", i/250, i%250+1), Port: port})
	}
	x.HealthCheck = nil
	c := newManagerFor(b, Options{}).NewCluster(x, eps)
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc + m.StackInuse)
	}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	asked := func() (n uint64) {
		for _, s := range c.State() {
			n += s.ChecksPassed
			if s.ChecksFailed > 0 {
				b.Fatalf("%+v", s)
			}
		}
		return n
	}
	before, idle := heap(), runtime.NumGoroutine()
	with := *x
	by.Interval, by.Timeout = every, every
	with.HealthCheck = &by
	c.Update(&with)
	for asked() < uint64(count) {
		time.Sleep(100 * time.Millisecond)
	}
	least, most := 1<<30, 0
	for b.Loop() {
		used, from, start := cpu(), asked(), time.Now()
		for time.Since(start) < 2*every {
			n := runtime.NumGoroutine() - idle
			least, most = min(least, n), max(most, n)
			time.Sleep(time.Millisecond)
		}
		used, from = cpu()-used, asked()-from
		b.ReportMetric(100*used.Seconds()/time.Since(start).Seconds(), "%core")
		b.ReportMetric(float64(used.Microseconds())/float64(from), "us/check")
		b.ReportMetric(float64(from)/time.Since(start).Seconds(), "checks/s")
	}
	b.ReportMetric(float64(least), "goroutines-at-least")
	b.ReportMetric(float64(most), "goroutines-at-most")
	b.ReportMetric((heap()-before)/float64(count), "B/endpoint")
	b.ReportMetric(float64(count), "endpoints")
}

// TestDatagramCheck: an endpoint of UDP is asked by datagrams, whatever TLS the cluster has.
func TestDatagramCheck(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answer := atomic.Bool{}
	answer.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 64); ; {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			text := "fine"
			if !answer.Load() {
				text = "ill"
			}
			pc.WriteTo(append(buf[:n:n], text...), from)
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
	m := newManagerFor(t, Options{})
	x := cfg()
	x.Protocol = "udp"
	x.TLS = &snapshot.UpstreamTLS{Broken: "it is of no interest"}
	x.HealthCheck = &snapshot.HealthCheck{
		Interval: 10 * time.Millisecond, Timeout: 10 * time.Second, UDP: &snapshot.SendExpect{Send: []byte("you are "), Expect: []byte("are fine")},
	}
	c := m.NewCluster(x, endpoints(netip.MustParseAddrPort(pc.LocalAddr().String())))
	eventually(t, "it is healthy", func() bool { s := c.State()[0]; return s.ChecksPassed > 0 && s.State == "ready" })
	answer.Store(false)
	eventually(t, "it is unhealthy", func() bool { return c.State()[0].State == "unhealthy" })
	if why := c.State()[0].CheckFailure; !strings.Contains(why, "you are ill") {
		t.Errorf("%s", why)
	}
	c.SetEndpoints(sockets("unix:/nowhere"))
	if c.state.Load().members[0].ep.check.Load() != nil {
		t.Error("a Unix socket is asked by UDP")
	}
}
