package upstream

import (
	"cmp"
	"math"

	"github.com/headgate/headgate/dataplane/balance"
)

// startSlowly gives an endpoint that is new or back a small share of its weight,
// which setShares lets grow.
func (ep *endpoint) startSlowly(st *state, now int64) {
	if st.slowStart != nil {
		ep.started.Store(now)
		ep.setShare(st.grown(0))
	}
}

// grown is the share that an endpoint has so long after it began to start slowly.
func (st *state) grown(after int64) float64 {
	s := st.slowStart
	if s == nil || after >= int64(s.Window) {
		return 1
	}
	share := math.Pow(float64(max(after, 0))/float64(s.Window), 1/cmp.Or(s.Aggression, 1))
	return max(share, float64(s.MinWeightPercent)/100)
}

// setShares says how much of its weight each endpoint has for now: by what it
// and the others report of their loads, and less while it starts slowly. It is
// called about once a second, so that picking needs neither clock nor powers.
func (c *Cluster) setShares(now int64) {
	st := c.state.Load()
	var most, sum, n float64
	if st.loadReports {
		for i := range st.members {
			if w := st.members[i].ep.reported.Weight(now); w > 0 {
				most, sum, n = max(most, w), sum+w, n+1
			}
		}
	}
	for i := range st.members {
		ep, share := st.members[i].ep, 1.0
		if n > 0 {
			// Who has not reported counts as an average one.
			share = cmp.Or(ep.reported.Weight(now), sum/n) / most
		}
		if started := ep.started.Load(); started != 0 {
			grown := st.grown(now - started)
			if grown == 1 {
				ep.started.CompareAndSwap(started, 0)
			}
			share *= grown
		}
		ep.setShare(share)
	}
}

func (ep *endpoint) setShare(share float64) {
	v := max(1, uint32(math.Round(share*balance.FullShare)))
	if v >= balance.FullShare {
		v = 0
	}
	if ep.load.Share.Load() != v {
		ep.load.Share.Store(v)
	}
}

func (ep *endpoint) sharePercent() int {
	if v := ep.load.Share.Load(); v != 0 {
		return int(max(1, v*100/balance.FullShare))
	}
	return 100
}
