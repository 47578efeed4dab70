package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestHashOnNothing holds that what a request lacks, or an expression that is
// none, sends it anywhere, not to one endpoint.
func TestHashOnNothing(t *testing.T) {
	for _, key := range []snapshot.HashKey{{Type: "Header", Name: "X-User"}, {Type: "Expression", Expression: "request."}} {
		settings := cfg()
		settings.Balance = snapshot.Balance{Algorithm: "RingHash", HashOn: []snapshot.HashKey{key}}
		st := newManagerFor(t, Options{}).NewCluster(settings, nil).state.Load()
		ex := newExchange("GET", "")
		if first := st.hash(ex); !st.hashes || st.hash(ex) == first {
			t.Errorf("%+v: %t, and the hash %x twice", key, st.hashes, first)
		}
	}
}

// TestHashCookie has clients get a cookie by which they stay where they are.
func TestHashCookie(t *testing.T) {
	var at [3]*backend
	var addrs []netip.AddrPort
	for i := range at {
		at[i] = newBackend(t, ok)
		addrs = append(addrs, at[i].addr)
	}
	settings := cfg()
	settings.Balance = snapshot.Balance{Algorithm: "Maglev", HashOn: []snapshot.HashKey{
		{Type: "Cookie", Name: "sid", SetCookie: &snapshot.HashCookie{MaxAge: time.Hour, Path: "/shop"}},
	}}
	c := newManagerFor(t, Options{}).NewCluster(settings, endpoints(addrs...))
	used := map[string]bool{}
	for i := range 30 {
		ex := newExchange("GET", "")
		if ex.In.Scheme = "http"; i%2 == 0 {
			ex.In.Scheme = "https"
		}
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		if len(ex.NewCookies) != 1 {
			t.Fatalf("new cookies: %+v", ex.NewCookies)
		}
		set := ex.NewCookies[0].SetCookie
		pair, attributes, _ := strings.Cut(strings.Clone(set), ";")
		want := " Path=/shop; Max-Age=3600; HttpOnly; SameSite=Lax"
		if i%2 == 0 {
			want = " Path=/shop; Max-Age=3600; Secure; HttpOnly; SameSite=Lax"
		}
		if !strings.HasPrefix(pair, "sid=") || len(pair) < len("sid=")+20 || attributes != want {
			t.Fatalf("Set-Cookie: %s", set)
		}
		first := ex.Upstream.Endpoint
		used[first] = true
		finish(t, ex, lease)

		fill(ex, "GET", "")
		ex.Out.Fields = append(ex.Out.Fields, exchange.NewField("Cookie", "a=b; "+pair))
		if lease, err = c.RoundTrip(ex); err != nil {
			t.Fatal(err)
		}
		if again := len(ex.NewCookies) > 0; again || ex.Upstream.Endpoint != first {
			t.Errorf("with %s it went from %s to %s, again %t", pair, first, ex.Upstream.Endpoint, again)
		}
		finish(t, ex, lease)
	}
	if len(used) != len(at) {
		t.Errorf("only %v were used", used)
	}
}

// TestStreamsHashOnClients holds that connections have nothing but a client.
func TestStreamsHashOnClients(t *testing.T) {
	settings := cfg()
	settings.Balance = snapshot.Balance{Algorithm: "RingHash", HashOn: []snapshot.HashKey{{Type: "Header", Name: "X-User"}}}
	c := newManagerFor(t, Options{}).NewCluster(settings, endpoints(
		netip.MustParseAddrPort("127.0.0.1:1001"), netip.MustParseAddrPort("127.0.0.1:1002"), netip.MustParseAddrPort("127.0.0.1:1003")))
	used := map[string]bool{}
	for i := range byte(20) {
		client := netip.AddrFrom4([4]byte{192, 0, 2, i})
		at := ""
		for range 3 {
			nc, release, err := c.Datagrams(client)
			if err != nil {
				t.Fatal(err)
			}
			if now := nc.RemoteAddr().String(); at != "" && now != at {
				t.Fatalf("%s went to %s, then to %s", client, at, now)
			} else {
				at = now
			}
			nc.Close()
			release()
		}
		used[at] = true
	}
	if len(used) < 2 {
		t.Errorf("all went to %v", used)
	}
}

