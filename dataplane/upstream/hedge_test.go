package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestLatencies compares percentiles with those of the samples themselves: they
// are of the same bucket.
func TestLatencies(t *testing.T) {
	var l latencies
	if got := l.percentile(95); got != 0 {
		t.Errorf("%v of nothing", got)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range latencyWindow - 1 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		l.observe(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, p := range []int{50, 90, 95, 99} {
		exact := all[(len(all)*p+99)/100-1]
		if got := l.percentile(p); got < exact || got > exact*5/4 {
			t.Errorf("percentile %d is %v, by the samples %v", p, got, exact)
		}
	}
	// What was is forgotten, if not at once.
	for range 10 * latencyWindow {
		l.observe(time.Second)
	}
	if got := l.percentile(50); got < time.Second || got > 5*time.Second/4 {
		t.Errorf("the median is %v of a second each", got)
	}
}

func TestLatencyBuckets(t *testing.T) {
	for i := range latencyBuckets - 1 {
		bound := latencyBound(i)
		if at, above := latencyBucket(bound), latencyBucket(bound+1); at != i || above != i+1 {
			t.Errorf("%v is in bucket %d, the next ns in %d, want %d", bound, at, above, i)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1} {
		if i := latencyBucket(d); i != 0 {
			t.Errorf("%v is in bucket %d", d, i)
		}
	}
	if i := latencyBucket(time.Hour); i != latencyBuckets-1 {
		t.Errorf("an hour is in bucket %d", i)
	}
}

func TestHedgeDelay(t *testing.T) {
	c := newManagerFor(t, Options{}).NewCluster(cfg(), nil)
	for n := range 2 * leastLatencies {
		if got := c.HedgeDelay(95); (got == 0) != (n < leastLatencies) {
			t.Fatalf("%v after %d", got, n)
		}
		c.Answered(time.Millisecond)
	}
	allocs := testing.AllocsPerRun(100, func() {
		c.Answered(time.Millisecond)
		c.HedgeDelay(95)
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestAllowHedge: hedges count as retries; without a budget for these, they have one.
func TestAllowHedge(t *testing.T) {
	now := time.Now()
	m := newManagerFor(t, Options{Now: func() time.Time { return now }, SweepInterval: time.Hour})
	allowed := func(c *Cluster, hold bool) (n int) {
		for range 1000 {
			if c.AllowHedge() {
				if n++; !hold {
					c.EndRetry()
				}
			}
		}
		return n
	}
	c := m.NewCluster(cfg(), nil)
	for range 500 {
		c.Answered(time.Millisecond)
	}
	if n := allowed(c, false); n != 100 {
		t.Errorf("%d hedges of 500 requests", n)
	}
	bounded := cfg()
	bounded.RetryBudget = &snapshot.RetryBudget{Percent: 0, Interval: time.Second, MinRetryRate: snapshot.RequestRate{Count: 7, Interval: time.Second}}
	c = m.NewCluster(bounded, nil)
	c.Answered(time.Millisecond)
	if n := allowed(c, false); n != 7 {
		t.Errorf("%d hedges, 7 by the retry budget", n)
	}
	bounded = cfg()
	bounded.CircuitBreaker = &snapshot.CircuitBreaker{MaxRetries: 3}
	c = m.NewCluster(bounded, nil)
	for range 500 {
		c.Answered(time.Millisecond)
	}
	if n := allowed(c, true); n != 3 || c.retries.Load() != 3 {
		t.Errorf("%d hedges at a time, and %d retries are under way", n, c.retries.Load())
	}
}

// TestHedgeRoundTrip: a hedge goes nowhere rather than where the request is already,
// and waits for no room.
func TestHedgeRoundTrip(t *testing.T) {
	a, b := newBackend(t, ok), newBackend(t, ok)
	settings := cfg()
	settings.CircuitBreaker = &snapshot.CircuitBreaker{MaxRequests: 1, Queue: snapshot.RequestQueue{MaxRequests: 1, Timeout: time.Hour}}
	c := newManagerFor(t, Options{}).NewCluster(settings, endpoints(a.addr, b.addr))
	hedge := func(avoid ...netip.AddrPort) *exchange.Exchange {
		ex := newExchange("GET", "")
		ex.Hedge = true
		for _, addr := range avoid {
			ex.Avoid = append(ex.Avoid, addr.String())
		}
		return ex
	}
	for range 4 {
		ex := hedge(a.addr)
		lease, err := c.RoundTrip(ex)
		if err != nil || ex.Upstream.Endpoint != b.addr.String() {
			t.Fatalf("at %s, %v", ex.Upstream.Endpoint, err)
		}
		finish(t, ex, lease)
	}
	if up := fail(t, c, hedge(a.addr, b.addr)); up.Reason != "no_endpoint" {
		t.Errorf("reason %q", up.Reason)
	}
	for _, m := range c.state.Load().members {
		m.ep.SetHealthy(m.ep.addr == a.addr, errors.New("as the test says"))
	}
	if up := fail(t, c, hedge(a.addr)); up.Reason != "no_endpoint" || stateOf(t, c, b.addr).InFlight != 0 {
		t.Errorf("to an unhealthy one: reason %q", up.Reason)
	}
	ex := newExchange("GET", "")
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	if up := fail(t, c, hedge()); up.Reason != "circuit_open" {
		t.Errorf("reason %q", up.Reason)
	}
	finish(t, ex, lease)
}

// TestOutrun gives requests up in each of their stages: they end at once, and
// leave nothing behind. What they have waited for a response counts for their endpoint.
func TestOutrun(t *testing.T) {
	held := make(chan struct{})
	b := newBackend(t, func(int64, *http.Request, net.Conn) bool { <-held; return false })
	t.Cleanup(func() { close(held) })
	dialing := make(chan struct{}, 1)
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialing <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, tt := range map[string]struct {
		opts   Options
		edit   func(*snapshot.Cluster)
		fill   bool // the only place is taken
		waits  func(c *Cluster) bool
		counts bool
	}{
		"waiting for a response": {Options{}, func(*snapshot.Cluster) {}, false, func(*Cluster) bool { return b.requests.Load() > 0 }, true},
		"connecting":             {Options{Dial: hang}, func(*snapshot.Cluster) {}, false, func(*Cluster) bool { return len(dialing) > 0 }, false},
		"in the queue": {Options{}, func(c *snapshot.Cluster) {
			c.CircuitBreaker = &snapshot.CircuitBreaker{MaxRequests: 1, Queue: snapshot.RequestQueue{MaxRequests: 1, Timeout: time.Hour}}
		}, true, func(c *Cluster) bool { return c.queue.length.Load() > 0 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			settings := cfg()
			settings.OutlierDetection = &snapshot.OutlierDetection{LatencyFactor: 2, Interval: time.Hour}
			settings.ConnectTimeout = time.Hour
			tt.edit(settings)
			c := newManagerFor(t, tt.opts).NewCluster(settings, endpoints(b.addr))
			if tt.fill {
				c.inFlight.Add(1)
				defer c.inFlight.Add(-1)
			}
			ex := newExchange("GET", "")
			done := make(chan error, 1)
			go func() {
				lease, err := c.RoundTrip(ex)
				if err == nil {
					lease.Release()
				}
				done <- err
			}()
			eventually(t, "it waits", func() bool { return tt.waits(c) && ex.Awaiting(func() {}) })
			ex.Outrun()
			select {
			case err := <-done:
				if err != exchange.ErrAbandoned {
					t.Errorf("%v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on")
			}
			if !ex.WasOutrun() || !ex.Abandoned() {
				t.Error("it does not know")
			}
			ex.Resume()
			if ex.WasOutrun() || ex.Abandoned() {
				t.Error("its client is taken to have left")
			}
			s := stateOf(t, c, b.addr)
			if s.InFlight != 0 || s.Connections != 0 || s.State == "ejected" || (s.Latency > 0) != tt.counts {
				t.Errorf("%+v", s)
			}
			ep := c.state.Load().members[0].ep
			if n := ep.outcomes.responses.Load(); (n == 1) != tt.counts || ep.outcomes.errors.Load() != 0 {
				t.Errorf("%d responses, %d errors", n, ep.outcomes.errors.Load())
			}
		})
	}
}
