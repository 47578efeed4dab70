package balance

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sync/atomic"
)

// roundRobin hands out the places of a fixed sequence in turn. The sequence has
// each member as often as its weight says, spread evenly. As the only thing
// that picks share is a counter, any run of as many picks as the sequence is
// long has exactly the right distribution, however many goroutines pick.
type roundRobin struct {
	members []Member
	// sequence holds indexes of members; nil if all weights are equal: then it
	// is the members themselves.
	sequence []uint32
	next     atomic.Uint64
}

// maxSequence bounds the sequence. Weights that would need a longer one are
// rounded to what fits; each member keeps at least one place.
const maxSequence = 1 << 14

func newRoundRobin(_ *Config, members []Member) Picker {
	r := &roundRobin{members: members, sequence: sequence(weights(members))}
	// A random start keeps replicas, and the sets that follow each other in one
	// replica, from marching in step.
	r.next.Store(rand.Uint64() >> 1)
	return r
}

func (r *roundRobin) Pick(c Choice) int {
	n := uint64(len(r.members))
	if r.sequence != nil {
		n = uint64(len(r.sequence))
	}
	if n == 0 {
		return -1
	}
	// Who meets an excluded member takes another place, rather than the one
	// beside it: otherwise the neighbour would serve both shares.
	for range max(64, len(r.members)) {
		i := int(r.next.Add(1) % n)
		if r.sequence != nil {
			i = int(r.sequence[i])
		}
		if l := r.members[i].Load; c.allows(l) && l.admits() {
			return i
		}
	}
	if c.Tried[0] != nil {
		// The next pick is the same request's. As many places further each time, it
		// would meet the same few members as those of all others.
		r.next.Add(rand.Uint64N(n))
	}
	return scan(r.members, &c)
}

// sequence spreads weights evenly over a period: member i's k-th place lies at
// (k + its phase) / weight of the period, and the places are taken in order.
// The phases are different, so that light members do not all come together.
func sequence(weights []uint32) []uint32 {
	if weights == nil {
		return nil
	}
	var total uint64
	for _, w := range weights {
		total += uint64(w)
	}
	limit := max(maxSequence, 4*uint64(len(weights)))
	type place struct {
		at    float64
		index uint32
	}
	var places []place
	for i, w := range weights {
		if total > limit {
			w = max(1, uint32((uint64(w)*limit+total/2)/total))
		}
		phase := (float64(i) + 0.5) / float64(len(weights))
		for k := range w {
			places = append(places, place{at: (float64(k) + phase) / float64(w), index: uint32(i)})
		}
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.index, b.index))
	})
	out := make([]uint32, len(places))
	for i, p := range places {
		out[i] = p.index
	}
	return out
}
