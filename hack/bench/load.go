package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// report has wrk print what bench reads, exactly.
const report = `
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("bench: %d %d %d %d %f %f\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50), latency:percentile(99)))
end
`

// load runs wrk against a proxy. Any error or status that is not fine fails
// the run: a proxy that refuses work is not fast.
func load(ctx context.Context, o *options, s *scenario, p *proxy, duration time.Duration) (sample, error) {
	path, headers := s.path, []string(nil)
	if p.name == "headgate" {
		headers = s.headers
		if s.headgatePath != "" {
			path = s.headgatePath
		}
	}
	args := []string{"-c", strconv.Itoa(o.clientCore), "wrk", "-t1", fmt.Sprintf("-c%d", s.connections),
		fmt.Sprintf("-d%ds", int(duration.Seconds())), "--timeout", "5s", "-s", p.report, "-H", "Host: " + host}
	for _, h := range headers {
		args = append(args, "-H", h)
	}
	cmd := exec.CommandContext(ctx, "taskset", append(args, "http://"+p.address+path)...)
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	resident, err := p.resident()
	if err != nil {
		return sample{}, err
	}

	_, line, _ := strings.Cut(string(out), "bench: ")
	var requests, micros, broken, refused int64
	var one sample
	if _, err := fmt.Sscan(line, &requests, &micros, &broken, &refused, &one.p50, &one.p99); err != nil {
		return sample{}, fmt.Errorf("wrk's output: %w: %s", err, out)
	}
	if broken > 0 || refused > 0 || requests == 0 {
		return sample{}, fmt.Errorf("%d requests, %d of them not answered 2xx or 3xx; %d errors of connections", requests, refused, broken)
	}
	one.cpu = float64((after - before).Microseconds()) / float64(requests)
	one.rate = float64(requests) / (float64(micros) / 1e6)
	one.resident = resident
	return one, nil
}

// holdIdle opens the connections, sends one request on each, and measures the
// proxy's memory while all of them are idle.
func holdIdle(ctx context.Context, s *scenario, p *proxy) (sample, error) {
	conns := make([]net.Conn, 0, s.connections)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range s.connections {
		if ctx.Err() != nil {
			return sample{}, ctx.Err()
		}
		c, err := net.DialTimeout("tcp", p.address, 5*time.Second)
		if err != nil {
			return sample{}, fmt.Errorf("after %d connections: %w", len(conns), err)
		}
		conns = append(conns, c)
		if err := ask(c, s.path); err != nil {
			return sample{}, fmt.Errorf("after %d connections: %w", len(conns), err)
		}
	}
	select {
	case <-time.After(2 * time.Second):
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	// They are still served, so they were held.
	for _, i := range []int{0, len(conns) / 2, len(conns) - 1} {
		if err := ask(conns[i], s.path); err != nil {
			return sample{}, fmt.Errorf("connection %d was not kept: %w", i, err)
		}
	}
	resident, err := p.resident()
	return sample{resident: resident}, err
}

func ask(c net.Conn, path string) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Close {
		return errors.New(resp.Status)
	}
	return nil
}

// tick is what /proc counts CPU time in: USER_HZ is 100 wherever Go runs.
const tick = 10 * time.Millisecond

// cpu returns the CPU time of all of a proxy's processes, user and system.
func (p *proxy) cpu() (sum time.Duration, err error) {
	err = p.each(func(pid string) error {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil {
			return err
		}
		utime, stime, err := cpuTicks(string(text))
		sum += time.Duration(utime+stime) * tick
		return err
	})
	return sum, err
}

// cpuTicks reads utime and stime, proc_pid_stat(5). The program's name before
// them may hold anything.
func cpuTicks(stat string) (utime, stime int64, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("/proc stat: %q", stat)
	}
	if utime, err = strconv.ParseInt(fields[11], 10, 64); err != nil {
		return 0, 0, err
	}
	stime, err = strconv.ParseInt(fields[12], 10, 64)
	return utime, stime, err
}

// resident returns the MiB of memory of all of a proxy's processes.
func (p *proxy) resident() (mib float64, err error) {
	err = p.each(func(pid string) error {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		var kib float64
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return fmt.Errorf("VmRSS of %s: %w", pid, err)
		}
		mib += kib / 1024
		return nil
	})
	return mib, err
}

// each calls f for the process and its children, as nginx has them.
func (p *proxy) each(f func(pid string) error) error {
	pid := strconv.Itoa(p.pid)
	if err := f(pid); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return err
	}
	for _, child := range strings.Fields(string(text)) {
		if err := f(child); err != nil {
			return err
		}
	}
	return nil
}
