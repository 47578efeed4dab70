package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

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
		r.Resident = of(func(s *sample) float64 { return s.resident })
		r.Ratios = map[string]float64{}
		for _, other := range results {
			if other.Proxy == r.Proxy {
				continue
			}
			var ratios []float64
			for k := range min(len(r.runs), len(other.runs)) {
				if base := other.runs[k].cost(s.idle); base > 0 {
					ratios = append(ratios, r.runs[k].cost(s.idle)/base)
				}
			}
			if len(ratios) > 0 {
				r.Ratios[other.Proxy] = median(ratios)
			}
		}
	}
	return results
}

func print(w io.Writer, o *options, s *scenario, results []result) {
	fmt.Fprintf(w, "\n%s: %s", s.name, s.about)
	if !s.idle {
		fmt.Fprintf(w, "; %d rounds of %v", o.rounds, o.duration)
	}
	fmt.Fprint(w, "\n\n")
	ratio := func(r *result, other string) string {
		if v, ok := r.Ratios[other]; ok {
			return fmt.Sprintf("%.2f", v)
		}
		return "-"
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	if s.idle {
		fmt.Fprint(t, "\tMiB\tKiB/connection\t/ nginx\t/ HAProxy\t\n")
	} else {
		fmt.Fprint(t, "\tCPU µs/req\t/ nginx\t/ HAProxy\treq/s\tp50 µs\tp99 µs\tMiB\t\n")
	}
	for i := range results {
		r := &results[i]
		if s.idle {
			fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%s\t%s\t\n", r.Proxy, r.Resident,
				r.Resident*1024/float64(s.connections), ratio(r, "nginx"), ratio(r, "haproxy"))
			continue
		}
		fmt.Fprintf(t, "%s\t%.2f\t%s\t%s\t%.0f\t%.0f\t%.0f\t%.1f\t\n", r.Proxy, r.CPU,
			ratio(r, "nginx"), ratio(r, "haproxy"), r.Rate, r.P50, r.P99, r.Resident)
	}
	t.Flush()
}
