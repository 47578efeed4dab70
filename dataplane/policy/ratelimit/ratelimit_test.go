package ratelimit

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// clock is a clock that stands still until it is moved.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000, 0).Add(time.Duration(c.ns.Load())) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func newEnv() (*policy.Env, *clock) {
	c := &clock{}
	return &policy.Env{State: policy.NewState(), Now: c.now}, c
}

func build(t testing.TB, env *policy.Env, limits ...Limit) policy.Filter {
	t.Helper()
	filter, err := (&Config{Limits: limits}).Build(env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(filter.Release)
	return filter
}

func request(ip string) *exchange.Exchange {
	ex := &exchange.Exchange{Route: &exchange.RouteInfo{Kind: "HTTPRoute", Namespace: "shop", Name: "orders"}}
	if ip != "" {
		ex.ClientIP = netip.MustParseAddr(ip)
	}
	return ex
}

// allowed sends n requests and returns how many were let through.
func allowed(filter policy.Filter, ex *exchange.Exchange, n int) int {
	passed := 0
	for range n {
		if filter.Request(ex) == exchange.Continue {
			passed++
		}
	}
	return passed
}

func TestBucket(t *testing.T) {
	env, clock := newEnv()
	filter := build(t, env, Limit{Name: "a", Key: "a", Requests: 10, Per: time.Second, Burst: 4})
	ex := request("")
	for _, step := range []struct {
		after time.Duration
		want  int
	}{
		{0, 4},                       // the burst
		{0, 0},                       // and no more
		{99 * time.Millisecond, 0},   // a token comes each 100 ms
		{time.Millisecond, 1},        //
		{250 * time.Millisecond, 2},  // half a token stays
		{50 * time.Millisecond, 1},   //
		{time.Hour, 4},               // never more than the burst
		{-time.Minute, 0},            // a clock that goes back gives nothing
		{time.Minute + time.Hour, 4}, //
	} {
		clock.advance(step.after)
		if got := allowed(filter, ex, 20); got != step.want {
			t.Errorf("after %v: %d passed, want %d", step.after, got, step.want)
		}
	}
}

func TestKeys(t *testing.T) {
	with := func(f func(*exchange.Exchange)) *exchange.Exchange {
		ex := request("192.0.2.1")
		f(ex)
		return ex
	}
	same := func(*exchange.Exchange) {}
	for _, c := range []struct {
		name   string
		by     []Part
		change func(*exchange.Exchange)
		apart  bool
	}{
		{"none", nil, func(ex *exchange.Exchange) { ex.ClientIP = netip.MustParseAddr("192.0.2.2") }, false},
		{"ip same", []Part{{Type: "ClientIP"}}, same, false},
		{"ip mapped", []Part{{Type: "ClientIP"}}, func(ex *exchange.Exchange) { ex.ClientIP = netip.MustParseAddr("::ffff:192.0.2.1") }, false},
		{"ip other", []Part{{Type: "ClientIP"}}, func(ex *exchange.Exchange) { ex.ClientIP = netip.MustParseAddr("192.0.2.2") }, true},
		{"consumer", []Part{{Type: "Consumer"}}, func(ex *exchange.Exchange) { ex.Consumer.Name = "alice" }, true},
		{"header", []Part{{Type: "Header", Header: "X-Tenant"}}, func(ex *exchange.Exchange) { ex.In.Fields.Add("x-tenant", "a") }, true},
		{"header, well-known", []Part{{Type: "Header", Header: "User-Agent"}}, func(ex *exchange.Exchange) { ex.In.Fields.Add("user-agent", "a") }, true},
		{"header, as sent upstream", []Part{{Type: "Header", Header: "X-Tenant"}}, func(ex *exchange.Exchange) { ex.Out.Fields.Add("x-tenant", "a") }, false},
		{"route", []Part{{Type: "Route"}}, func(ex *exchange.Exchange) {
			ex.Route = &exchange.RouteInfo{Kind: "HTTPRoute", Namespace: "shop", Name: "carts"}
		}, true},
		{"rule of a route", []Part{{Type: "Route"}}, func(ex *exchange.Exchange) {
			ex.Route = &exchange.RouteInfo{Kind: "HTTPRoute", Namespace: "shop", Name: "orders", Rule: "1"}
		}, false},
		{"both", []Part{{Type: "ClientIP"}, {Type: "Route"}}, func(ex *exchange.Exchange) { ex.Consumer.Name = "alice" }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, _ := newEnv()
			filter := build(t, env, Limit{Name: "a", Key: "a", Requests: 1, Per: time.Hour, Burst: 1, By: c.by})
			if allowed(filter, request("192.0.2.1"), 1) != 1 {
				t.Fatal("the first request did not pass")
			}
			if apart := allowed(filter, with(c.change), 1) == 1; apart != c.apart {
				t.Errorf("has a bucket of its own: %v, want %v", apart, c.apart)
			}
		})
	}
	t.Run("IPv6 by /64", func(t *testing.T) {
		env, _ := newEnv()
		filter := build(t, env, Limit{Name: "a", Key: "a", Requests: 1, Per: time.Hour, Burst: 1, By: []Part{{Type: "ClientIP"}}})
		for ip, want := range map[string]int{"2001:db8::1": 1, "2001:db8:0:1::1": 1} {
			if got := allowed(filter, request(ip), 1); got != want {
				t.Errorf("%s: %d", ip, got)
			}
		}
		if allowed(filter, request("2001:db8::ffff:1"), 1) != 0 {
			t.Error("a network has more than one bucket")
		}
	})
}

