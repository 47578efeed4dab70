package health

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

var errIll = errors.New("ill")

// patient is an endpoint that is as it is told to be.
type patient struct {
	mu    sync.Mutex
	why   error
	takes time.Duration // to answer
	asked []time.Time
	by    []*snapshot.HealthCheck
	told  []bool
	whys  []error
}

func (p *patient) Ask(ctx context.Context, settings *snapshot.HealthCheck) error {
	p.mu.Lock()
	p.asked, p.by = append(p.asked, time.Now()), append(p.by, settings)
	why, takes := p.why, p.takes
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(takes):
	}
	return why
}

func (p *patient) SetHealthy(healthy bool, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told, p.whys = append(p.told, healthy), append(p.whys, why)
}

func (p *patient) become(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = why
}

func (p *patient) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func (p *patient) wantTold(t *testing.T, want ...bool) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.told, want) {
		t.Fatalf("told %v, want %v", p.told, want)
	}
}

// checks waits until the patient was asked so many times more, with this outcome.
func (p *patient) checks(n int, why error) {
	p.become(why)
	for want := p.times() + n; p.times() < want; {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Millisecond)
}

func bubble(t *testing.T, atOnce int, f func(t *testing.T, c *Checker)) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(atOnce)
		defer c.Close()
		f(t, c)
	})
}

func TestThresholds(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{}
		k := c.Start(p, &snapshot.HealthCheck{UnhealthyThreshold: 3, HealthyThreshold: 2})
		p.checks(5, nil)
		p.checks(2, errIll)
		p.checks(1, nil) // begins the count anew
		p.checks(2, errIll)
		p.wantTold(t)
		p.checks(1, errIll)
		p.wantTold(t, false)
		p.checks(4, errIll)
		p.checks(1, nil)
		p.checks(1, errIll)
		p.checks(1, nil)
		p.wantTold(t, false)
		p.checks(1, nil)
		p.wantTold(t, false, true)
		if o := k.Outcome(); o != (Outcome{Passed: 9, Failed: 10}) {
			t.Errorf("%+v", o)
		}
		p.checks(1, errIll)
		if o := k.Outcome(); o.Why != errIll {
			t.Errorf("%+v", o)
		}
		if p.whys[0] != errIll || p.whys[1] != nil {
			t.Errorf("told why: %v", p.whys)
		}
	})
}

// TestDefaults is of the values that zeros stand for.
func TestDefaults(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{}
		c.Start(p, &snapshot.HealthCheck{})
		p.checks(2, nil)
		p.checks(2, errIll)
		p.wantTold(t)
		p.checks(1, errIll)
		p.checks(1, nil)
		p.wantTold(t, false, true)

		p.mu.Lock()
		p.takes = time.Second + time.Millisecond
		p.mu.Unlock()
		p.checks(3, nil)
		time.Sleep(2 * time.Second)
		p.wantTold(t, false, true, false)
		if why := p.whys[2]; why != context.DeadlineExceeded {
			t.Errorf("why %v, want a timeout", why)
		}
	})
}

// TestFirstOutcome holds that a new endpoint serves before its first check is
// over, and that this one alone decides.
func TestFirstOutcome(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{why: errIll, takes: 500 * time.Millisecond}
		start := time.Now()
		c.Start(p, &snapshot.HealthCheck{UnhealthyThreshold: 5, HealthyThreshold: 5})
		time.Sleep(500 * time.Millisecond)
		p.wantTold(t)
		time.Sleep(time.Second)
		p.wantTold(t, false)
		if after := p.asked[0].Sub(start); after > time.Second {
			t.Errorf("first asked after %v, want at once", after)
		}
		p.checks(4, nil)
		p.wantTold(t, false)
	})
}

