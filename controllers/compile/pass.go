package compile

import (
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// tables is what a Result keeps so that the next one costs what changed. Each
// entry is a function of the objects alone: with all tables empty, a pass
// arrives at the same ones.
type tables struct {
	frame *frame
	// routes are the HTTPRoutes and GRPCRoutes, by Ref.
	routes snapshot.Table[*route]
	// losers are the routes that yield to others, by their parent's Ref.
	losers snapshot.Table[losers]
	// streams are the TCPRoutes, TLSRoutes and UDPRoutes; nil before the first pass.
	streams *streams
	// hosts are the virtual hosts with whose entry is whose, by host key.
	hosts snapshot.Table[*host]
	// clusters are the clusters with how many routes use them, by cluster key.
	clusters snapshot.Table[cluster]
	// backends are the keys of a backend's clusters, sorted, by its Ref.
	backends snapshot.Table[[]string]
	// podBackends are the backends of those clusters that ask something of pods, by
	// cluster key.
	podBackends snapshot.Table[objects.Ref]
	// remarks are about policies that hold for clusters, by cluster key.
	remarks snapshot.Table[[]remark]
	// attached counts routes, by listener key.
	attached snapshot.Table[int32]
	// sessions counts the routes with session persistence.
	sessions int
	// owners are the Services and ServiceImports of EndpointSlices, by the slice's
	// Ref: a slice that is gone no longer says whose it was.
	owners snapshot.Table[[]objects.Ref]
}

type cluster struct {
	clusterUse
	routes int
}

// pass is one Compile.
type pass struct {
	prev *Result
	set  *objects.Set
	*Result
	ports                      bool
	hosts, clusters, endpoints map[string]bool // what the delta names
	statuses, findings         map[objects.Ref]bool
	// counted are the listeners whose number of routes changed.
	counted map[string]bool
	// remarked are the policies of which there is another remark.
	remarked map[objects.Ref]bool
}

func newPass(prev *Result, set *objects.Set) *pass {
	if prev == nil {
		prev = &Result{Snapshot: &snapshot.Snapshot{}}
	}
	p := &pass{
		prev: prev, set: set,
		Result: &Result{
			Snapshot: &snapshot.Snapshot{
				Ports: prev.Snapshot.Ports, Hosts: prev.Snapshot.Hosts,
				Clusters: prev.Snapshot.Clusters, Endpoints: prev.Snapshot.Endpoints,
			},
			Wanted: prev.Wanted, Infrastructure: prev.Infrastructure,
			statuses: prev.statuses, findings: prev.findings, tables: prev.tables,
		},
		hosts: map[string]bool{}, clusters: map[string]bool{}, endpoints: map[string]bool{},
		statuses: map[objects.Ref]bool{}, findings: map[objects.Ref]bool{}, counted: map[string]bool{}, remarked: map[objects.Ref]bool{},
	}
	return p
}

// scope is what a pass has to look at again.
type scope struct {
	// reframe says that the frame is to be built anew, routing that every route
	// is to be compiled against it, whatever it looks like.
	// streams that the routes of connections are.
	reframe, routing, streams bool
	routes                    map[objects.Ref]bool
	// backends are those whose endpoints may differ, pods the namespaces of pods that
	// do.
	backends map[objects.Ref]bool
	pods     map[string]bool
}

func (p *pass) run(changed []objects.Ref, opts Options) *Result {
	s := &scope{routes: map[objects.Ref]bool{}, backends: map[objects.Ref]bool{}, pods: map[string]bool{}}
	if p.tables.frame == nil {
		s.reframe, s.routing = true, true
		for _, slice := range objects.All[*discoveryv1.EndpointSlice](p.set) {
			p.moveSlice(objects.RefOf(slice), s)
		}
	} else {
		for _, ref := range changed {
			p.widen(s, ref, opts)
		}
	}
	if s.reframe {
		p.reframe(opts, s)
	}
	uses := clusterUses{net: map[string]int{}, uses: map[string]clusterUse{}}
	p.compileRoutes(s, uses)
	p.compileStreams(s, uses)
	p.settleClusters(uses, s)
	p.findPodBackends(s)
	p.compileEndpoints(s)
	p.report(s)
	return p.finish()
}

// widen makes a scope cover what depends on a changed object.
func (p *pass) widen(s *scope, ref objects.Ref, opts Options) {
	switch ref.Kind {
	case "HTTPRoute", "GRPCRoute":
		s.routes[ref] = true
	case "TCPRoute", "TLSRoute", "UDPRoute":
		s.streams = true
	case "EndpointSlice":
		for _, service := range p.moveSlice(ref, s) {
			s.reframe = s.reframe || p.tables.frame.dedicated[service]
		}
	case "Pod":
		s.pods[ref.Namespace] = true
	case "Gateway", "GatewayClass", "GatewayParameters", "ListenerSet":
		s.reframe = true
	case "Service", "ServiceImport", "Backend", "XBackend":
		s.reframe = true
		s.routing = s.routing || p.tables.frame.policies.backends(ref)
		s.backends[ref] = true
		for _, r := range p.set.RoutesOfBackend(ref) {
			s.routes[r] = true
		}
	case "Secret", "ConfigMap":
		keys := opts.SessionKeys()
		if p.Wanted[ref] || ref == keys {
			s.reframe = true
			s.routing = s.routing || ref == keys || p.tables.frame.routesWant(ref)
		}
	case "ClusterTrustBundle":
		s.reframe = true
		s.routing = s.routing || p.tables.frame.routesWant(ref)
	default: // policies, ReferenceGrants, Namespaces
		s.reframe, s.routing = true, true
	}
}

// reframe builds the frame anew, and finds the routes for which it looks
// different than the one before.
func (p *pass) reframe(opts Options, s *scope) {
	old, f := p.tables.frame, newFrame(p.tables.frame, p.set, opts)
	if old == nil {
		old = &frame{}
	} else if equal(old.ports, f.ports) {
		f.ports = old.ports
	}
	if old.wanted != nil && maps.Equal(old.wanted, f.wanted) {
		f.wanted = old.wanted
	}
	p.tables.frame = f
	p.Wanted, p.Infrastructure = f.wanted, f.infrastructure
	if s.routing {
		for _, key := range p.tables.routes.Keys() {
			r, _ := p.tables.routes.Get(key)
			s.routes[r.object.ref] = true
		}
		for _, r := range objects.All[*gatewayv1.HTTPRoute](p.set) {
			s.routes[objects.RefOf(r)] = true
		}
		for _, r := range objects.All[*gatewayv1.GRPCRoute](p.set) {
			s.routes[objects.RefOf(r)] = true
		}
		return
	}
	parents := map[objects.Ref]bool{}
	for _, f := range []*frame{old, f} {
		for ref := range f.served {
			parents[ref] = true
		}
		maps.Copy(parents, f.foreign)
	}
	for ref := range parents {
		was, is := old.served[ref].view(), f.served[ref].view()
		if old.foreign[ref] != f.foreign[ref] || !equal(was, is) {
			if was != nil && was.claims {
				for _, r := range p.set.DefaultRoutes() { // it may claim them no more
					s.routes[r] = true
				}
			}
			for _, r := range p.set.RoutesOfParent(ref) {
				s.routes[r] = true
			}
		}
	}
}

// compileRoutes compiles the named routes and makes what follows from them:
// virtual hosts, clusters, counts.
func (p *pass) compileRoutes(s *scope, clusters clusterUses) {
	p.judge(s)
	touched := map[string]*hostChange{}
	for _, ref := range slices.SortedFunc(maps.Keys(s.routes), objects.Ref.Compare) {
		old, _ := p.tables.routes.Get(ref.String())
		next := &route{}
		if object := routeIn(p.set, ref); object != nil {
			next = compileRoute(p.tables.frame, p.set, object, func(l *listener) (objects.Ref, bool) {
				lost, _ := p.tables.losers.Get(l.parent.ref().String())
				winner, beaten := lost[ref][l.key]
				return winner, beaten
			})
			p.tables.routes = p.tables.routes.With(ref.String(), next)
		} else {
			p.tables.routes = p.tables.routes.Without(ref.String())
		}
		if old == nil {
			old = &route{}
		}
		p.tables.sessions += truth(next.sessions) - truth(old.sessions)
		changeHosts(touched, old, next)
		clusters.count(old, next)
		p.countAttached(old, next)
		if equal(old.status, next.status) {
			next.status = old.status
		} else {
			p.statuses[ref] = true
		}
		p.setFindings(ref, next.findings)
	}
	for _, change := range touched {
		p.rebuildHost(change)
	}
}

// hostChange is what routes change in one virtual host.
type hostChange struct {
	key, listener, hostname string
	owners                  map[string]bool
	entries                 []*entry
}

// changeHosts notes how the entries of a route differ from those it had.
func changeHosts(touched map[string]*hostChange, old, next *route) {
	note := func(h *host) *hostChange {
		change := touched[h.key]
		if change == nil {
			change = &hostChange{key: h.key, listener: h.listener, hostname: h.hostname, owners: map[string]bool{}}
			touched[h.key] = change
		}
		return change
	}
	for _, was := range old.hosts {
		if i, ok := next.findHost(was.key); ok && equal(was.entries, next.hosts[i].entries) {
			// What serves already stays, so that equal tables are the same table.
			next.hosts[i] = was
			continue
		}
		note(was).owners[was.entries[0].owner] = true
	}
	for _, is := range next.hosts {
		if i, ok := old.findHost(is.key); !ok || old.hosts[i] != is {
			change := note(is)
			is.key = change.key // the same bytes, once for all routes of the host
			change.entries = append(change.entries, is.entries...)
		}
	}
}

// rebuildHost makes a virtual host from what it has and what changes in it.
func (p *pass) rebuildHost(change *hostChange) {
	key := change.key
	h := &host{key: key, listener: change.listener, hostname: change.hostname}
	if was, ok := p.tables.hosts.Get(key); ok {
		h.entries = make([]*entry, 0, len(was.entries))
		for _, e := range was.entries {
			if !change.owners[e.owner] {
				h.entries = append(h.entries, e)
			}
		}
	}
	slices.SortFunc(change.entries, comparePrecedence)
	h.entries = merge(h.entries, change.entries)
	if len(h.entries) == 0 {
		p.hosts[key] = true
		p.tables.hosts = p.tables.hosts.Without(key)
		p.Snapshot.Hosts = p.Snapshot.Hosts.Without(key)
		return
	}
	v := &snapshot.VirtualHost{Listener: h.listener, Hostname: h.hostname, Routes: make([]*snapshot.Route, len(h.entries))}
	for i, e := range h.entries {
		v.Routes[i] = e.route
	}
	p.tables.hosts = p.tables.hosts.With(key, h)
	// A route's age may change and its place not.
	if old, _ := p.Snapshot.Hosts.Get(key); !equal(old, v) {
		p.hosts[key] = true
		p.Snapshot.Hosts = p.Snapshot.Hosts.With(key, v)
	}
}

// merge merges two lists that are in order of precedence.
func merge(a, b []*entry) []*entry {
	merged := make([]*entry, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if comparePrecedence(a[0], b[0]) < 0 {
			merged, a = append(merged, a[0]), a[1:]
		} else {
			merged, b = append(merged, b[0]), b[1:]
		}
	}
	return append(append(merged, a...), b...)
}

// clusterUses is how many routes more, or fewer, use each cluster, and what
// the clusters are.
type clusterUses struct {
	net  map[string]int
	uses map[string]clusterUse
}

// count notes how the clusters of a route differ from those it had. What they
// are is then settled for all routes, which keep no more than the keys.
func (c clusterUses) count(old, next *route) {
	next.clusters = slices.Sorted(maps.Keys(next.uses))
	for _, key := range next.clusters {
		c.uses[key] = next.uses[key]
		if _, had := slices.BinarySearch(old.clusters, key); !had {
			c.net[key]++
		}
	}
	for _, key := range old.clusters {
		if _, has := next.uses[key]; !has {
			c.net[key]--
		}
	}
	next.uses = nil
}

// settleClusters adds the clusters that routes came to use, lets those go that
// no route uses any more, and changes those that are not what they were.
func (p *pass) settleClusters(changes clusterUses, s *scope) {
	for key, by := range changes.net {
		c, known := p.tables.clusters.Get(key)
		if !known {
			if by == 0 {
				continue // it came and went
			}
			c.clusterUse = changes.uses[key]
			p.setCluster(key, c.clusterUse)
			p.changeBackend(c.backend, func(keys []string) []string { return append(keys, key) })
			s.backends[c.backend] = true
			p.reuse(c.backend)
		}
		if c.routes += by; c.routes > 0 {
			p.tables.clusters = p.tables.clusters.With(key, c)
			continue
		}
		p.tables.clusters = p.tables.clusters.Without(key)
		p.changeBackend(c.backend, func(keys []string) []string {
			return slices.DeleteFunc(keys, func(k string) bool { return k == key })
		})
		p.setCluster(key, clusterUse{})
		p.reuse(c.backend)
		p.setEndpoints(key, nil)
		p.setRemarks(key, nil)
	}
	// Services, Backends and policies may have changed what clusters are.
	for key, use := range changes.uses {
		if c, _ := p.tables.clusters.Get(key); !equal(c.clusterUse, use) {
			p.tables.clusters = p.tables.clusters.With(key, cluster{use, c.routes})
			p.setCluster(key, use)
			s.backends[use.backend] = true // it may ask for other labels
		}
	}
}

// findPodBackends adds the backends with endpoints among the pods that have
// changed. There are few that ask for anything of theirs.
func (p *pass) findPodBackends(s *scope) {
	if len(s.pods) == 0 {
		return
	}
	for _, key := range p.tables.podBackends.Keys() {
		if backend, _ := p.tables.podBackends.Get(key); s.pods[backend.Namespace] {
			s.backends[backend] = true
		}
	}
}

// changeBackend edits a copy of a backend's list of clusters.
func (p *pass) changeBackend(ref objects.Ref, edit func([]string) []string) {
	keys, _ := p.tables.backends.Get(ref.String())
	keys = edit(slices.Clone(keys))
	slices.Sort(keys)
	if len(keys) == 0 {
		p.tables.backends = p.tables.backends.Without(ref.String())
		return
	}
	p.tables.backends = p.tables.backends.With(ref.String(), keys)
}

func (p *pass) countAttached(old, next *route) {
	count := func(keys []string, by int32) {
		for _, key := range keys {
			n, _ := p.tables.attached.Get(key)
			if n += by; n == 0 {
				p.tables.attached = p.tables.attached.Without(key)
			} else {
				p.tables.attached = p.tables.attached.With(key, n)
			}
			p.counted[key] = true
		}
	}
	if !slices.Equal(old.attached, next.attached) {
		count(old.attached, -1)
		count(next.attached, +1)
	}
}

// moveSlice notes what a changed EndpointSlice belongs and belonged to, and
// returns it.
func (p *pass) moveSlice(ref objects.Ref, s *scope) []objects.Ref {
	key := ref.String()
	was, _ := p.tables.owners.Get(key)
	var is []objects.Ref
	if slice, _ := p.set.Get(ref).(*discoveryv1.EndpointSlice); slice != nil {
		is = objects.BackendsOf(slice)
	}
	if len(is) == 0 {
		p.tables.owners = p.tables.owners.Without(key)
	} else {
		p.tables.owners = p.tables.owners.With(key, is)
	}
	backends := slices.Concat(was, is)
	for _, backend := range backends {
		s.backends[backend] = true
	}
	return backends
}

// compileEndpoints compiles the endpoints of the named backends' clusters.
func (p *pass) compileEndpoints(s *scope) {
	for ref := range s.backends {
		keys, _ := p.tables.backends.Get(ref.String())
		for _, key := range keys {
			c, _ := p.tables.clusters.Get(key)
			pods := podsOf(p.set, c.clusterUse)
			p.setEndpoints(key, p.tables.frame.compileEndpoints(p.set, c.clusterUse, pods))
			p.setRemarks(key, slices.Concat(c.remarks, pods.remarks(c.weighedBy)))
		}
	}
}

// report makes the statuses of all but routes.
func (p *pass) report(s *scope) {
	f := p.tables.frame
	attached := func(listener string) int32 {
		n, _ := p.tables.attached.Get(listener)
		return n
	}
	policies := map[objects.Ref]bool{}
	if s.reframe {
		p.reportFrame()
		for _, ref := range f.policies.all() {
			policies[ref] = true
		}
	}
	if s.reframe {
		for _, parent := range f.served {
			p.setStatus(parent.ref(), parent.status(attached))
		}
	} else {
		for key := range p.counted {
			if parent := f.parentOf[key]; parent != nil {
				p.setStatus(parent.ref(), parent.status(attached))
			}
		}
		for ref := range s.routes {
			for _, policy := range f.policies.attachedTo(ref) {
				policies[policy] = true
			}
			was, _ := p.prev.tables.routes.Get(ref.String())
			is, _ := p.tables.routes.Get(ref.String())
			for _, extension := range append(was.extensions(), is.extensions()...) {
				for _, policy := range f.policies.concernedBy(extension) {
					policies[policy] = true
				}
			}
		}
	}
	if s.streams && !s.reframe {
		for ref := range p.streamRefs() {
			for _, policy := range f.policies.attachedTo(ref) {
				policies[policy] = true
			}
		}
	}
	maps.Copy(policies, p.remarked)
	for ref := range policies {
		status, findings := f.policies.status(p.set, ref, p.remarksOn(ref))
		p.setStatus(ref, status)
		p.setFindings(ref, findings)
	}
	p.reportBackends(s)
}

// reportFrame makes the statuses and findings of what the frame was built
// from, and takes back those of what is gone.
func (p *pass) reportFrame() {
	f := p.tables.frame
	stale := map[objects.Ref]bool{}
	if old := p.prev.tables.frame; old != nil {
		for _, ref := range old.reported() {
			stale[ref] = true
		}
	}
	for _, ref := range f.reported() {
		delete(stale, ref)
	}
	for ref := range stale {
		p.setStatus(ref, nil)
		p.setFindings(ref, nil)
	}
	for ref, status := range f.statuses {
		p.setStatus(ref, status)
		p.setFindings(ref, f.findings[ref])
	}
	for ref, parent := range f.served {
		p.setFindings(ref, parent.sorted())
	}
	for ref, findings := range f.findings {
		if f.statuses[ref] == nil {
			p.setStatus(ref, nil)
			p.setFindings(ref, findings)
		}
	}
}

// reported are the objects that a frame makes statuses or findings of.
func (f *frame) reported() []objects.Ref {
	refs := slices.Concat(f.policies.all(), f.backendTLS.sorted, slices.Collect(maps.Keys(f.xBackends)))
	for ref := range f.statuses {
		refs = append(refs, ref)
	}
	for ref := range f.findings {
		refs = append(refs, ref)
	}
	for ref := range f.served {
		refs = append(refs, ref)
	}
	return refs
}
