package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
)

// arcs are the shares of the ring's members, by the ring alone.
func arcs(r *ringHash) (shares []float64, points []int) {
	shares, points = make([]float64, len(r.members)), make([]int, len(r.members))
	before := r.points[len(r.points)-1]
	for _, p := range r.points {
		i := int(uint32(p))
		shares[i] += float64(p-before) / math.Exp2(64) // the first one wraps around
		points[i]++
		before = p
	}
	return shares, points
}

// TestRingHashShares holds the ring against theory: a share of k points is the
// sum of k random gaps, so it strays by the root of 1/k of itself. And it holds
// picks against the ring.
func TestRingHashShares(t *testing.T) {
	for _, ws := range [][]uint32{{1, 1, 1}, {5, 1, 1, 3}, slices.Repeat([]uint32{1}, 300), slices.Repeat([]uint32{1}, 5000), {1000, 1}} {
		m := members(ws...)
		r := mustNew(t, "RingHash", m).(*ringHash)
		shares, points := arcs(r)
		var total, sum float64
		for _, w := range ws {
			total += float64(w)
		}
		chi := 0.0
		for i, w := range ws {
			sum += shares[i]
			off := shares[i]/(float64(w)/total) - 1
			chi += off * off * float64(points[i])
		}
		if math.Abs(sum-1) > 1e-6 {
			t.Errorf("%d members: the shares add up to %f", len(ws), sum)
		}
		free := float64(len(ws) - 1)
		if z := (math.Cbrt(chi/free) - (1 - 2/(9*free))) / math.Sqrt(2/(9*free)); z > 6 {
			t.Errorf("%d members: the shares stray by %.1f standard deviations", len(ws), z)
		}
		if len(r.points) > maxPoints+len(ws) {
			t.Errorf("%d members have %d points", len(ws), len(r.points))
		}
		if len(ws) <= 300 {
			counts := make([]int, len(ws))
			for range 40_000 {
				counts[r.Pick(Choice{Hash: rand.Uint64()})]++
			}
			chiSquare(t, counts, shares)
		}
	}
}

// TestMaglevShares holds that no member has a place more or less than its weight says.
func TestMaglevShares(t *testing.T) {
	for _, ws := range [][]uint32{{1}, {1, 1, 1}, {5, 1, 1, 3}, slices.Repeat([]uint32{1}, 650), {1000, 1}, slices.Repeat([]uint32{1, 2, 7}, 300)} {
		m := mustNew(t, "Maglev", members(ws...)).(*maglev)
		counts := make([]float64, len(ws))
		for _, i := range m.table {
			counts[i]++
		}
		var total float64
		for _, w := range ws {
			total += float64(w)
		}
		for i, w := range ws {
			if want := tableSize * float64(w) / total; math.Abs(counts[i]-want) > 1.01+float64(w)/float64(slices.Max(ws)) {
				t.Errorf("%d members: number %d has %.0f places, want %.1f", len(ws), i, counts[i], want)
			}
		}
	}
}

// TestMaglevMany has more members than places.
func TestMaglevMany(t *testing.T) {
	m := equal(70_000)
	p := mustNew(t, "Maglev", m)
	for range 1000 {
		if p.Pick(Choice{Hash: rand.Uint64()}) < 0 {
			t.Fatal("picked nothing")
		}
	}
}

// hashes are those of n keys.
func hashes(n int) []uint64 {
	list := make([]uint64, n)
	for i := range list {
		list[i] = HashString(fmt.Sprint("key ", i))
	}
	return list
}

// TestDisruption takes a member away, and adds one, and counts the keys of
// others that move: none but by IPHash; by RingHash none while weights are
// equal, and few if they aren't; by Maglev a few.
func TestDisruption(t *testing.T) {
	all := hashes(50_000)
	for _, tc := range []struct {
		algorithm string
		weights   []uint32
		// others is how many keys of others may move, as a part of those that must.
		others float64
	}{
		{"IPHash", slices.Repeat([]uint32{1}, 20), 0},
		{"IPHash", slices.Repeat([]uint32{1, 2}, 10), 0},
		{"RingHash", slices.Repeat([]uint32{1}, 20), 0},
		{"RingHash", slices.Repeat([]uint32{1, 2}, 10), 0.75},
		{"RingHash", slices.Repeat([]uint32{1}, 3000), 1.5},
		{"Maglev", slices.Repeat([]uint32{1}, 20), 0.5},
		{"Maglev", slices.Repeat([]uint32{1, 2}, 10), 1},
		{"Maglev", slices.Repeat([]uint32{1}, 200), 2},
	} {
		t.Run(fmt.Sprint(tc.algorithm, len(tc.weights), tc.weights[:2]), func(t *testing.T) {
			m := members(tc.weights...)
			keys := all[:min(len(all), 500*len(m))]
			whole := mustNew(t, tc.algorithm, m)
			for _, gone := range []int{0, len(m) - 1} {
				fewer := slices.Delete(slices.Clone(m), gone, gone+1)
				rest := mustNew(t, tc.algorithm, fewer)
				its, others := 0, 0
				for _, key := range keys {
					c := Choice{Hash: key}
					before, after := m[whole.Pick(c)].ID, fewer[rest.Pick(c)].ID
					switch {
					case before == m[gone].ID:
						its++
					case before != after:
						others++ // one that goes moves them there, one that comes back
					}
				}
				if most := tc.others * float64(its); float64(others) > most {
					t.Errorf("without number %d, %d keys of others move beside its %d", gone, others, its)
				}
				share := float64(m[gone].weight()) / weightOf(m)
				if moved := float64(its+others) / float64(len(keys)); moved > share*(1+tc.others)*1.25+0.002 {
					t.Errorf("%.2f %% of the keys move, %.2f %% are its", moved*100, share*100)
				}
			}
		})
	}
}

