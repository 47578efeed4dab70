package observe

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// BandwidthLabels say which bandwidth limit is meant.
type BandwidthLabels struct {
	// Policy is "RateLimitPolicy/namespace/name", Limit the limit's name in it, and
	// Direction "Request" or "Response".
	Policy, Limit, Direction string
}

// Bandwidth counts what a bandwidth limit does. A nil *Bandwidth counts nothing.
// It is safe for concurrent use.
type Bandwidth struct {
	labels BandwidthLabels
	bytes  atomic.Int64
	waited atomic.Int64 // nanoseconds
	m      *Metrics
	users  int // guarded by m.mu
}

// Bandwidth returns the handle for a limit. Every handle that was got is given
// back with Release.
func (m *Metrics) Bandwidth(labels BandwidthLabels) *Bandwidth {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.bandwidth[labels]
	if b == nil {
		b = &Bandwidth{labels: labels, m: m}
		m.bandwidth[labels] = b
	}
	b.users++
	return b
}

// Release gives the handle back. Content on its way may still use it.
func (b *Bandwidth) Release() {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	if b.users--; b.users == 0 {
		delete(b.m.bandwidth, b.labels)
	}
}

// Passed counts bytes that the limit has let pass, and how long they have waited for it.
func (b *Bandwidth) Passed(bytes int64, waited time.Duration) {
	if b == nil {
		return
	}
	b.bytes.Add(bytes)
	if waited > 0 {
		b.waited.Add(int64(waited))
	}
}

var (
	bandwidthBytesDesc = desc("bandwidth_bytes_total",
		"Bytes of content that a bandwidth limit has let pass.",
		"policy", "limit", "direction")
	bandwidthWaitDesc = desc("bandwidth_wait_seconds_total",
		"How long content has waited for a bandwidth limit.",
		"policy", "limit", "direction")
)

func (b *Bandwidth) collect(ch chan<- prometheus.Metric) {
	l := b.labels
	counter(ch, bandwidthBytesDesc, uint64(b.bytes.Load()), l.Policy, l.Limit, l.Direction)
	ch <- prometheus.MustNewConstMetric(bandwidthWaitDesc, prometheus.CounterValue,
		time.Duration(b.waited.Load()).Seconds(), l.Policy, l.Limit, l.Direction)
}
