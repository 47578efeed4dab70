package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// peakEWMA draws two members by weight and takes the one where a request should
// be done sooner: its latency times the requests that are before it. A latency
// counts at once when it rises, and is forgotten slowly, so that an endpoint
// that has become slow is left alone for a while. (As in Twitter's Finagle.)
type peakEWMA struct {
	members []Member
	sampler sampler
}

func newPeakEWMA(_ *Config, members []Member) Picker {
	return &peakEWMA{members: members, sampler: newSampler(weights(members))}
}

func (p *peakEWMA) Pick(c Choice) int {
	first := p.sampler.draw(p.members, &c, -1)
	if first < 0 {
		return scan(p.members, &c)
	}
	second := p.sampler.draw(p.members, &c, first)
	if second < 0 {
		return first
	}
	if p.members[second].cost(c.Now) < p.members[first].cost(c.Now) {
		return second
	}
	return first
}

// cost is what a request to the member is expected to take, for its weight.
func (m *Member) cost(now int64) float64 {
	inFlight := float64(m.Load.InFlight.Load())
	latency := m.Load.Latency.At(now)
	if latency == 0 && inFlight > 0 {
		// Nothing is known, but that it is being tried: one at a time finds out.
		latency = float64(unknownLatency)
	}
	return latency * (inFlight + 1) / float64(m.effective())
}

// unknownLatency is what an endpoint counts with whose first response is awaited.
const unknownLatency = time.Second

// latencyDecay is the time in which a latency loses all but 1/e of its weight.
const latencyDecay = 10 * time.Second

// Latency is a moving average of latencies that follows a rise at once. The
// zero Latency knows nothing. It is safe for concurrent use; of two
// observations at the same time one may be lost, which an average can bear.
type Latency struct {
	// bits are the time of the last change in milliseconds, modulo 2^32, and the
	// average in nanoseconds as a float32.
	bits atomic.Uint64
}

// Observe adds a latency at a time in nanoseconds, which is that of At.
func (l *Latency) Observe(now int64, d time.Duration) {
	average, age := l.read(now)
	if took := float64(d); took >= average {
		average = took
	} else if age == 0 {
		return // an average over time has seen this millisecond
	} else {
		average = took + (average-took)*decay(age)
	}
	millis := uint32(now / int64(time.Millisecond))
	l.bits.Store(uint64(millis)<<32 | uint64(math.Float32bits(float32(average))))
}

// At returns the average in nanoseconds, less what was forgotten since it was
// last observed: so an endpoint that was slow is tried again. 0 means that
// nothing is known.
func (l *Latency) At(now int64) float64 {
	average, age := l.read(now)
	if average == 0 || age == 0 {
		return average
	}
	return average * decay(age)
}

func (l *Latency) read(now int64) (average float64, age time.Duration) {
	bits := l.bits.Load()
	if bits == 0 {
		return 0, 0
	}
	since := int32(uint32(now/int64(time.Millisecond)) - uint32(bits>>32))
	return float64(math.Float32frombits(uint32(bits))), time.Duration(max(since, 0)) * time.Millisecond
}

func decay(age time.Duration) float64 { return math.Exp(-float64(age) / float64(latencyDecay)) }
