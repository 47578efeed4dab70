package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
)

func members(weights ...uint32) []Member {
	list := make([]Member, len(weights))
	for i, w := range weights {
		list[i] = Member{ID: fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250+1), Weight: w, Load: new(Load)}
	}
	return list
}

func equal(n int) []Member { return members(make([]uint32, n)...) }

// config is for tests in which any setting will do: without a bound, and with
// one request that makes a member full.
func config(algorithm string) Config { return Config{Algorithm: algorithm, MaxRequests: 1} }

func mustNew(t testing.TB, algorithm string, m []Member) Picker {
	t.Helper()
	p, err := New(config(algorithm), m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
}

// chiSquare fails the test if counts are not what weights would give. The
// bound is at six standard deviations: a fair picker fails once in 1e8 runs.
func chiSquare(t *testing.T, counts []int, weights []float64) {
	t.Helper()
	total, sum := 0, 0.0
	for i := range counts {
		total += counts[i]
		sum += weights[i]
	}
	x := 0.0
	for i := range counts {
		want := float64(total) * weights[i] / sum
		x += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
	}
	free := float64(len(counts) - 1)
	// Wilson and Hilferty: (x/free)^(1/3) is nearly normal.
	z := (math.Cbrt(x/free) - (1 - 2/(9*free))) / math.Sqrt(2/(9*free))
	if z > 6 {
		t.Errorf("counts %v do not fit weights %v: chi-square %.1f, %.1f standard deviations", counts, weights, x, z)
	}
}

func TestNew(t *testing.T) {
	for _, name := range append(Algorithms(), "") {
		p := mustNew(t, name, nil)
		if got := p.Pick(Choice{}); got != -1 {
			t.Errorf("%s: picked %d of nothing", name, got)
		}
	}
	if _, err := New(Config{Algorithm: "Fastest"}, nil); err == nil {
		t.Error("an unknown algorithm was accepted")
	}
	if Algorithms()[0] != "RoundRobin" {
		t.Error("the default is not RoundRobin")
	}
}

// TestDistribution picks for many clients while nothing is in flight.
func TestDistribution(t *testing.T) {
	cases := [][]uint32{
		{1, 1}, {1, 1, 1, 1, 1}, {5, 1, 1}, {100, 50, 25, 1}, {7, 0, 3}, {1000003, 999983, 500000},
		slices.Repeat([]uint32{1}, 40), slices.Repeat([]uint32{1, 2, 3}, 20),
	}
	for _, name := range Algorithms() {
		if name == "RingHash" || name == "FirstAvailable" {
			continue // see hashing_test.go and firstavailable_test.go
		}
		for _, ws := range cases {
			t.Run(fmt.Sprint(name, ws[:min(len(ws), 5)], len(ws)), func(t *testing.T) {
				m := members(ws...)
				p := mustNew(t, name, m)
				counts, want := make([]int, len(ws)), make([]float64, len(ws))
				for i, w := range ws {
					want[i] = float64(max(w, 1))
				}
				for i := range 40_000 {
					counts[p.Pick(Choice{Hash: HashAddr(client(int(rand.Uint32()) + i))})]++
				}
				chiSquare(t, counts, want)
			})
		}
	}
}

// TestExclusions rules members out in every way.
func TestExclusions(t *testing.T) {
	for _, name := range Algorithms() {
		for _, n := range []int{1, 2, 3, 5, 40} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				m := equal(n)
				p := mustNew(t, name, m)
				pick := func(c Choice) int {
					c.Hash = rand.Uint64()
					return p.Pick(c)
				}
				var tried Choice
				for k := range min(n, MaxTried) {
					i := pick(tried)
					if i < 0 {
						t.Fatalf("nothing left after %d of %d", k, n)
					}
					if slices.Contains(tried.Tried[:], m[i].Load) {
						t.Fatal("picked what was tried")
					}
					tried.Exclude(m[i].Load)
				}
				if n <= MaxTried && pick(tried) != -1 {
					t.Fatal("picked though all were tried")
				}

				for i := range m {
					m[i].Load.EjectedUntil.Store(100)
				}
				if got := pick(Choice{Now: 99}); got != -1 {
					t.Errorf("picked the ejected %d", got)
				}
				if pick(Choice{Now: 99, Panic: true}) < 0 {
					t.Error("picked nothing in panic")
				}
				if pick(Choice{Now: 100}) < 0 {
					t.Error("picked nothing though the time was over")
				}
				// The only one that is left must be found.
				only := rand.IntN(n)
				m[only].Load.EjectedUntil.Store(0)
				for range 50 {
					if got := pick(Choice{Now: 99}); got != only {
						t.Fatalf("picked %d, only %d is left", got, only)
					}
				}
			})
		}
	}
}

// TestEjectedShare holds that what an ejected member served is shared by all
// others, not taken over by a neighbour.
func TestEjectedShare(t *testing.T) {
	for _, name := range Algorithms() {
		if slices.Contains([]string{"RingHash", "Maglev", "FirstAvailable"}, name) {
			continue // see hashing_test.go and firstavailable_test.go
		}
		t.Run(name, func(t *testing.T) {
			m := equal(6)
			m[2].Load.EjectedUntil.Store(math.MaxInt64)
			p := mustNew(t, name, m)
			counts := make([]int, 6)
			for range 30_000 {
				counts[p.Pick(Choice{Hash: HashAddr(client(int(rand.Uint32())))})]++
			}
			if counts[2] != 0 {
				t.Errorf("the ejected member was picked %d times", counts[2])
			}
			chiSquare(t, slices.Delete(counts, 2, 3), []float64{1, 1, 1, 1, 1})
		})
	}
}

func TestNoAllocations(t *testing.T) {
	for _, name := range Algorithms() {
		for _, m := range [][]Member{equal(5), members(5, 1, 1), equal(100), members(slices.Repeat([]uint32{1, 2}, 50)...)} {
			p := mustNew(t, name, m)
			c := Choice{Hash: HashAddr(client(42))}
			c.Exclude(m[0].Load)
			if n := testing.AllocsPerRun(500, func() { p.Pick(c) }); n != 0 {
				t.Errorf("%s of %d members: %v allocations per pick", name, len(m), n)
			}
		}
	}
}

// TestConcurrent picks from many goroutines for the race detector, and counts.
func TestConcurrent(t *testing.T) {
	for _, name := range Algorithms() {
		m := members(3, 2, 1)
		p := mustNew(t, name, m)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 2000 {
					k := p.Pick(Choice{Hash: HashAddr(client(g*100_000 + i))})
					m[k].Load.InFlight.Add(1)
					m[k].Load.InFlight.Add(-1)
				}
			})
		}
		wg.Wait()
	}
}

func BenchmarkPick(b *testing.B) {
	for _, name := range Algorithms() {
		for _, n := range []int{3, 16, 100, 10_000} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				p := mustNew(b, name, equal(n))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					p.Pick(Choice{Hash: HashAddr(client(i)), Now: int64(i)})
					i++
				}
			})
		}
	}
}

// BenchmarkNew is what a change of a set costs.
func BenchmarkNew(b *testing.B) {
	for _, name := range Algorithms() {
		for _, n := range []int{10, 10_000} {
			m := members(slices.Repeat([]uint32{1, 2}, n/2)...)
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					mustNew(b, name, m)
				}
			})
		}
	}
}
