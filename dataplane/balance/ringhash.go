package balance

import (
	"math"
	"slices"
)

// ringHash is consistent hashing (Karger et al.): each member has points on a
// ring, as many as its weight says, and a key belongs to the first point after
// it. A member that goes leaves its keys to those whose points come next, which
// are many; one that comes takes keys from as many.
type ringHash struct {
	members []Member
	bound   bound
	// points are sorted: a place on the ring in the upper half, an index of
	// members in the lower.
	points []uint64
}

// How many points there are: about pointsPerMember for a member of average
// weight, and about maxPoints in all. A share then strays from what it should be
// by the root of one in its number of points: 6 % with 256.
const (
	pointsPerMember = 256
	maxPoints       = 1 << 19
)

func newRingHash(cfg *Config, members []Member) Picker {
	r := &ringHash{members: members, bound: newBound(cfg, members)}
	if len(members) == 0 {
		return r
	}
	per := pointsPerWeight(members)
	points := make([]uint64, 0, int(per*weightOf(members))+len(members))
	for i := range members {
		seed := HashString(members[i].ID)
		for k := range max(1, uint64(math.Round(float64(members[i].weight())*per))) {
			place := mix(seed^seed1, (k+1)*seed2)
			points = append(points, place&^math.MaxUint32|uint64(i))
		}
	}
	r.points = sorted(points)
	return r
}

// pointsPerWeight is how many points a weight of 1 gives. It changes, and moves
// a few keys of everybody, when a member of another weight than the average
// comes or goes, or when there are more members than points for them.
func pointsPerWeight(members []Member) float64 {
	return min(float64(len(members))*pointsPerMember, maxPoints) / weightOf(members)
}

// sorted sorts points, which are spread evenly: each is put where it about
// belongs, and few have to be moved from there. That takes a tenth of the time
// of a sort that does not know it.
func sorted(points []uint64) []uint64 {
	const buckets = 1 << 16
	if len(points) < buckets {
		slices.Sort(points)
		return points
	}
	var ends [buckets + 1]uint32
	for _, p := range points {
		ends[p>>48+1]++
	}
	for i := range buckets {
		ends[i+1] += ends[i]
	}
	out := make([]uint64, len(points))
	for _, p := range points {
		at := &ends[p>>48]
		out[*at] = p
		*at++
	}
	for i := 1; i < len(out); i++ {
		for k := i; k > 0 && out[k] < out[k-1]; k-- {
			out[k], out[k-1] = out[k-1], out[k]
		}
	}
	return out
}

func (r *ringHash) Pick(c Choice) int {
	n := len(r.points)
	if n == 0 {
		return -1
	}
	start, _ := slices.BinarySearch(r.points, c.Hash)
	return r.bound.walk(r.members, &c, n, func(step int) int {
		k := start + step
		if k >= n {
			k -= n
		}
		return int(uint32(r.points[k]))
	})
}
