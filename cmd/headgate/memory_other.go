//go:build !linux

package main

import "time"

// cpuTime is not known here: the process never rests.
func cpuTime() time.Duration { return 0 }

func dropProgram() {}

// measuredCPU is not known here.
func measuredCPU() (time func() time.Duration, cpus func() float64) { return nil, nil }
