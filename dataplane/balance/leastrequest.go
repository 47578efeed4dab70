package balance

import "math/rand/v2"

// leastRequest picks the member with the fewest requests in flight for its
// weight. Few members are all looked at; of many, the better of two is taken,
// which is nearly as good (Mitzenmacher, "The Power of Two Choices") and costs
// the same for any number.
type leastRequest struct {
	members []Member
	two     randomOfTwo
}

// fullScan is up to how many members are all looked at.
const fullScan = 16

func newLeastRequest(_ *Config, members []Member) Picker {
	l := &leastRequest{members: members}
	if len(members) > fullScan {
		l.two = randomOfTwo{members: members, sampler: newSampler(weights(members))}
	}
	return l
}

func (l *leastRequest) Pick(c Choice) int {
	if len(l.members) > fullScan {
		return l.two.Pick(c)
	}
	// Members that are equally busy, such as all idle ones, share by weight.
	// Loads and weights are read once, so that those that tie in the first pass
	// still do in the second.
	var loads, weights [fullScan]int64
	best, total := -1, int64(0)
	for i := range l.members {
		m := &l.members[i]
		if !c.allows(m.Load) {
			loads[i] = -1
			continue
		}
		loads[i], weights[i] = m.Load.InFlight.Load(), m.effective()
		if best < 0 {
			best, total = i, weights[i]
			continue
		}
		mine, theirs := loads[i]*weights[best], loads[best]*weights[i]
		if mine < theirs {
			best, total = i, weights[i]
		} else if mine == theirs {
			total += weights[i]
		}
	}
	if best < 0 || total == weights[best] {
		return best
	}
	ticket := rand.Int64N(total)
	for i := range l.members {
		if loads[i] < 0 || loads[i]*weights[best] != loads[best]*weights[i] {
			continue
		}
		if ticket -= weights[i]; ticket < 0 {
			return i
		}
	}
	return best
}
