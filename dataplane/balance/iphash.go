package balance

import (
	"encoding/binary"
	"math"
	"math/bits"
)

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

func newIPHash(members []Member) Picker {
	h := &ipHash{members: members, seeds: make([]uint64, len(members)), weighted: weights(members) != nil}
	for i := range members {
		h.seeds[i] = hashString(members[i].ID)
	}
	return h
}

func (h *ipHash) Pick(c Choice) int {
	addr := c.Client.Unmap().As16()
	client := mix(binary.BigEndian.Uint64(addr[:8])^seed1, binary.BigEndian.Uint64(addr[8:])^seed2)
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

// The constants only have to be odd-looking, and to stay: changing one moves
// every client.
const (
	seed1 = 0xa0761d6478bd642f
	seed2 = 0xe7037ed1a0b428db
	seed3 = 0x8ebc6af09c88c6e3
)

// mix is the multiply-and-fold step of wyhash.
func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func hashString(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h^seed1, seed2)
}
