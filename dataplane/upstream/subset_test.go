package upstream

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// byVersion has two selectors, of one header that Headgate knows and one that it does not.
func byVersion(fallback string) *snapshot.Subset {
	s := &snapshot.Subset{Fallback: fallback, Selectors: []snapshot.SubsetSelector{
		{Header: "x-version", Label: "version"}, {Header: "Accept-Language", Label: "lang"},
	}}
	if fallback == "Default" {
		s.Default = map[string]string{"version": "v1", "lang": "en"}
	}
	return s
}

// labelled are endpoints 192.0.2.1, .2 and so on with "version lang" as labels; "-" is none.
func labelled(texts ...string) *snapshot.Endpoints {
	eps := &snapshot.Endpoints{}
	for i, text := range texts {
		e := snapshot.Endpoint{Address: fmt.Sprintf("192.0.2.%d", i+1), Port: 80, Labels: map[string]string{}}
		for j, value := range strings.Fields(text) {
			if value != "-" {
				e.Labels[[]string{"version", "lang"}[j]] = value
			}
		}
		eps.Endpoints = append(eps.Endpoints, e)
	}
	return eps
}

// asking is a request with header fields, "Name: value".
func asking(fields ...string) *exchange.Exchange {
	ex := newExchange("GET", "")
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		ex.Out.Fields.Add(name, value)
	}
	return ex
}

// picked are the last parts of the addresses that requests come to.
func picked(c *Cluster, ex *exchange.Exchange) string {
	seen := map[string]bool{}
	for range 300 {
		st := c.state.Load()
		if ep, _, _ := c.pick(st, wish{subset: st.subsetOf(ex)}); ep != nil {
			seen[strings.TrimSuffix(strings.TrimPrefix(ep.address, "192.0.2."), ":80")] = true
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), " ")
}

func TestSubsets(t *testing.T) {
	at := labelled("v1 en", "v1 de", "v2 en", "v2 -", "- de")
	for _, tc := range []struct {
		fallback string
		fields   []string
		want     string
	}{
		{"Any", []string{"X-Version: v1"}, "1 2"},
		{"Any", []string{"X-Version: v2", "Accept-Language: en"}, "3"},
		{"Any", []string{"Accept-Language: de"}, "2 5"},
		{"Any", []string{"X-Version: v1", "X-Version: v2"}, "1 2"}, // of two lines the first
		{"Any", []string{"X-Version: "}, "1 2 3 4 5"},
		{"Any", nil, "1 2 3 4 5"},
		{"Any", []string{"X-Version: v3"}, "1 2 3 4 5"},
		{"Any", []string{"X-Version: v2", "Accept-Language: de"}, "1 2 3 4 5"},
		{"None", []string{"X-Version: v2"}, "3 4"},
		{"None", nil, ""},
		{"None", []string{"X-Version: v3"}, ""},
		{"Default", []string{"X-Version: v2"}, "3 4"},
		{"Default", nil, "1"},
		{"Default", []string{"X-Version: v3"}, "1"},
	} {
		for _, algorithm := range balance.Algorithms() {
			settings := cfg()
			settings.Balance = snapshot.Balance{Algorithm: algorithm, Subset: byVersion(tc.fallback), MaxRequests: 1}
			c := newManagerFor(t, Options{}).NewCluster(settings, at)
			got := picked(c, asking(tc.fields...))
			if algorithm == "RoundRobin" || algorithm == "Random" {
				if got != tc.want {
					t.Errorf("%s, fallback %s, %q: %s; want %s", algorithm, tc.fallback, tc.fields, got, tc.want)
				}
				continue
			}
			// Others may leave some out, and may not go anywhere else.
			for _, one := range strings.Fields(got) {
				if !strings.Contains(tc.want, one) {
					t.Errorf("%s, fallback %s, %q: %s; want some of %s", algorithm, tc.fallback, tc.fields, got, tc.want)
				}
			}
			if (got == "") != (tc.want == "") {
				t.Errorf("%s, fallback %s, %q: %q; want %q", algorithm, tc.fallback, tc.fields, got, tc.want)
			}
		}
	}
}

// TestSubsetHealth holds that tiers and health are a subset's own.
func TestSubsetHealth(t *testing.T) {
	at := labelled("v1", "v1", "v2", "v2", "v2")
	at.Endpoints[4].Priority = 1
	settings := cfg()
	settings.Balance = snapshot.Balance{Subset: byVersion("Any")}
	c := newManagerFor(t, Options{}).NewCluster(settings, at)
	v1, v2 := asking("X-Version: v1"), asking("X-Version: v2")
	find := func(i int) *endpoint { return c.state.Load().members[i-1].ep }
	check := func(when, wantV1, wantV2, wantAll string) {
		t.Helper()
		if a, b, all := picked(c, v1), picked(c, v2), picked(c, asking()); a != wantV1 || b != wantV2 || all != wantAll {
			t.Errorf("%s: v1 %s, v2 %s, all %s; want %s, %s, %s", when, a, b, all, wantV1, wantV2, wantAll)
		}
	}
	check("all well", "1 2", "3 4", "1 2 3 4")
	find(3).SetHealthy(false, errors.New("as the test says"))
	check("without 3", "1 2", "4 5", "1 2 4") // half of v2 is less than 70 %: its backup helps
	find(4).SetHealthy(false, errors.New("as the test says"))
	check("without 3 and 4", "1 2", "5", "1 2 5")
	find(5).SetHealthy(false, errors.New("as the test says"))
	check("without v2", "1 2", "3 4", "1 2") // none of it is healthy: as likely as not the fault is elsewhere
	find(3).SetHealthy(true, nil)
	check("with 3 again", "1 2", "3", "1 2 3")
	c.SetEndpoints(labelled("v1", "v1", "v2", "v2"))
	check("4 is unhealthy still", "1 2", "3", "1 2 3")
	find(4).SetHealthy(true, nil)
	check("all are back", "1 2", "3 4", "1 2 3 4")
	for _, i := range []int{1, 2, 3, 4} {
		for _, tier := range find(i).tiers {
			if n := tier.down.Load(); n != 0 {
				t.Errorf("%d is down by %d in a tier", i, n)
			}
		}
	}
}

