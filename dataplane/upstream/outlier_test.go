package upstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// manualClock is a clock that only the test moves.
type manualClock struct{ now atomic.Int64 }

func newManualClock() *manualClock {
	k := &manualClock{}
	k.now.Store(time.Now().UnixNano())
	return k
}

func (k *manualClock) Now() time.Time          { return time.Unix(0, k.now.Load()) }
func (k *manualClock) advance(d time.Duration) { k.now.Add(int64(d)) }

// moody answers with a status that the test sets.
type moody struct {
	*backend
	status atomic.Int64
	grpc   atomic.Value // string
}

func newMoody(t testing.TB) *moody {
	b := &moody{}
	b.status.Store(200)
	b.grpc.Store("")
	b.backend = newBackend(t, func(_ int64, _ *http.Request, c net.Conn) bool {
		if b.status.Load() == 0 { // no response at all
			return false
		}
		more := ""
		if code := b.grpc.Load().(string); code != "" {
			more = "Grpc-Status: " + code + "\r\n"
		}
		_, err := fmt.Fprintf(c, "HTTP/1.1 %d X\r\n%sContent-Length: 2\r\n\r\nok", b.status.Load(), more)
		return err == nil
	})
	return b
}

func outliers() *snapshot.OutlierDetection {
	return &snapshot.OutlierDetection{
		ConsecutiveErrors: 3, MinRequests: 4, Interval: 10 * time.Second, Statuses: []snapshot.StatusRange{{From: 500, To: 599}},
		BaseEjectionTime: 30 * time.Second, MaxEjectionTime: 70 * time.Second, MaxEjectionPercent: 50,
	}
}

type outlierWorld struct {
	*manualClock
	t *testing.T
	m *Manager
	c *Cluster
}

// newOutlierWorld has a cluster that nothing but the test sweeps.
func newOutlierWorld(t *testing.T, by *snapshot.OutlierDetection, addrs ...netip.AddrPort) *outlierWorld {
	w := &outlierWorld{manualClock: newManualClock(), t: t}
	w.m = newManagerFor(t, Options{Now: w.Now, SweepInterval: time.Hour})
	x := cfg()
	x.OutlierDetection = by
	w.c = w.m.NewCluster(x, endpoints(addrs...))
	w.m.sweep() // the first interval begins
	return w
}

// send makes n exchanges, whatever comes of them.
func (w *outlierWorld) send(n int) {
	w.t.Helper()
	for range n {
		ex := newExchange("GET", "")
		if lease, err := w.c.RoundTrip(ex); err == nil {
			finish(w.t, ex, lease)
		}
	}
}

func (w *outlierWorld) want(addr netip.AddrPort, state string, reason string, ejections uint64) {
	w.t.Helper()
	s := stateOf(w.t, w.c, addr)
	if s.State != state || s.Ejections[reason] != ejections {
		w.t.Fatalf("%s is %s after %v, want %s after %d for %s", addr, s.State, s.Ejections, state, ejections, reason)
	}
}

func TestConsecutiveErrors(t *testing.T) {
	for name, sicken := range map[string]func(*moody){
		"status":      func(b *moody) { b.status.Store(503) },
		"no response": func(b *moody) { b.status.Store(0) },
		"gRPC":        func(b *moody) { b.grpc.Store("14") },
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := newMoody(t), newMoody(t)
			w := newOutlierWorld(t, outliers(), good.addr, bad.addr)
			sicken(bad)
			w.send(4) // two of them are errors
			w.want(bad.addr, "ready", "consecutive_errors", 0)
			w.send(2)
			w.want(bad.addr, "ejected", "consecutive_errors", 1)
			before := bad.requests.Load()
			w.send(20)
			if n := bad.requests.Load() - before; n != 0 {
				t.Fatalf("it got %d requests while ejected", n)
			}

			// One request finds out that it can be connected to.
			w.advance(34 * time.Second)
			w.send(4)
			w.want(bad.addr, "ready", "consecutive_errors", 1)
			w.send(2)
			w.want(bad.addr, "ejected", "consecutive_errors", 2)
			// The second time is twice as long.
			w.advance(50 * time.Second)
			w.send(4)
			w.want(bad.addr, "ejected", "consecutive_errors", 2)
			w.advance(17 * time.Second)
			w.send(6)
			w.want(bad.addr, "ejected", "consecutive_errors", 3)
			// And the third is bounded by MaxEjectionTime.
			w.advance(78 * time.Second)
			bad.status.Store(200)
			bad.grpc.Store("")
			w.send(4)
			w.want(bad.addr, "ready", "consecutive_errors", 3)
			// Each interval without one takes an ejection back.
			for range 3 {
				w.advance(11 * time.Second)
				w.m.sweep()
			}
			sicken(bad)
			w.send(6)
			w.want(bad.addr, "ejected", "consecutive_errors", 4)
			w.advance(34 * time.Second)
			w.send(2)
			w.want(bad.addr, "ready", "consecutive_errors", 4)
		})
	}
}