func TestAnswers(t *testing.T) {
	env, clock := newEnv()
	filter := build(t, env,
		Limit{Name: "per-second", Key: "s", Requests: 10, Per: time.Second, Burst: 10},
		Limit{Name: "per-minute", Key: "m", Requests: 2, Per: time.Minute, Burst: 2})
	fields := func(ex *exchange.Exchange) string {
		var all []string
		for _, f := range ex.Response.Fields {
			if f.Name != "Content-Type" {
				all = append(all, f.Name+": "+f.Value)
			}
		}
		return strings.Join(all, "\n")
	}
	const policies = "RateLimit-Policy: \"per-second\";q=10;w=1, \"per-minute\";q=2;w=60\n"

	ex := request("")
	filter.Request(ex)
	filter.Response(ex)
	if got, want := fields(ex), policies+`RateLimit: "per-second";r=9;t=1, "per-minute";r=1;t=30`; got != want {
		t.Errorf("let through:\n%s\nwant\n%s", got, want)
	}
	filter.Request(request(""))
	clock.advance(500 * time.Millisecond)
	ex = request("")
	if filter.Request(ex) != exchange.Answered || ex.Response.Status != 429 || ex.Response.LocalReason != "rate_limited" {
		t.Fatalf("the third request was answered %d", ex.Response.Status)
	}
	// The refused request gave its token of the first limit back.
	if got, want := fields(ex), "Retry-After: 30\n"+policies+`RateLimit: "per-second";r=10;t=0, "per-minute";r=0;t=60`; got != want {
		t.Errorf("limited:\n%s\nwant\n%s", got, want)
	}
}

func TestStateOutlivesConfiguration(t *testing.T) {
	env, _ := newEnv()
	limit := Limit{Name: "a", Key: "shop/a", Requests: 4, Per: time.Hour, Burst: 4}
	old, err := (&Config{Limits: []Limit{limit}}).Build(env)
	if err != nil {
		t.Fatal(err)
	}
	if got := allowed(old, request(""), 9); got != 4 {
		t.Fatal(got)
	}
	limit.Requests, limit.Burst = 8, 8
	filter := build(t, env, limit)
	old.Release()
	// Four of four tokens were used, an hour's worth; of eight that is all of them too.
	if got := allowed(filter, request(""), 9); got != 0 {
		t.Errorf("a new configuration forgot what was used: %d passed", got)
	}
}

func TestConcurrentRequestsAreCountedExactly(t *testing.T) {
	env, _ := newEnv()
	filter := build(t, env, Limit{Name: "a", Key: "a", Requests: 1000, Per: time.Hour, Burst: 1000, By: []Part{{Type: "ClientIP"}}})
	var passed [3]atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range passed {
				passed[i].Add(int64(allowed(filter, request(fmt.Sprintf("192.0.2.%d", i)), 500)))
			}
		})
	}
	wg.Wait()
	for i := range passed {
		if n := passed[i].Load(); n != 1000 {
			t.Errorf("client %d: %d of 4000 passed, want 1000", i, n)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, l := range map[string]Limit{
		"no requests": {Name: "a", Key: "a", Per: time.Second, Burst: 1},
		"no time":     {Name: "a", Key: "a", Requests: 1, Burst: 1},
		"no burst":    {Name: "a", Key: "a", Requests: 1, Per: time.Second},
		"huge burst":  {Name: "a", Key: "a", Requests: 1, Per: 24 * time.Hour, Burst: 1 << 40},
		"type":        {Name: "a", Key: "a", Requests: 1, Per: time.Second, Burst: 1, By: []Part{{Type: "Moon"}}},
		"header":      {Name: "a", Key: "a", Requests: 1, Per: time.Second, Burst: 1, By: []Part{{Type: "Header"}}},
	} {
		env, _ := newEnv()
		if _, err := (&Config{Limits: []Limit{l}}).Build(env); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	env, clock := newEnv()
	filter := build(t, env,
		Limit{Name: "a", Key: "a", Requests: 1000, Per: time.Second, Burst: 10, By: []Part{{Type: "ClientIP"}, {Type: "Header", Header: "X-T"}, {Type: "Consumer"}}},
		Limit{Name: "b", Key: "b", Requests: 1000, Per: time.Second, Burst: 10, By: []Part{{Type: "Route"}}})
	ex := request("192.0.2.1")
	ex.In.Fields.Add("X-T", "a")
	if n := testing.AllocsPerRun(200, func() {
		filter.Request(ex)
		filter.Response(ex)
		ex.Response.Fields = ex.Response.Fields[:0]
		ex.Arena.Reset()
		clock.advance(time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	env := &policy.Env{State: policy.NewState(), Now: time.Now}
	filter := build(b, env, Limit{Name: "a", Key: "a", Requests: 1_000_000_000, Per: time.Second, Burst: 1_000_000_000, By: []Part{{Type: "ClientIP"}}})
	ex := request("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		filter.Request(ex)
		filter.Response(ex)
		ex.Response.Fields = ex.Response.Fields[:0]
		ex.Arena.Reset()
	}
}