// TestIntervals holds that checks come as often as they should and not in step.
func TestIntervals(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		var all []*patient
		for range 100 {
			p := &patient{takes: 300 * time.Millisecond}
			all = append(all, p)
			c.Start(p, &snapshot.HealthCheck{Interval: 10 * time.Second})
		}
		const rounds = 100
		time.Sleep(rounds * 10 * time.Second)
		inStep := map[time.Time]int{}
		for _, p := range all {
			p.mu.Lock()
			if n := len(p.asked); n < rounds*9/10 || n > rounds*11/10 {
				t.Errorf("asked %d times in %d intervals", n, rounds)
			}
			for i := 1; i < len(p.asked); i++ {
				if d := p.asked[i].Sub(p.asked[i-1]); d < 8*time.Second || d > 12*time.Second {
					t.Errorf("%v between two checks, want 10 s give or take a fifth", d)
				}
			}
			inStep[p.asked[len(p.asked)-1].Truncate(time.Second)]++
			p.mu.Unlock()
		}
		for at, n := range inStep {
			if n > 40 {
				t.Errorf("%d of 100 were asked in second %v", n, at)
			}
		}
	})
}

// TestSlow holds that a check that takes longer than the interval is followed
// by the next one, and not overtaken.
func TestSlow(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{takes: 5 * time.Second}
		k := c.Start(p, &snapshot.HealthCheck{Interval: time.Second, Timeout: 10 * time.Second})
		time.Sleep(101 * time.Second)
		if n, o := p.times(), k.Outcome(); n != 21 && n != 20 || o.Passed < 19 || o.Failed != 0 {
			t.Errorf("asked %d times, %+v", n, o)
		}
	})
}

// TestAtOnce holds the bound of what is asked at a time, and that nothing is
// left out because of it.
func TestAtOnce(t *testing.T) {
	bubble(t, 4, func(t *testing.T, c *Checker) {
		var all []*patient
		for range 50 {
			p := &patient{takes: time.Second}
			all = append(all, p)
			c.Start(p, &snapshot.HealthCheck{Interval: 10 * time.Second, Timeout: time.Minute})
		}
		most := 0
		for range 6000 {
			time.Sleep(100 * time.Millisecond)
			c.mu.Lock()
			most = max(most, c.running)
			c.mu.Unlock()
		}
		if most != 4 {
			t.Errorf("%d asked at a time, want 4", most)
		}
		// 50 checks take 12.5 s, four at a time.
		for i, p := range all {
			if n := p.times(); n < 40 || n > 52 {
				t.Errorf("%d was asked %d times in 600 s, want about 48", i, n)
			}
		}
	})
}

// TestUpdate holds that an endpoint's health outlives a change of settings, and
// that outcomes by the old ones do not count any more.
func TestUpdate(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{}
		old := &snapshot.HealthCheck{UnhealthyThreshold: 2}
		k := c.Start(p, old)
		p.checks(3, nil)
		p.checks(1, errIll)
		k.Update(&snapshot.HealthCheck{UnhealthyThreshold: 2, Interval: time.Minute})
		p.checks(1, errIll)
		p.wantTold(t) // the count began anew
		p.checks(1, errIll)
		p.wantTold(t, false)

		slow := &snapshot.HealthCheck{Interval: time.Hour, Timeout: time.Minute, HealthyThreshold: 1}
		p.mu.Lock()
		p.takes = 30 * time.Second
		p.mu.Unlock()
		k.Update(slow)
		p.checks(1, nil) // and is under way for 30 s
		p.wantTold(t, false)
		p.mu.Lock()
		p.takes = 0
		p.mu.Unlock()
		last := &snapshot.HealthCheck{Interval: 10 * time.Minute, HealthyThreshold: 2}
		k.Update(last)
		time.Sleep(50 * time.Second)
		p.wantTold(t, false)
		p.checks(2, nil)
		p.wantTold(t, false, true)
		if by := p.by[len(p.by)-1]; by != last {
			t.Errorf("asked by %+v", by)
		}
		n := p.times()
		k.Update(last)
		time.Sleep(time.Minute)
		if p.times() != n {
			t.Error("the same settings had it asked again")
		}
	})
}

