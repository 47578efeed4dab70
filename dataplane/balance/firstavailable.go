package balance

// firstAvailable fills one member after the other: a request goes to the first
// one that has room, so that as few are used as can be and the rest may be
// switched off. It is what HAProxy calls "first".
type firstAvailable struct {
	members []Member
	most    int64 // in flight, for a weight of 1
}

func newFirstAvailable(c *Config, members []Member) Picker {
	return &firstAvailable{members: members, most: int64(max(1, c.MaxRequests))}
}

// Pick returns -1 if all members are full, unless c.Full lets the least busy
// one have more.
func (f *firstAvailable) Pick(c Choice) int {
	best := -1
	for i := range f.members {
		m := &f.members[i]
		if !c.allows(m.Load) {
			continue
		}
		if m.Load.InFlight.Load() < f.most*int64(m.weight()) {
			return i
		}
		if best < 0 || f.members[best].busier(m) {
			best = i
		}
	}
	if !c.Full {
		return -1
	}
	return best
}
