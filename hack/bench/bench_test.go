package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestRatiosAreOfTheSameRound(t *testing.T) {
	// The machine is twice as slow in the second round, for both.
	results := summarise(&scenario{}, []result{
		{Proxy: "nginx", runs: []sample{{cpu: 10}, {cpu: 20}, {cpu: 10}}},
		{Proxy: "headgate", runs: []sample{{cpu: 11}, {cpu: 22}, {cpu: 11}}},
	})
	if got := results[1].Ratios["nginx"]; got < 1.099 || got > 1.101 {
		t.Errorf("ratio %v, want 1.1", got)
	}
	if results[0].CPU != 10 {
		t.Errorf("median %v, want 10", results[0].CPU)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 2}, 3}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func TestCPUTicks(t *testing.T) {
	utime, stime, err := cpuTicks("42 (a ) b) S 1 42 42 0 -1 4194560 100 0 0 0 17 23 0 0 20 0 1 0 100 0 0")
	if err != nil || utime != 17 || stime != 23 {
		t.Errorf("%d, %d, %v; want 17 and 23", utime, stime, err)
	}
	if _, _, err := cpuTicks("42 (x) S 1"); err == nil {
		t.Error("a line that is cut short is fine")
	}
}

// This process's own CPU time and memory can be read, as a proxy's are.
func TestProcess(t *testing.T) {
	p := &proxy{pid: os.Getpid()}
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 100*time.Millisecond; {
	}
	after, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	if after < before+tick {
		t.Errorf("CPU time %v after %v of work, %v before", after, 100*time.Millisecond, before)
	}
	if mib, err := p.resident(); err != nil || mib < 1 {
		t.Errorf("%v MiB, %v", mib, err)
	}
}

// The proxies are configured for the same hosts and paths.
func TestConfigurations(t *testing.T) {
	s := newSettings(t.TempDir(), "127.0.0.1:8080", []backend{{"127.0.0.1:1", "1"}, {"127.0.0.1:2", "2"}, {"127.0.0.1:3", "3"}})
	for _, name := range []string{"nginx.conf", "haproxy.cfg", "headgate.yaml", "backend.conf"} {
		file, err := s.write(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "<no value>") {
			t.Errorf("%s is not filled in", name)
		}
		if name == "backend.conf" {
			continue
		}
		for _, want := range append(append([]string{host, "/catalogue"}, s.Hosts...), s.Paths...) {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}