// TestOutlierOfOneConnection ejects an endpoint whose only HTTP/2 connection, of
// the one that there may be, is as good as ever. It comes back all the same.
func TestOutlierOfOneConnection(t *testing.T) {
	var ill atomic.Bool
	good := newH2Backend(t, 100, nil)
	bad := newH2Backend(t, 100, func(w http.ResponseWriter, _ *http.Request) {
		if ill.Load() {
			w.WriteHeader(503)
		}
		io.WriteString(w, "ok")
	})
	w := newOutlierWorld(t, outliers(), good.addr, bad.addr)
	x := h2cfg()
	x.OutlierDetection, x.ConnectTimeout = outliers(), time.Minute
	x.CircuitBreaker = &snapshot.CircuitBreaker{PerEndpoint: snapshot.PerEndpointBounds{MaxConnections: 1}}
	w.c.Update(x)
	ill.Store(true)
	w.send(6)
	w.want(bad.addr, "ejected", "consecutive_errors", 1)
	ill.Store(false)
	w.advance(34 * time.Second)
	w.send(2)
	w.want(bad.addr, "ready", "consecutive_errors", 1)
	if n := bad.conns.Load(); n != 2 {
		t.Errorf("%d connections, want another one, by which it was found that there are any", n)
	}
	eventually(t, "the old one is closed", func() bool { return stateOf(t, w.c, bad.addr).Connections == 1 })
}

func TestNoOutlier(t *testing.T) {
	t.Run("success in between", func(t *testing.T) {
		good, bad := newMoody(t), newMoody(t)
		w := newOutlierWorld(t, outliers(), good.addr, bad.addr)
		for range 5 {
			bad.status.Store(503)
			w.send(4)
			bad.status.Store(200)
			w.send(2)
		}
		w.want(bad.addr, "ready", "consecutive_errors", 0)
	})
	t.Run("other statuses", func(t *testing.T) {
		good, bad := newMoody(t), newMoody(t)
		w := newOutlierWorld(t, outliers(), good.addr, bad.addr)
		bad.status.Store(404)
		w.send(10)
		bad.status.Store(200)
		bad.grpc.Store("5") // NOT_FOUND is the call's doing
		w.send(10)
		w.want(bad.addr, "ready", "consecutive_errors", 0)
	})
	t.Run("the last one", func(t *testing.T) {
		bad := newMoody(t)
		w := newOutlierWorld(t, outliers(), bad.addr)
		bad.status.Store(503)
		w.send(10)
		w.want(bad.addr, "ready", "consecutive_errors", 0)
	})
	t.Run("more than may be", func(t *testing.T) {
		all := []*moody{newMoody(t), newMoody(t), newMoody(t), newMoody(t)}
		w := newOutlierWorld(t, outliers(), all[0].addr, all[1].addr, all[2].addr, all[3].addr)
		for _, b := range all[:3] {
			b.status.Store(503)
		}
		w.send(60)
		out := 0
		for _, s := range w.c.State() {
			if s.State == "ejected" {
				out++
			}
		}
		if out != 2 {
			t.Errorf("%d of 4 are ejected, want MaxEjectionPercent of them", out)
		}
	})
	t.Run("without it", func(t *testing.T) {
		good, bad := newMoody(t), newMoody(t)
		w := newOutlierWorld(t, nil, good.addr, bad.addr)
		bad.status.Store(503)
		w.send(20)
		w.want(bad.addr, "ready", "consecutive_errors", 0)
	})
	t.Run("abandoned", func(t *testing.T) {
		good, bad := newMoody(t), newMoody(t)
		w := newOutlierWorld(t, outliers(), good.addr, bad.addr)
		ep := w.c.state.Load().members[0].ep
		gone := newExchange("GET", "")
		gone.Abandon(gone.Turn())
		for range 5 {
			w.c.judge(w.c.state.Load(), ep, gone, exchange.ErrAbandoned, 0)
		}
		w.want(ep.addr, "ready", "consecutive_errors", 0)
	})
}

