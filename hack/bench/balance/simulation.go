package main

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/balance"
)

// ideal is no algorithm: all endpoints take from one queue, the fastest first, so
// that none is idle while a request waits. Nobody who has to choose an endpoint
// when a request arrives can do better.
const ideal = "one queue"

// scenario is what requests and endpoints are like.
type scenario struct {
	name       string
	algorithms []string
	requests   int
	// replicas of the balancer get the requests in turn; none sees what the
	// others have in flight.
	replicas int
	// speeds are the endpoints'; 1 serves a request in its own time.
	speeds []float64
	// utilization is how much of all speeds is in use.
	utilization float64
	// service draws how long a request takes, in ms; its mean is 10.
	service func(*rand.Rand) float64
	// keys is how many there are, by Zipf's law; 0 is a key for each request.
	keys int
	// coldFor is in how many seconds the last endpoint, which has just started,
	// comes from a tenth of its speed to all of it; 0 is at once.
	coldFor float64
	// ramp has the balancer start it slowly, over as long.
	ramp bool
	// factor is hashBalanceFactor.
	factor int
}

// workers is how many requests an endpoint serves at a time; more wait there.
const workers = 8

func exponential(r *rand.Rand) float64 { return 10 * r.ExpFloat64() }

// heavy draws from a log-normal distribution: one in a hundred takes ten times
// as long as the mean or more.
func heavy(r *rand.Rand) float64 { return 10 * math.Exp(1.5*r.NormFloat64()-1.125) }

func scenarios(requests int) []scenario {
	choosing := []string{"RoundRobin", "Random", "RandomOfTwo", "LeastRequest", "PeakEWMA"}
	hashing := []string{"IPHash", "RingHash", "Maglev"}
	alike := slices.Repeat([]float64{1}, 20)
	slow := append(slices.Repeat([]float64{1}, 18), .25, .25)
	base := scenario{requests: requests, replicas: 2, speeds: alike, utilization: .8, service: exponential}
	with := func(name string, algorithms []string, edit func(*scenario)) scenario {
		s := base
		s.name, s.algorithms = name, algorithms
		edit(&s)
		return s
	}
	return []scenario{
		with("20 endpoints alike, 80 % in use, 2 replicas", append(choosing, hashing...), func(*scenario) {}),
		with("the same with requests of which few take long", choosing, func(s *scenario) { s.service = heavy }),
		with("the same with 10 replicas", choosing, func(s *scenario) { s.replicas = 10 }),
		with("2 of 20 endpoints at a quarter of the speed, 70 % in use", choosing, func(s *scenario) { s.speeds, s.utilization = slow, .7 }),
		with("10,000 keys by Zipf's law, 60 % in use", hashing, func(s *scenario) { s.keys, s.utilization = 10_000, .6 }),
		with("the same with hashBalanceFactor 125", []string{"RingHash", "Maglev"}, func(s *scenario) { s.keys, s.utilization, s.factor = 10_000, .6, 125 }),
		with("a cold endpoint comes: it takes 30 s to its speed, 70 % in use", choosing, func(s *scenario) { s.coldFor, s.utilization = 30, .7 }),
		with("the same with slowStart 30s", choosing, func(s *scenario) { s.coldFor, s.utilization, s.ramp = 30, .7, true }),
	}
}

// result is what came of a simulation.
type result struct {
	took   []float64 // in ms, sorted
	counts []int
}

func (r *result) percentile(p float64) float64 { return r.took[int(float64(len(r.took)-1)*p/100)] }

// spread is how many requests the busiest endpoint got, of the mean.
func (r *result) spread() float64 {
	return float64(slices.Max(r.counts)) * float64(len(r.counts)) / float64(len(r.took))
}

// request is one of a simulation.
type request struct {
	arrived, needs float64 // ms
	hash           uint64
	replica, at    int
}

