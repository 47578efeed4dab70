package pipeline

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// byUser is a split by the header X-User.
var byUser = &snapshot.Split{HashOn: []snapshot.HashKey{{Type: "Header", Name: "X-User"}}}

// shared is a route that shares clients among clusters "a" and "b" by weight, and
// "c", which is nowhere.
func shared(by *snapshot.Split, weights ...uint32) *snapshot.Route {
	return to("", func(r *snapshot.Route) {
		r.Rule.Split, r.Rule.Backends = by, nil
		for i, w := range weights {
			name := string(rune('a' + i))
			backend := snapshot.Backend{Name: "/Service/shop/" + name + "/80", Cluster: name, Weight: w}
			if name == "c" {
				backend.Cluster = ""
			}
			r.Rule.Backends = append(r.Rule.Backends, backend)
		}
	})
}

// places are where each of n users is sent.
func (b *bench) places(n int) []string {
	b.t.Helper()
	at := make([]string, n)
	for i := range at {
		ex := request("GET /", fmt.Sprintf("X-User: user-%d", i))
		b.Serve(ex)
		at[i], _ = ex.Response.Fields.Get("Cluster")
		b.Done(ex, nil)
	}
	return at
}

// moved counts the users by whence and whither they went.
func moved(before, after []string) map[string]int {
	n := map[string]int{}
	for i := range before {
		if before[i] != after[i] {
			n[before[i]+">"+after[i]]++
		}
	}
	return n
}

// TestSplitShares holds the shares of clients to the weights, by chi-square.
func TestSplitShares(t *testing.T) {
	const users = 20_000
	for _, weights := range [][]uint32{{90, 10}, {1, 1}, {999_900, 100_000}, {50, 30, 20}, {0, 1}} {
		b := newBench(t)
		b.host(gateway, "*", shared(byUser, weights...))
		b.must()
		counts := map[string]float64{}
		for _, place := range b.places(users) {
			counts[place]++
		}
		sum, chi := 0.0, 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		for i, w := range weights {
			name := strings.Trim(string(rune('a'+i)), "c") // nobody answers for c
			want := users * float64(w) / sum
			if w == 0 {
				if counts[name] > 0 {
					t.Errorf("%v: %v", weights, counts)
				}
				continue
			}
			chi += (counts[name] - want) * (counts[name] - want) / want
		}
		free := float64(len(weights) - 1)
		if z := (math.Cbrt(chi/free) - (1 - 2/(9*free))) / math.Sqrt(2/(9*free)); z > 6 {
			t.Errorf("%v: %v, chi-square %.1f", weights, counts, chi)
		}
	}
}

// TestSplitMovesFew holds that weights which change move clients to where there
// is more, and no others.
func TestSplitMovesFew(t *testing.T) {
	const users = 10_000
	b := newBench(t)
	at := func(weights ...uint32) []string {
		b.host(gateway, "*", shared(byUser, weights...))
		b.must()
		return b.places(users)
	}
	for _, tc := range []struct {
		before, after []uint32
		want          map[string]float64 // the share of all users that moves
	}{
		{[]uint32{90, 10}, []uint32{80, 20}, map[string]float64{"a>b": 0.1}},
		{[]uint32{80, 20}, []uint32{90, 10}, map[string]float64{"b>a": 0.1}},
		{[]uint32{90, 10}, []uint32{900, 100}, nil},
		{[]uint32{1, 0}, []uint32{99, 1}, map[string]float64{"a>b": 0.01}},
		{[]uint32{45, 45, 10}, []uint32{45, 45, 0}, map[string]float64{">a": 0.05, ">b": 0.05}},
		{[]uint32{50, 50, 0}, []uint32{40, 40, 20}, map[string]float64{"a>": 0.1, "b>": 0.1}},
	} {
		got := moved(at(tc.before...), at(tc.after...))
		if len(got) != len(tc.want) {
			t.Errorf("%v to %v moves %v", tc.before, tc.after, got)
		}
		for way, share := range tc.want {
			// Six standard deviations of a binomial distribution.
			want, bound := users*share, 6*math.Sqrt(users*share*(1-share))
			if math.Abs(float64(got[way])-want) > bound {
				t.Errorf("%v to %v moves %v, want %v of %d give or take %.0f", tc.before, tc.after, got, tc.want, users, bound)
			}
		}
	}
}

// TestSplitIsStable holds that neither another replica nor the order of the
// backends, other matches of the rule or a restart move a client.
func TestSplitIsStable(t *testing.T) {
	const users = 2000
	b := newBench(t)
	b.host(gateway, "*", shared(byUser, 70, 30))
	b.must()
	before := b.places(users)

	other := newBench(t)
	other.host(gateway, "*", to("", func(r *snapshot.Route) {
		*r = *shared(byUser, 70, 30)
		r.Rule.Source.Section, r.Rule.Source.Name = "canary", "another"
		from := r.Rule.Backends
		r.Rule.Backends = []snapshot.Backend{from[1], {Name: "/Service/shop/none/80", Cluster: "a", Weight: 0}, from[0]}
	}))
	other.must()
	if n := moved(before, other.places(users)); len(n) > 0 {
		t.Errorf("another replica moves %v", n)
	}
	// A Service that is gone takes its clients' requests, not those of others.
	gone := newBench(t)
	gone.host(gateway, "*", to("", func(r *snapshot.Route) {
		*r = *shared(byUser, 70, 30)
		r.Rule.Backends[1].Cluster = ""
	}))
	gone.must()
	if n := moved(before, gone.places(users)); len(n) != 1 || n["b>"] == 0 {
		t.Errorf("without b's Service: %v", n)
	}
}

