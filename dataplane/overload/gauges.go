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
	// probe is nil if nobody wants to know the delay.
	probe *probe
	// cpu is the CPU time so far, at a time.
	cpu time.Duration
	at  time.Time
}

// The places of gauges.samples.
const (
	allMemory = iota
	released
	free
	objects
	live
)

func newGauges(opts *Options) *gauges {
	g := &gauges{opts: opts, samples: []metrics.Sample{
		allMemory: {Name: "/memory/classes/total:bytes"},
		released:  {Name: "/memory/classes/heap/released:bytes"},
		free:      {Name: "/memory/classes/heap/free:bytes"},
		objects:   {Name: "/memory/classes/heap/objects:bytes"},
		live:      {Name: "/gc/heap/live:bytes"},
	}}
	if opts.SchedulingDelay > 0 {
		var err error
		if g.probe, err = newProbe(); err != nil {
			opts.Log.Error(err, "Whether CPU is short is not known")
		}
	}
	g.read()
	return g
}

func (g *gauges) close() {
	if g.probe != nil {
		g.probe.close()
	}
}

// read returns what there is to know since it was called last.
func (g *gauges) read() (r readings) {
	if g.probe != nil {
		r.delay = g.probe.delay().Seconds() / g.opts.SchedulingDelay.Seconds()
		r.cpu = g.use()
	}
	if g.opts.MemoryPercent > 0 {
		metrics.Read(g.samples)
		r.memory = g.memory()
	}
	if g.opts.InFlight != nil && g.opts.MaxRequests > 0 {
		r.requests = float64(g.opts.InFlight()) / float64(g.opts.MaxRequests)
	}
	return r
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
