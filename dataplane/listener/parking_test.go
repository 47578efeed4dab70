//go:build linux

package listener

import (
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// sleeper rests whenever there is nothing to read.
type sleeper struct {
	nc    net.Conn
	wait  time.Duration
	serve atomic.Int32
	over  atomic.Bool
}

func (s *sleeper) Serve() {
	if s.serve.Add(1) == 1 {
		return
	}
	var b [1]byte
	if !s.over.Load() {
		s.nc.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if n, _ := s.nc.Read(b[:]); n > 0 {
			s.nc.Write(b[:])
			return
		}
	}
	s.over.Store(true)
	s.nc.Close()
}

func (s *sleeper) Resting() time.Duration {
	if s.over.Load() {
		return 0
	}
	return s.wait
}

func (s *sleeper) Drain()       { s.over.Store(true) }
func (s *sleeper) Close() error { return s.nc.Close() }

func TestParking(t *testing.T) {
	var wait atomic.Int64
	wait.Store(int64(time.Hour))
	set := newSet(t, func(o *Options) {
		o.Codecs = []Codec{{ALPN: "test", New: func(nc net.Conn, _ *exchange.Conn, _ []*snapshot.Client) Session {
			return &sleeper{nc: nc, wait: time.Duration(wait.Load())}
		}}}
	})
	if err := set.Apply([]*snapshot.Port{portOf("tcp/1")}); err != nil {
		t.Fatal(err)
	}
	parked := func(n int) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			set.parking.mu.Lock()
			got := len(set.parking.parked)
			set.parking.mu.Unlock()
			if got == n {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("%d connections are parked, want %d", got, n)
			}
		}
	}
	ends := func(c net.Conn) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || os.IsTimeout(err) {
			t.Errorf("%d, %v; want the end", n, err)
		}
	}
	open := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", addressOf(t, set, "tcp/1"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}

	// What is said is read, each time.
	a, b := open(), open()
	parked(2)
	for _, text := range "xyz" {
		if _, err := a.Write([]byte{byte(text)}); err != nil {
			t.Fatal(err)
		}
		var answer [1]byte
		a.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := a.Read(answer[:]); err != nil || answer[0] != byte(text) {
			t.Fatalf("%q, %v", answer, err)
		}
		parked(2)
	}
	// A client that goes is noticed.
	b.Close()
	parked(1)
	// Who has waited long enough runs.
	wait.Store(int64(time.Millisecond))
	c := open()
	ends(c)
	parked(1)
	// Who is drained ends.
	if err := set.Apply(nil); err != nil {
		t.Fatal(err)
	}
	ends(a)
	parked(0)
}
