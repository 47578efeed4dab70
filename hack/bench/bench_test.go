package main

import (
	"io"
	"net"
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

// This process's own CPU time and memory can be read, as a proxy's are.
func TestProcess(t *testing.T) {
	p := &proxy{pid: os.Getpid()}
	before, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	// It is counted in hundredths of a second, of which others may have most.
	after := before
	for begin := time.Now(); after <= before; {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("CPU time %v after %v of work, %v before", after, time.Since(begin), before)
		}
		if after, err = p.cpu(); err != nil {
			t.Fatal(err)
		}
	}
	if mib, err := p.resident(); err != nil || mib < 1 {
		t.Errorf("%v MiB, %v", mib, err)
	}
}

// The proxies are configured for the same hosts and paths.
func TestConfigurations(t *testing.T) {
	s, err := newSettings(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.backends = backends{Backends: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}, GRPC: "127.0.0.1:4", Echo: "127.0.0.1:5", Limited: []string{"127.0.0.1:6", "127.0.0.1:7", "127.0.0.1:8"}}
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
		for _, want := range append(append([]string{host, "/catalogue", "/echo", "/bench.Catalogue", "/limited", "/text"}, s.Hosts...), s.Paths...) {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}

// A response that comes late counts from when its request was due, and so do
// those that had to wait behind it.
func TestOpenLoopCountsWaiting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const pause = 200 * time.Millisecond
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		var request [4096]byte
		for n := 0; ; n++ {
			if _, err := c.Read(request[:]); err != nil {
				return
			}
			if n == 10 {
				time.Sleep(pause)
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
		}
	}()
	one, err := openLoop(t.Context(), &options{}, &scenario{connections: 1, path: "/"}, []string{l.Addr().String()}, 100, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// About twenty requests were due during the pause, of about a hundred.
	if one.p99 < float64(pause.Microseconds())/2 {
		t.Errorf("p99 is %.0f µs after a pause of %v", one.p99, pause)
	}
}
