package observe

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
)

// RouteLabels say which series a request is counted in.
type RouteLabels struct {
	// Listener is the listener's key, "namespace/gateway/listener".
	Listener string
	// Route is "HTTPRoute/namespace/name"; "" for requests that matched none.
	Route string
	// Cluster is the cluster's key; "" for requests that none was chosen for.
	Cluster string
}

// Route counts the requests of one listener, route and cluster. Handles of one
// listener and route share their requests in flight and their added latency:
// a request may Begin on the handle without a cluster, when its route is known,
// and be Done on the chosen cluster's. It is safe for concurrent use.
type Route struct {
	cluster string
	share   *share
	shards  shards[routeShard]
	extras  atomic.Pointer[extras] // nil while there are none
	users   int                    // guarded by m.mu
}

// extras counts what most routes have none of, and what is rare enough to be
// counted in one place.
type extras struct {
	retries, retriesRefused atomic.Uint64
	// hedges are those that were sent, that were the faster ones, and that were refused.
	hedges, hedgesWon, hedgesRefused atomic.Uint64
	// fallbacks are those to other backends, and to responses of our own.
	fallbacks [2]atomic.Uint64
}

// extra returns where to count them.
func (r *Route) extra() *extras {
	if r.extras.Load() == nil {
		r.extras.CompareAndSwap(nil, new(extras))
	}
	return r.extras.Load()
}

// shards are what goroutines on different cores count in. They are made for the
// first request, so that a route without requests costs next to nothing.
type shards[T any] struct{ made atomic.Pointer[[]T] }

// own returns the i-th shard.
func (s *shards[T]) own(i int) *T {
	made := s.made.Load()
	if made == nil {
		fresh := make([]T, shardCount)
		s.made.CompareAndSwap(nil, &fresh)
		made = s.made.Load()
	}
	return &(*made)[i]
}

// all returns the shards, none before the first request.
func (s *shards[T]) all() []T {
	if made := s.made.Load(); made != nil {
		return *made
	}
	return nil
}

// routeShard points to what the requests of some goroutines are counted in, by
// code class. A histogram is made when its first request is done.
type routeShard struct {
	total [classes]atomic.Pointer[histogram]
}

type shareLabels struct{ listener, route string }

// share is what all clusters of a listener's route have together.
type share struct {
	labels shareLabels
	shards shards[shareShard]
	m      *Metrics
	routes []*Route // by cluster, few; guarded by m.mu
}

type shareShard struct {
	inFlight atomic.Int64
	added    atomic.Pointer[histogram]
	_        [48]byte // a cache line each
}

// The upper bounds of the buckets in nanoseconds; above the last is one more.
var (
	totalBounds = [...]int64{
		500e3, 1e6, 2500e3, 5e6, 10e6, 25e6, 50e6, 100e6, 250e6, 500e6, 1e9, 2500e6, 5e9, 10e9, 30e9, 60e9,
	}
	addedBounds = [...]int64{
		10e3, 25e3, 50e3, 100e3, 250e3, 500e3, 1e6, 2500e3, 5e6, 10e6, 25e6, 100e6, 1e9,
	}
)

// histogram counts durations in buckets that do not overlap. It fills whole
// cache lines.
type histogram struct {
	sum     atomic.Int64 // nanoseconds
	buckets [len(totalBounds) + 1]atomic.Uint64
	_       [48]byte
}

func observe(p *atomic.Pointer[histogram], bounds []int64, d int64) {
	h := p.Load()
	if h == nil {
		p.CompareAndSwap(nil, new(histogram))
		h = p.Load()
	}
	h.sum.Add(d)
	h.buckets[bucket(bounds, d)].Add(1)
}

// bucket returns the index of the first bound that is not below d. Bounds are
// few, and most requests end at one of the first.
func bucket(bounds []int64, d int64) int {
	for i, bound := range bounds {
		if d <= bound {
			return i
		}
	}
	return len(bounds)
}

// classes are 1xx to 5xx, and none: no response was sent.
const classes = 6

var classNames = [classes]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

func classOf(status int) int {
	if c := status / 100; 1 <= c && c < classes {
		return c
	}
	return 0
}

// shardCount is a power of two, so that goroutines on different cores rarely
// write to the same cache line.
var shardCount = func() int {
	n := 1
	for n < runtime.GOMAXPROCS(0) && n < 16 {
		n *= 2
	}
	return n
}()

func shard() int {
	if shardCount == 1 {
		return 0
	}
	return int(rand.Uint32()) & (shardCount - 1)
}

// Route returns the handle for these labels. Every handle that was got is given
// back with Release.
func (m *Metrics) Route(labels RouteLabels) *Route {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := shareLabels{labels.Listener, labels.Route}
	s := m.shares[key]
	if s == nil {
		s = &share{labels: key, m: m}
		m.shares[key] = s
	}
	i := slices.IndexFunc(s.routes, func(r *Route) bool { return r.cluster == labels.Cluster })
	if i < 0 {
		i = len(s.routes)
		s.routes = append(s.routes, &Route{cluster: labels.Cluster, share: s})
	}
	s.routes[i].users++
	return s.routes[i]
}

// Release gives the handle back. Requests in flight may still use it.
func (r *Route) Release() {
	s := r.share
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	s.routes = slices.DeleteFunc(s.routes, func(other *Route) bool { return other == r })
	if len(s.routes) == 0 {
		delete(s.m.shares, s.labels)
	}
}

// Begin counts a request in flight.
func (r *Route) Begin() { r.share.shards.own(shard()).inFlight.Add(1) }

// Retried counts a request that is sent once more.
func (r *Route) Retried() { r.extra().retries.Add(1) }

// RetryRefused counts a request that is not sent once more because the retry
// budget is used up.
func (r *Route) RetryRefused() { r.extra().retriesRefused.Add(1) }

// Hedged counts requests that are sent beside another one.
func (r *Route) Hedged(n int) { r.extra().hedges.Add(uint64(n)) }

// HedgeWon counts one that brought the response.
func (r *Route) HedgeWon() { r.extra().hedgesWon.Add(1) }

// HedgeRefused counts one that was due and not sent, because the retry budget was
// used up or too many were under way.
func (r *Route) HedgeRefused() { r.extra().hedgesRefused.Add(1) }

// FellBack counts a request that something else than its backend has taken: another backend, or a response of our own.
func (r *Route) FellBack(toResponse bool) {
	if toResponse {
		r.extra().fallbacks[1].Add(1)
	} else {
		r.extra().fallbacks[0].Add(1)
	}
}

// Done counts a request that is over. status is what was sent downstream, 0 if
// nothing was; total is from the request's first byte to the response's last,
// and added is total without what Headgate only waited for the upstream. An
// added below 0 is not known, as for a tunnel, and not counted.
func (r *Route) Done(status int, total, added time.Duration) {
	i := shard()
	s := r.share.shards.own(i)
	s.inFlight.Add(-1)
	if added >= 0 {
		observe(&s.added, addedBounds[:], int64(added))
	}
	observe(&r.shards.own(i).total[classOf(status)], totalBounds[:], int64(total))
}