// TestSplitWithoutKey sends requests that have nothing to hash on by weight.
func TestSplitWithoutKey(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", shared(byUser, 1, 1))
	b.must()
	seen := map[string]bool{}
	for range 200 {
		cluster, _ := b.serve(request("GET /"))
		seen[cluster] = true
	}
	if len(seen) != 2 {
		t.Errorf("requests without the header went to %v", seen)
	}
}

// TestSplitCookie gives new clients a cookie by which they stay.
func TestSplitCookie(t *testing.T) {
	b := newBench(t)
	by := &snapshot.Split{HashOn: []snapshot.HashKey{{Type: "Cookie", Name: "canary", SetCookie: &snapshot.HashCookie{Path: "/"}}}}
	b.host(gateway, "*", shared(by, 1, 1))
	b.must()
	seen := map[string]bool{}
	for range 50 {
		cluster, cookie := b.serve(request("GET /"))
		if !strings.HasPrefix(cookie, "canary=") {
			t.Fatalf("Set-Cookie: %q", cookie)
		}
		seen[cluster] = true
		if again, second := b.serve(request("GET /", "Cookie: "+cookie)); again != cluster || second != "" {
			t.Fatalf("with %s from %s to %s, and %q", cookie, cluster, again, second)
		}
	}
	if len(seen) != 2 {
		t.Errorf("new clients went to %v", seen)
	}
	// What Headgate answers itself tells nobody who they are.
	b.fakes["a"].err, b.fakes["b"].err = failed(exchange.Sending, "reset"), failed(exchange.Sending, "reset")
	ex := request("GET /")
	b.Serve(ex)
	if ex.Response.Status != 502 || ex.Response.Fields.Find(exchange.KeySetCookie) >= 0 {
		t.Errorf("%d %+v", ex.Response.Status, ex.Response.Fields)
	}
	b.Done(ex, nil)
}

// TestSessionBeatsSplit holds that a session stays at its backend when weights
// would move its client, and that a new one begins where the split says.
func TestSessionBeatsSplit(t *testing.T) {
	b, _ := newServed(t)
	at := func(weights ...uint32) {
		r := shared(byUser, weights...)
		r.Rule.SessionPersistence = sticky()
		b.host(gateway, "*", r)
		b.must()
	}
	at(1, 0)
	_, cookie := b.serve(request("GET /", "X-User: alice"))
	at(0, 1)
	if cluster, _ := b.serve(request("GET /", "X-User: alice", "Cookie: "+cookie)); cluster != "a" {
		t.Errorf("the session went to %s", cluster)
	}
	if cluster, _ := b.serve(request("GET /", "X-User: alice")); cluster != "b" {
		t.Errorf("a new session began at %s", cluster)
	}
	at(1, 1)
	first, _ := b.serve(request("GET /", "X-User: bob"))
	for range 20 {
		if cluster, _ := b.serve(request("GET /", "X-User: bob")); cluster != first {
			t.Fatalf("bob's sessions begin at %s and %s", first, cluster)
		}
	}
}

// TestSplitBroken has an expression that does not compile: it is reported, and
// requests go by weight.
func TestSplitBroken(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", shared(&snapshot.Split{HashOn: []snapshot.HashKey{{Type: "Expression", Expression: "request."}}}, 1, 1))
	if err := b.apply(); err == nil || !strings.Contains(err.Error(), "split: hashOn[0]: 1:9") {
		t.Errorf("%v", err)
	}
	if status, _ := b.do(request("GET /")); status != 200 {
		t.Error(status)
	}
}

// gate is a cluster that holds requests.
type gate struct {
	fake
	entered, leave chan bool
}

func (g *gate) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	g.entered <- true
	<-g.leave
	return g.fake.RoundTrip(ex)
}

// TestBlueGreen turns all requests from one backend to the other at once: what
// is in flight is answered by the old one, all that come by the new one.
func TestBlueGreen(t *testing.T) {
	const inFlight = 20
	blue, green := &gate{entered: make(chan bool, inFlight), leave: make(chan bool)}, &fake{}
	b := newBench(t, func(o *Options) {
		o.NewCluster = func(cfg *snapshot.Cluster, _ *snapshot.Endpoints) Cluster {
			if cfg.Key == "a" {
				blue.cfg = cfg
				return blue
			}
			green.cfg = cfg
			return green
		}
	})
	b.host(gateway, "*", shared(nil, 100, 0))
	b.must()
	done := make(chan string, inFlight)
	for range inFlight {
		go func() {
			ex := request("GET /")
			b.Serve(ex)
			cluster, _ := ex.Response.Fields.Get("Cluster")
			done <- fmt.Sprint(ex.Response.Status, " ", cluster)
			b.Done(ex, nil)
		}()
	}
	for range inFlight {
		<-blue.entered
	}
	b.host(gateway, "*", shared(nil, 0, 100))
	b.must()
	for range 100 {
		if cluster, _ := b.serve(request("GET /")); cluster != "b" {
			t.Fatalf("after the switch, %s has answered", cluster)
		}
	}
	close(blue.leave)
	for range inFlight {
		if got := <-done; got != "200 a" {
			t.Errorf("before the switch: %s", got)
		}
	}
	if blue, green := len(blue.seen()), len(green.seen()); blue != inFlight || green != 100 {
		t.Errorf("blue has served %d, green %d", blue, green)
	}
}
