package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// TestRoundRobinExact holds that every window of a period's length has each
// member as often as its weight says, wherever it begins.
func TestRoundRobinExact(t *testing.T) {
	for _, ws := range [][]uint32{{1, 1, 1}, {5, 1, 1}, {2, 4, 6}, {9, 7, 5, 3, 1}} {
		p := mustNew(t, "RoundRobin", members(ws...))
		var divisor, period uint32
		for _, w := range ws {
			divisor = gcd(divisor, w)
		}
		for _, w := range ws {
			period += w / divisor
		}
		for range 5 {
			counts := make([]uint32, len(ws))
			for range period {
				counts[p.Pick(Choice{})]++
			}
			for i, w := range ws {
				if counts[i] != w/divisor {
					t.Fatalf("weights %v: a window has %v", ws, counts)
				}
			}
		}
	}
}

// TestRoundRobinExactConcurrently holds the same for concurrent picks.
func TestRoundRobinExactConcurrently(t *testing.T) {
	const goroutines, rounds = 8, 700
	ws := []uint32{4, 2, 1}
	p := mustNew(t, "RoundRobin", members(ws...))
	counts := make([][3]int, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for range rounds {
				counts[g][p.Pick(Choice{})]++
			}
		})
	}
	wg.Wait()
	var sum [3]int
	for _, c := range counts {
		for i := range c {
			sum[i] += c[i]
		}
	}
	if want := [3]int{3200, 1600, 800}; sum != want {
		t.Errorf("got %v, want %v", sum, want)
	}
}

// TestRoundRobinSmooth bounds how far any prefix strays from the ideal share.
func TestRoundRobinSmooth(t *testing.T) {
	for range 200 {
		n := 2 + rand.IntN(8)
		ws := make([]uint32, n)
		for i := range ws {
			ws[i] = 1 + rand.Uint32N(20)
		}
		seq := sequence(weights(members(ws...)))
		if seq == nil {
			continue
		}
		var total float64
		for _, w := range ws {
			total += float64(w)
		}
		counts := make([]float64, n)
		for at, i := range seq {
			counts[i]++
			for k := range counts {
				if off := math.Abs(counts[k] - float64(at+1)*float64(ws[k])/total); off > 2.5 {
					t.Fatalf("weights %v: after %d picks member %d is %.1f from its share in %v", ws, at+1, k, off, seq)
				}
			}
		}
	}
	// The textbook example: the heavy member's run is never longer than 3.
	seq := sequence([]uint32{5, 1, 1})
	run, longest := 0, 0
	for _, i := range append(slices.Clone(seq), seq...) {
		if run++; i != 0 {
			run = 0
		}
		longest = max(longest, run)
	}
	if len(seq) != 7 || longest > 3 {
		t.Errorf("5:1:1 gives %v", seq)
	}
}

func TestRoundRobinLongPeriod(t *testing.T) {
	seq := sequence([]uint32{4_000_000_000, 3_999_999_999, 1})
	if len(seq) > maxSequence+3 {
		t.Errorf("the sequence has %d places", len(seq))
	}
	if !slices.Contains(seq, 2) {
		t.Error("the lightest member has no place")
	}
}

// TestRoundRobinStart holds that replicas begin at different places.
func TestRoundRobinStart(t *testing.T) {
	first := map[int]bool{}
	for range 64 {
		first[mustNew(t, "RoundRobin", equal(8)).Pick(Choice{})] = true
	}
	if len(first) < 4 {
		t.Errorf("64 replicas began at only %d members", len(first))
	}
}

func TestLeastRequest(t *testing.T) {
	m := members(1, 1, 2)
	p := mustNew(t, "LeastRequest", m)
	load := func(a, b, c int64) {
		m[0].Load.InFlight.Store(a)
		m[1].Load.InFlight.Store(b)
		m[2].Load.InFlight.Store(c)
	}
	for _, tc := range []struct {
		loads [3]int64
		want  []int
	}{
		{[3]int64{3, 2, 9}, []int{1}},
		{[3]int64{3, 4, 5}, []int{2}}, // 5/2 < 3
		{[3]int64{2, 3, 4}, []int{0, 2}},
		{[3]int64{0, 1, 0}, []int{0, 2}},
	} {
		load(tc.loads[0], tc.loads[1], tc.loads[2])
		seen := map[int]bool{}
		for range 200 {
			seen[p.Pick(Choice{})] = true
		}
		for i := range seen {
			if !slices.Contains(tc.want, i) {
				t.Errorf("loads %v: picked %d, want one of %v", tc.loads, i, tc.want)
			}
		}
		if len(seen) != len(tc.want) {
			t.Errorf("loads %v: picked only %v of %v", tc.loads, seen, tc.want)
		}
	}
}

// TestLeastLoaded keeps requests in flight and holds that nobody has many more
// than its share: of one choice the fullest would stray by the root of its
// load, of two or of all only by a few.
func TestLeastLoaded(t *testing.T) {
	for _, name := range []string{"LeastRequest", "RandomOfTwo"} {
		for _, n := range []int{8, 100} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				m := equal(n)
				p := mustNew(t, name, m)
				var flying []int
				for range n * 200 {
					k := p.Pick(Choice{})
					m[k].Load.InFlight.Add(1)
					flying = append(flying, k)
					if len(flying) > n*50 {
						i := rand.IntN(len(flying))
						m[flying[i]].Load.InFlight.Add(-1)
						flying[i] = flying[len(flying)-1]
						flying = flying[:len(flying)-1]
					}
				}
				for i := range m {
					if got := m[i].Load.InFlight.Load(); got > 50+10 {
						t.Errorf("member %d has %d in flight, the mean is 50", i, got)
					}
				}
			})
		}
	}
}

// TestIPHashDisruption removes and adds each member of a set and holds that
// exactly its own clients move.
func TestIPHashDisruption(t *testing.T) {
	const clients = 20_000
	for _, ws := range [][]uint32{{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {1, 2, 3, 4, 5}} {
		all := members(ws...)
		before := make([]string, clients)
		p := mustNew(t, "IPHash", all)
		for i := range before {
			before[i] = all[p.Pick(Choice{Hash: HashAddr(client(i * 7919))})].ID
		}
		for gone := range all {
			fewer := slices.Delete(slices.Clone(all), gone, gone+1)
			slices.Reverse(fewer) // the order of a set must not matter
			q := mustNew(t, "IPHash", fewer)
			moved := make(map[string]int)
			for i, old := range before {
				now := fewer[q.Pick(Choice{Hash: HashAddr(client(i * 7919))})].ID
				if old != all[gone].ID && now != old {
					t.Fatalf("client %d moved from %s to %s when %s went", i, old, now, all[gone].ID)
				}
				if old == all[gone].ID {
					moved[now]++
				}
			}
			// They spread over all that are left, by weight.
			counts, want := make([]int, len(fewer)), make([]float64, len(fewer))
			for i := range fewer {
				counts[i], want[i] = moved[fewer[i].ID], float64(fewer[i].Weight)
				if want[i] == 0 {
					want[i] = 1
				}
			}
			chiSquare(t, counts, want)
		}
	}
}

// TestIPHashStable pins the hash: replicas of different versions must agree.
func TestIPHashStable(t *testing.T) {
	p := mustNew(t, "IPHash", equal(10))
	var got []int
	for i := range 12 {
		got = append(got, p.Pick(Choice{Hash: HashAddr(client(i<<16 | 5))}))
	}
	if want := []int{7, 1, 1, 4, 5, 3, 6, 4, 9, 7, 6, 1}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
