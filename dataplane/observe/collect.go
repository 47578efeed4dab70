package observe

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// snapshots are the times of compiling and swapping.
type snapshots struct {
	swaps    atomic.Uint64
	last     atomic.Int64 // Unix nanoseconds; 0 before the first
	compiles atomic.Uint64
	took     atomic.Int64 // nanoseconds, all compiles
	lastTook atomic.Int64
}

func (s *snapshots) compiled(took time.Duration) {
	s.compiles.Add(1)
	s.took.Add(int64(took))
	s.lastTook.Store(int64(took))
}

func (s *snapshots) applied(now time.Time) {
	s.swaps.Add(1)
	s.last.Store(now.UnixNano())
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "headgate_build_info", Help: "Always 1; the label is the version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	g.Set(1)
	return g
}

// collector turns the counts into Prometheus' metrics at each scrape.
type collector struct{ m *Metrics }

func (c collector) Describe(ch chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {}
