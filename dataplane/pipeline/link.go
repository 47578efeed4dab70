package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Apply serves snap from now on. delta names what differs from the snapshot
// applied before; nil means that anything may. What did not change keeps its
// live counterpart, and with it its connections and counters.
//
// The error names what could not be linked; requests for that are answered 500,
// and all else serves. It is tried again when a later delta names its host, or is nil.
func (p *Pipeline) Apply(snap *snapshot.Snapshot, delta *snapshot.Delta) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delta == nil || p.snap == nil {
		delta = everything(p.snap, snap)
	}
	l := linker{p: p, snap: snap}
	next := *p.tables.Load()

	// Clusters and endpoints first, so that a route that is new finds its
	// backend ready. They are swapped each by itself: an endpoint that moved
	// changes no table of routes.
	for _, key := range delta.Clusters {
		l.cluster(key)
	}
	for _, key := range delta.Endpoints {
		if c := p.clusters[key]; c != nil {
			c.SetEndpoints(l.endpoints(key))
		}
	}
	if delta.Ports || len(delta.Hosts) > 0 {
		next.hosts = slices.Clone(next.hosts)
	}
	if delta.Ports {
		l.ports(&next)
	}
	for _, key := range delta.Hosts {
		l.host(&next, key)
	}

	p.snap = snap
	p.tables.Store(&next)

	// Only now is nothing new using what is gone. Exchanges in flight may be:
	// filters and clusters allow for that.
	for _, release := range l.retired {
		release()
	}
	return errors.Join(l.errs...)
}

// Close gives back everything that the tables hold. Nothing may be served or
// applied afterwards.
func (p *Pipeline) Close() {
	_ = p.Apply(&snapshot.Snapshot{}, nil)
	p.unrouted.Release()
}

