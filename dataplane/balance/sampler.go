package balance

import "math/rand/v2"

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

// draw returns an allowed member other than one, by weight, or -1 if it met none.
func (s sampler) draw(members []Member, c *Choice, other int) int {
	for range 8 {
		if len(members) == 0 {
			break
		}
		i := s.sample(len(members))
		if l := members[i].Load; i != other && c.allows(l) && l.admits() {
			return i
		}
	}
	return -1
}
