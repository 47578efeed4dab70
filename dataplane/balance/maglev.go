package balance

// maglev is consistent hashing by a table ("Maglev: A Fast and Reliable Software
// Network Load Balancer", section 3.4): the members take places of the table in
// turn, as often as their weights say, each in an order of its own, and a key
// belongs to whose place it falls on. Shares are nearly exact and a pick is one
// look, but when a member goes, a few keys move that were not its own.
type maglev struct {
	members []Member
	bound   bound
	table   []uint16
}

// tableSize must be a prime. With n members of one weight, their shares differ
// by n/tableSize at most: 1 % with 650.
const tableSize = 65_537

// free marks a place that nobody has; members from this one on get none.
const free = ^uint16(0)

func newMaglev(cfg *Config, members []Member) Picker {
	m := &maglev{members: members, bound: newBound(cfg, members)}
	members = members[:min(len(members), int(free))]
	if len(members) == 0 {
		return m
	}
	m.table = make([]uint16, tableSize)
	for i := range m.table {
		m.table[i] = free
	}
	// A member's order is every skip-th place from an offset on; as the size is a
	// prime, it meets all.
	type order struct{ next, skip, due uint64 }
	orders := make([]order, len(members))
	heaviest := uint64(0)
	for i := range members {
		h := HashString(members[i].ID)
		orders[i] = order{next: mix(h, seed1) % tableSize, skip: mix(h, seed2)%(tableSize-1) + 1}
		heaviest = max(heaviest, uint64(members[i].weight()))
	}
	for taken := 0; ; {
		for i := range orders {
			// The heaviest takes a place in every round, others in so many as their
			// weight is of its.
			o := &orders[i]
			if o.due += uint64(members[i].weight()); o.due < heaviest {
				continue
			}
			o.due -= heaviest
			for m.table[o.next] != free {
				if o.next += o.skip; o.next >= tableSize {
					o.next -= tableSize
				}
			}
			m.table[o.next] = uint16(i)
			if taken++; taken == tableSize {
				return m
			}
		}
	}
}

func (m *maglev) Pick(c Choice) int {
	if len(m.table) == 0 {
		return -1
	}
	return m.bound.walk(m.members, &c, tableSize, func(step int) int {
		place := c.Hash
		if step > 0 {
			// Anywhere, so that what a member cannot take is shared by all others:
			// the places after its own are a few members' more than others'.
			place = mix(place^seed1, uint64(step)*seed2)
		}
		return int(m.table[place%tableSize])
	})
}
