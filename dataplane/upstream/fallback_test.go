package upstream

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestAvailable has the share of requests that a cluster is to have, in percent,
// by which of its endpoints are down.
func TestAvailable(t *testing.T) {
	for _, tc := range []struct {
		name    string
		at      string // as in TestTiers
		percent int
		down    []int
		want    float64
	}{
		{"none", "", 1, nil, 0},
		{"only draining", "a1!", 1, nil, 0},
		{"all healthy", "a1 a2", 100, nil, 100},
		{"one of two", "a1 a2", 1, []int{0}, 100},
		{"one of two, and it is enough", "a1 a2", 50, []int{0}, 100},
		{"one of two, and it is not enough", "a1 a2", 100, []int{0}, 50},
		{"one of four", "a1 a2 b1 b2", 50, []int{0, 1, 2}, 50},
		{"one of a backup tier", "a1 a2 b1+ b2+", 50, []int{0, 1, 2}, 50},
		{"all down", "a1 a2", 1, []int{0, 1}, 0},
		{"all down that do not drain", "a1 a2!", 1, []int{0}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			eps := &snapshot.Endpoints{}
			for i, text := range strings.Fields(tc.at) {
				eps.Endpoints = append(eps.Endpoints, place(i, text))
			}
			c := newManagerFor(t, Options{}).NewCluster(cfg(), eps)
			members := c.state.Load().members
			for _, i := range tc.down {
				for _, m := range members {
					if m.ep.address == eps.Endpoints[i].Address+":80" {
						m.ep.SetHealthy(false, errors.New("as the test says"))
					}
				}
			}
			const asked = 20_000
			got := 0.
			for range asked {
				if c.Available(tc.percent) {
					got += 100. / asked
				}
			}
			if math.Abs(got-tc.want) > 2.2 { // six standard deviations
				t.Errorf("available for %.1f %%, want %.1f", got, tc.want)
			}
		})
	}
}

// TestAvailableToBeProbed: an endpoint whose ejection is over is for a request to
// find out about, or it would be out for good.
func TestAvailableToBeProbed(t *testing.T) {
	now := time.Now()
	c := newManagerFor(t, Options{Now: func() time.Time { return now }, SweepInterval: time.Hour}).
		NewCluster(cfg(), &snapshot.Endpoints{Endpoints: []snapshot.Endpoint{place(0, "a1")}})
	ep := c.state.Load().members[0].ep
	c.eject.Lock()
	c.takeOut(ep, c.m.now()+int64(time.Second))
	c.eject.Unlock()
	if c.Available(1) {
		t.Error("available while its only endpoint is ejected")
	}
	now = now.Add(2 * time.Second)
	if !c.Available(1) {
		t.Error("nobody finds out whether it is back")
	}
	if _, probe, _ := c.pick(c.state.Load(), wish{}); !probe || c.Available(1) {
		t.Errorf("probed: %v, and others follow: %v", probe, c.Available(1))
	}
}
