package balance

import (
	"math"
	"sync/atomic"
)

// bound keeps a member from having more in flight than so many times its share
// of all that is: "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup,
// Zadimoghaddam). Keys that a member has no room for go to the next one that
// has, and there is always one, as all shares together are more than all requests.
type bound struct {
	// perRequest is what a member of weight 1 may have for each request in
	// flight; 0 is no bound.
	perRequest float64
	inFlight   *atomic.Int64
}

func newBound(c *Config, members []Member) bound {
	if c.HashBalanceFactor <= 0 || c.InFlight == nil {
		return bound{}
	}
	return bound{perRequest: float64(c.HashBalanceFactor) / 100 / weightOf(members), inFlight: c.InFlight}
}

// limit is what a member of weight 1 may have, with the request that is being placed.
func (b *bound) limit() float64 {
	if b.perRequest == 0 {
		return 0
	}
	return b.perRequest * float64(b.inFlight.Load()+1)
}

// room reports whether the member may have one more, with a limit that is not 0.
func (m *Member) room(limit float64) bool {
	const rounding = 1e-6 // what is a whole number may come out as a little more
	return float64(m.Load.InFlight.Load()) < math.Ceil(limit*float64(m.weight())-rounding)
}

// maxSteps is how many places a key tries in turn before it takes any member
// that is left.
const maxSteps = 1 << 12

// walk tries the members that at names, one after the other from a key's place
// on, and returns the first one with room; of members that all lack it the
// first one that is allowed.
func (b *bound) walk(members []Member, c *Choice, places int, at func(step int) int) int {
	limit := b.limit()
	first := -1
	for step := range min(places, maxSteps) {
		i := at(step)
		if !c.allows(members[i].Load) {
			continue
		}
		if limit == 0 || members[i].room(limit) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	if first >= 0 {
		return first
	}
	// The key's own order among what is left, the same in every replica.
	for k := range members {
		if i := int((c.Hash + uint64(k)) % uint64(len(members))); c.allows(members[i].Load) {
			return i
		}
	}
	return -1
}
