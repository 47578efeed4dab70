package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
)

// addedCPU asks Headgate for its two paths in turn, as A, B, B, A, so that
// whatever gets slower or faster meanwhile falls on both alike. Each round has one
// ratio of the CPU times.
func (t *testbed) addedCPU() error {
	i := slices.IndexFunc(t.proxies, func(p *proxy) bool { return p.name == "headgate" })
	if i < 0 {
		return errors.New("it is of Headgate: -proxies must have it")
	}
	p := t.proxies[i]
	without := *t.s
	without.headgatePath = ""
	scenarios := []*scenario{&without, t.s, t.s, &without}
	for _, s := range scenarios[:2] {
		if _, err := s.generate(t.ctx, t.o, s, p, t.o.warmup); err != nil {
			return err
		}
	}
	t.results = []result{{Scenario: t.s.name, Proxy: "without"}, {Scenario: t.s.name, Proxy: "with"}}
	for round := range t.o.rounds {
		var of [2]sample
		for k, s := range scenarios {
			one, err := s.generate(t.ctx, t.o, s, p, t.o.duration)
			if err != nil {
				return err
			}
			sum := &of[min(k%3, 1)]
			sum.cpu += one.cpu / 2
			sum.rate += one.rate / 2
			sum.p50 += one.p50 / 2
			sum.p99 += one.p99 / 2
			sum.resident = one.resident
		}
		fmt.Fprintf(os.Stderr, "%s %d/%d %.2f µs, with it %.2f: %.3f\n", t.s.name, round+1, t.o.rounds, of[0].cpu, of[1].cpu, of[1].cpu/of[0].cpu)
		for k := range of {
			t.results[k].runs = append(t.results[k].runs, of[k])
		}
	}
	return nil
}

// interval returns the geometric mean of ratios, and between which two values the
// true one is with a probability of 95 %, if what disturbs them is
// independent from round to round; without bounds if there is but one.
func interval(ratios []float64) (mean, from, to float64) {
	n := float64(len(ratios))
	var sum, squares float64
	for _, r := range ratios {
		sum += math.Log(r)
	}
	center := sum / n
	for _, r := range ratios {
		squares += (math.Log(r) - center) * (math.Log(r) - center)
	}
	if n < 2 {
		return math.Exp(center), 0, math.Inf(1)
	}
	half := student(len(ratios)-1) * math.Sqrt(squares/(n-1)/n)
	return math.Exp(center), math.Exp(center - half), math.Exp(center + half)
}

// student is the 97.5th percentile of Student's t distribution, to within 1 %.
func student(degrees int) float64 {
	few := []float64{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228}
	if degrees <= len(few) {
		return few[degrees-1]
	}
	return 1.96 + 2.4/float64(degrees) + 2.8/float64(degrees*degrees)
}
