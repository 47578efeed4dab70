package upstream

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// place is where endpoints of TestTiers are: "a1" is on node 1 in zone a. Its
// hints follow a colon: "a1:b" is for zone b, "a1:b,b2" also for the node b2.
func place(i int, text string) snapshot.Endpoint {
	text, hints, _ := strings.Cut(text, ":")
	e := snapshot.Endpoint{Address: fmt.Sprintf("10.0.0.%d", i+1), Port: 80}
	text, backup := strings.CutSuffix(text, "+")
	if backup {
		e.Priority = 1
	}
	text, e.Draining = strings.CutSuffix(text, "!")
	if text != "" {
		e.Zone, e.Node = text[:1], text
	}
	for _, h := range strings.FieldsFunc(hints, func(r rune) bool { return r == ',' }) {
		if len(h) == 1 {
			e.ForZones = append(e.ForZones, h)
		} else {
			e.ForNodes = append(e.ForNodes, h)
		}
	}
	return e
}

// TestTiers holds the share of each endpoint, here on node a1, against what it
// should be. An endpoint whose number is among down is unhealthy.
func TestTiers(t *testing.T) {
	const nowhere = "nowhere"
	zone := snapshot.Balance{Locality: "PreferSameZone"}
	node := snapshot.Balance{Locality: "PreferSameNode"}
	for _, tc := range []struct {
		name    string
		balance snapshot.Balance
		own     string // node; its first letter is the zone
		at      string
		down    []int
		want    []float64 // in percent
	}{
		{"any", snapshot.Balance{}, "a1", "a1 a2 b1 b2", nil, []float64{25, 25, 25, 25}},
		{"zone", zone, "a1", "a1 a2 b1 b2", nil, []float64{50, 50, 0, 0}},
		{"zone unknown", zone, nowhere, "a1 a2 b1 b2", nil, []float64{25, 25, 25, 25}},
		{"zone of no endpoint", zone, "z9", "a1 a2 b1 b2", nil, []float64{25, 25, 25, 25}},
		{"zones of endpoints unknown", zone, "a1", "a1 . . .", nil, []float64{71.4, 9.5, 9.5, 9.5}},
		{"zone a little short", zone, "a1", "a1 a2 a3 a4 b1 b2 b3 b4", []int{3}, []float64{33.3, 33.3, 33.3, 0, 0, 0, 0, 0}},
		{"zone short", zone, "a1", "a1 a2 a3 a4 b1 b2 b3 b4", []int{2, 3}, []float64{35.7, 35.7, 0, 0, 7.1, 7.1, 7.1, 7.1}},
		{"zone empty", zone, "a1", "a1 a2 b1 b2", []int{0, 1}, []float64{0, 0, 50, 50}},
		// One of nine, in three zones: it is a third of an even share, of which 70 % would do.
		{"zone small", zone, "a1", "a1 b1 b1 b1 b1 c1 c1 c1 c1", nil, []float64{47.6, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5, 6.5}},
		{"zone small but enough", snapshot.Balance{Locality: "PreferSameZone", MinHealthyPercent: 30}, "a1", "a1 b1 b1 b1 b1 c1 c1 c1 c1", nil,
			[]float64{100, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"zone draining", zone, "a1", "a1! a2! b1 b2", nil, []float64{0, 0, 50, 50}},
		{"hints", zone, "a1", "a1:b a2:a,b b1:a b2:b", nil, []float64{0, 50, 50, 0}},
		{"node", node, "a1", "a1 a2 b1 b2", nil, []float64{100, 0, 0, 0}},
		{"node down", node, "a1", "a1 a2 b1 b2", []int{0}, []float64{0, 100, 0, 0}},
		{"node and zone down", node, "a1", "a1 a2 b1 b2", []int{0, 1}, []float64{0, 0, 50, 50}},
		{"node by hint", node, "a1", "a1:a,a2 a2:a,a1 b1:b,b1 b2:b,b2", nil, []float64{0, 100, 0, 0}},
		{"only zone", snapshot.Balance{Locality: "OnlySameZone"}, "a1", "a1 a2 b1 b2", []int{0}, []float64{0, 100, 0, 0}},
		{"only node", snapshot.Balance{Locality: "OnlySameNode"}, "a1", "a1 a2 b1 b2!", nil, []float64{100, 0, 0, 0}},
		{"only zone, elsewhere", snapshot.Balance{Locality: "OnlySameZone"}, "z1", "a1 a2 b1 b2", nil, []float64{0, 0, 0, 0}},
		{"only zone, unknown", snapshot.Balance{Locality: "OnlySameZone"}, nowhere, "a1 a2 b1 .", nil, []float64{0, 0, 0, 0}},
		{"backup", snapshot.Balance{}, "a1", "a1 a2 b1+ b2+", nil, []float64{50, 50, 0, 0}},
		{"backup takes over", snapshot.Balance{}, "a1", "a1 a2 b1+ b2+", []int{0, 1}, []float64{0, 0, 50, 50}},
		{"backup helps", snapshot.Balance{}, "a1", "a1 a2 b1+ b2+", []int{0}, []float64{0, 71.4, 14.3, 14.3}},
		{"backup waits", snapshot.Balance{MinHealthyPercent: 1}, "a1", "a1 a2 b1+ b2+", []int{0}, []float64{0, 100, 0, 0}},
		{"backups by zone", zone, "a1", "a1 b1 a2+ b2+", []int{0, 1}, []float64{0, 0, 100, 0}},
		// Half of 0 and half of 1: each takes 5/7 of what reaches it, and what is left is shared evenly.
		{"all short", snapshot.Balance{}, "a1", "a1 a2 b1+ b2+", []int{0, 3}, []float64{0, 75.5, 24.5, 0}},
		{"all down", snapshot.Balance{}, "a1", "a1 a2 b1 b2", []int{0, 1, 2, 3}, []float64{25, 25, 25, 25}},
		{"panic", snapshot.Balance{PanicThresholdPercent: 50}, "a1", "a1 a2 b1 b2", []int{0, 1, 2}, []float64{25, 25, 25, 25}},
		{"no panic", snapshot.Balance{PanicThresholdPercent: 50}, "a1", "a1 a2 b1 b2", []int{0, 1}, []float64{0, 0, 50, 50}},
		{"panic of tiers", snapshot.Balance{Locality: "PreferSameZone", PanicThresholdPercent: 50}, "a1", "a1 a2 b1 b2", []int{0, 1, 2}, []float64{25, 25, 25, 25}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := Options{Node: tc.own, Zone: tc.own[:1]}
			if tc.own == nowhere {
				opts = Options{}
			}
			settings := cfg()
			settings.Balance = tc.balance
			eps := &snapshot.Endpoints{}
			number := map[string]int{}
			for i, text := range strings.Fields(tc.at) {
				e := place(i, strings.Trim(text, "."))
				eps.Endpoints = append(eps.Endpoints, e)
				number[e.Address+":80"] = i
			}
			c := newManagerFor(t, opts).NewCluster(settings, eps)
			find := func(i int) *endpoint {
				for _, m := range c.state.Load().members {
					if number[m.ep.address] == i {
						return m.ep
					}
				}
				t.Fatalf("endpoint %d is not a member", i)
				return nil
			}
			for _, i := range tc.down {
				find(i).SetHealthy(false, errors.New("as the test says"))
			}
			shares := func() []float64 {
				const picks = 40_000
				got := make([]float64, len(tc.want))
				for range picks {
					if ep, _, _ := c.pick(c.state.Load(), wish{}); ep != nil {
						got[number[ep.address]] += 100. / picks
					}
				}
				return got
			}
			check := func(when string) {
				t.Helper()
				got := shares()
				for i := range got {
					if math.Abs(got[i]-tc.want[i]) > 1.5 { // six standard deviations
						t.Errorf("%s, the shares are %.1f, want %.1f", when, got, tc.want)
						break
					}
				}
			}
			check("at first")
			// Nothing of it is lost with a new set, and all of it with new health.
			c.SetEndpoints(eps)
			check("after a swap")
			for _, i := range tc.down {
				find(i).SetHealthy(true, nil)
			}
			for _, tier := range append(c.state.Load().ready, c.state.Load().draining) {
				if n := tier.down.Load(); n != 0 {
					t.Errorf("a weight of %d is still down", n)
				}
			}
		})
	}
}

// TestTierFailsOver rules out what is left of the first tier: a round trip that
// could not connect there goes on to the next.
func TestTierFailsOver(t *testing.T) {
	first, second := refusing(t), newBackend(t, ok)
	eps := endpoints(first, second.addr)
	eps.Endpoints[1].Priority = 1
	c := newManagerFor(t, Options{}).NewCluster(cfg(), eps)
	for range 3 {
		if ex := send(t, c, "GET", ""); ex.Upstream.Endpoint != second.addr.String() {
			t.Fatalf("it went to %s", ex.Upstream.Endpoint)
		}
	}
	if s := stateOf(t, c, first); s.State != "ejected" || s.Tier != 0 {
		t.Errorf("%+v", s)
	}
	if s := stateOf(t, c, second.addr); s.Tier != 1 {
		t.Errorf("%+v", s)
	}
}