func TestErrorPercent(t *testing.T) {
	by := outliers()
	by.ConsecutiveErrors, by.ErrorPercent = 0, 50
	good, bad := newMoody(t), newMoody(t)
	w := newOutlierWorld(t, by, good.addr, bad.addr)
	half := func(n int) { // of n requests to each
		bad.status.Store(503)
		w.send(n)
		bad.status.Store(200)
		w.send(n)
	}
	half(2) // 2 of each: too few to say anything
	w.advance(11 * time.Second)
	w.m.sweep()
	w.want(bad.addr, "ready", "error_percent", 0)

	half(4)
	w.advance(5 * time.Second)
	w.m.sweep() // the interval is not over
	w.want(bad.addr, "ready", "error_percent", 0)
	w.advance(6 * time.Second)
	w.m.sweep()
	w.want(bad.addr, "ejected", "error_percent", 1)
	w.want(good.addr, "ready", "error_percent", 0)

	w.advance(34 * time.Second)
	w.m.sweep()
	w.send(8)
	bad.status.Store(503)
	w.send(2)
	w.advance(11 * time.Second)
	w.m.sweep() // a minority
	w.want(bad.addr, "ready", "error_percent", 1)
}

// TestLatencyFactor counts latencies by hand: those of a loaded machine are not to be relied on.
func TestLatencyFactor(t *testing.T) {
	by := outliers()
	by.LatencyFactor = 3
	a, b, slow := newMoody(t), newMoody(t), newMoody(t)
	w := newOutlierWorld(t, by, a.addr, b.addr, slow.addr)
	st, ex := w.c.state.Load(), newExchange("GET", "")
	ex.Response.Status = 200
	interval := func(n int, took ...time.Duration) {
		for i, addr := range []netip.AddrPort{a.addr, b.addr, slow.addr}[:len(took)] {
			for range n {
				w.c.judge(st, w.c.byAddr[addr], ex, nil, took[i])
			}
		}
		w.advance(11 * time.Second)
		w.m.sweep()
	}
	const ms = time.Millisecond
	interval(4, 10*ms, 12*ms, 35*ms)
	w.want(slow.addr, "ready", "latency", 0)
	interval(3, 10*ms, 12*ms, 100*ms) // too few
	w.want(slow.addr, "ready", "latency", 0)
	interval(4, 10*ms, 12*ms, 37*ms)
	w.want(slow.addr, "ejected", "latency", 1)
	w.want(a.addr, "ready", "latency", 0)

	// Alone there is nobody to compare with; of two, the slower one is the outlier.
	interval(4, 500*ms)
	w.want(a.addr, "ready", "latency", 0)
	w.c.SetEndpoints(endpoints(a.addr, b.addr))
	st = w.c.state.Load()
	interval(4, 10*ms, 31*ms)
	w.want(b.addr, "ejected", "latency", 1)
}

// TestOutlierAllocates holds that counting outcomes costs no allocation.
func TestOutlierAllocates(t *testing.T) {
	good := newMoody(t)
	w := newOutlierWorld(t, outliers(), good.addr)
	st, ex := w.c.state.Load(), newExchange("GET", "")
	ex.Response.Status = 503
	ep := st.members[0].ep
	if n := testing.AllocsPerRun(100, func() {
		ex.Response.Status = 200
		w.c.judge(st, ep, ex, nil, time.Millisecond)
		ex.Response.Status = 503
		w.c.judge(st, ep, ex, nil, time.Millisecond)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
