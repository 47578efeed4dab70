package upstream

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// TestRefusedGoesElsewhere holds that a dead endpoint costs no request, and is
// left alone soon.
func TestRefusedGoesElsewhere(t *testing.T) {
	a, b, dead := newBackend(t, ok), newBackend(t, ok), refusing(t)
	var now clock // stands still, so that no ejection ends meanwhile
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(a.addr, dead, b.addr))
	for range 30 {
		send(t, c, "POST", "content")
	}
	s := stateOf(t, c, dead)
	if s.State != "ejected" || s.ConnectFailures != 1 || s.Failures != 1 || s.Requests != 0 || s.Ejections["connect"] != 1 || s.Connections != 0 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAllRefuse(t *testing.T) {
	var addrs []netip.AddrPort
	for range 5 {
		addrs = append(addrs, refusing(t))
	}
	var now clock // stands still, so that no ejection ends meanwhile
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(addrs...))
	ex := newExchange("GET", "")
	if up := fail(t, c, ex); up.Reason != "connect_refused" || up.Stage != exchange.Dialing || ex.Upstream.Tries != 0 {
		t.Errorf("%v, %+v", up, ex.Upstream)
	}
	tried := 0
	for _, s := range c.State() {
		tried += int(s.ConnectFailures)
	}
	if tried != 3 {
		t.Errorf("%d endpoints were tried, want 3", tried)
	}
	for range 5 {
		fail(t, c, newExchange("GET", ""))
	}
	ejected := 0
	for _, s := range c.State() {
		if s.State == "ejected" {
			ejected++
		}
	}
	if ejected != 4 {
		t.Errorf("%d of 5 are ejected, want all but the last", ejected)
	}
}

// clock is the time as a test wants it.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_000_000_000, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// TestEjectionAndProbe follows an endpoint that is away for a while.
func TestEjectionAndProbe(t *testing.T) {
	var now clock
	a := newBackend(t, ok)
	addr := refusing(t)
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(a.addr, addr))
	sendSome := func() {
		for range 6 {
			send(t, c, "GET", "")
		}
	}
	failures := func() uint64 { return stateOf(t, c, addr).ConnectFailures }
	sendSome()
	if failures() != 1 {
		t.Fatalf("%d failures before the ejection", failures())
	}
	now.advance(700 * time.Millisecond) // less than 1 s and its jitter
	sendSome()
	if failures() != 1 {
		t.Fatal("it was tried while ejected")
	}
	// Each probe that fails is the only one, and doubles the time to the next, up to 5 s.
	for i, wait := range []time.Duration{1, 2, 4, 5, 5} {
		now.advance(wait*time.Second*12/10 + time.Millisecond)
		sendSome()
		if want := uint64(i + 2); failures() != want {
			t.Fatalf("after %d probes: %d failures, want %d", i+1, failures(), want)
		}
		now.advance(min(wait*2, 5) * time.Second * 7 / 10)
		sendSome()
		if want := uint64(i + 2); failures() != want {
			t.Fatalf("it was tried again after 0.7 of its time")
		}
	}
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		t.Skipf("the port was taken: %v", err)
	}
	b := serveOn(t, l, ok)
	now.advance(40 * time.Second)
	sendSome()
	if s := stateOf(t, c, addr); s.State != "ready" || b.requests.Load() != 3 {
		t.Errorf("it did not come back with its share: %+v, %d requests", s, b.requests.Load())
	}
	if c.ejected.Load() != 0 {
		t.Errorf("%d ejections are counted", c.ejected.Load())
	}
}

// TestPanic leaves only ejected endpoints in the set.
func TestPanic(t *testing.T) {
	a, dead := newBackend(t, ok), refusing(t)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(a.addr, dead))
	send(t, c, "GET", "")
	send(t, c, "GET", "")
	if s := stateOf(t, c, dead); s.State != "ejected" {
		t.Fatalf("%+v", s)
	}
	l, err := net.Listen("tcp", dead.String())
	if err != nil {
		t.Skipf("the port was taken: %v", err)
	}
	serveOn(t, l, ok)
	c.SetEndpoints(endpoints(dead))
	send(t, c, "GET", "")
	if s := stateOf(t, c, dead); s.State != "ready" || s.Requests != 1 {
		t.Errorf("%+v", s)
	}
}

// TestStale has an endpoint that closes each connection after its first
// response, without saying so. No request may fail, whatever its method.
func TestStale(t *testing.T) {
	closed := make(chan struct{}, 100)
	b := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool {
		ok(n, r, c)
		c.Close()
		closed <- struct{}{}
		return false
	})
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(b.addr))
	for i, method := range []string{"GET", "POST", "GET", "PUT", "POST", "PATCH", "DELETE"} {
		body := ""
		if method[0] == 'P' {
			body = "content"
		}
		ex := send(t, c, method, body)
		<-closed
		awaitEnd(t, c)
		if ex.Upstream.Tries != 1 || b.requests.Load() != int64(i+1) {
			t.Errorf("%s: %d tries, %d requests arrived of %d", method, ex.Upstream.Tries, b.requests.Load(), i+1)
		}
	}
}

