package overload

import (
	"math"
	"testing"
	"time"
)

// process is a model of one with CPUs, which serves each request in some CPU time
// and refuses it in less. What it has no time for waits.
type process struct {
	t             *testing.T
	control       controller
	odds          [priorities]float64
	serve, refuse time.Duration
	cpus          float64
	now           time.Duration
	// backlog is the CPU time that what waits takes.
	backlog time.Duration
}

const tolerated = 50 * time.Millisecond

func newProcess(t *testing.T, serve, refuse time.Duration) *process {
	return &process{t: t, control: newController(&Options{MemoryPercent: 85}), serve: serve, refuse: refuse, cpus: 2}
}

// outcome is what has become of the requests of some time.
type outcome struct {
	asked, served [priorities]float64
	delay         time.Duration // on average
	most          time.Duration
}

func (o *outcome) ratio(p Priority) float64 { return o.served[p] / max(1, o.asked[p]) }

// peak is how many requests a second it can serve.
func (p *process) peak() float64 { return p.cpus / p.serve.Seconds() }

// run has so many requests of each priority come in a second.
func (p *process) run(during time.Duration, rates [priorities]float64) (o outcome) {
	ticks := int(during / interval)
	for range ticks {
		var r readings
		work := p.backlog
		for i, rate := range rates {
			n := rate * interval.Seconds()
			served := n * (1 - p.odds[i])
			o.asked[i] += n
			o.served[i] += served
			r.asked[i] = int64(n)
			work += time.Duration(served*float64(p.serve) + (n-served)*float64(p.refuse))
		}
		could := time.Duration(p.cpus * float64(interval))
		r.cpu = min(1, work.Seconds()/could.Seconds())
		p.backlog = max(0, work-could)
		delay := time.Duration(float64(p.backlog) / p.cpus)
		o.delay += delay / time.Duration(ticks)
		o.most = max(o.most, delay)
		r.delay = delay.Seconds() / tolerated.Seconds()
		p.odds = p.control.step(&r)
		p.now += interval
	}
	p.t.Logf("%5.1fs  asked %v  served %.2f %.2f %.2f %.2f  delay %s, at most %s  share %.2f", p.now.Seconds(), rates,
		o.ratio(Low), o.ratio(Default), o.ratio(High), o.ratio(Critical), o.delay.Round(time.Millisecond), o.most.Round(time.Millisecond), p.control.share)
	return o
}

// TestSharesFollowTheDelay offers three times of what a process can serve. It must
// keep the delay near what is tolerated, serve what it has the time for, and all
// again within two seconds.
func TestSharesFollowTheDelay(t *testing.T) {
	p := newProcess(t, 100*time.Microsecond, 10*time.Microsecond)
	peak := p.peak()
	if o := p.run(10*time.Second, [priorities]float64{Default: .9 * peak}); o.ratio(Default) < 1 {
		t.Error("requests are refused although there is time for all")
	}
	p.run(3*time.Second, [priorities]float64{Default: 3 * peak})
	o := p.run(20*time.Second, [priorities]float64{Default: 3 * peak})
	// To refuse the others takes the rest of the time.
	could := (1 - 3*.1) / (3 * .9)
	if got := o.ratio(Default); got < .95*could {
		t.Errorf("%.3f of the requests are served, and %.3f could be", got, could)
	}
	if o.delay > 2*tolerated || o.most > 4*tolerated {
		t.Errorf("the delay is %s, %s at most", o.delay, o.most)
	}
	p.run(2*time.Second, [priorities]float64{Default: peak / 2})
	if o := p.run(2*time.Second, [priorities]float64{Default: peak / 2}); o.ratio(Default) < 1 {
		t.Error("requests are refused still")
	}
}

// TestLowestFirst has requests of all priorities, of which the lowest must be
// refused before any of the others.
func TestLowestFirst(t *testing.T) {
	p := newProcess(t, 100*time.Microsecond, 5*time.Microsecond)
	peak := p.peak()
	rates := [priorities]float64{Low: .5 * peak, Default: peak, High: .3 * peak, Critical: .2 * peak}
	p.run(5*time.Second, rates)
	o := p.run(20*time.Second, rates)
	if o.ratio(Critical) < 1 || o.ratio(High) < .999 {
		t.Errorf("of the high ones %.3f are served, of the critical ones %.3f", o.ratio(High), o.ratio(Critical))
	}
	if o.ratio(Low) > .05 || o.ratio(Default) < .3 || o.ratio(Default) > .7 {
		t.Errorf("of the low ones %.3f are served, of the default ones %.3f", o.ratio(Low), o.ratio(Default))
	}
	// All of them are critical now.
	p.run(5*time.Second, [priorities]float64{Critical: 2 * peak})
	if o := p.run(10*time.Second, [priorities]float64{Critical: 2 * peak}); o.ratio(Critical) < .4 || o.ratio(Critical) > .6 {
		t.Errorf("of the critical ones %.3f are served", o.ratio(Critical))
	}
}

// TestOnlyForWantOfCPU holds what is no reason to refuse anything, or little.
func TestOnlyForWantOfCPU(t *testing.T) {
	step := func(c *controller, ticks int, r readings) float64 {
		for range ticks {
			c.step(&r)
		}
		return c.share
	}
	c := newController(&Options{})
	if s := step(&c, 600, readings{delay: 1, cpu: 1}); s > 0 {
		t.Errorf("%.2f are refused at the bound", s)
	}
	c = newController(&Options{})
	if s := step(&c, 600, readings{delay: 20, cpu: .4}); s > 0 {
		t.Errorf("%.2f are refused while others have the CPU", s)
	}
	c = newController(&Options{})
	if s := step(&c, 1, readings{delay: 40, cpu: 1}); s > .1 {
		t.Errorf("%.2f are refused after one pause", s)
	}
	if s := step(&c, 1, readings{delay: .1, cpu: .3}); s > 0 {
		t.Errorf("%.2f are refused after a pause is over", s)
	}
}

// TestMemoryAndRequests holds the share that goes by them, and that the scarcest
// resource counts.
func TestMemoryAndRequests(t *testing.T) {
	c := newController(&Options{MemoryPercent: 80})
	for _, test := range []struct {
		memory, requests, share float64
		short                   Resource
	}{
		{.8, .9, 0, CPU}, {.9, 0, .5, Memory}, {1, 0, .9, Memory}, {1.2, 0, .9, Memory}, {0, .95, .5, Requests}, {.82, .99, .9, Requests}, {.9, .91, .5, Memory},
	} {
		odds := c.step(&readings{memory: test.memory, requests: test.requests})
		if math.Abs(c.share-test.share) > 1e-9 || c.short != test.short {
			t.Errorf("%+v: %.3f for want of %s", test, c.share, c.short)
		}
		if math.Abs(odds[Default]-test.share) > 1e-9 || odds[Critical] > 0 {
			t.Errorf("%+v: %v", test, odds)
		}
	}
}