// TestHashingWithout holds that the keys of an ejected member go to all others, that
// no other key moves, and that they come back.
func TestHashingWithout(t *testing.T) {
	keys := hashes(30_000)
	for _, tc := range []struct {
		algorithm string
		off       float64 // how much a share of the keys may stray from an even one
	}{{"IPHash", 0.25}, {"Maglev", 0.25}, {"RingHash", 1}} {
		t.Run(tc.algorithm, func(t *testing.T) {
			const n = 11
			m := equal(n)
			p := mustNew(t, tc.algorithm, m)
			before := make([]int, len(keys))
			for k, key := range keys {
				before[k] = p.Pick(Choice{Hash: key})
			}
			m[3].Load.EjectedUntil.Store(Unhealthy)
			got, moved := make([]float64, n), 0.0
			for k, was := range before {
				now := p.Pick(Choice{Hash: keys[k], Now: 1})
				if was != 3 && now != was {
					t.Fatalf("key %d has moved from %d to %d", k, was, now)
				}
				if was == 3 {
					got[now]++
					moved++
				}
			}
			for i := range got {
				if want := moved / (n - 1); i != 3 && math.Abs(got[i]/want-1) > tc.off {
					t.Errorf("number %d has got %.0f of the ejected one's %.0f keys", i, got[i], moved)
				}
			}
			m[3].Load.EjectedUntil.Store(0)
			for k, was := range before {
				if now := p.Pick(Choice{Hash: keys[k]}); now != was {
					t.Fatalf("key %d has not come back", k)
				}
			}
		})
	}
}

// TestHashBalanceFactor sends requests of a few hot keys, and holds that nobody
// ever has more in flight than the factor lets it, and that a key stays while
// there is room.
func TestHashBalanceFactor(t *testing.T) {
	hot := hashes(4)
	for _, algorithm := range []string{"RingHash", "Maglev"} {
		for _, factor := range []int{100, 125, 200} {
			for _, ws := range [][]uint32{slices.Repeat([]uint32{1}, 10), {1, 2, 3, 4, 10}} {
				t.Run(fmt.Sprint(algorithm, factor, len(ws)), func(t *testing.T) {
					m := members(ws...)
					var all atomic.Int64
					p, err := New(Config{Algorithm: algorithm, HashBalanceFactor: factor, InFlight: &all}, m)
					if err != nil {
						t.Fatal(err)
					}
					free := mustNew(t, algorithm, m)
					total := weightOf(m)
					var flying []int
					stayed := 0
					for range 4_000 {
						if len(flying) > 200 {
							k := rand.IntN(len(flying))
							m[flying[k]].Load.InFlight.Add(-1)
							all.Add(-1)
							flying = slices.Delete(flying, k, k+1)
						}
						c := Choice{Hash: hot[rand.IntN(len(hot))]}
						i := p.Pick(c)
						m[i].Load.InFlight.Add(1)
						all.Add(1)
						flying = append(flying, i)
						most := math.Ceil(float64(factor) / 100 * float64(all.Load()) * float64(ws[i]) / total)
						if got := float64(m[i].Load.InFlight.Load()); got > most {
							t.Fatalf("number %d has %.0f of %d in flight, may have %.0f", i, got, all.Load(), most)
						}
						if i == free.Pick(c) {
							stayed++
						}
					}
					if stayed == 0 {
						t.Error("no key stayed where it belongs")
					}
				})
			}
		}
	}
}

// TestHashBalanceFactorIdle holds that a bound changes nothing while no member is full.
func TestHashBalanceFactorIdle(t *testing.T) {
	for _, algorithm := range []string{"RingHash", "Maglev"} {
		m := equal(7)
		var all atomic.Int64
		p, err := New(Config{Algorithm: algorithm, HashBalanceFactor: 125, InFlight: &all}, m)
		if err != nil {
			t.Fatal(err)
		}
		free := mustNew(t, algorithm, m)
		for range 1000 {
			c := Choice{Hash: rand.Uint64()}
			if p.Pick(c) != free.Pick(c) {
				t.Fatal("a key has moved without need")
			}
		}
	}
}

// TestHashString holds that hashes of similar keys are spread, in the upper and
// in the lower half, and do not change.
func TestHashString(t *testing.T) {
	all := hashes(30_000)
	for _, shift := range []int{0, 32, 57} {
		counts, want := make([]int, 128), slices.Repeat([]float64{1}, 128)
		for _, h := range all {
			counts[h>>shift&127]++
		}
		chiSquare(t, counts, want)
	}
	got := []uint64{HashString(""), HashString("a"), HashString("12345678"), HashString("123456789")}
	if want := []uint64{0x9a5177c020a3dfc0, 0x2955850fde07a057, 0x849ec520775e347, 0xaaf32e8e638073ae}; !slices.Equal(got, want) {
		t.Errorf("got %#x", got)
	}
}
