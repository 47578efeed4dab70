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
	"net/netip"
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
	// EjectedUntil is the time on the clock of Choice.Now before which the
	// endpoint is not to be picked; 0 if it is not ejected, Unhealthy if it is
	// out until further notice.
	EjectedUntil atomic.Int64
}

// Unhealthy is a time of Load.EjectedUntil that never comes.
const Unhealthy = math.MaxInt64

// MaxTried is how many members a Choice can rule out one by one.
const MaxTried = 3

// Choice is what one pick has to consider.
type Choice struct {
	// Client is whom IPHash keeps at one endpoint.
	Client netip.Addr
	// Now rules out members that are ejected until later, in nanoseconds.
	Now int64
	// Panic lets ejected members count like others.
	Panic bool
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
	if until := l.EjectedUntil.Load(); until > c.Now && !c.Panic {
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

// algorithms names all there are; the first is the default.
var algorithms = []struct {
	name string
	make func(members []Member) Picker
}{
	{"RoundRobin", newRoundRobin},
	{"LeastRequest", newLeastRequest},
	{"IPHash", newIPHash},
	{"RandomOfTwo", newRandomOfTwo},
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
// An empty algorithm means the default; the only error is an unknown one.
func New(algorithm string, members []Member) (Picker, error) {
	if algorithm == "" {
		algorithm = algorithms[0].name
	}
	for _, a := range algorithms {
		if a.name == algorithm {
			return a.make(members), nil
		}
	}
	return nil, fmt.Errorf("balancing algorithm %q is none of %s", algorithm, strings.Join(Algorithms(), ", "))
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

// busier reports whether a has more requests in flight for its weight than b.
func (m *Member) busier(than *Member) bool {
	return m.Load.InFlight.Load()*int64(than.weight()) > than.Load.InFlight.Load()*int64(m.weight())
}
