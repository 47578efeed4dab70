package l4

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// table is where connections and flows go. It is immutable.
type table struct {
	listeners map[string]*listener
	counted   []*observe.L4 // to be released
	releases  []func()      // of filters
	errs      []error
}

// listener is the live counterpart of a snapshot.Listener with targets.
type listener struct {
	targets route.Hosts[*target]
	none    way // no target
}

type target struct {
	none     way // no backend
	backends []backend
	weights  uint64
}

type backend struct {
	weight uint32
	way
}

// way is what a connection or flow is sent, and how it is told of.
type way struct {
	cluster Cluster // nil to refuse it, which reason says why
	reason  string
	// protocol is the listener's, and idle its timeout, 0 for the default.
	protocol string
	idle     time.Duration
	labels   observe.RouteLabels
	metrics  *observe.L4
	filters  *filters  // nil for none
	fallback *fallback // nil for none
}

// Why there is nowhere to go.
const (
	reasonNoRoute    = "no_route"
	reasonNoBackend  = "no_backend"
	reasonUnresolved = "unresolved_backend"
	reasonBroken     = "broken_rule" // its filters cannot be built
)

// Apply makes ports what new connections and flows go by. find returns a live
// cluster, nil if there is none: its share of the connections is refused. The error
// names targets whose filters cannot be built: they are refused as a whole.
func (p *Proxy) Apply(ports []*snapshot.Port, find func(key string) Cluster) error {
	p.apply.Lock()
	defer p.apply.Unlock()
	next := &table{listeners: map[string]*listener{}}
	for _, port := range ports {
		for _, cfg := range port.Listeners {
			if cfg.Protocol == "TCP" || cfg.Protocol == "TLS" || cfg.Protocol == "UDP" {
				next.listeners[cfg.Key] = p.newListener(next, cfg, find)
			}
		}
	}
	// What stays is counted on: its new handle is got before the old one is given back.
	old := p.table.Swap(next)
	for _, counted := range old.counted {
		counted.Release()
	}
	for _, release := range old.releases {
		release()
	}
	return errors.Join(next.errs...)
}

func (p *Proxy) newListener(next *table, cfg *snapshot.Listener, find func(key string) Cluster) *listener {
	to := func(w way) way {
		w.labels.Listener, w.protocol = cfg.Key, cfg.Protocol
		if cfg.Client != nil {
			w.idle = cfg.Client.IdleTimeout
		}
		w.metrics = p.opts.Metrics.L4(w.labels)
		next.counted = append(next.counted, w.metrics)
		return w
	}
	l := &listener{none: to(way{reason: reasonNoRoute})}
	for _, t := range cfg.Targets {
		if _, taken := l.targets.Get(t.Hostname); taken {
			continue
		}
		labels := observe.RouteLabels{Route: t.Source.Kind + "/" + t.Source.Namespace + "/" + t.Source.Name}
		filters, release, err := newFilters(t.Filters, exchange.RouteInfo{
			Kind: t.Source.Kind, Namespace: t.Source.Namespace, Name: t.Source.Name, Listener: cfg.Key,
		}, p.opts.Env)
		if err != nil {
			next.errs = append(next.errs, fmt.Errorf("%s: %w", labels.Route, err))
		} else if release != nil {
			next.releases = append(next.releases, release)
		}
		live := &target{none: to(way{reason: reasonNoBackend, labels: labels})}
		for _, b := range t.Backends {
			if b.Weight == 0 {
				continue
			}
			toCluster := func(key string) way {
				w := way{labels: labels, filters: filters}
				w.labels.Cluster = key
				if key != "" && err == nil {
					w.cluster = find(key)
				}
				if w.cluster == nil {
					w.reason = reasonUnresolved
				}
				if err != nil {
					w.reason = reasonBroken
				}
				return to(w)
			}
			w := toCluster(b.Cluster)
			w.fallback = newFallback(b.Fallback, toCluster)
			live.backends = append(live.backends, backend{b.Weight, w})
			live.weights += uint64(b.Weight)
		}
		l.targets = l.targets.With(t.Hostname, live)
	}
	return l
}

// nowhere is the way of what comes to a listener that is gone.
var nowhere = way{reason: reasonNoRoute, metrics: observe.NewMetrics("").L4(observe.RouteLabels{})}

// find returns the way of a new connection or flow.
func (p *Proxy) find(listener, serverName string) *way {
	l := p.table.Load().listeners[listener]
	if l == nil {
		return &nowhere
	}
	t, ok := l.targets.Best(serverName)
	switch {
	case !ok:
		return &l.none
	case t.weights == 0:
		return &t.none
	}
	n := rand.Uint64N(t.weights)
	for i := range t.backends {
		b := &t.backends[i]
		if n < uint64(b.weight) {
			return &b.way
		}
		n -= uint64(b.weight)
	}
	return &t.none
}