// event is the arrival of the next request, or the end of one.
type event struct {
	at  float64
	end *request
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// replica is a balancer with what it knows.
type replica struct {
	members  []balance.Member
	inFlight atomic.Int64
	picker   balance.Picker
}

// run simulates one algorithm.
func (s *scenario) run(algorithm string) *result {
	// The same arrivals for all algorithms.
	random := rand.New(rand.NewPCG(1, 2))
	n := len(s.speeds)
	replicas := make([]*replica, s.replicas)
	for i := range replicas {
		r := &replica{members: members(n)}
		if algorithm != ideal {
			r.picker = picker(balance.Config{Algorithm: algorithm, HashBalanceFactor: s.factor, InFlight: &r.inFlight}, r.members)
		}
		replicas[i] = r
	}
	var zipf *rand.Zipf
	if s.keys > 0 {
		zipf = rand.NewZipf(random, 1.01, 1, uint64(s.keys-1))
	}
	capacity := 0.
	for _, speed := range s.speeds {
		capacity += speed * workers
	}
	between := 10 / (capacity * s.utilization)

	out := &result{counts: make([]int, n)}
	busy, waiting, shared := make([]int, n), make([][]*request, n), []*request{}
	var queue events
	start := func(now float64, r *request) {
		busy[r.at]++
		heap.Push(&queue, event{now + r.needs/s.speed(r.at, now), r})
	}
	heap.Push(&queue, event{at: 0})
	arrived := 0
	for queue.Len() > 0 {
		e := heap.Pop(&queue).(event)
		now := e.at
		if r := e.end; r != nil {
			out.took = append(out.took, now-r.arrived)
			busy[r.at]--
			if algorithm == ideal {
				if len(shared) > 0 {
					next := shared[0]
					shared = shared[1:]
					next.at = r.at
					out.counts[r.at]++
					start(now, next)
				}
				continue
			}
			b := replicas[r.replica]
			load := b.members[r.at].Load
			load.InFlight.Add(-1)
			b.inFlight.Add(-1)
			load.Latency.Observe(nanos(now), time.Duration((now-r.arrived)*1e6))
			if w := waiting[r.at]; len(w) > 0 {
				waiting[r.at] = w[1:]
				start(now, w[0])
			}
			continue
		}
		if arrived++; arrived < s.requests {
			heap.Push(&queue, event{at: now + between*random.ExpFloat64()})
		}
		r := &request{arrived: now, needs: s.service(random), replica: arrived % s.replicas}
		key := uint64(arrived)
		if zipf != nil {
			key = zipf.Uint64()
		}
		r.hash = balance.HashString(fmt.Sprint("key ", key))
		if algorithm == ideal {
			if r.at = s.fastest(busy, now); r.at < 0 {
				shared = append(shared, r)
				continue
			}
			out.counts[r.at]++
			start(now, r)
			continue
		}
		b := replicas[r.replica]
		if s.ramp {
			share := max(.1, now/1000/s.coldFor)
			v := uint32(share * balance.FullShare)
			if share >= 1 {
				v = 0
			}
			b.members[n-1].Load.Share.Store(v)
		}
		r.at = b.picker.Pick(balance.Choice{Hash: r.hash, Now: nanos(now)})
		out.counts[r.at]++
		b.members[r.at].Load.InFlight.Add(1)
		b.inFlight.Add(1)
		if busy[r.at] < workers {
			start(now, r)
		} else {
			waiting[r.at] = append(waiting[r.at], r)
		}
	}
	slices.Sort(out.took)
	return out
}

// speed is an endpoint's. The last one may be cold.
func (s *scenario) speed(i int, now float64) float64 {
	if i == len(s.speeds)-1 && s.coldFor > 0 {
		return s.speeds[i] * min(1, max(.1, now/1000/s.coldFor))
	}
	return s.speeds[i]
}

// fastest is the fastest endpoint with a free worker, -1 if there is none.
func (s *scenario) fastest(busy []int, now float64) int {
	best := -1
	for i, n := range busy {
		if n < workers && (best < 0 || s.speed(i, now) > s.speed(best, now)) {
			best = i
		}
	}
	return best
}

func nanos(ms float64) int64 { return int64(ms*1e6) + 1 }
