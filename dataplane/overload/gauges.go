package overload

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gauges read the process's resources. They are not safe for concurrent use.
type gauges struct {
	opts    *Options
	samples []metrics.Sample
	// waits are how long goroutines have waited so far, cpu is the CPU time so far, at
	// a time.
	waits []uint64
	cpu   time.Duration
	at    time.Time
}

// The places of gauges.samples.
const (
	schedulingDelays = iota
	allMemory
	released
	free
	objects
	live
)

func newGauges(opts *Options) *gauges {
	g := &gauges{opts: opts, samples: []metrics.Sample{
		schedulingDelays: {Name: "/sched/latencies:seconds"},
		allMemory:        {Name: "/memory/classes/total:bytes"},
		released:         {Name: "/memory/classes/heap/released:bytes"},
		free:             {Name: "/memory/classes/heap/free:bytes"},
		objects:          {Name: "/memory/classes/heap/objects:bytes"},
		live:             {Name: "/gc/heap/live:bytes"},
	}}
	g.read()
	return g
}

// read returns what there is to know since it was called last.
func (g *gauges) read() (r readings) {
	if g.opts.SchedulingDelay > 0 || g.opts.MemoryPercent > 0 {
		metrics.Read(g.samples)
	}
	if g.opts.SchedulingDelay > 0 {
		r.delay = g.delay().Seconds() / g.opts.SchedulingDelay.Seconds()
		r.cpu = g.use()
	}
	if g.opts.MemoryPercent > 0 {
		r.memory = g.memory()
	}
	if g.opts.InFlight != nil && g.opts.MaxRequests > 0 {
		r.requests = float64(g.opts.InFlight()) / float64(g.opts.MaxRequests)
	}
	return r
}

// fewWaits are too few to say anything.
const fewWaits = 20

// delay is the median of how long goroutines have waited to run since the last call.
func (g *gauges) delay() time.Duration {
	h := g.samples[schedulingDelays].Value.Float64Histogram()
	if g.waits == nil {
		g.waits = append(g.waits, h.Counts...)
		return 0
	}
	all := uint64(0)
	for i, n := range h.Counts {
		all += n - g.waits[i]
	}
	median, seen := 0.0, uint64(0)
	for i, n := range h.Counts {
		seen += n - g.waits[i]
		if seen*2 > all {
			median = h.Buckets[i] // the lower bound; the first one's is minus infinity
			break
		}
	}
	copy(g.waits, h.Counts)
	if all < fewWaits || math.IsInf(median, 0) {
		return 0
	}
	return time.Duration(median * float64(time.Second))
}

// use is the part of the CPU that the process had since the last call; 1 if
// that is not known.
func (g *gauges) use() float64 {
	if g.opts.CPUTime == nil || g.opts.CPUs == nil {
		return 1
	}
	cpu, at := g.opts.CPUTime(), time.Now()
	used, took := cpu-g.cpu, at.Sub(g.at)
	g.cpu, g.at = cpu, at
	return used.Seconds() / (took.Seconds() * g.opts.CPUs())
}

// memory is what no collection would free, in relation to the limit; 0 if there
// is none.
func (g *gauges) memory() float64 {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return 0
	}
	of := func(i int) float64 { return float64(g.samples[i].Value.Uint64()) }
	dead := max(0, of(objects)-of(live))
	return (of(allMemory) - of(released) - of(free) - dead) / float64(limit)
}
