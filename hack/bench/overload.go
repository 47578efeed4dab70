package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"
)

const (
	// deadline is how long after it was due an answer is of use, and patience how
	// long its client waits all the same, so that it is seen which come too late.
	deadline = 250 * time.Millisecond
	patience = time.Second
	// tooMuch is how many times its peak a proxy is offered, and normal the share
	// of the peak before and after.
	tooMuch, normal = 3, 0.5
	// clients is the most connections that the clients have.
	clients = 8192
)

// surge is what one run has shown, beside the latencies.
type surge struct {
	most, goodput float64 // good answers a second: as many as there could be, and as there were
	// What became of all others, as shares of what was offered: answered too late,
	// refused by an answer, and neither.
	late, refused, failed float64
	recovery              float64 // seconds; infinite if it was not seen
}

// overload asks each proxy for more than it can give. Its peak is what it does
// in a closed loop; then come requests at half of that rate, at three times that
// rate, and at half of it again, whether or not they are answered. A good answer
// is one with status 200 that comes within the deadline.
func (t *testbed) overload() error {
	return t.surges(func(p *proxy) (sample, error) {
		peak, _, err := closedLoop(t.ctx, t.o, t.s, p, max(t.o.warmup, t.o.duration/6))
		if err != nil {
			return sample{}, fmt.Errorf("its peak: %w", err)
		}
		around := max(2*time.Second, t.o.duration/10)
		before, during, after, mib, err := t.offer(p,
			stage{normal * peak.rate, around}, stage{tooMuch * peak.rate, t.o.duration}, stage{normal * peak.rate, around}, nil)
		one := sample{resident: mib, surge: surge{most: peak.rate}}
		one.judge(during, t.o.duration)
		one.recovery = recovery(before, after, around+t.o.duration, around)
		return one, err
	})
}

// A spike is from few requests a second to twenty times as many.
const (
	fewRequests  = 500
	manyRequests = 20 * fewRequests
)

// spike has each proxy, which has only just started, get twenty times the load from
// one moment to the next. What counts is the first second.
func (t *testbed) spike() error {
	once := *t.o
	once.rounds = 1 // they are cold but once
	t.o = &once
	return t.surges(func(p *proxy) (sample, error) {
		const around, length = 2 * time.Second, time.Second
		before, during, after, mib, err := t.offer(p,
			stage{fewRequests, around}, stage{manyRequests, length}, stage{manyRequests, around}, nil)
		one := sample{resident: mib, surge: surge{most: manyRequests}}
		one.judge(during, length)
		one.recovery = recovery(before, after, around+length, around)
		return one, err
	})
}

// outage has all backends end for a while and start again, under one load all the
// time. What counts is what comes then: how long it takes until all is as before.
func (t *testbed) outage() error {
	return t.surges(func(p *proxy) (sample, error) {
		const around, length, later, rate = 3 * time.Second, 5 * time.Second, 12 * time.Second, 6 * fewRequests
		var failed error
		before, _, after, mib, err := t.offer(p, stage{rate, around}, stage{rate, length}, stage{rate, later}, func() {
			failed = t.backends.interrupt(t.processes, around, length)
		})
		one := sample{resident: mib, surge: surge{most: rate}}
		one.judge(after, later)
		one.recovery = recovery(before, after, around+length, later)
		return one, errors.Join(err, failed)
	})
}

// surges runs every proxy once a round.
func (t *testbed) surges(run func(p *proxy) (sample, error)) error {
	return t.rounds(func(round int, p *proxy) (sample, error) {
		if p.name == "headgate" && t.o.profile != "" && round == t.o.rounds-1 {
			t.profile(p, t.o.profile, t.o.duration)
		}
		one, err := run(p)
		if err == nil {
			fmt.Fprintf(os.Stderr, "%s %d/%d %-8s %.0f of %.0f/s, p99 %.1f ms, recovered after %.1f s\n",
				t.s.name, round+1, t.o.rounds, p.name, one.goodput, one.most, one.p99/1e3, one.recovery)
		}
		return one, err
	})
}

// offer loads a proxy in three stages, and returns what became of the requests of
// each, and the most memory that the proxy had. meanwhile begins with the first.
func (t *testbed) offer(p *proxy, first, second, third stage, meanwhile func()) (before, during, after []outcome, mib float64, err error) {
	path, headers := t.s.asked(p)
	g := &openClient{addresses: []string{p.HTTP}, path: path, headers: headers, most: clients, patience: patience}
	stop := p.watchMemory()
	var group sync.WaitGroup
	if meanwhile != nil {
		group.Go(meanwhile)
	}
	err = g.load(t.ctx, t.o.clientCore, first, second, third)
	group.Wait()
	mib = stop()
	before, during, after = split(g.outcomes, first.duration, first.duration+second.duration)
	return before, during, after, mib, err
}

// split divides outcomes by when they were due.
func split(all []outcome, first, second time.Duration) (before, during, after []outcome) {
	for _, r := range all {
		switch {
		case r.due < first:
			before = append(before, r)
		case r.due < second:
			during = append(during, r)
		default:
			after = append(after, r)
		}
	}
	return before, during, after
}

// judge counts what became of the requests of a while. The percentiles are of all
// that were served, be it too late.
func (s *sample) judge(outcomes []outcome, of time.Duration) {
	var served []time.Duration
	good := 0
	for _, r := range outcomes {
		switch {
		case r.status == 200:
			served = append(served, r.latency)
			if r.latency <= deadline {
				good++
			} else {
				s.late++
			}
		case r.status > 0:
			s.refused++
		default:
			s.failed++
		}
	}
	s.goodput = float64(good) / of.Seconds()
	s.p50, s.p99 = percentiles(served)
	for _, share := range []*float64{&s.late, &s.refused, &s.failed} {
		*share /= float64(len(outcomes))
	}
}

// recovery returns how many seconds after the overload all is as before: from
// then on, for half a second, every request is served, and nine of ten within
// twice what 99 of 100 took before.
func recovery(before, after []outcome, from, length time.Duration) float64 {
	var latencies []time.Duration
	for _, r := range before {
		if r.status == 200 {
			latencies = append(latencies, r.latency)
		}
	}
	_, p99 := percentiles(latencies)
	usual := time.Duration(2 * p99 * float64(time.Microsecond))

	const window, enough = 100 * time.Millisecond, 5
	windows := make([]struct{ all, slow, unserved int }, length/window)
	for _, r := range after {
		w := &windows[min(int((r.due-from)/window), len(windows)-1)]
		w.all++
		if r.status != 200 {
			w.unserved++
		} else if r.latency > usual {
			w.slow++
		}
	}
	fine := 0
	for i, w := range windows {
		if fine++; w.unserved > 0 || 10*w.slow > w.all {
			fine = 0
		}
		if fine == enough {
			return (time.Duration(i+1-enough) * window).Seconds()
		}
	}
	return math.Inf(1)
}

// watchMemory looks ten times a second, until stop, which returns the most MiB
// that it has seen.
func (p *proxy) watchMemory() (stop func() (mib float64)) {
	quit, most := make(chan struct{}), make(chan float64)
	go func() {
		seen := 0.0
		for {
			if mib, err := p.resident(); err == nil {
				seen = max(seen, mib)
			}
			select {
			case <-quit:
				most <- seen
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() float64 {
		close(quit)
		return <-most
	}
}
