package upstream

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/resolver/resolvertest"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// dualSite is a host with an address of each family, of which IPv6's does as dial6 says.
type dualSite struct {
	six   netip.AddrPort
	m     *Manager
	c     *Cluster
	dials atomic.Int64 // by IPv6
	dial4 func(ctx context.Context, network, address string) (net.Conn, error)
}

func newDualSite(t *testing.T, protocol string, serve func(*testing.T) netip.AddrPort, dial6 func(ctx context.Context, four string) (net.Conn, error)) *dualSite {
	needIPv6(t)
	four := serve(t)
	s := &dualSite{dial4: new(net.Dialer).DialContext, six: netip.AddrPortFrom(netip.IPv6Loopback(), four.Port())}
	ns := resolvertest.NewServer(t)
	ns.Set("db.example. A", "300 IN A 127.0.0.1")
	ns.Set("db.example. AAAA", "300 IN AAAA ::1")
	once := testDNS(t, ns)
	once.MinTTL, once.MaxTTL, once.Timeout = time.Hour, time.Hour, time.Minute
	s.m = newManagerFor(t, Options{SweepInterval: time.Hour, DNS: once, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "[") {
			s.dials.Add(1)
			return dial6(ctx, four.String())
		}
		return s.dial4(ctx, network, address)
	}})
	x := cfg()
	x.Protocol, x.ConnectTimeout = protocol, time.Minute
	s.c = s.m.NewCluster(x, hosts(four.Port(), "db.example."))
	eventually(t, "both are known", func() bool { return len(s.c.State()) == 2 })
	return s
}

func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("there is no IPv6")
	}
	l.Close()
}

func serveHTTP1(t *testing.T) netip.AddrPort { return newBackend(t, ok).addr }
func serveHTTP2(t *testing.T) netip.AddrPort { return newH2Backend(t, 100, nil).addr }

// blackHole answers nothing until it is released, and then as it says.
func blackHole(release <-chan struct{}, then error) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, four string) (net.Conn, error) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-release:
		}
		if then != nil {
			return nil, then
		}
		return new(net.Dialer).DialContext(ctx, "tcp", four)
	}
}

func TestRace(t *testing.T) {
	for protocol, serve := range map[string]func(*testing.T) netip.AddrPort{"http1": serveHTTP1, "h2c": serveHTTP2} {
		t.Run(protocol, func(t *testing.T) {
			release := make(chan struct{})
			s := newDualSite(t, protocol, serve, blackHole(release, nil))
			for range 6 {
				if ex := send(t, s.c, "GET", ""); ex.Upstream.Endpoint[0] == '[' {
					t.Errorf("answered by %s", ex.Upstream.Endpoint)
				}
			}
			if n := s.dials.Load(); n != 1 {
				t.Errorf("%d attempts by IPv6: the one that is under way says all there is to know", n)
			}
			if e := stateOf(t, s.c, s.six); e.State != "warming" || e.InFlight != 0 || e.Connections != 1 {
				t.Errorf("%+v", e)
			}
			// It comes late, and is kept.
			close(release)
			eventually(t, "it is used", func() bool { e := stateOf(t, s.c, s.six); return e.State == "ready" && e.Idle == 1 })
			for range 4 {
				send(t, s.c, "GET", "")
			}
			if e := stateOf(t, s.c, s.six); e.Requests != 2 || e.Connections != 1 || s.dials.Load() != 1 {
				t.Errorf("%+v after %d attempts", e, s.dials.Load())
			}
		})
	}
}

