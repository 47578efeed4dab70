package upstream

import (
	"math/rand/v2"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// lifetime is what bounds for how long a connection gets requests.
type lifetime struct {
	// born is on the Manager's coarse clock.
	born int64
	// early is what part of its greatest age is left out, up to a fifth, so that
	// connections that were made together do not end together.
	early float64
	// requests counts those that it has had, and has.
	requests int
}

func newLifetime(now int64) lifetime { return lifetime{born: now, early: rand.Float64() / 5} }

// over reports whether the connection gets no more requests.
func (l *lifetime) over(p *snapshot.Pool, now int64) bool {
	return p.MaxRequests > 0 && l.requests >= p.MaxRequests ||
		p.MaxAge > 0 && float64(now-l.born) >= float64(p.MaxAge)*(1-l.early)
}
