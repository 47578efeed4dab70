package upstream

import (
	"net/netip"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
)

// sendTo makes one exchange of a session and returns whom it went to.
func sendTo(t *testing.T, c *Cluster, session exchange.Session) string {
	t.Helper()
	ex := newExchange("GET", "")
	ex.Session = session
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	finish(t, ex, lease)
	return ex.Upstream.Endpoint
}

func TestSessionStays(t *testing.T) {
	for _, algorithm := range balance.Algorithms() {
		x := cfg()
		x.Balance.Algorithm = algorithm
		a, b, c := newBackend(t, ok), newBackend(t, ok), newBackend(t, ok)
		cluster := newManagerFor(t, Options{}).NewCluster(x, endpoints(a.addr, b.addr, c.addr))
		for _, strict := range []bool{false, true} {
			for range 9 {
				if got := sendTo(t, cluster, exchange.Session{Endpoint: b.addr, Strict: strict}); got != b.addr.String() {
					t.Fatalf("%s: went to %s", algorithm, got)
				}
			}
		}
	}
}

// TestSessionMovesOn has sessions whose endpoint cannot be used.
func TestSessionMovesOn(t *testing.T) {
	var now clock
	a, dead := newBackend(t, ok), refusing(t)
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(a.addr, dead))
	for _, gone := range []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80"), dead, dead} {
		if got := sendTo(t, c, exchange.Session{Endpoint: gone}); got != a.addr.String() {
			t.Errorf("the session of %s went to %s", gone, got)
		}
	}
	// The second time it was ejected, and nobody tried.
	if s := stateOf(t, c, dead); s.State != "ejected" || s.ConnectFailures != 1 {
		t.Errorf("%+v", s)
	}
	// When its time is over, a request of its session finds out how it is.
	now.advance(2 * time.Second)
	sendTo(t, c, exchange.Session{Endpoint: dead})
	if s := stateOf(t, c, dead); s.ConnectFailures != 2 {
		t.Errorf("not probed: %+v", s)
	}
}

// TestStrictSession holds that no other endpoint gets a request of a strict session.
func TestStrictSession(t *testing.T) {
	var now clock
	a, dead := newBackend(t, ok), refusing(t)
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(a.addr, dead))
	for i, gone := range []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:80"), dead, dead} {
		ex := newExchange("GET", "")
		ex.Session = exchange.Session{Endpoint: gone, Strict: true}
		if up := fail(t, c, ex); up.Reason != "session_lost" || ex.Upstream.Tries != 0 {
			t.Errorf("%d: %v, %+v", i, up, ex.Upstream)
		}
	}
	if a.requests.Load() != 0 {
		t.Error("another endpoint got it")
	}
	if s := stateOf(t, c, dead); s.State != "ejected" || s.ConnectFailures != 1 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
	// A retry goes to the same endpoint, as there is no other.
	ex := newExchange("GET", "")
	ex.Session = exchange.Session{Endpoint: a.addr, Strict: true}
	ex.Avoid = []string{a.addr.String()}
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	finish(t, ex, lease)
}

// TestSessionOfDraining holds that an endpoint that is about to go keeps its
// sessions and gets nothing else.
func TestSessionOfDraining(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	eps := endpoints(a.addr, b.addr)
	for i := range eps.Endpoints {
		eps.Endpoints[i].Draining = eps.Endpoints[i].Port == b.addr.Port()
	}
	c := newManagerFor(t, Options{}).NewCluster(cfg(), eps)
	for range 4 {
		if got := sendTo(t, c, exchange.Session{}); got != a.addr.String() {
			t.Errorf("a new session is with %s", got)
		}
		if got := sendTo(t, c, exchange.Session{Endpoint: b.addr}); got != b.addr.String() {
			t.Errorf("a session of the draining one went to %s", got)
		}
	}
}

// TestRetryLeavesSession holds that a retry goes elsewhere, as all retries do.
func TestRetryLeavesSession(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr, b.addr))
	ex := newExchange("GET", "")
	ex.Session, ex.Avoid = exchange.Session{Endpoint: a.addr}, []string{a.addr.String()}
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	finish(t, ex, lease)
	if ex.Upstream.Endpoint != b.addr.String() {
		t.Errorf("went to %s", ex.Upstream.Endpoint)
	}
}

// TestSessionOfUnhealthy has sessions of an endpoint that fails its checks, and
// then of two that both do.
func TestSessionOfUnhealthy(t *testing.T) {
	for _, both := range []bool{false, true} {
		ill, other := newChecked(t), newChecked(t)
		ill.status.Store(503)
		if both {
			other.status.Store(503)
		}
		c := newManagerFor(t, Options{}).NewCluster(withCheck(cfg(), healthz()), endpoints(ill.addr, other.addr))
		becomes(t, c, ill.addr, "unhealthy")
		want := other.addr.String()
		if both {
			becomes(t, c, other.addr, "unhealthy")
			want = ill.addr.String() // as if none were
		}
		for range 4 {
			if got := sendTo(t, c, exchange.Session{Endpoint: ill.addr}); got != want {
				t.Errorf("both are ill: %v: went to %s", both, got)
			}
		}
	}
}
