package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane/exchange"
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

// report encodes fields of an OrcaLoadReport.
func report(fields map[int]float64) string {
	var b []byte
	b = protowire.AppendTag(b, 4, protowire.BytesType) // request_cost, a map
	b = protowire.AppendBytes(b, []byte("\x0a\x01x\x11\x00\x00\x00\x00\x00\x00\x00\x00"))
	for number, v := range fields {
		b = protowire.AppendTag(b, protowire.Number(number), protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, math.Float64bits(v))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func TestLoadReport(t *testing.T) {
	for _, tc := range []struct {
		field, value string
		weight       float64 // 0 if it is no report
	}{
		{reportField, "TEXT cpu_utilization=0.5,rps_fractional=100", 200},
		{reportField, "TEXT cpu_utilization=0.5, application_utilization=0.8, rps_fractional=100,eps=20,named_metrics.x=1", 100},
		{reportField, `JSON {"cpu_utilization": 0.5, "rps_fractional": 100}`, 200},
		{reportField, `JSON {"named_metrics": {"cpu_utilization": 9, "b": 2}, "cpu_utilization":0.5,"utilization":{"q":1},"rps_fractional":1e2,"request_cost":{}}`, 200},
		{reportField, "BIN " + report(map[int]float64{1: .5, 6: 100}), 200},
		{reportFieldBin, report(map[int]float64{1: .5, 9: .8, 6: 100, 7: 20, 2: 1}), 100},
		{reportFieldBin, strings.TrimRight(report(map[int]float64{1: .5, 6: 100}), "="), 200},
		{"endpoint-load-metrics", "TEXT cpu_utilization=0.5,rps_fractional=100", 200},
		{reportField, "TEXT cpu_utilization=0.5", 0}, // of how many requests?
		{reportField, "TEXT rps_fractional=100", 0},
		{reportField, "TEXT cpu_utilization=-1,rps_fractional=100", 0},
		{reportField, "TEXT cpu_utilization=NaN,rps_fractional=100", 0},
		{reportField, "TEXT cpu_utilization=0.5,rps_fractional=Inf", 0},
		{reportField, "TEXT cpu_utilization=half,rps_fractional=100", 0},
		{reportField, "TEXT cpu_utilization", 0},
		{reportField, `JSON {"cpu_utilization": 0.5`, 0},
		{reportField, `JSON {"a": {"cpu_utilization": 0.5, "rps_fractional": 100}`, 0},
		{reportField, "XML <a/>", 0},
		{reportField, "", 0},
		{reportFieldBin, "%%%", 0},
		{reportFieldBin, "CQ", 0},
		{reportFieldBin, strings.Repeat("A", 4000), 0},
	} {
		var response exchange.Response
		response.Fields = append(response.Fields, exchange.NewField("A", "b"), exchange.NewField(tc.field, tc.value))
		var r loadReport
		r.read(&response, 1)
		if got := r.weight(2); math.Abs(got-tc.weight) > 1e-6 {
			t.Errorf("%s: %s has the weight %f, want %f", tc.field, tc.value, got, tc.weight)
		}
		if len(response.Fields) != 1 {
			t.Errorf("%s: the client is told %v", tc.field, response.Fields)
		}
		if r.weight(1+int64(reportExpires)+1) != 0 {
			t.Errorf("%s: it holds forever", tc.field)
		}
	}
}

func FuzzLoadReport(f *testing.F) {
	f.Add("TEXT cpu_utilization=0.5,rps_fractional=100", report(map[int]float64{1: .5}))
	f.Add(`JSON {"a": {"b": 1}, "eps":1}`, "CQ")
	f.Add("BIN "+report(map[int]float64{6: 1}), "")
	f.Fuzz(func(t *testing.T, text, binary string) {
		var response exchange.Response
		response.Fields = append(response.Fields, exchange.NewField(reportField, text), exchange.NewField(reportFieldBin, binary))
		var r loadReport
		r.read(&response, 1)
		if w := r.weight(1); w < 0 || math.IsNaN(w) || math.IsInf(w, 0) {
			t.Errorf("the weight is %f", w)
		}
	})
}

// TestLoadReports has one endpoint report that it can do three times as much as
// the other, and a third that says nothing.
func TestLoadReports(t *testing.T) {
	reporting := func(value string) *backend {
		return newBackend(t, func(_ int64, _ *http.Request, c net.Conn) bool {
			more := ""
			if value != "" {
				more = reportField + ": " + value + "\r\n"
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
	clock.advance(reportExpires + time.Second)
	m.sweep()
	if got := stateOf(t, c, weak.addr).SharePercent; got != 100 {
		t.Errorf("after minutes without a report it has %d %%", got)
	}
}
