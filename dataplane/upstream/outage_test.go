package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestOutage has all endpoints refuse for a while, as when a node or a network is
// gone, while clients go on asking. As soon as they are back, each has its share:
// the first one that answers does not get it all.
func TestOutage(t *testing.T) {
	const each = 40
	for _, tc := range []struct {
		down      time.Duration
		slowStart *snapshot.SlowStart
	}{
		{down: 100 * time.Millisecond}, {down: 5 * time.Second}, {down: time.Minute}, {down: time.Hour},
		{time.Minute, &snapshot.SlowStart{Window: time.Minute, MinWeightPercent: 5}},
	} {
		t.Run(fmt.Sprintf("%v, %+v", tc.down, tc.slowStart), func(t *testing.T) {
			var backends []*backend
			var addrs []netip.AddrPort
			for range 10 {
				b := newBackend(t, ok)
				backends, addrs = append(backends, b), append(addrs, b.addr)
			}
			clock := newManualClock()
			var out atomic.Bool
			out.Store(true)
			m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if out.Load() {
					return nil, syscall.ECONNREFUSED
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			}})
			settings := cfg()
			settings.Balance.SlowStart = tc.slowStart
			c := m.NewCluster(settings, endpoints(addrs...))
			for range 200 {
				fail(t, c, newExchange("GET", ""))
				clock.advance(tc.down / 200)
			}
			out.Store(false)
			for range each * len(backends) {
				send(t, c, "GET", "")
			}
			for _, b := range backends {
				if n := b.requests.Load(); n < each/3 || n > each*3 {
					t.Errorf("an endpoint has had %d requests of %d", n, each*len(backends))
				}
			}
		})
	}
}

// TestOutageOfMost has one endpoint come back alone: it has all, and the others
// are asked for no more than one request each, which goes on to that one.
func TestOutageOfMost(t *testing.T) {
	back := newBackend(t, ok)
	addrs := []netip.AddrPort{back.addr}
	for range 9 {
		addrs = append(addrs, refusing(t))
	}
	clock := newManualClock()
	var out atomic.Bool
	out.Store(true)
	var refused atomic.Int64
	m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if out.Load() || address != back.addr.String() {
			refused.Add(1)
			return nil, syscall.ECONNREFUSED
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	c := m.NewCluster(cfg(), endpoints(addrs...))
	for range 200 {
		fail(t, c, newExchange("GET", ""))
		clock.advance(50 * time.Millisecond)
	}
	out.Store(false)
	for answered := false; !answered; {
		ex := newExchange("GET", "")
		lease, err := c.RoundTrip(ex)
		if answered = err == nil; answered {
			finish(t, ex, lease)
		}
	}
	refused.Store(0)
	for range 100 {
		send(t, c, "GET", "")
	}
	if n := refused.Load(); n > 9 {
		t.Errorf("the dead were tried %d times", n)
	}
}

// TestRefusingIsProbed has an endpoint refuse for an hour beside one that serves: as
// to be refused costs nothing, it is asked every few seconds, and is in use again soon after
// it is back. One that does not answer is asked less often, since requests wait for it.
func TestRefusingIsProbed(t *testing.T) {
	for cause, within := range map[error][2]time.Duration{
		syscall.ECONNREFUSED: {4 * time.Second, 6 * time.Second},
		syscall.EHOSTUNREACH: {24 * time.Second, 36 * time.Second},
	} {
		good, away := newBackend(t, ok), newBackend(t, ok)
		clock := newManualClock()
		var asked []time.Time
		m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == away.addr.String() {
				asked = append(asked, clock.Now())
				return nil, cause
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}})
		c := m.NewCluster(cfg(), endpoints(good.addr, away.addr))
		for range 7200 {
			send(t, c, "GET", "")
			clock.advance(500 * time.Millisecond)
		}
		for i := 10; i < len(asked); i++ {
			if pause := asked[i].Sub(asked[i-1]); pause < within[0] || pause > within[1]+time.Second {
				t.Fatalf("%v: asked again after %v, want about %v", cause, pause, within)
			}
		}
		if len(asked) < 20 {
			t.Errorf("%v: asked %d times in an hour", cause, len(asked))
		}
	}
}
