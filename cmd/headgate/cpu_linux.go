package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// measuredCPU returns what the process has had of CPU, and how many CPUs it may have.
func measuredCPU() (used func() time.Duration, cpus func() float64) {
	quota := cpuQuota("/sys/fs/cgroup")
	return cpuTime, func() float64 {
		most := float64(runtime.GOMAXPROCS(0)) // which may be more than the quota: it is at least 2
		if quota > 0 {
			most = min(most, quota)
		}
		return most
	}
}

// cpuQuota is how many CPUs the container's control group may have, of version 2
// or 1; 0 if that is not bounded, or not known.
func cpuQuota(root string) float64 {
	read := func(name string) []string {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil
		}
		return strings.Fields(string(text))
	}
	bound := read("cpu.max") // "max 100000", or a quota instead
	if bound == nil {
		bound = append(read("cpu/cpu.cfs_quota_us"), read("cpu/cpu.cfs_period_us")...) // -1 for no bound
	}
	if len(bound) != 2 {
		return 0
	}
	quota, err := strconv.ParseFloat(bound[0], 64)
	period, err2 := strconv.ParseFloat(bound[1], 64)
	if err != nil || err2 != nil || quota <= 0 || period <= 0 {
		return 0
	}
	return quota / period
}