func TestStop(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		well, ill, busy := &patient{}, &patient{why: errIll}, &patient{why: errIll, takes: time.Minute}
		s := &snapshot.HealthCheck{Timeout: time.Hour}
		checks := []*Check{c.Start(well, s), c.Start(ill, s), c.Start(busy, s)}
		time.Sleep(5 * time.Second)
		ill.wantTold(t, false)
		for _, k := range checks {
			k.Stop()
			k.Stop()
			k.Update(&snapshot.HealthCheck{})
		}
		synctest.Wait()
		c.mu.Lock()
		if len(c.due) != 0 || c.running != 0 {
			t.Errorf("%d are due and %d running", len(c.due), c.running)
		}
		c.mu.Unlock()
		time.Sleep(time.Hour)
		well.wantTold(t)
		ill.wantTold(t, false, true)
		busy.wantTold(t)
		if well.times() != 1 || ill.times() != 1 || busy.times() != 1 {
			t.Error("they were asked after the end")
		}
	})
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewChecker(0)
		p := &patient{why: errIll, takes: time.Minute}
		k := c.Start(p, &snapshot.HealthCheck{Timeout: time.Hour})
		time.Sleep(2 * time.Second)
		start := time.Now()
		c.Close()
		if d := time.Since(start); d != 0 {
			t.Errorf("closing took %v", d)
		}
		k.Update(&snapshot.HealthCheck{})
		time.Sleep(time.Hour)
		p.wantTold(t)
		if p.times() != 1 {
			t.Error("it was asked after the end")
		}
		k.Stop()
	})
}

// TestManyAreSmall holds that waiting checks have no goroutines.
func TestManyAreSmall(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		p := &patient{}
		before := runtime.NumGoroutine()
		for range 10_000 {
			c.Start(p, &snapshot.HealthCheck{Interval: time.Hour})
		}
		if n := runtime.NumGoroutine() - before; n > 2 {
			t.Errorf("%d goroutines for 10,000 checks that wait", n)
		}
	})
}

// TestUnderFire is for the race detector.
func TestUnderFire(t *testing.T) {
	bubble(t, 8, func(t *testing.T, c *Checker) {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for range 20 {
					p := &patient{why: errIll, takes: time.Duration(rand.IntN(3)) * time.Second}
					k := c.Start(p, &snapshot.HealthCheck{Interval: time.Second})
					for range 5 {
						time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond)
						k.Update(&snapshot.HealthCheck{Interval: time.Second})
						k.Outcome()
					}
					k.Stop()
					p.mu.Lock()
					if n := len(p.told); n%2 != 0 {
						t.Errorf("told %v and then stopped", p.told)
					}
					p.mu.Unlock()
				}
			})
		}
		wg.Wait()
	})
}

// TestNoStorm has many endpoints begin together, and their settings change.
func TestNoStorm(t *testing.T) {
	bubble(t, 0, func(t *testing.T, c *Checker) {
		const count = 10_000
		var mu sync.Mutex
		var asked []time.Time
		all := make([]*Check, count)
		every := &snapshot.HealthCheck{Interval: 10 * time.Second}
		for i := range all {
			all[i] = c.Start(&counted{&mu, &asked}, every)
		}
		busiest := func(what string, from, most, total int) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			seconds := map[int64]int{}
			for _, at := range asked[from:] {
				seconds[at.Unix()]++
			}
			for _, n := range seconds {
				if n > most {
					t.Errorf("%s: %d in a second, want %d at most", what, n, most)
				}
			}
			if n := len(asked) - from; n < total {
				t.Errorf("%s: %d checks, want %d", what, n, total)
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		busiest("start", 0, 1500, count)
		from := len(asked)
		other := &snapshot.HealthCheck{Interval: 10 * time.Second, UnhealthyThreshold: 5}
		for _, k := range all {
			k.Update(other)
		}
		time.Sleep(10 * time.Second)
		busiest("change", from, 1500, count)
	})
}

// counted is an endpoint that is well, and notes when it is asked.
type counted struct {
	mu    *sync.Mutex
	asked *[]time.Time
}

func (c *counted) Ask(context.Context, *snapshot.HealthCheck) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.asked = append(*c.asked, time.Now())
	return nil
}

func (c *counted) SetHealthy(bool, error) {}