// TestSubsetRoundTrip holds that another try, a queue and a session keep to it.
func TestSubsetRoundTrip(t *testing.T) {
	one, two, dead := newBackend(t, ok), newBackend(t, ok), newBackend(t, ok)
	dead.close()
	at := endpoints(one.addr, two.addr, dead.addr)
	for i := range at.Endpoints {
		version := "v2"
		if at.Endpoints[i].Port == two.addr.Port() {
			version = "v1"
		}
		at.Endpoints[i].Labels = map[string]string{"version": version}
	}
	settings := cfg()
	settings.Balance = snapshot.Balance{Subset: byVersion("None")}
	settings.CircuitBreaker = &snapshot.CircuitBreaker{
		PerEndpoint: snapshot.PerEndpointBounds{MaxRequests: 1}, Queue: snapshot.RequestQueue{MaxRequests: 8, Timeout: time.Minute},
	}
	c := newManagerFor(t, Options{}).NewCluster(settings, at)
	for range 20 {
		ex := asking("X-Version: v2")
		lease, err := c.RoundTrip(ex)
		if err != nil || ex.Upstream.Endpoint != one.addr.String() {
			t.Fatalf("%s, %v", ex.Upstream.Endpoint, err)
		}
		finish(t, ex, lease)
	}
	// What is asked of v2 waits for v2 alone.
	first := asking("X-Version: v2")
	held, err := c.RoundTrip(first)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan string)
	go func() {
		ex := asking("X-Version: v2")
		lease, err := c.RoundTrip(ex)
		if err != nil {
			done <- err.Error()
			return
		}
		endpoint := ex.Upstream.Endpoint
		finish(t, ex, lease)
		done <- endpoint
	}()
	eventually(t, "a request waits", func() bool { return c.queue.length.Load() == 1 })
	finish(t, first, held)
	if got := <-done; got != one.addr.String() {
		t.Errorf("what has waited went to %s", got)
	}
	// A session goes before it.
	ex := asking("X-Version: v2")
	ex.Session = exchange.Session{Endpoint: netip.AddrPortFrom(two.addr.Addr(), two.addr.Port())}
	lease, err := c.RoundTrip(ex)
	if err != nil || ex.Upstream.Endpoint != two.addr.String() {
		t.Fatalf("%s, %v", ex.Upstream.Endpoint, err)
	}
	finish(t, ex, lease)
	var up *exchange.UpstreamError
	if _, err := c.RoundTrip(asking()); !errors.As(err, &up) || up.Reason != "no_endpoint" {
		t.Errorf("without the header: %v", err)
	}
}

// TestSubsetAllocatesNothing holds that finding a subset and an endpoint is free.
func TestSubsetAllocatesNothing(t *testing.T) {
	settings := cfg()
	settings.Balance = snapshot.Balance{Subset: byVersion("Any")}
	c := newManagerFor(t, Options{}).NewCluster(settings, labelled("v1 en", "v2 en", "v2 de"))
	ex := asking("X-Version: v2", "Accept-Language: en")
	if n := testing.AllocsPerRun(500, func() {
		st := c.state.Load()
		if ep, _, _ := c.pick(st, wish{subset: st.subsetOf(ex)}); ep == nil {
			t.Error("nothing was picked")
		}
		ex.Arena.Reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSubset(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			eps := &snapshot.Endpoints{}
			for i := range n {
				eps.Endpoints = append(eps.Endpoints, snapshot.Endpoint{
					Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String(), Port: 80,
					Labels: map[string]string{"version": fmt.Sprint("v", i%4), "lang": fmt.Sprint("l", i%8)},
				})
			}
			settings := cfg()
			b.Run("change without", func(b *testing.B) {
				c := newManagerFor(b, Options{}).NewCluster(settings, eps)
				for b.Loop() {
					c.SetEndpoints(eps)
				}
			})
			settings.Balance = snapshot.Balance{Subset: byVersion("Any")}
			c := newManagerFor(b, Options{}).NewCluster(settings, eps)
			ex := asking("X-Version: v2", "Accept-Language: l6")
			b.Run("pick", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					st := c.state.Load()
					c.pick(st, wish{subset: st.subsetOf(ex)})
					ex.Arena.Reset()
				}
			})
			b.Run("change", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					c.SetEndpoints(eps)
				}
			})
		})
	}
}
