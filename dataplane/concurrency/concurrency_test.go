package concurrency

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// service is a model of a cluster behind a limit: servers with workers each, of
// which every one serves a request after the other, as long as serve says.
type service struct {
	t       *testing.T
	limit   *Controller
	servers []server
	serve   func(*rand.Rand) time.Duration
	mean    time.Duration
	random  *rand.Rand

	now      time.Duration
	inFlight int64
	done     endings // what is served
	next     time.Duration
	turn     int
}

// server is when each of its workers is free.
type server []time.Duration

// ending is a request that is being served, or waits for that.
type ending struct {
	at, took time.Duration
}

type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].at < e[j].at }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// tally is what has become of requests in some time.
type tally struct {
	offered, served, refused int
	capacity                 float64       // how many could be served
	latency                  time.Duration // mean
	limit                    float64       // mean
}

func newService(t *testing.T, servers, workers int, serve func(*rand.Rand) time.Duration, mean time.Duration) *service {
	s := &service{
		t: t, serve: serve, mean: mean, random: rand.New(rand.NewPCG(1, 2)),
		limit: For(&snapshot.AdaptiveConcurrency{
			MinRequests: 3, MaxRequests: 1000, LatencyTolerancePercent: 50, MinLatencyInterval: 30 * time.Second,
		}, nil),
	}
	s.scale(servers, workers)
	return s
}

func (s *service) scale(servers, workers int) {
	s.servers = make([]server, servers)
	for i := range s.servers {
		s.servers[i] = make(server, workers)
	}
}

// become changes how long requests take, and on average.
func (s *service) become(serve func(*rand.Rand) time.Duration, mean time.Duration) {
	s.serve, s.mean = serve, mean
}

// capacity is how many requests it can serve in a second.
func (s *service) capacity() float64 {
	return float64(len(s.servers)*len(s.servers[0])) / s.mean.Seconds()
}

// offer offers requests at random times, so many a second, for some time.
func (s *service) offer(rate float64, during time.Duration) (r tally) {
	until := s.now + during
	var took time.Duration
	var limits float64
	s.next = s.now
	for {
		s.next += time.Duration(s.random.ExpFloat64() / rate * float64(time.Second))
		for len(s.done) > 0 && s.done[0].at <= min(s.next, until) {
			e := heap.Pop(&s.done).(ending)
			s.now = e.at
			s.inFlight--
			s.limit.Observe(int64(e.at)+1, e.took, s.inFlight+1)
			r.served++
			took += e.took
		}
		if s.next > until {
			break
		}
		s.now = s.next
		r.offered++
		limits += float64(s.limit.Limit())
		if s.inFlight >= s.limit.Limit() {
			r.refused++
			continue
		}
		s.inFlight++
		s.turn++
		workers := s.servers[s.turn%len(s.servers)]
		free := 0
		for i := range workers {
			if workers[i] < workers[free] {
				free = i
			}
		}
		workers[free] = max(workers[free], s.now) + s.serve(s.random)
		heap.Push(&s.done, ending{workers[free], workers[free] - s.now})
	}
	s.now = until
	r.capacity = s.capacity() * during.Seconds()
	r.latency = took / time.Duration(max(1, r.served))
	r.limit = limits / float64(max(1, r.offered))
	s.t.Logf("%7.1fs  %6.0f/s offered  %6.0f/s served  %5.1f%% refused  latency %8s  min %8s  limit %6.1f now %d", s.now.Seconds(), rate,
		float64(r.served)/during.Seconds(), 100*float64(r.refused)/float64(max(1, r.offered)),
		r.latency.Round(10*time.Microsecond), s.limit.MinLatency().Round(10*time.Microsecond), r.limit, s.limit.Limit())
	return r
}

func constant(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}

func exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}

func bimodal(short, long time.Duration, share float64) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration {
		if r.Float64() < share {
			return long
		}
		return short
	}
}

// least fails the test if less than that part was served of what was offered and
// could be served.
func (r tally) least(t *testing.T, part float64) {
	t.Helper()
	if share := float64(r.served) / min(float64(r.offered), r.capacity); share < part {
		t.Errorf("%.1f %% of what could be served was, want %.0f %%", 100*share, 100*part)
	}
}

