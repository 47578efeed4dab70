package pipeline

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/session"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// tables is everything that is served at one moment. It is immutable but for
// the filters' and clusters' own state.
type tables struct {
	ports map[string]*port // by snapshot.Port.Key
	// hosts are the virtual hosts of each listener, by listener.slot. They are
	// here and not in the listener, so that a changed host leaves the ports alone.
	hosts []route.Hosts[*host]
}

// port is a socket's listeners by hostname.
type port struct {
	listeners route.Hosts[*listener]
}

// listener is the live counterpart of a snapshot.Listener.
type listener struct {
	key     string
	slot    int
	tls     bool
	port    string // the declared port, in decimal
	altSvc  string // what clients over TCP are told of HTTP/3; "" for nothing
	trusted []netip.Prefix
	metrics *observe.Route // of requests that match no route

	// Bounds of snapshot.Client, 0 where there is none.
	headers, headerBytes int
	bodyBytes            int64
}

// host is the live counterpart of a snapshot.VirtualHost.
type host struct {
	source *snapshot.VirtualHost
	index  *route.Index
	// rules and methods are by route, in the order of source.Routes.
	rules   []*rule
	methods []string
	// cookiePaths are for the cookies of sessions, by route; nil if there are none.
	cookiePaths []string
	// broken says why the host's routes cannot be told apart; then there are no rules.
	broken string
	// incomplete hosts are linked anew at the next chance.
	incomplete bool
}

// rule is the live counterpart of a snapshot.Rule.
type rule struct {
	source   *snapshot.Rule
	info     exchange.RouteInfo
	metrics  *observe.Route
	filters  []filter
	backends []backend // those with a weight or sessions
	weights  uint32    // their sum
	// split shares the clients among the backends with a weight; nil shares the
	// requests.
	split *split
	// sessions are those of the backends, each once.
	sessions []*session.Persistence

	priority                       overload.Priority
	requestTimeout, backendTimeout time.Duration
	// broken says why every request is answered 500, as snapshot.Rule.Broken.
	broken string
	// incomplete rules are linked anew at the next chance.
	incomplete bool
	// release gives back what the rule holds, when no table refers to it any more.
	release []func()
}

type filter struct {
	request   func(*exchange.Exchange) exchange.Verdict
	response  func(*exchange.Exchange)
	done      func(*exchange.Exchange)
	bodyLimit int64
}

type backend struct {
	source  *snapshot.Backend
	weight  uint32
	cluster Cluster // nil if the reference does not resolve
	filters []filter
	mirrors []mirror // the rule's and its own
	metrics *observe.Route
	retry   *snapshot.Retry // the rule's or else its own; nil for none
	hedge   *hedge          // nil for none
	// fallback is nil where nothing stands in for it.
	fallback *fallback
	// session is nil for none; id names the backend in its tokens.
	session *session.Persistence
	id      uint64
}

type mirror struct {
	cluster                Cluster
	numerator, denominator uint32
	metrics                *observe.Mirror
}

// listener returns the listener that takes the request: of those that share
// the port, the one with the most specific hostname, and no other (listener
// isolation).
func (t *tables) listener(ex *exchange.Exchange) *listener {
	key, _ := ex.Conn.Port.(string)
	port := t.ports[key]
	if port == nil {
		return nil
	}
	l, _ := port.listeners.Best(ex.In.Host)
	return l
}

// match returns the most specific virtual host with a route that matches, the
// route's place in it, and how much of the path its prefix covers.
func (t *tables) match(l *listener, ex *exchange.Exchange) (found *host, n, prefix int) {
	t.hosts[l.slot].Each(ex.In.Host, func(h *host) bool {
		if h.broken != "" {
			found = h
			return false
		}
		if n, prefix = h.index.Match(ex); n >= 0 {
			found = h
		}
		return found == nil
	})
	return found, n, prefix
}

// misdirects reports whether the connection was accepted as another listener's.
func (l *listener) misdirects(c *exchange.Conn) bool {
	if c.TLS == nil {
		return l.tls
	}
	return c.TLS.Listener != l.key
}

// pick returns the client's backend, or where clients have none one with the
// probability of its weight; nil if there is none.
func (r *rule) pick(ex *exchange.Exchange) *backend {
	switch {
	case r.weights == 0:
		return nil
	case len(r.backends) == 1:
		return &r.backends[0]
	}
	if r.split != nil {
		if b := r.split.pick(ex); b != nil {
			return b
		}
	}
	n := rand.Uint32N(r.weights)
	for i := range r.backends {
		b := &r.backends[i]
		if n < b.weight {
			return b
		}
		n -= b.weight
	}
	return nil
}

func (m *mirror) sampled() bool {
	return m.numerator >= m.denominator || rand.Uint32N(m.denominator) < m.numerator
}
