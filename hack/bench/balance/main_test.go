package main

import "testing"

// TestSimulation runs every scenario and holds what does not depend on luck: no
// algorithm beats the ideal, no request is lost, and what endpoints have to do
// matters where one is slow.
func TestSimulation(t *testing.T) {
	const requests = 5_000
	for _, s := range scenarios(requests) {
		best := s.run(ideal)
		p99 := map[string]float64{}
		for _, name := range s.algorithms {
			r := s.run(name)
			if len(r.took) != requests {
				t.Errorf("%s, %s: %d of %d requests were served", s.name, name, len(r.took), requests)
			}
			if p99[name] = r.percentile(99); p99[name] < .95*best.percentile(99) {
				t.Errorf("%s, %s: a p99 of %.1f ms, which is better than the ideal of %.1f ms", s.name, name, p99[name], best.percentile(99))
			}
		}
		if s.speeds[len(s.speeds)-1] < 1 && p99["LeastRequest"] > p99["RoundRobin"]/2 {
			t.Errorf("%s: %v", s.name, p99)
		}
	}
	for _, name := range []string{"IPHash", "RingHash", "Maglev"} {
		if goes, comes, _ := disruption(name, 20, 10_000); goes > .1 || comes > .1 {
			t.Errorf("%s: of 20 endpoints one takes %.3f and %.3f of the keys along", name, goes, comes)
		}
	}
}