// TestAtThreeTimesTheCapacity offers services of many kinds first a
// third and then three times of what they can serve. They must serve nine tenths
// of their peak then, give or take what chance does, in a time that is near what a
// request takes alone, and all that is offered once it is less again.
func TestAtThreeTimesTheCapacity(t *testing.T) {
	for _, c := range []struct {
		name             string
		servers, workers int
		serve            func(*rand.Rand) time.Duration
		mean             time.Duration
	}{
		{"each request alike", 1, 10, constant(10 * time.Millisecond), 10 * time.Millisecond},
		{"requests that differ", 1, 10, exponential(10 * time.Millisecond), 10 * time.Millisecond},
		{"many workers", 1, 100, exponential(10 * time.Millisecond), 10 * time.Millisecond},
		{"many servers", 10, 8, exponential(10 * time.Millisecond), 10 * time.Millisecond},
		{"two workers", 1, 2, exponential(5 * time.Millisecond), 5 * time.Millisecond},
		{"one worker", 1, 1, exponential(5 * time.Millisecond), 5 * time.Millisecond},
		{"slow requests", 2, 4, exponential(500 * time.Millisecond), 500 * time.Millisecond},
		{"few that take long", 2, 16, bimodal(2*time.Millisecond, 100*time.Millisecond, .1), 11800 * time.Microsecond},
		{"fast requests", 4, 4, exponential(400 * time.Microsecond), 400 * time.Microsecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, c.servers, c.workers, c.serve, c.mean)
			peak := s.capacity()
			s.offer(peak/3, max(time.Second, 100*c.mean))
			s.offer(peak/3, 500*c.mean).least(t, .98)
			s.offer(3*peak, max(10*time.Second, 200*c.mean))
			r := s.offer(3*peak, max(10*time.Second, 200*c.mean))
			if r.least(t, .87); r.latency > 8*c.mean { // one worker has six others waiting
				t.Errorf("requests take %s, and %s alone", r.latency, c.mean)
			}
			s.offer(peak/2, time.Second)
			s.offer(peak/2, 500*c.mean).least(t, .98)
		})
	}
}

// TestFollows has services become slower and faster, smaller and
// larger, under a load that is too much, too little, or comes suddenly.
func TestFollows(t *testing.T) {
	const ten = 10 * time.Millisecond
	t.Run("slower", func(t *testing.T) {
		s := newService(t, 1, 20, exponential(ten), ten)
		s.offer(1000, 10*time.Second)
		s.become(exponential(5*ten), 5*ten)
		s.offer(300, 10*time.Second)
		s.offer(300, 10*time.Second).least(t, .98) // three quarters of what it can
		s.offer(1200, 10*time.Second)
		s.offer(1200, 60*time.Second).least(t, .9)
		s.become(exponential(20*ten), 20*ten)
		s.offer(1200, 30*time.Second)
		s.offer(1200, 60*time.Second).least(t, .9)
	})
	t.Run("faster", func(t *testing.T) {
		s := newService(t, 1, 20, exponential(20*ten), 20*ten)
		s.offer(300, 60*time.Second)
		s.become(exponential(ten), ten)
		s.offer(1200, 2*time.Second)
		s.offer(1200, 10*time.Second).least(t, .98)
		s.offer(6000, 30*time.Second)
		if r := s.offer(6000, 30*time.Second); r.latency > 5*ten {
			t.Errorf("requests take %s", r.latency)
		} else {
			r.least(t, .9)
		}
	})
	t.Run("smaller and larger", func(t *testing.T) {
		s := newService(t, 20, 8, exponential(ten), ten)
		s.offer(10000, 10*time.Second)
		s.scale(2, 8)
		s.offer(10000, 2*time.Second)
		if r := s.offer(10000, 30*time.Second); r.latency > 5*ten {
			t.Errorf("requests take %s", r.latency)
		} else {
			r.least(t, .9)
		}
		s.scale(20, 8)
		s.offer(10000, 2*time.Second)
		s.offer(10000, 5*time.Second).least(t, .98)
	})
	t.Run("a spike", func(t *testing.T) {
		s := newService(t, 20, 8, exponential(ten), ten)
		s.offer(500, 30*time.Second)
		s.offer(10000, time.Second).least(t, .8)
		s.offer(10000, time.Second).least(t, .98)
	})
	t.Run("an hour's pause", func(t *testing.T) {
		s := newService(t, 1, 20, exponential(ten), ten)
		s.offer(1000, 10*time.Second)
		s.now += time.Hour
		s.offer(1000, 10*time.Second).least(t, .98)
	})
	t.Run("few requests", func(t *testing.T) {
		s := newService(t, 1, 2, exponential(ten), ten)
		if r := s.offer(.5, time.Hour); r.refused > 0 {
			t.Errorf("%d are refused", r.refused)
		}
		if r := s.offer(5, time.Hour); r.refused > 0 {
			t.Errorf("%d are refused", r.refused)
		}
	})
	t.Run("a few that hang", func(t *testing.T) {
		s := newService(t, 1, 1000, bimodal(ten, 10*time.Second, .01), 11*ten)
		s.offer(1000, 60*time.Second)
		s.offer(2000, 60*time.Second).least(t, .98)
	})
	t.Run("no drift", func(t *testing.T) {
		s := newService(t, 1, 10, exponential(ten), ten)
		for _, rate := range []float64{950, 3000} {
			for range 4 {
				r := s.offer(rate, 5*time.Minute)
				if r.least(t, .9); r.latency > 4*ten {
					t.Errorf("requests take %s", r.latency)
				}
			}
		}
	})
}

func BenchmarkObserve(b *testing.B) {
	c := For(&snapshot.AdaptiveConcurrency{
		MinRequests: 3, MaxRequests: 1000, LatencyTolerancePercent: 50, MinLatencyInterval: 30 * time.Second,
	}, nil)
	b.ReportAllocs()
	b.RunParallel(func(each *testing.PB) {
		now := int64(1)
		for each.Next() {
			now += int64(10 * time.Microsecond)
			c.Observe(now, 10*time.Millisecond, 50)
		}
	})
}