// TestPeakEWMALeavesTheSlow has one of three endpoints answer late.
func TestPeakEWMALeavesTheSlow(t *testing.T) {
	slow := newBackend(t, func(n int64, r *http.Request, c net.Conn) bool {
		time.Sleep(time.Second)
		return ok(n, r, c)
	})
	a, b := newBackend(t, ok), newBackend(t, ok)
	settings := cfg()
	settings.Balance.Algorithm = "PeakEWMA"
	c := newManagerFor(t, Options{Now: newManualClock().Now}).NewCluster(settings, endpoints(slow.addr, a.addr, b.addr))
	for range 200 {
		send(t, c, "GET", "")
	}
	// One is enough to find out; another one may be, if all were unknown.
	if n := slow.requests.Load(); n < 1 || n > 2 {
		t.Errorf("the slow endpoint got %d of 200 requests", n)
	}
}

// TestFirstAvailableFillsTiers fills the first tier, then the next, then all.
func TestFirstAvailableFillsTiers(t *testing.T) {
	eps := endpoints(netip.MustParseAddrPort("127.0.0.1:1001"), netip.MustParseAddrPort("127.0.0.1:1002"),
		netip.MustParseAddrPort("127.0.0.1:1003"), netip.MustParseAddrPort("127.0.0.1:1004"))
	eps.Endpoints[0].Priority = 1
	eps.Endpoints[3].Draining = true
	settings := cfg()
	settings.Balance = snapshot.Balance{Algorithm: "FirstAvailable", MaxRequests: 2}
	c := newManagerFor(t, Options{}).NewCluster(settings, eps)
	got := ""
	for range 8 {
		ep, _, _ := c.pick(c.state.Load(), wish{})
		c.begin(c.state.Load(), ep)
		defer ep.end()
		got += ep.address[len(ep.address)-1:]
	}
	if got[:6] != "223311" || strings.Contains(got, "4") {
		t.Errorf("requests went to %s", got)
	}
}

// TestInFlight holds that the cluster's count is that of its endpoints, with
// HTTP/1.1 and HTTP/2, after failures as well.
func TestInFlight(t *testing.T) {
	good, bad := newBackend(t, ok), newBackend(t, func(int64, *http.Request, net.Conn) bool { return false })
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(good.addr, bad.addr, refusing(t)))
	for range 20 {
		ex := newExchange("POST", "content")
		if lease, err := c.RoundTrip(ex); err == nil {
			if n := c.inFlight.Load(); n != 1 {
				t.Fatalf("%d are in flight", n)
			}
			finish(t, ex, lease)
		}
		if n := c.inFlight.Load(); n != 0 {
			t.Fatalf("%d are in flight, and none is", n)
		}
	}
}

// BenchmarkManyEndpoints changes one of 10,000 endpoints, which are checked, and
// tells how much memory each of them takes with a check and without.
func BenchmarkManyEndpoints(b *testing.B) {
	const count = 10_000
	eps := func(extra int) *snapshot.Endpoints {
		list := &snapshot.Endpoints{}
		for i := range count {
			list.Endpoints = append(list.Endpoints, snapshot.Endpoint{Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Port: 80})
		}
		list.Endpoints[count/2].Address = fmt.Sprintf("10.2.0.%d", extra)
		return list
	}
	sets := [2]*snapshot.Endpoints{eps(1), eps(2)}
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("not today") }
	for _, algorithm := range []string{"RoundRobin", "LeastRequest", "RingHash", "Maglev"} {
		b.Run(algorithm, func(b *testing.B) {
			m := newManagerFor(b, Options{Dial: refuse})
			before := heap()
			x := cfg()
			x.Balance.Algorithm = algorithm
			c := m.NewCluster(x, sets[0])
			plain := heap()
			c.Update(withCheck(x, &snapshot.HealthCheck{Interval: time.Hour, HTTP: &snapshot.HTTPHealthCheck{}}))
			checked := heap()
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				c.SetEndpoints(sets[i%2])
			}
			b.ReportMetric((plain-before)/count, "B/endpoint")
			b.ReportMetric((checked-plain)/count, "B/check")
		})
	}
}
