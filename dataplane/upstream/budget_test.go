package upstream

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

func budgetOf(percent int, interval time.Duration, count int, per time.Duration) *snapshot.RetryBudget {
	return &snapshot.RetryBudget{Percent: percent, Interval: interval, MinRetryRate: snapshot.RequestRate{Count: count, Interval: per}}
}

// taken returns how many of n retries are allowed.
func taken(b *retryBudget, now time.Duration, n int) (allowed int) {
	for range n {
		if b.take(int64(now)) {
			allowed++
		}
	}
	return allowed
}

func TestRetryBudget(t *testing.T) {
	const start = time.Hour
	for _, tt := range []struct {
		name     string
		cfg      *snapshot.RetryBudget
		requests int
		want     int
	}{
		{"a share", budgetOf(20, 10*time.Second, 1, time.Second), 1000, 200},
		{"the rate alone", budgetOf(20, 10*time.Second, 10, time.Second), 0, 10},
		{"the rate is more than the share", budgetOf(20, 10*time.Second, 10, time.Second), 10, 10},
		{"the share is more than the rate", budgetOf(50, 10*time.Second, 10, time.Second), 100, 50},
		{"no share", budgetOf(0, 10*time.Second, 3, time.Second), 1000, 3},
		{"all", budgetOf(100, time.Second, 1, time.Second), 50, 50},
	} {
		b := newRetryBudget(tt.cfg)
		for range tt.requests {
			b.begin(int64(start))
		}
		if got := taken(b, start, 2000); got != tt.want {
			t.Errorf("%s: %d retries of %d requests, want %d", tt.name, got, tt.requests, tt.want)
		}
	}
	if b := newRetryBudget(nil); taken(b, start, 100) != 100 {
		t.Error("without a budget retries are refused")
	}
}

// TestRetryBudgetForgets lets time pass.
func TestRetryBudgetForgets(t *testing.T) {
	b := newRetryBudget(budgetOf(20, 10*time.Second, 5, time.Second))
	now := time.Hour
	for range 100 {
		b.begin(int64(now))
	}
	if got := taken(b, now, 100); got != 20 {
		t.Errorf("%d at once", got)
	}
	// The rate's interval is over, the share's is not: it is the rate's turn.
	now += 2 * time.Second
	if got := taken(b, now, 100); got != 5 {
		t.Errorf("%d after 2 s", got)
	}
	// Requests of 10 s ago count no more, nor do retries.
	now += 11 * time.Second
	for range 50 {
		b.begin(int64(now))
	}
	if got := taken(b, now, 100); got != 10 {
		t.Errorf("%d after another 11 s", got)
	}
}

// TestRetryBudgetTogether has retries at the same time, which are no more than one by one.
func TestRetryBudgetTogether(t *testing.T) {
	b := newRetryBudget(budgetOf(20, 10*time.Second, 1, time.Second))
	now := int64(time.Hour)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.begin(now)
			}
		})
	}
	wg.Wait()
	var allowed atomic.Int64
	for range 8 {
		wg.Go(func() { allowed.Add(int64(taken(b, time.Hour, 1000))) })
	}
	wg.Wait()
	if n := allowed.Load(); n != 1600 {
		t.Errorf("%d retries of 8000 requests", n)
	}
}

// TestClusterRetryBudget holds that requests count, tries again do not, and that
// a change of other settings keeps the counts.
func TestClusterRetryBudget(t *testing.T) {
	var now clock
	a := newBackend(t, ok)
	x := cfg()
	x.RetryBudget = budgetOf(50, 10*time.Second, 1, time.Second)
	c := newManagerFor(t, Options{Now: now.now}).NewCluster(x, endpoints(a.addr))
	for range 10 {
		send(t, c, "GET", "")
	}
	ex := newExchange("GET", "")
	ex.Avoid = []string{a.addr.String()}
	lease, err := c.RoundTrip(ex)
	if err != nil {
		t.Fatal(err)
	}
	finish(t, ex, lease)
	allowed := 0
	for i := range 20 {
		if i == 3 {
			same := *x
			same.Pool.MaxIdle, same.RetryBudget = 7, budgetOf(50, 10*time.Second, 1, time.Second)
			c.Update(&same)
		}
		if c.AllowRetry() {
			allowed++
		}
	}
	if allowed != 5 {
		t.Errorf("%d retries of 10 requests", allowed)
	}
	c.Update(cfg())
	if !c.AllowRetry() {
		t.Error("there is no budget any more")
	}
}
