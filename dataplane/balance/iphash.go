package balance

import "math"

// ipHash keeps a client at one endpoint, by weighted rendezvous hashing: every
// member gets a score from its identity and the client's address, and the best
// score wins. A member that goes gives its clients, and only those, to all
// others by weight; one that comes takes only its share. The scores depend on
// nothing else, so that all replicas agree. A pick costs a few nanoseconds per
// member.
type ipHash struct {
	members []Member
	// seeds are hashes of the members' identities.
	seeds []uint64
	// weighted says that weights differ, and scores need a logarithm.
	weighted bool
}

func newIPHash(_ *Config, members []Member) Picker { return NewRendezvous(members) }

// NewRendezvous returns a picker by weighted rendezvous hashing, which keeps
// whatever Choice.Hash is of. If a member's weight changes, that moves from or to
// it just the share by which it does.
func NewRendezvous(members []Member) Picker {
	h := &ipHash{members: members, seeds: make([]uint64, len(members)), weighted: weights(members) != nil}
	for i := range members {
		h.seeds[i] = HashString(members[i].ID)
	}
	return h
}

func (h *ipHash) Pick(c Choice) int {
	client := c.Hash
	best := -1
	if !h.weighted {
		var top uint64
		for i, s := range h.seeds {
			if score := mix(client^s, seed3); (best < 0 || score > top) && c.allows(h.members[i].Load) {
				best, top = i, score
			}
		}
		return best
	}
	// With u uniform in (0, 1), -weight/ln(u) is largest with a probability
	// proportional to weight.
	var top float64
	for i, s := range h.seeds {
		u := (float64(mix(client^s, seed3)>>11) + 0.5) / (1 << 53)
		score := -float64(h.members[i].weight()) / math.Log(u)
		if (best < 0 || score > top) && c.allows(h.members[i].Load) {
			best, top = i, score
		}
	}
	return best
}
