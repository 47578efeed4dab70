package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// scenario is one kind of work.
type scenario struct {
	name, about string
	connections int
	// path is what is asked of all proxies, headgatePath of Headgate if it differs.
	path, headgatePath string
	headers            []string // sent to Headgate only
	// idle scenarios hold connections and measure memory.
	idle bool
}

const (
	host   = "shop.example.com"
	apiKey = "bench-0123456789abcdef0123456789abcdef"
)

var scenarios = []scenario{
	{
		name: "plain", about: "a small keep-alive GET, routed by host and path, 64 connections",
		connections: 64, path: "/catalogue/item",
	}, {
		name: "policies", about: "the same for nginx and HAProxy; Headgate also checks an API key, a rate limit, and sets a header",
		connections: 64, path: "/catalogue/item", headgatePath: "/orders/item", headers: []string{"X-API-Key: " + apiKey},
	}, {
		name: "connections", about: "a small keep-alive GET, 512 connections",
		connections: 512, path: "/catalogue/item",
	}, {
		name: "idle", about: "memory with 10,000 idle keep-alive connections that had one request each",
		connections: 10_000, path: "/catalogue/item", idle: true,
	},
}

// result is one proxy's in one scenario. Numbers are medians over the rounds.
type result struct {
	Scenario string `json:"scenario"`
	Proxy    string `json:"proxy"`
	// CPU is microseconds of CPU time per request, 0 if idle.
	CPU      float64 `json:"cpuMicrosPerRequest,omitempty"`
	Rate     float64 `json:"requestsPerSecond,omitempty"`
	P50      float64 `json:"p50Micros,omitempty"`
	P99      float64 `json:"p99Micros,omitempty"`
	Resident float64 `json:"residentMiB"`
	// Ratios are CPU (memory if idle) relative to other proxies', by name.
	Ratios map[string]float64 `json:"ratios,omitempty"`

	runs []sample
}

// sample is one run.
type sample struct{ cpu, rate, p50, p99, resident float64 }

// cost is what the ratios compare.
func (s *sample) cost(idle bool) float64 {
	if idle {
		return s.resident
	}
	return s.cpu
}

func measure(ctx context.Context, o *options, s *scenario, dir string) ([]result, error) {
	ctx, cancel := context.WithCancel(ctx)
	started := &processes{ctx: ctx}
	defer started.wait() // second
	defer cancel()       // first

	dir, err := os.MkdirTemp(dir, s.name+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	backends, err := started.backends(o, dir)
	if err != nil {
		return nil, err
	}
	names := strings.Split(o.proxies, ",")
	proxies := make([]*proxy, len(names))
	results := make([]result, len(names))
	for i, name := range names {
		if proxies[i], err = started.proxy(o, name, dir, backends); err != nil {
			return nil, err
		}
		results[i] = result{Scenario: s.name, Proxy: name}
	}
	if s.idle {
		for i, p := range proxies {
			one, err := holdIdle(ctx, s, p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			results[i].runs = []sample{one}
		}
		return summarise(s, results), nil
	}
	for _, p := range proxies {
		if _, err := load(ctx, o, s, p, max(o.warmup, time.Second)); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	for round := range o.rounds {
		for k := range proxies {
			i := (k + round) % len(proxies) // nobody is always the first
			p := proxies[i]
			if p.name == "headgate" && o.profile != "" && round == o.rounds-1 {
				started.profile(p, o.profile, o.duration)
			}
			one, err := load(ctx, o, s, p, o.duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			results[i].runs = append(results[i].runs, one)
			fmt.Fprintf(os.Stderr, "%s %d/%d %-8s %6.2f µs  %7.0f req/s\n", s.name, round+1, o.rounds, p.name, one.cpu, one.rate)
		}
	}
	return summarise(s, results), nil
}
