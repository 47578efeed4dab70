package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// testbed is what runs during a scenario.
type testbed struct {
	*processes
	o        *options
	s        *scenario
	backends *backends
	proxies  []*proxy
	results  []result // of each proxy
}

func measure(ctx context.Context, o *options, s *scenario, dir string) ([]result, error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &testbed{processes: &processes{ctx: ctx}, o: o, s: s}
	defer t.wait() // second
	defer cancel() // first

	dir, err := os.MkdirTemp(dir, s.name+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if t.backends, err = t.processes.backends(o, dir); err != nil {
		return nil, err
	}
	for _, name := range strings.Split(o.proxies, ",") {
		p, err := t.proxy(o, name, dir, t.backends)
		if err != nil {
			return nil, err
		}
		t.proxies = append(t.proxies, p)
		t.results = append(t.results, result{Scenario: s.name, Proxy: name})
	}
	switch s.measured {
	case memory:
		for i, p := range t.proxies {
			one, err := holdIdle(ctx, s, p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			t.results[i].runs = []sample{one}
		}
	case addedLatency:
		err = t.addedLatency()
	case addedCPUTime:
		err = t.addedCPU()
	case updated:
		err = t.rollout()
	case overloaded:
		err = t.overload()
	case spiked:
		err = t.spike()
	case interrupted:
		err = t.outage()
	default:
		err = t.cpuTime()
	}
	if err != nil {
		return nil, err
	}
	return summarise(s, t.results), nil
}

// cpuTime loads the proxies in turn.
func (t *testbed) cpuTime() error {
	for _, p := range t.proxies {
		if _, err := t.s.generate(t.ctx, t.o, t.s, p, max(t.o.warmup, time.Second)); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return t.rounds(func(round int, p *proxy) (sample, error) {
		if p.name == "headgate" && t.o.profile != "" && round == t.o.rounds-1 {
			t.profile(p, t.o.profile, t.o.duration)
		}
		one, err := t.s.generate(t.ctx, t.o, t.s, p, t.o.duration)
		fmt.Fprintf(os.Stderr, "%s %d/%d %-8s %6.2f µs  %7.0f req/s\n", t.s.name, round+1, t.o.rounds, p.name, one.cpu, one.rate)
		return one, err
	})
}

// addedLatency asks the proxies and the backends themselves in turn, all at
// one rate.
func (t *testbed) addedLatency() error {
	i := slices.IndexFunc(t.proxies, func(p *proxy) bool { return p.name == "nginx" })
	if i < 0 {
		return errors.New("the rate depends on nginx's: -proxies must have it")
	}
	var peaks []float64
	for range t.o.rounds {
		one, err := wrk(t.ctx, t.o, t.s, t.proxies[i], max(t.o.warmup, time.Second))
		if err != nil {
			return fmt.Errorf("nginx's peak: %w", err)
		}
		peaks = append(peaks, one.rate)
	}
	rate := 0.7 * median(peaks)

	t.proxies = append(t.proxies, &proxy{name: direct})
	t.results = append(t.results, result{Scenario: t.s.name, Proxy: direct})
	err := t.rounds(func(round int, p *proxy) (sample, error) {
		addresses := []string{p.HTTP}
		if p.name == direct {
			addresses = t.backends.Backends
		}
		one, err := openLoop(t.ctx, t.o, t.s, addresses, rate, t.o.duration)
		fmt.Fprintf(os.Stderr, "%s %d/%d %-8s p50 %6.0f µs  p99 %6.0f µs  %7.0f req/s\n", t.s.name, round+1, t.o.rounds, p.name, one.p50, one.p99, one.rate)
		return one, err
	})
	if err != nil {
		return err
	}
	for round, base := range t.results[len(t.results)-1].runs {
		for i := range t.results {
			t.results[i].runs[round].added = t.results[i].runs[round].p99 - base.p99
		}
	}
	return nil
}

// direct is no proxy: the backends themselves.
const direct = "direct"

// rounds runs every proxy once a round.
func (t *testbed) rounds(run func(round int, p *proxy) (sample, error)) error {
	for round := range t.o.rounds {
		for k := range t.proxies {
			i := (k + round) % len(t.proxies) // nobody is always the first
			one, err := run(round, t.proxies[i])
			if err != nil {
				return fmt.Errorf("%s: %w", t.proxies[i].name, err)
			}
			t.results[i].runs = append(t.results[i].runs, one)
		}
	}
	return nil
}
