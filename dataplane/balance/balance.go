// Package balance chooses an endpoint for a request.
//
// A Picker belongs to one immutable set of members and is replaced with it, so
// that indexes, weights and an algorithm's own tables always agree. What lives
// longer than a set, a member's load, is reached through a pointer.
//
// A new algorithm is one file with one function, and one row in algorithms.
package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
)

// Picker chooses among the members of one set. It is safe for concurrent use
// and allocates nothing.
type Picker interface {
	// Pick returns the index of a member that c does not rule out, or -1 if it
	// rules out all of them.
	Pick(c Choice) int
}

// Member is one endpoint of a set.
type Member struct {
	// ID is stable and the same in every replica: "ip:port".
	ID string
	// Weight is relative; 0 counts as 1.
	Weight uint32
	Load   *Load
}

// Load is what is known of an endpoint while it serves. All of it may be read
// and written at any time.
type Load struct {
	// InFlight counts the requests that the endpoint is serving.
	InFlight atomic.Int64
	// MaxInFlight is how many these may be; 0 means any number. An endpoint that
	// has so many is full, and not picked.
	MaxInFlight atomic.Int64
	// EjectedUntil is the time on the clock of Choice.Now before which the
	// endpoint is not to be picked; 0 if it is not ejected, Unhealthy if it is
	// out until further notice.
	EjectedUntil atomic.Int64
	// Share is how much of its weight the endpoint has for now, in parts of
	// FullShare; 0 means all of it. Algorithms that hash do not go by it.
	Share atomic.Uint32
	// Latency is for PeakEWMA.
	Latency Latency
}

// FullShare is a Load.Share of the whole weight.
const FullShare = 1 << 10

// Unhealthy is a time of Load.EjectedUntil that never comes.
const Unhealthy = math.MaxInt64

// MaxTried is how many members a Choice can rule out one by one.
const MaxTried = 3

// Choice is what one pick has to consider.
type Choice struct {
	// Hash is of what keeps its endpoint, for algorithms that hash: HashString or
	// HashAddr makes it.
	Hash uint64
	// Now rules out members that are ejected until later, in nanoseconds.
	// PeakEWMA reads it too.
	Now int64
	// Settled rules out those whose ejection is over, too: it is not known how they are.
	Settled bool
	// Panic lets ejected members count like others.
	Panic bool
	// Full lets members be picked that have as many requests as they should,
	// Unbounded those that have Load.MaxInFlight.
	Full, Unbounded bool
	// Tried are not picked again.
	Tried [MaxTried]*Load
}

// Exclude adds a member to Tried; one beyond MaxTried is forgotten.
func (c *Choice) Exclude(l *Load) {
	for i := range c.Tried {
		if c.Tried[i] == nil {
			c.Tried[i] = l
			return
		}
	}
}

func (c *Choice) allows(l *Load) bool {
	if until := l.EjectedUntil.Load(); until != 0 && (until > c.Now || c.Settled) && !c.Panic {
		return false
	}
	if l.Full() && !c.Unbounded {
		return false
	}
	for _, t := range c.Tried {
		if t == nil {
			break
		}
		if t == l {
			return false
		}
	}
	return true
}

// Full reports whether as many requests are in flight as may be.
func (l *Load) Full() bool {
	most := l.MaxInFlight.Load()
	return most > 0 && l.InFlight.Load() >= most
}

// admits reports whether a member may be picked that only has a share of its
// weight, as often as that says.
func (l *Load) admits() bool {
	share := l.Share.Load()
	return share == 0 || rand.Uint32N(FullShare) < share
}

// Config says how to choose. Beside Algorithm, its fields are for one or two
// algorithms each.
type Config struct {
	// Algorithm is one of Algorithms; "" is the default.
	Algorithm string
	// HashBalanceFactor bounds what a member has in flight under RingHash and
	// Maglev, in percent of its share of InFlight; 0 does not.
	HashBalanceFactor int
	// InFlight counts the requests in flight of all members, and those of more
	// than these if need be.
	InFlight *atomic.Int64
	// MaxRequests is how many requests in flight FirstAvailable gives a member
	// of weight 1 before the next one has any.
	MaxRequests int
}

// algorithms names all there are; the first is the default.
var algorithms = []struct {
	name string
	make func(*Config, []Member) Picker
}{
	{"RoundRobin", newRoundRobin},
	{"LeastRequest", newLeastRequest},
	{"Random", newRandom},
	{"RandomOfTwo", newRandomOfTwo},
	{"PeakEWMA", newPeakEWMA},
	{"IPHash", newIPHash},
	{"RingHash", newRingHash},
	{"Maglev", newMaglev},
	{"FirstAvailable", newFirstAvailable},
}

// Algorithms returns the names that New knows; the first is the default.
func Algorithms() []string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = a.name
	}
	return names
}

// New returns a picker over members, which must not be changed any more.
// The only error is an unknown algorithm.
func New(c Config, members []Member) (Picker, error) {
	if c.Algorithm == "" {
		c.Algorithm = algorithms[0].name
	}
	for _, a := range algorithms {
		if a.name == c.Algorithm {
			return a.make(&c, members), nil
		}
	}
	return nil, fmt.Errorf("balancing algorithm %q is none of %s", c.Algorithm, strings.Join(Algorithms(), ", "))
}

// scan returns the first allowed member from a random place on, or -1. It is
// what sampling falls back to when it has met nothing but excluded members.
func scan(members []Member, c *Choice) int {
	n := len(members)
	if n == 0 {
		return -1
	}
	for i, k := rand.IntN(n), 0; k < n; k++ {
		if c.allows(members[i].Load) {
			return i
		}
		if i++; i == n {
			i = 0
		}
	}
	return -1
}

// weights returns the members' weights, divided by what they have in common,
// or nil if all are equal.
func weights(members []Member) []uint32 {
	if len(members) == 0 {
		return nil
	}
	ws := make([]uint32, len(members))
	divisor := uint32(0)
	for i := range members {
		ws[i] = members[i].weight()
		divisor = gcd(divisor, ws[i])
	}
	if !slices.ContainsFunc(ws, func(w uint32) bool { return w != ws[0] }) {
		return nil
	}
	for i := range ws {
		ws[i] /= divisor
	}
	return ws
}

func gcd(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (m *Member) weight() uint32 { return max(m.Weight, 1) }

func weightOf(members []Member) (sum float64) {
	for i := range members {
		sum += float64(members[i].weight())
	}
	return sum
}

// effective is the weight that the member has for now.
func (m *Member) effective() int64 {
	if share := m.Load.Share.Load(); share != 0 {
		return int64(m.weight()) * int64(share)
	}
	return int64(m.weight()) * FullShare
}

// busier reports whether a has more requests in flight for its weight than b.
func (m *Member) busier(than *Member) bool {
	return m.Load.InFlight.Load()*than.effective() > than.Load.InFlight.Load()*m.effective()
}
