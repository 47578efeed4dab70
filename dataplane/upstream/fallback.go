package upstream

import (
	"math/rand/v2"

	"github.com/headgate/headgate/dataplane/balance"
)

// Available reports whether a request is to go to this cluster rather than to
// what stands in for it: it is if at least percent of the endpoints are healthy,
// by weight, and if fewer are, with the probability that is left of that. An
// endpoint is healthy that is neither ejected nor unhealthy nor draining; one whose ejection is
// over counts as such, since only a request can find out. While hosts have not
// been looked up, nobody knows, and it is.
func (c *Cluster) Available(percent int) bool {
	st := c.state.Load()
	if st.resolving != nil && len(st.members) == 0 {
		return true
	}
	var all, up int64
	for _, t := range st.ready {
		all += t.weight
		up += t.weight - t.down.Load()
	}
	needs := all * int64(percent)
	if all > 0 && up*100 >= needs {
		return true
	}
	now := c.m.now()
	for i := range st.members {
		m := &st.members[i]
		if until := m.ep.load.EjectedUntil.Load(); !m.draining && until != 0 && until != balance.Unhealthy && until <= now {
			up += int64(m.weight)
		}
	}
	return up > 0 && (up*100 >= needs || rand.Int64N(needs) < up*100)
}
