package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// slack is how much the heap may grow between two collections, in bytes, where
	// that is less than what lives: Go would let a large heap double.
	slack = 64 << 20
	// reclaimQuiet is for how long nothing must have been collected before memory
	// is given back, and reclaimPause the least time between two times that it is:
	// that costs a collection.
	reclaimQuiet = 10 * time.Second
	reclaimPause = time.Minute
	// reclaimLeast is what is too little to bother, in bytes, and reclaimShare as
	// a part of the heap.
	reclaimLeast = 16 << 20
	reclaimShare = 4
	// The process rests while it has no more than restUse of CPU time a second.
	// Memory is given back then, too, if the process has had restWork times the CPU
	// time since it last was that this took.
	restUse  = time.Second / 50
	restWork = 5
	// startTime is when the pages of the program that only a start needs are given
	// back, though the process may have too much to do to rest.
	startTime = 15 * time.Second
)

// boundMemory keeps the heap near what lives until the context ends: the
// collector runs a little more often when much lives, and what a burst took, such
// as reading all of a cluster's objects, is given back in a quiet moment, and
// whenever the process comes to rest. Without that it would stay until the heap
// is that small, which it never is.
func boundMemory(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	fixed := os.Getenv("GOGC") != "" // somebody knows better
	percent := defaultPercent
	started := time.After(startTime)
	last, quietSince, reclaimed := readHeap(), time.Now(), time.Time{}
	before, given, took := cpuTime(), time.Duration(0), restUse // took is an estimate
	for {
		select {
		case <-ctx.Done():
			return
		case <-started:
			dropProgram()
			continue
		case <-tick.C:
		}
		now := readHeap()
		if p := now.percent(); p != percent && !fixed {
			percent = p
			debug.SetGCPercent(p)
		}
		if now.collections != last.collections {
			quietSince = time.Now()
		}
		quiet := time.Since(quietSince) > reclaimQuiet && time.Since(reclaimed) > reclaimPause && now.worthReclaiming()
		used := cpuTime()
		rests := used-before <= restUse && used-given >= restWork*took
		before = used
		if quiet || rests {
			giveBack()
			given = cpuTime()
			before, took = given, given-used
			reclaimed, now = time.Now(), readHeap()
		}
		last = now
	}
}

// giveBack collects, and gives back what is free, and the program's own pages.
func giveBack() {
	runtime.GC() // what pools hold outlives one collection
	debug.FreeOSMemory()
	dropProgram()
}

// heap is what the runtime says of it, in bytes.
type heap struct {
	// objects are those that live, and those that nobody has found dead yet. live
	// were those that the last collection found.
	objects, live uint64
	// free is memory that the process holds and does not use.
	free        uint64
	collections uint64
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	return heap{samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}

const defaultPercent = 100

// percent is by how much the heap may grow between two collections, in steps
// that a small change does not move.
func (h heap) percent() int {
	if h.live <= slack {
		return defaultPercent
	}
	const step = 5
	return max(step, int(defaultPercent*slack/h.live)/step*step)
}

// worthReclaiming reports whether much is there that nothing uses.
func (h heap) worthReclaiming() bool {
	dead := uint64(0)
	if h.objects > h.live {
		dead = h.objects - h.live
	}
	return dead+h.free > max(reclaimLeast, (h.objects+h.free)/reclaimShare)
}
