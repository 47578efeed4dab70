package balance

import (
	"math"
	"testing"
	"time"
)

func TestLatency(t *testing.T) {
	const second = int64(time.Second)
	var l Latency
	if l.At(5*second) != 0 {
		t.Error("it knows something")
	}
	at := func(now int64, millis float64) {
		t.Helper()
		if got := l.At(now) / 1e6; math.Abs(got/millis-1) > 0.01 {
			t.Errorf("at %s it is %f ms, want %f ms", time.Duration(now), got, millis)
		}
	}
	l.Observe(second, 10*time.Millisecond)
	at(second, 10)
	l.Observe(second, 80*time.Millisecond) // a rise counts at once
	at(second, 80)
	at(11*second, 80/math.E) // and is forgotten
	l.Observe(11*second, 10*time.Millisecond)
	at(11*second, 10+70/math.E)
	for i := range int64(100) {
		l.Observe(11*second+i*second, 10*time.Millisecond)
	}
	at(110*second, 10)
	// The clock of milliseconds overflows after 49 days, and nothing happens.
	const days = 24 * 3600 * second
	l.Observe(50*days, 20*time.Millisecond)
	l.Observe(50*days+second, 10*time.Millisecond)
	at(50*days+second, 10+10*math.Exp(-.1))
}

// TestPeakEWMA has one of four members take ten times as long as the others.
func TestPeakEWMA(t *testing.T) {
	m := equal(4)
	p := mustNew(t, "PeakEWMA", m)
	now := int64(time.Second)
	for i := range m {
		took := 10 * time.Millisecond
		if i == 2 {
			took *= 10
		}
		m[i].Load.Latency.Observe(now, took)
	}
	counts := make([]int, 4)
	for range 10_000 {
		counts[p.Pick(Choice{Now: now})]++
	}
	// Once in a million it is drawn, and no other one in as many draws as there may be.
	if counts[2] > 2 {
		t.Errorf("the slow one was picked %d times beside idle ones", counts[2])
	}
	// With ten times as many requests, the others take as long.
	for i := range m {
		m[i].Load.InFlight.Store(11)
	}
	m[2].Load.InFlight.Store(0)
	for range 10_000 {
		counts[p.Pick(Choice{Now: now})]++
	}
	if counts[2] < 4000 {
		t.Errorf("the slow one was picked %d times although the others were busier", counts[2])
	}
	// A new one gets one request, and no other until that is answered.
	m[3].Load.Latency = Latency{}
	for i := range m {
		m[i].Load.InFlight.Store(1)
	}
	counts = make([]int, 4)
	for range 1000 {
		counts[p.Pick(Choice{Now: now})]++
	}
	if counts[3] > 2 {
		t.Errorf("an endpoint of which nothing is known got %d requests more than one", counts[3])
	}
	m[3].Load.InFlight.Store(0)
	for range 1000 {
		counts[p.Pick(Choice{Now: now})]++
	}
	if counts[3] < 400 {
		t.Error("an idle endpoint of which nothing is known got nothing")
	}
}

// TestShare holds that a member with a share of its weight gets that much of
// what it would get, and others the rest.
func TestShare(t *testing.T) {
	for _, name := range []string{"RoundRobin", "LeastRequest", "Random", "RandomOfTwo", "PeakEWMA"} {
		for _, share := range []uint32{FullShare / 10, FullShare / 2, FullShare} {
			m := members(1, 2, 1, 1)
			p := mustNew(t, name, m)
			m[1].Load.Share.Store(share)
			counts := make([]int, 4)
			for range 40_000 {
				counts[p.Pick(Choice{})]++
			}
			chiSquare(t, counts, []float64{1, 2 * float64(share) / FullShare, 1, 1})
		}
	}
}