// TestClosedUnanswered has an endpoint that reads the second request of each
// connection and closes without an answer: it may have acted on it.
func TestClosedUnanswered(t *testing.T) {
	for _, tc := range []struct {
		method, body string
		arrive       int64
		fails        bool
	}{
		{"GET", "", 2, false}, {"HEAD", "", 2, false}, {"DELETE", "", 2, false},
		{"POST", "", 1, true}, {"POST", "x", 1, true}, {"PUT", "x", 1, true}, {"PATCH", "x", 1, true},
	} {
		t.Run(tc.method+tc.body, func(t *testing.T) {
			var second sync.Map
			b := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool {
				if _, used := second.LoadOrStore(c, true); used {
					return false
				}
				if r.Method == "HEAD" {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
					return true
				}
				return ok(n, r, c)
			})
			c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(b.addr))
			send(t, c, "GET", "")
			b.requests.Store(0)
			ex := newExchange(tc.method, tc.body)
			if tc.fails {
				fail(t, c, ex)
			} else {
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Fatal(err)
				}
				finish(t, ex, lease)
				if ex.Upstream.Tries != 2 {
					t.Errorf("%d tries, want 2", ex.Upstream.Tries)
				}
			}
			if got := b.requests.Load(); got != tc.arrive {
				t.Errorf("it arrived %d times, want %d", got, tc.arrive)
			}
			if s := stateOf(t, c, b.addr); s.State != "ready" || s.InFlight != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestFreshFailureIsFinal: what a new connection got may have been acted on.
func TestFreshFailureIsFinal(t *testing.T) {
	b := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool { return false })
	other := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool { return false })
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(b.addr, other.addr))
	ex := newExchange("GET", "")
	if up := fail(t, c, ex); up.Stage != exchange.Sending || ex.Upstream.Tries != 1 {
		t.Errorf("%v at stage %d, %d tries", up, up.Stage, ex.Upstream.Tries)
	}
	if n := b.requests.Load() + other.requests.Load(); n != 1 {
		t.Errorf("it arrived %d times", n)
	}
}

// TestClosingUnderLoad has endpoints that close connections as they please
// between responses, and one where nobody listens. No request that may be
// repeated fails.
func TestClosingUnderLoad(t *testing.T) {
	fickle := func(n int64, r *http.Request, c net.Conn) bool { return ok(n, r, c) && n%3 != 0 }
	a, b := newBackend(t, fickle), newBackend(t, fickle)
	dead := refusing(t)
	var now clock // stands still, so that no ejection ends meanwhile
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(cfg(), endpoints(a.addr, dead, b.addr))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			ex := &exchange.Exchange{}
			for range 300 {
				fill(ex, "GET", "")
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Error(err)
					return
				}
				finish(t, ex, lease)
			}
		})
	}
	wg.Wait()
	for _, s := range c.State() {
		if s.InFlight != 0 || s.Connections != s.Idle {
			t.Errorf("%+v", s)
		}
	}
}

// TestAvoid holds that a retry goes to another endpoint while there is one.
func TestAvoid(t *testing.T) {
	a, b, d, dead := newBackend(t, ok), newBackend(t, ok), newBackend(t, ok), refusing(t)
	for _, tt := range []struct {
		name      string
		endpoints []netip.AddrPort
		avoid     []netip.AddrPort
		want      []netip.AddrPort
	}{
		{"the other one", []netip.AddrPort{a.addr, b.addr}, []netip.AddrPort{a.addr}, []netip.AddrPort{b.addr}},
		{"the third", []netip.AddrPort{a.addr, b.addr, d.addr}, []netip.AddrPort{a.addr, b.addr}, []netip.AddrPort{d.addr}},
		{"not the last two", []netip.AddrPort{a.addr, b.addr, d.addr}, []netip.AddrPort{a.addr, b.addr, d.addr}, []netip.AddrPort{a.addr}},
		{"one that is gone", []netip.AddrPort{a.addr}, []netip.AddrPort{b.addr}, []netip.AddrPort{a.addr}},
		{"the only one", []netip.AddrPort{a.addr}, []netip.AddrPort{a.addr}, []netip.AddrPort{a.addr}},
		{"all are", []netip.AddrPort{a.addr, b.addr}, []netip.AddrPort{a.addr, b.addr}, []netip.AddrPort{a.addr, b.addr}},
		{"rather than one that refuses", []netip.AddrPort{a.addr, dead}, []netip.AddrPort{a.addr}, []netip.AddrPort{a.addr}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(tt.endpoints...))
			for range 10 {
				ex := newExchange("GET", "")
				for _, addr := range tt.avoid {
					ex.Avoid = append(ex.Avoid, addr.String())
				}
				lease, err := c.RoundTrip(ex)
				if err != nil {
					t.Fatal(err)
				}
				got := netip.MustParseAddrPort(ex.Upstream.Endpoint)
				finish(t, ex, lease)
				if !slices.Contains(tt.want, got) {
					t.Errorf("it went to %v, want one of %v", got, tt.want)
				}
			}
		})
	}
}