// everything is the delta between snapshots of which nothing is known.
func everything(old, snap *snapshot.Snapshot) *snapshot.Delta {
	if old == nil {
		old = &snapshot.Snapshot{}
	}
	return &snapshot.Delta{
		Ports:     true,
		Hosts:     union(old.Hosts.Keys(), snap.Hosts.Keys()),
		Clusters:  union(old.Clusters.Keys(), snap.Clusters.Keys()),
		Endpoints: union(old.Endpoints.Keys(), snap.Endpoints.Keys()),
	}
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// linker makes live tables in one Apply.
type linker struct {
	p       *Pipeline
	snap    *snapshot.Snapshot
	errs    []error
	retired []func() // to call once the new tables are served
}

func (l *linker) fail(err error) { l.errs = append(l.errs, err) }

func (l *linker) endpoints(key string) *snapshot.Endpoints {
	if eps, ok := l.snap.Endpoints.Get(key); ok {
		return eps
	}
	return &snapshot.Endpoints{}
}

func (l *linker) cluster(key string) {
	cfg, ok := l.snap.Clusters.Get(key)
	live := l.p.clusters[key]
	switch {
	case ok && live == nil:
		l.p.clusters[key] = l.p.opts.NewCluster(cfg, l.endpoints(key))
	case ok:
		live.Update(cfg)
	case live != nil:
		delete(l.p.clusters, key)
		l.retired = append(l.retired, live.Close)
	}
}

// ports links all ports anew: there are few, and they rarely change. Slots are
// dealt out anew too, so that those of listeners that are gone do not pile up.
func (l *linker) ports(next *tables) {
	for _, port := range next.ports {
		port.listeners.All(func(old *listener) { l.retired = append(l.retired, old.metrics.Release) })
	}
	oldSlots, oldHosts := l.p.slots, next.hosts
	l.p.slots, next.hosts = map[string]int{}, nil
	for key, slot := range oldSlots {
		if oldHosts[slot].Len() > 0 {
			kept := l.slot(next, key)
			next.hosts[kept] = oldHosts[slot]
		}
	}
	next.ports = make(map[string]*port, len(l.snap.Ports))
	for _, cfg := range l.snap.Ports {
		live := &port{}
		for _, c := range cfg.Listeners {
			// Of listeners that conflict the first is served; compile says so in status.
			if _, taken := live.listeners.Get(c.Hostname); !taken {
				live.listeners = live.listeners.With(c.Hostname, l.listener(next, c, cfg.Transport))
			}
		}
		next.ports[cfg.Key] = live
	}
}

// slot returns the place of a listener's virtual hosts in next.hosts.
func (l *linker) slot(next *tables, listener string) int {
	slot, ok := l.p.slots[listener]
	if !ok {
		slot = len(next.hosts)
		l.p.slots[listener] = slot
		next.hosts = append(next.hosts, route.Hosts[*host]{})
	}
	return slot
}

func (l *linker) listener(next *tables, cfg *snapshot.Listener, transport string) *listener {
	live := &listener{
		key:     cfg.Key,
		slot:    l.slot(next, cfg.Key),
		tls:     cfg.TLS != nil,
		port:    strconv.Itoa(int(cfg.Port)),
		metrics: l.p.opts.Metrics.Route(observe.RouteLabels{Listener: cfg.Key}),
	}
	if h := cfg.HTTP3; h != nil && h.AltSvcMaxAge > 0 && transport == "tcp" {
		// RFC 7838 section 3: at the same host, at the port that clients see.
		live.altSvc = fmt.Sprintf(`h3=":%d"; ma=%d`, cfg.Port, int64(h.AltSvcMaxAge.Seconds()))
	}
	if c := cfg.Client; c != nil {
		live.headers, live.headerBytes, live.bodyBytes = c.Headers, c.HeaderBytes, c.BodyBytes
		for _, cidr := range c.TrustedProxies {
			prefix, err := netip.ParsePrefix(cidr)
			if err != nil {
				l.fail(fmt.Errorf("listener %s: trusted proxies: %w", cfg.Key, err))
				continue // trusted by nobody
			}
			live.trusted = append(live.trusted, prefix.Masked())
		}
	}
	return live
}

// host links the virtual host under a key of snapshot.Hosts, or removes it.
func (l *linker) host(next *tables, key string) {
	listener, hostname, _ := strings.Cut(key, " ")
	slot := l.slot(next, listener)
	old, _ := next.hosts[slot].Get(hostname)
	cfg, ok := l.snap.Hosts.Get(key)
	switch {
	case ok && old != nil && old.source == cfg && !old.incomplete:
		return
	case ok:
		next.hosts[slot] = next.hosts[slot].With(hostname, l.newHost(cfg, old))
	case old != nil:
		next.hosts[slot] = next.hosts[slot].Without(hostname)
		for _, r := range unique(old.rules) {
			l.retired = append(l.retired, r.release...)
		}
	}
}

// newHost links a virtual host. Rules that its predecessor has already are
// taken over; the others of the predecessor are retired.
func (l *linker) newHost(cfg *snapshot.VirtualHost, old *host) *host {
	live := &host{source: cfg}
	known := map[*snapshot.Rule]*rule{}
	if old != nil {
		for _, r := range unique(old.rules) {
			known[r.source] = r
		}
	}
	linked := map[*snapshot.Rule]*rule{}

	var err error
	if live.index, err = route.Build(cfg.Routes); err != nil {
		// Which route a request is for cannot be told, so neither can what
		// guards it.
		l.fail(fmt.Errorf("listener %s, host %s: %w", cfg.Listener, cfg.Hostname, err))
		live.broken, live.incomplete = err.Error(), true
	} else {
		live.rules, live.methods = make([]*rule, len(cfg.Routes)), make([]string, len(cfg.Routes))
		for i, r := range cfg.Routes {
			if linked[r.Rule] == nil {
				if same := known[r.Rule]; same != nil && !same.incomplete {
					linked[r.Rule] = same
				} else {
					linked[r.Rule] = l.newRule(cfg.Listener, r.Rule)
				}
			}
			live.rules[i], live.methods[i] = linked[r.Rule], r.Match.Method
			live.incomplete = live.incomplete || linked[r.Rule].incomplete
		}
		live.cookiePaths = cookiePaths(cfg, live.rules)
	}
	for source, r := range known {
		if linked[source] != r {
			l.retired = append(l.retired, r.release...)
		}
	}
	return live
}

// unique returns the rules of a host once each.
func unique(rules []*rule) (once []*rule) {
	seen := map[*rule]bool{}
	for _, r := range rules {
		if !seen[r] {
			seen[r] = true
			once = append(once, r)
		}
	}
	return once
}

func (l *linker) newRule(listener string, cfg *snapshot.Rule) *rule {
	src := cfg.Source
	r := &rule{
		source: cfg,
		info: exchange.RouteInfo{
			Kind: src.Kind, Namespace: src.Namespace, Name: src.Name, Rule: src.Section, Listener: listener,
		},
		requestTimeout: cfg.RequestTimeout,
		backendTimeout: cfg.BackendTimeout,
		broken:         cfg.Broken,
	}
	r.priority, _ = overload.ParsePriority(cfg.Priority)
	labels := observe.RouteLabels{Listener: listener, Route: src.Kind + "/" + src.Namespace + "/" + src.Name}
	r.metrics = l.metrics(r, labels)
	r.filters = l.filters(r, cfg.Filters)

	mirrors := slices.Clip(l.mirrors(r, cfg.Mirrors, labels))
	for i := range cfg.Backends {
		b := &cfg.Backends[i]
		if b.Weight == 0 && b.SessionPersistence == nil && cfg.SessionPersistence == nil {
			continue
		}
		live := backend{source: b, weight: b.Weight, retry: cmp.Or(cfg.Retry, b.Retry), hedge: l.hedge(b.Hedge)}
		if b.Cluster != "" {
			live.cluster = l.find(r, b.Cluster)
		}
		labels.Cluster = b.Cluster
		live.metrics = l.metrics(r, labels)
		live.filters = l.filters(r, b.Filters)
		live.mirrors = append(mirrors, l.mirrors(r, b.Mirrors, labels)...)
		live.fallback = l.fallback(r, b.Fallback, labels)
		r.backends = append(r.backends, live)
		r.weights += b.Weight
	}
	l.sessions(r, cfg)
	l.split(r, cfg)
	return r
}

func (l *linker) mirrors(r *rule, configs []snapshot.Mirror, labels observe.RouteLabels) []mirror {
	var live []mirror
	for i := range configs {
		m := &configs[i]
		if c := l.find(r, m.Cluster); c != nil && m.Denominator > 0 {
			labels.Cluster = m.Cluster
			metrics := l.p.opts.Metrics.Mirror(labels)
			r.release = append(r.release, metrics.Release)
			live = append(live, mirror{c, m.Numerator, m.Denominator, metrics})
		}
	}
	return live
}

func (l *linker) metrics(r *rule, labels observe.RouteLabels) *observe.Route {
	m := l.p.opts.Metrics.Route(labels)
	r.release = append(r.release, m.Release)
	return m
}

// find returns a live cluster, nil if there is none.
func (l *linker) find(r *rule, key string) Cluster {
	c := l.p.clusters[key]
	if c == nil {
		l.fail(fmt.Errorf("%s: the snapshot has no cluster %q", name(r), key))
		r.incomplete = true
	}
	return c
}

// filters builds a list of filters. One that cannot be built breaks the whole
// rule: it may have been its guard.
func (l *linker) filters(r *rule, configs []policy.Config) []filter {
	var live []filter
	env := *l.p.opts.Env
	env.Metrics = l.p.opts.Metrics
	env.Upstream = func(key string) policy.Upstream {
		if c := l.p.clusters[key]; c != nil {
			return c
		}
		return nil
	}
	for _, cfg := range configs {
		f, err := cfg.Build(&env)
		if err != nil {
			err = fmt.Errorf("%s: %s: %w", name(r), cfg.Kind(), err)
			l.fail(err)
			if r.broken == "" {
				r.broken = err.Error()
			}
			r.incomplete = true
			continue
		}
		if f.Release != nil {
			r.release = append(r.release, f.Release)
		}
		live = append(live, filter{f.Request, f.Response, f.Done, f.BodyLimit})
	}
	return live
}

func name(r *rule) string {
	return fmt.Sprintf("%s %s/%s, rule %s", r.info.Kind, r.info.Namespace, r.info.Name, r.info.Rule)
}
