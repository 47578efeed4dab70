package upstream

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

func adaptiveTo(most int) *snapshot.Cluster {
	to := cfg()
	to.CircuitBreaker = &snapshot.CircuitBreaker{AdaptiveConcurrency: &snapshot.AdaptiveConcurrency{
		MinRequests: 1, MaxRequests: most, LatencyTolerancePercent: 50, MinLatencyInterval: time.Minute,
	}}
	return to
}

// TestAdaptiveConcurrency holds a cluster to the bound.
func TestAdaptiveConcurrency(t *testing.T) {
	a := newBackend(t, ok)
	to := adaptiveTo(2)
	c := newManagerFor(t, Options{}).NewCluster(to, endpoints(a.addr))
	_, done := hold(t, c)
	_, alsoDone := hold(t, c)
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "circuit_open" {
		t.Error(up)
	}
	if s := c.Circuit(); s.MaxInFlight != 2 || s.InFlight != 2 || s.Refused["full"] != 1 {
		t.Errorf("%+v", s)
	}
	done()
	alsoDone()

	// What was found outlasts other changes.
	before, same := c.concurrency, *to
	same.ConnectTimeout = time.Second
	c.Update(&same)
	if c.concurrency != before {
		t.Error("a change of something else forgets it")
	}
	unread := *to
	unread.Protocol = protocolTCP
	c.Update(&unread)
	if s := c.Circuit(); s.MaxInFlight != 0 {
		t.Errorf("connections that are passed on are bounded: %+v", s)
	}
	c.Update(cfg())
	if c.concurrency != nil || c.Circuit() != nil {
		t.Error("it is still there")
	}
}

// TestAdaptiveConcurrencyCounts holds which requests move the bound: each time the last
// one of a window, which is filled before.
func TestAdaptiveConcurrencyCounts(t *testing.T) {
	const first, more = 50, 200 // requests that the first window and another one have
	clock := newManualClock()
	m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour})
	observe := func(c *Cluster, requests int, took time.Duration) {
		for range requests {
			c.concurrency.Observe(m.now(), took, 1)
		}
	}

	t.Run("one that is served, and no error that comes at once", func(t *testing.T) {
		var fails atomic.Bool
		fails.Store(true)
		a := newBackend(t, func(n int64, r *http.Request, nc net.Conn) bool {
			if fails.Load() {
				_, err := io.WriteString(nc, "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
				return err == nil
			}
			return ok(n, r, nc)
		})
		c := m.NewCluster(adaptiveTo(100), endpoints(a.addr))
		observe(c, first-1, time.Nanosecond)
		ex := newExchange("GET", "")
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		finish(t, ex, lease)
		if s := c.Circuit(); s.MinLatency != 0 {
			t.Errorf("the error counts: %+v", s)
		}
		fails.Store(false)
		send(t, c, "GET", "")
		if s := c.Circuit(); s.MinLatency == 0 {
			t.Errorf("what is served does not count: %+v", s)
		}
	})
	t.Run("one whose time is over", func(t *testing.T) {
		var hangs atomic.Bool
		release := make(chan struct{})
		defer close(release)
		a := newBackend(t, func(n int64, r *http.Request, nc net.Conn) bool {
			if hangs.Load() {
				<-release
				return false
			}
			return ok(n, r, nc)
		})
		c := m.NewCluster(adaptiveTo(100), endpoints(a.addr))
		observe(c, first, time.Nanosecond) // nothing else is as fast
		send(t, c, "GET", "")              // between windows, for its connection
		clock.advance(time.Second)
		observe(c, more-1, time.Second)
		if s := c.Circuit(); s.MinLatency != 1 || s.MaxInFlight != 100 {
			t.Fatalf("%+v", s)
		}
		hangs.Store(true)
		ex := newExchange("GET", "")
		ex.Deadline = time.Now().Add(500 * time.Millisecond) // it is sent by then
		if up := fail(t, c, ex); up.Reason != "timeout" {
			t.Error(up)
		}
		if s := c.Circuit(); s.MaxInFlight == 100 {
			t.Errorf("it does not count: %+v", s)
		}
	})
}
