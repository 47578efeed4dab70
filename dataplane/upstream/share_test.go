package upstream

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestSlowStart follows the share of an endpoint that is new, and of one that is
// back, against the curve that it should take.
func TestSlowStart(t *testing.T) {
	old, fresh := netip.MustParseAddrPort("127.0.0.1:1001"), netip.MustParseAddrPort("127.0.0.1:1002")
	for _, tc := range []struct {
		slowStart snapshot.SlowStart
		want      [5]float64 // at 0, 2, 5, 8 and 10 s
	}{
		{snapshot.SlowStart{Window: 10 * time.Second, MinWeightPercent: 10}, [5]float64{.1, .2, .5, .8, 1}},
		{snapshot.SlowStart{Window: 10 * time.Second, MinWeightPercent: 30, Aggression: 1}, [5]float64{.3, .3, .5, .8, 1}},
		{snapshot.SlowStart{Window: 10 * time.Second, MinWeightPercent: 1, Aggression: 2}, [5]float64{.01, .447, .707, .894, 1}},
		{snapshot.SlowStart{Window: 10 * time.Second, MinWeightPercent: 1, Aggression: .5}, [5]float64{.01, .04, .25, .64, 1}},
	} {
		settings := cfg()
		settings.Balance.SlowStart = &tc.slowStart
		clock := newManualClock()
		m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour})
		c := m.NewCluster(settings, endpoints(old))
		find := func(addr netip.AddrPort) *endpoint {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.byAddr[addr]
		}
		follow := func(when string, addr netip.AddrPort) {
			t.Helper()
			at := 0
			for i, next := range []int{0, 2, 5, 8, 10} {
				clock.advance(time.Duration(next-at) * time.Second)
				at = next
				if i > 0 {
					m.sweep()
				}
				const picks = 20_000
				counts := 0.
				for range picks {
					if ep, _, _ := c.pick(c.state.Load(), wish{}); ep.addr == addr {
						counts++
					}
				}
				if want := tc.want[i] / (1 + tc.want[i]); math.Abs(counts/picks-want) > .02 {
					t.Errorf("%+v: %s, after %d s it has %.3f of the requests, want %.3f", tc.slowStart, when, next, counts/picks, want)
				}
				if got := stateOf(t, c, addr).SharePercent; math.Abs(float64(got)-100*tc.want[i]) > 1 {
					t.Errorf("%+v: %s, after %d s it says %d %%", tc.slowStart, when, next, got)
				}
			}
		}
		if s := stateOf(t, c, old); s.SharePercent != 100 {
			t.Errorf("the endpoints of a first set start slowly: %+v", s)
		}
		c.SetEndpoints(endpoints(old, fresh))
		follow("new", fresh)
		find(old).SetHealthy(false, errors.New("as the test says"))
		find(old).SetHealthy(true, nil)
		follow("back", old)
		// A set that has both before and after changes nothing.
		find(fresh).SetHealthy(false, errors.New("as the test says"))
		find(fresh).SetHealthy(true, nil)
		clock.advance(5 * time.Second)
		c.SetEndpoints(endpoints(old, fresh))
		m.sweep()
		if got := stateOf(t, c, fresh).SharePercent; math.Abs(float64(got)-100*tc.want[2]) > 1 {
			t.Errorf("%+v: behind a swap it says %d %%", tc.slowStart, got)
		}
		// Without slow start, all have their weight.
		c.Update(cfg())
		m.sweep()
		if got := stateOf(t, c, fresh).SharePercent; got != 100 {
			t.Errorf("%+v: without slow start it says %d %%", tc.slowStart, got)
		}
	}
}

// TestLoadReports has one endpoint report that it can do three times as much as
// the other, and a third that says nothing.
func TestLoadReports(t *testing.T) {
	reporting := func(value string) *backend {
		return newBackend(t, func(_ int64, _ *http.Request, c net.Conn) bool {
			more := ""
			if value != "" {
				more = "Endpoint-Load-Metrics: " + value + "\r\n"
			}
			_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n%sContent-Length: 2\r\n\r\nok", more)
			return err == nil
		})
	}
	strong, weak, silent := reporting("TEXT cpu_utilization=0.2,rps_fractional=30"), reporting("TEXT cpu_utilization=0.6,rps_fractional=30"), reporting("")
	settings := cfg()
	settings.Balance.LoadReports = true
	clock := newManualClock()
	m := newManagerFor(t, Options{Now: clock.Now, SweepInterval: time.Hour})
	c := m.NewCluster(settings, endpoints(strong.addr, weak.addr, silent.addr))
	for range 6 {
		if ex := send(t, c, "GET", ""); len(ex.Response.Fields) != 0 {
			t.Fatalf("the client is told %v", ex.Response.Fields)
		}
	}
	m.sweep()
	for addr, want := range map[netip.AddrPort]int{strong.addr: 100, weak.addr: 33, silent.addr: 66} {
		if got := stateOf(t, c, addr).SharePercent; got != want {
			t.Errorf("%s has %d %%, want %d %%", addr, got, want)
		}
	}
	clock.advance(3*time.Minute + time.Second)
	m.sweep()
	if got := stateOf(t, c, weak.addr).SharePercent; got != 100 {
		t.Errorf("after minutes without a report it has %d %%", got)
	}
}
