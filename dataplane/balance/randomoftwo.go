package balance

// randomOfTwo draws two members by weight and takes the less busy one. No
// member looks best to everybody at once, so that replicas which cannot see
// each other's requests do not all rush to the same idle endpoint.
type randomOfTwo struct {
	members []Member
	sampler sampler
}

func newRandomOfTwo(_ *Config, members []Member) Picker {
	return &randomOfTwo{members: members, sampler: newSampler(weights(members))}
}

func (r *randomOfTwo) Pick(c Choice) int {
	first := r.sampler.draw(r.members, &c, -1)
	if first < 0 {
		return scan(r.members, &c)
	}
	second := r.sampler.draw(r.members, &c, first)
	if second >= 0 && r.members[first].busier(&r.members[second]) {
		return second
	}
	return first
}