// TestRaceOfConnections is of those that are one client's.
func TestRaceOfConnections(t *testing.T) {
	for late, then := range map[string]error{"connected": nil, "refused": syscall.ECONNREFUSED} {
		t.Run(late, func(t *testing.T) {
			release := make(chan struct{})
			s := newDualSite(t, "tcp", serveHTTP1, blackHole(release, then))
			for range 6 {
				nc, done, err := s.c.Connect(&exchange.Conn{})
				if err != nil {
					t.Fatal(err)
				}
				if addr := nc.RemoteAddr().(*net.TCPAddr); addr.IP.To4() == nil {
					t.Errorf("connected to %v", addr)
				}
				nc.Close()
				done()
			}
			if e := stateOf(t, s.c, s.six); e.State != "warming" || e.InFlight != 0 || s.dials.Load() != 1 {
				t.Errorf("%+v after %d attempts", e, s.dials.Load())
			}
			close(release) // what comes late is nobody's
			want := map[string]string{"connected": "ready", "refused": "ejected"}[late]
			eventually(t, "it is closed", func() bool {
				e := stateOf(t, s.c, s.six)
				return e.State == want && e.Connections == 0
			})
			for _, e := range s.c.State() {
				if e.InFlight != 0 || e.Connections != 0 {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// TestRaceEjects has the family that was overtaken fail in the end.
func TestRaceEjects(t *testing.T) {
	release := make(chan struct{})
	s := newDualSite(t, "http1", serveHTTP1, blackHole(release, syscall.EHOSTUNREACH))
	for range 2 {
		send(t, s.c, "GET", "")
	}
	close(release)
	eventually(t, "it is ejected", func() bool { return stateOf(t, s.c, s.six).State == "ejected" })
	if e := stateOf(t, s.c, s.six); e.InFlight != 0 || e.Connections != 0 || e.ConnectFailures != 1 {
		t.Errorf("%+v", e)
	}
}

// TestRaceMany has many wait for the same endpoint.
func TestRaceMany(t *testing.T) {
	for protocol, serve := range map[string]func(*testing.T) netip.AddrPort{"http1": serveHTTP1, "h2c": serveHTTP2} {
		t.Run(protocol, func(t *testing.T) {
			s := newDualSite(t, protocol, serve, blackHole(nil, nil))
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() { send(t, s.c, "GET", "") })
			}
			wg.Wait()
			if n := s.dials.Load(); n != 1 {
				t.Errorf("%d attempts by IPv6", n)
			}
			for _, e := range s.c.State() {
				if e.InFlight != 0 {
					t.Errorf("%+v", e)
				}
			}
		})
	}
}

// TestRaceIsLost by both: neither family has a way.
func TestRaceIsLost(t *testing.T) {
	s := newDualSite(t, "http1", func(t *testing.T) netip.AddrPort { return refusing(t) }, blackHole(nil, nil))
	ex := newExchange("GET", "")
	ex.TryDeadline = time.Now().Add(100 * time.Millisecond)
	up := fail(t, s.c, ex)
	if up.Stage != exchange.Dialing || up.Reason != "timeout" && up.Reason != "connect_refused" {
		t.Errorf("%v", up)
	}
	for _, e := range s.c.State() {
		if e.InFlight != 0 {
			t.Errorf("%+v", e)
		}
	}
}

// TestRaceAbandoned has the client leave while both families are silent.
func TestRaceAbandoned(t *testing.T) {
	s := newDualSite(t, "http1", serveHTTP1, blackHole(nil, nil))
	four := make(chan struct{})
	s.dial4 = func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(four)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ex := newExchange("GET", "")
	done := make(chan error)
	go func() {
		_, err := s.c.RoundTrip(ex)
		done <- err
	}()
	<-four
	eventually(t, "both are connected to", func() bool { return s.dials.Load() == 1 })
	ex.Abandon(ex.Turn())
	if err := <-done; err != exchange.ErrAbandoned {
		t.Errorf("%v", err)
	}
	for _, e := range s.c.State() {
		if e.InFlight != 0 || e.Ejections != nil {
			t.Errorf("%+v", e)
		}
	}
}

// TestReleaseOvertaken has an attempt end while who has overtaken it is about to
// hold its endpoint for that.
func TestReleaseOvertaken(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr, b.addr))
	ep := c.state.Load().find(a.addr)
	released := make(chan struct{})
	c.eject.Lock()
	go func() {
		defer close(released)
		c.release(ep)
	}()
	select {
	case <-released: // too early
	case <-time.After(20 * time.Millisecond):
	}
	c.hold(c.state.Load(), ep)
	c.eject.Unlock()
	<-released
	if s := stateOf(t, c, a.addr); s.State != "ready" {
		t.Errorf("it is %s, with nothing to wait for", s.State)
	}
}

// TestNoAllocationsByConnectionSettings: what is said of connections costs those
// that are made, and not requests.
func TestNoAllocationsByConnectionSettings(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has pools forget what is put into them")
	}
	s := newDualSite(t, "http1", func(t *testing.T) netip.AddrPort { return leanPeer(t) }, blackHole(nil, nil))
	x := cfg()
	x.Pool = snapshot.Pool{MinIdle: 2, PreconnectPercent: 150, MaxAge: time.Hour, MaxRequests: 1 << 30}
	x.Socket = snapshot.Socket{SourceAddresses: addrs("127.0.0.1"), UserTimeout: time.Minute}
	x.HTTP2Keepalive = &snapshot.HTTP2Keepalive{Interval: time.Minute}
	s.c.Update(x)
	if !s.c.state.Load().dual {
		t.Fatal("nothing races")
	}
	ex := newExchange("GET", "")
	roundTrip(t, s.c, ex)
	// What is made ahead is not counted.
	four := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.six.Port())
	eventually(t, "there are as many as there should be", func() bool {
		s.m.sweep()
		return stateOf(t, s.c, four).Idle >= 2
	})
	if n := testing.AllocsPerRun(500, func() { roundTrip(t, s.c, ex) }); n != 0 {
		t.Errorf("%v allocations per round trip", n)
	}
}
