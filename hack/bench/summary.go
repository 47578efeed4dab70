package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// sample is one run.
type sample struct {
	cpu, rate, p50, p99, added, resident float64
	surge
}

// cost is what the ratios compare.
func (s *sample) cost(m measurement) float64 {
	switch m {
	case memory:
		return s.resident
	case addedLatency:
		return s.added
	}
	return s.cpu
}

// result is one proxy's in one scenario. Numbers are medians over the rounds;
// those that were not measured are 0.
type result struct {
	Scenario string `json:"scenario"`
	Proxy    string `json:"proxy"`
	// CPU is microseconds of CPU time per request.
	CPU  float64 `json:"cpuMicrosPerRequest,omitempty"`
	Rate float64 `json:"requestsPerSecond,omitempty"`
	P50  float64 `json:"p50Micros,omitempty"`
	P99  float64 `json:"p99Micros,omitempty"`
	// Added is how much higher P99 is than that of a direct request.
	Added    float64 `json:"addedP99Micros,omitempty"`
	Resident float64 `json:"residentMiB,omitempty"`
	// Of overload and spikes; see surge.
	Most     float64 `json:"mostPerSecond,omitempty"`
	Goodput  float64 `json:"goodputPerSecond,omitempty"`
	Late     float64 `json:"late,omitempty"`
	Refused  float64 `json:"refused,omitempty"`
	Failed   float64 `json:"failed,omitempty"`
	Recovery float64 `json:"recoverySeconds,omitempty"`
	// Growth is the ratio of CPU to that of the other row of its scenario, From and To its
	// confidence interval; see interval.
	Growth float64 `json:"growth,omitempty"`
	From   float64 `json:"growthFrom,omitempty"`
	To     float64 `json:"growthTo,omitempty"`
	// Ratios are what the scenario measures relative to other proxies', by name.
	Ratios map[string]float64 `json:"ratios,omitempty"`

	runs []sample
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// summarise fills in the medians. A ratio is the median of the ratios within
// each round.
func summarise(s *scenario, results []result) []result {
	for i := range results {
		r := &results[i]
		of := func(field func(*sample) float64) float64 {
			var values []float64
			for k := range r.runs {
				values = append(values, field(&r.runs[k]))
			}
			return median(values)
		}
		r.CPU = of(func(s *sample) float64 { return s.cpu })
		r.Rate = of(func(s *sample) float64 { return s.rate })
		r.P50 = of(func(s *sample) float64 { return s.p50 })
		r.P99 = of(func(s *sample) float64 { return s.p99 })
		r.Added = of(func(s *sample) float64 { return s.added })
		r.Resident = of(func(s *sample) float64 { return s.resident })
		r.Most = of(func(s *sample) float64 { return s.most })
		r.Goodput = of(func(s *sample) float64 { return s.goodput })
		r.Late = of(func(s *sample) float64 { return s.late })
		r.Refused = of(func(s *sample) float64 { return s.refused })
		r.Failed = of(func(s *sample) float64 { return s.failed })
		r.Recovery = of(func(s *sample) float64 { return s.recovery })
		r.Ratios = map[string]float64{}
		for _, other := range results {
			if other.Proxy == r.Proxy {
				continue
			}
			var ratios []float64
			for k := range min(len(r.runs), len(other.runs)) {
				if base := other.runs[k].cost(s.measured); base > 0 {
					ratios = append(ratios, r.runs[k].cost(s.measured)/base)
				}
			}
			if len(ratios) > 0 {
				r.Ratios[other.Proxy] = median(ratios)
			}
		}
	}
	if s.measured == addedCPUTime {
		without, with := &results[0], &results[1]
		var ratios []float64
		for k := range with.runs {
			ratios = append(ratios, with.runs[k].cpu/without.runs[k].cpu)
		}
		with.Growth, with.From, with.To = interval(ratios)
	}
	return results
}

// head and row are the table of each measurement, between the proxy's name and
// what is the same in all.
func (m measurement) head() string {
	switch m {
	case memory:
		return "MiB\t/ nginx\t/ HAProxy\t"
	case addedLatency:
		return "added p99 µs\t/ nginx\t/ HAProxy\tp50 µs\tp99 µs\treq/s\t"
	case addedCPUTime:
		return "CPU µs/req\tratio\t95 %\treq/s\tp50 µs\tp99 µs\tMiB\t"
	case updated:
		return "failed\treq/s\tp50 µs\tp99 µs\tMiB\t"
	case overloaded, spiked, interrupted:
		return "at most/s\tgood/s\tshare\tp50 ms\tp99 ms\tlate\trefused\tfailed\tMiB\trecovery s\t"
	}
	return "CPU µs/req\t/ nginx\t/ HAProxy\treq/s\tp50 µs\tp99 µs\tMiB\t"
}

func (m measurement) row(r *result) string {
	ratio := func(other string) string {
		if v, ok := r.Ratios[other]; ok {
			return fmt.Sprintf("%.2f", v)
		}
		return "-"
	}
	ratios := ratio("nginx") + "\t" + ratio("haproxy")
	switch m {
	case memory:
		return fmt.Sprintf("%.1f\t%s\t", r.Resident, ratios)
	case addedLatency:
		return fmt.Sprintf("%.0f\t%s\t%.0f\t%.0f\t%.0f\t", r.Added, ratios, r.P50, r.P99, r.Rate)
	case addedCPUTime:
		growth, within := "1", "-"
		if r.Growth > 0 {
			growth, within = fmt.Sprintf("%.3f", r.Growth), fmt.Sprintf("%.3f to %.3f", r.From, r.To)
		}
		return fmt.Sprintf("%.2f\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t", r.CPU, growth, within, r.Rate, r.P50, r.P99, r.Resident)
	case updated:
		return fmt.Sprintf("0\t%.0f\t%.0f\t%.0f\t%.1f\t", r.Rate, r.P50, r.P99, r.Resident) // or it would have ended
	case overloaded, spiked, interrupted:
		return fmt.Sprintf("%.0f\t%.0f\t%.0f %%\t%.1f\t%.1f\t%.1f %%\t%.1f %%\t%.1f %%\t%.1f\t%.1f\t", r.Most, r.Goodput, 100*r.Goodput/r.Most,
			r.P50/1e3, r.P99/1e3, 100*r.Late, 100*r.Refused, 100*r.Failed, r.Resident, r.Recovery)
	}
	return fmt.Sprintf("%.2f\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t", r.CPU, ratios, r.Rate, r.P50, r.P99, r.Resident)
}

func print(w io.Writer, o *options, s *scenario, results []result) {
	fmt.Fprintf(w, "\n%s: %s", s.name, s.about)
	switch s.measured {
	case memory:
	case spiked:
		fmt.Fprintf(w, "; good within %v", deadline)
	case updated:
		fmt.Fprintf(w, "; %d rounds", o.rounds)
	case interrupted:
		fmt.Fprintf(w, "; %d rounds, good within %v", o.rounds, deadline)
	case overloaded:
		fmt.Fprintf(w, "; %d rounds of %v, good within %v", o.rounds, o.duration, deadline)
	default:
		fmt.Fprintf(w, "; %d rounds of %v", o.rounds, o.duration)
	}
	fmt.Fprint(w, "\n\n")
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\t%s\n", s.measured.head())
	for i := range results {
		fmt.Fprintf(t, "%s\t%s\n", results[i].Proxy, s.measured.row(&results[i]))
	}
	t.Flush()
}
