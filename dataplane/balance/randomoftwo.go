package balance

import "math/rand/v2"

// randomOfTwo draws two members by weight and takes the less busy one. No
// member looks best to everybody at once, so that replicas which cannot see
// each other's requests do not all rush to the same idle endpoint.
type randomOfTwo struct {
	members []Member
	sampler sampler
}

func newRandomOfTwo(members []Member) Picker {
	return &randomOfTwo{members: members, sampler: newSampler(weights(members))}
}

func (r *randomOfTwo) Pick(c Choice) int {
	first := r.draw(&c, -1)
	if first < 0 {
		return scan(r.members, &c)
	}
	second := r.draw(&c, first)
	if second >= 0 && r.members[first].busier(&r.members[second]) {
		return second
	}
	return first
}

// draw returns an allowed member other than one, or -1 if it met none.
func (r *randomOfTwo) draw(c *Choice, other int) int {
	for range 8 {
		if len(r.members) == 0 {
			break
		}
		i := r.sampler.sample(len(r.members))
		if i != other && c.allows(r.members[i].Load) {
			return i
		}
	}
	return -1
}

// sampler draws an index with a probability proportional to its weight, in
// constant time: Walker's alias method. The zero sampler draws evenly.
type sampler struct{ columns []column }

// column stands for one index up to its threshold, and for another above it.
type column struct {
	threshold uint64
	alias     uint32
}

func newSampler(weights []uint32) sampler {
	if weights == nil {
		return sampler{}
	}
	var total float64
	for _, w := range weights {
		total += float64(w)
	}
	n := len(weights)
	columns := make([]column, n)
	share := make([]float64, n)
	var light, heavy []int
	for i, w := range weights {
		share[i] = float64(w) * float64(n) / total
		if share[i] < 1 {
			light = append(light, i)
		} else {
			heavy = append(heavy, i)
		}
	}
	const one = 1 << 32
	for len(light) > 0 && len(heavy) > 0 {
		l, h := light[len(light)-1], heavy[len(heavy)-1]
		light = light[:len(light)-1]
		columns[l] = column{threshold: uint64(share[l] * one), alias: uint32(h)}
		share[h] -= 1 - share[l]
		if share[h] < 1 {
			heavy = heavy[:len(heavy)-1]
			light = append(light, h)
		}
	}
	for _, rest := range [2][]int{light, heavy} {
		for _, i := range rest {
			columns[i] = column{threshold: one, alias: uint32(i)}
		}
	}
	return sampler{columns: columns}
}

func (s sampler) sample(n int) int {
	if s.columns == nil {
		return rand.IntN(n)
	}
	i := rand.IntN(n)
	if uint64(rand.Uint32()) < s.columns[i].threshold {
		return i
	}
	return int(s.columns[i].alias)
}
