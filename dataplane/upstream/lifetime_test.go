package upstream

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMaxRequests(t *testing.T) {
	t.Run("HTTP/1.1", func(t *testing.T) {
		b := newBackend(t, ok)
		x := cfg()
		x.Pool.MaxRequests = 3
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		for range 10 {
			send(t, c, "GET", "")
		}
		if n := b.conns.Load(); n != 4 {
			t.Errorf("%d connections for 10 requests, want 4", n)
		}
		eventually(t, "those that are used up are closed", func() bool { return b.openConns() == 1 })
	})
	t.Run("HTTP/2", func(t *testing.T) {
		b := newH2Backend(t, 100, nil)
		x := h2cfg()
		x.Pool.MaxRequests = 3
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		for range 10 {
			send(t, c, "GET", "")
		}
		if n := b.conns.Load(); n != 4 {
			t.Errorf("%d connections for 10 requests, want 4", n)
		}
		eventually(t, "those that are used up are closed", func() bool { return stateOf(t, c, b.addr).Connections == 1 })
	})
	t.Run("one request", func(t *testing.T) {
		b := newH2Backend(t, 100, nil)
		x := h2cfg()
		x.Pool.MaxRequests = 1
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		sendMany(t, c, 8, 10, "POST", "content")
		if n := b.conns.Load(); n != 80 {
			t.Errorf("%d connections for 80 requests", n)
		}
		eventually(t, "all are closed", func() bool { return stateOf(t, c, b.addr).Connections == 0 })
	})
}

func TestMaxAge(t *testing.T) {
	const most = 10 * time.Second
	t.Run("HTTP/1.1", func(t *testing.T) {
		var now clock
		b := newBackend(t, ok)
		m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
		x := cfg()
		x.Pool.MaxAge = most
		c := m.NewCluster(x, endpoints(b.addr))
		pass := func(d time.Duration) {
			now.advance(d)
			m.sweep()
		}
		send(t, c, "GET", "")
		pass(most*4/5 - time.Second)
		send(t, c, "GET", "")
		if n := b.conns.Load(); n != 1 {
			t.Fatalf("%d connections, want the one that is not old yet", n)
		}
		// It is in use when it grows old, and ends with what it is in use for.
		ex := newExchange("GET", "")
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		pass(most/5 + time.Second)
		finish(t, ex, lease)
		eventually(t, "it is closed", func() bool { return b.openConns() == 0 })
		send(t, c, "GET", "")
		if n := b.conns.Load(); n != 2 {
			t.Errorf("%d connections, want another one", n)
		}
		// It is idle when it grows old.
		pass(most)
		eventually(t, "it is closed, too", func() bool { return b.openConns() == 0 })
	})
	t.Run("HTTP/2", func(t *testing.T) {
		var now clock
		arrived, proceed := make(chan struct{}), make(chan struct{})
		b := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				close(arrived)
				<-proceed
			}
			io.WriteString(w, "ok")
		})
		m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
		x := h2cfg()
		x.Pool.MaxAge = most
		c := m.NewCluster(x, endpoints(b.addr))
		old := make(chan struct{})
		go func() {
			defer close(old)
			send(t, c, "POST", "content")
		}()
		<-arrived
		now.advance(most)
		m.sweep()
		for range 3 {
			send(t, c, "GET", "")
		}
		if n := b.conns.Load(); n != 2 {
			t.Errorf("%d connections, want one more, for all new streams", n)
		}
		if s := stateOf(t, c, b.addr); s.Connections != 2 {
			t.Errorf("%+v: the old connection has a stream still", s)
		}
		close(proceed)
		<-old
		eventually(t, "the old one is closed with its last stream", func() bool { return stateOf(t, c, b.addr).Connections == 1 })
	})
}

// TestLeavingMakesRoom bounds the connections to an endpoint by one. Where that
// gets no more requests, but has one that takes long, another takes its place.
func TestLeavingMakesRoom(t *testing.T) {
	for name, test := range map[string]struct {
		maxRequests int
		leave       func(c *Cluster, x snapshot.Cluster)
		left        int // connections, in the end
	}{
		"it is used up": {1, func(*Cluster, snapshot.Cluster) {}, 0},
		"it is of other terms": {0, func(c *Cluster, x snapshot.Cluster) {
			x.HTTP2Keepalive = &snapshot.HTTP2Keepalive{Interval: time.Hour}
			c.Update(&x)
		}, 1},
		"its endpoint was out of use": {0, func(c *Cluster, _ snapshot.Cluster) { c.state.Load().members[0].ep.drain() }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			proceed := make(chan struct{})
			b := newH2Backend(t, 100, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/held" {
					w.(http.Flusher).Flush()
					select {
					case <-proceed:
					case <-r.Context().Done():
					}
				}
				io.WriteString(w, "ok")
			})
			x := h2cfg()
			x.Pool.MaxRequests = test.maxRequests
			x.CircuitBreaker = &snapshot.CircuitBreaker{PerEndpoint: snapshot.PerEndpointBounds{MaxConnections: 1}}
			c := newManagerFor(t, Options{SweepInterval: time.Hour}).NewCluster(x, endpoints(b.addr))
			held := newExchange("GET", "")
			held.Out.Path = "/held"
			lease, err := c.RoundTrip(held)
			if err != nil {
				t.Fatal(err)
			}
			test.leave(c, *x)
			for range 3 {
				send(t, c, "GET", "")
			}
			close(proceed)
			finish(t, held, lease)
			ep := c.state.Load().members[0].ep
			eventually(t, "those that leave are gone", func() bool {
				ep.mu.Lock()
				defer ep.mu.Unlock()
				return ep.total == test.left && ep.leaving == 0
			})
		})
	}
}

// TestMaxAgeIsSpread has connections that were made together end apart, and none too late.
func TestMaxAgeIsSpread(t *testing.T) {
	p := &snapshot.Pool{MaxAge: 100 * time.Second}
	var ends [100]int
	for range 1000 {
		l := newLifetime(0)
		end := 0
		for ; !l.over(p, int64(end)*int64(time.Second)); end++ {
		}
		if end <= 79 || end > 100 {
			t.Fatalf("it ended after %d s", end)
		}
		ends[end-1]++
	}
	for end, n := range ends {
		if n > 150 {
			t.Errorf("%d of 1000 ended at %d s", n, end)
		}
	}
}

// TestPoolUpdate bounds the connections that are there already.
func TestPoolUpdate(t *testing.T) {
	b := newBackend(t, ok)
	c := newManagerFor(t, Options{}).NewCluster(cfg(), endpoints(b.addr))
	var leases [2]exchange.Lease
	var exs [2]*exchange.Exchange
	for i := range leases {
		exs[i] = newExchange("GET", "")
		var err error
		if leases[i], err = c.RoundTrip(exs[i]); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, exs[0], leases[0])
	y := cfg()
	y.Pool.MaxRequests = 1
	c.Update(y)
	finish(t, exs[1], leases[1])
	eventually(t, "the one that was in use is closed", func() bool { return b.openConns() == 1 })
	send(t, c, "GET", "") // on the one that was idle
	if n := b.conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	eventually(t, "so is the other one", func() bool { return b.openConns() == 0 })
}
