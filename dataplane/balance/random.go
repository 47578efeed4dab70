package balance

// random draws a member by weight. It keeps no count that requests would have to
// share, and replicas need not know of each other; over few requests it is
// less even than RoundRobin.
type random struct {
	members []Member
	sampler sampler
}

func newRandom(_ *Config, members []Member) Picker {
	return &random{members: members, sampler: newSampler(weights(members))}
}

func (r *random) Pick(c Choice) int {
	if i := r.sampler.draw(r.members, &c, -1); i >= 0 {
		return i
	}
	return scan(r.members, &c)
}
