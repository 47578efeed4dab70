package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpu returns the CPU time of all of a proxy's processes, user and system.
func (p *proxy) cpu() (sum time.Duration, err error) {
	err = p.each(func(pid int) error {
		// The clock of a process, as clock_getcpuclockid(3) makes it: finer
		// than what /proc counts in.
		const scheduled = 2
		var spent unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|scheduled), &spent); err != nil {
			return fmt.Errorf("CPU clock of %d: %w", pid, err)
		}
		sum += time.Duration(spent.Nano())
		return nil
	})
	return sum, err
}

// resident returns the MiB of memory of all of a proxy's processes.
func (p *proxy) resident() (mib float64, err error) {
	err = p.each(func(pid int) error {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		var kib float64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return fmt.Errorf("VmRSS of %d: %w", pid, err)
		}
		mib += kib / 1024
		return nil
	})
	return mib, err
}

// each calls f for the process and its children, as nginx has them.
func (p *proxy) each(f func(pid int) error) error {
	if err := f(p.pid); err != nil {
		return err
	}
	pid := strconv.Itoa(p.pid)
	text, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return err
	}
	for _, child := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			return err
		}
		if err := f(pid); err != nil {
			return err
		}
	}
	return nil
}
