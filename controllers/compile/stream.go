package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// isStream reports whether objects of a kind are routes of connections or
// datagrams, which are passed on unread.
func isStream(kind string) bool {
	return kind == "TCPRoute" || kind == "TLSRoute" || kind == "UDPRoute"
}

// streamOf reads a TCPRoute, TLSRoute or UDPRoute as a form without matches and
// filters; fields have the same paths. It returns nil for what is none.
func streamOf(object objects.Object) *form {
	h := &gatewayv1.HTTPRoute{}
	rule := func(name *gatewayv1.SectionName, refs []gatewayv1.BackendRef) {
		r := gatewayv1.HTTPRouteRule{Name: name}
		for i := range refs {
			r.BackendRefs = append(r.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: refs[i]})
		}
		h.Spec.Rules = append(h.Spec.Rules, r)
	}
	switch o := object.(type) {
	case *gatewayv1.TCPRoute:
		h.ObjectMeta, h.Spec.CommonRouteSpec = o.ObjectMeta, o.Spec.CommonRouteSpec
		for i := range o.Spec.Rules {
			rule(o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs)
		}
	case *gatewayv1.TLSRoute:
		h.ObjectMeta, h.Spec.CommonRouteSpec, h.Spec.Hostnames = o.ObjectMeta, o.Spec.CommonRouteSpec, o.Spec.Hostnames
		for i := range o.Spec.Rules {
			rule(o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs)
		}
	case *gatewayv1.UDPRoute:
		h.ObjectMeta, h.Spec.CommonRouteSpec = o.ObjectMeta, o.Spec.CommonRouteSpec
		for i := range o.Spec.Rules {
			rule(o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs)
		}
	default:
		return nil
	}
	return &form{HTTPRoute: h, ref: objects.RefOf(object)}
}

// streams is what all routes of connections compile to. They are few, each has
// a listener or a server name to itself, and which of two has it depends on
// both: so they are compiled together, whenever one of them or the frame changes.
type streams struct {
	routes map[objects.Ref]*route
	// targets are what listeners pass on, by listener key, sorted by hostname.
	targets map[string][]*snapshot.Target
}

func compileStreams(f *frame, set *objects.Set) *streams {
	var all []*form
	for _, o := range objects.All[*gatewayv1.TCPRoute](set) {
		all = append(all, streamOf(o).claimed(set, o))
	}
	for _, o := range objects.All[*gatewayv1.TLSRoute](set) {
		all = append(all, streamOf(o).claimed(set, o))
	}
	for _, o := range objects.All[*gatewayv1.UDPRoute](set) {
		all = append(all, streamOf(o).claimed(set, o))
	}
	// The oldest wins, then the first by name, as the Gateway API says of conflicts.
	slices.SortStableFunc(all, func(a, b *form) int {
		return cmp.Or(cmp.Compare(a.CreationTimestamp.Unix(), b.CreationTimestamp.Unix()),
			cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	// Twice: who has what is known when all have said what they want.
	var s *streams
	taken := map[string]claimant{}
	for range 2 {
		s = &streams{routes: map[objects.Ref]*route{}, targets: map[string][]*snapshot.Target{}}
		for _, object := range all {
			s.routes[object.ref] = s.compile(f, set, object, taken)
		}
	}
	for _, targets := range s.targets {
		slices.SortFunc(targets, func(a, b *snapshot.Target) int { return cmp.Compare(a.Hostname, b.Hostname) })
	}
	return s
}

// compile compiles one route. taken says who has a hostname of a listener, by
// snapshot.HostKey.
func (s *streams) compile(f *frame, set *objects.Set, object *form, taken map[string]claimant) *route {
	r := &route{object: object, uses: map[string]clusterUse{}}
	rep := &report{object: object.ref}
	parents := f.parents(rep, set, object)
	if len(parents) == 0 {
		r.findings = rep.sorted()
		return r
	}
	hostnames, refused := compileHostnames(rep, object)
	unsupported := func(field, message, want string) {
		rep.fail(&refused, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonUnsupportedValue)})
	}
	object.checkDefaults(rep, &refused)
	if object.ref.Kind == "TLSRoute" && len(object.Spec.Hostnames) == 0 {
		unsupported("spec.hostnames", "there are none", "the server names that clients ask for")
	}
	if len(object.Spec.Rules) != 1 {
		unsupported("spec.rules", fmt.Sprintf("there are %d", len(object.Spec.Rules)), "one rule: nothing tells which of several holds")
	}
	rule := &compiledRule{}
	if refused.ok() {
		c := &ruleCompiler{frame: f, set: set, object: object, route: r, report: rep}
		c.compileBackends(&object.Spec.Rules[0], "spec.rules[0].backendRefs", false, rule)
		refused, rule.uses = c.refused, c.clusters
	}

	status := gatewayv1.RouteStatus{}
	listeners := map[string]bool{}
	for i, parent := range parents {
		if parent == nil {
			continue
		}
		accepted := refused
		var placements []placement
		if accepted.ok() {
			placements = f.attach(rep, &accepted, set, object, i, parent, hostnames)
		}
		for _, p := range placements {
			listeners[p.listener.key] = true
		}
		for _, p := range s.claim(rep, object.ref, object.parentField(i), placements, taken) {
			if !p.listener.serves() {
				continue
			}
			backends, _ := rule.through(p.listener, r)
			filters := f.policies.streams(attachment{Listener: p.listener, Route: object})
			for _, name := range p.hostnames {
				if !slices.ContainsFunc(s.targets[p.listener.key], func(have *snapshot.Target) bool { return have.Hostname == name }) {
					s.targets[p.listener.key] = append(s.targets[p.listener.key], &snapshot.Target{
						Source:   snapshot.Ref{Kind: object.ref.Kind, Namespace: object.Namespace, Name: object.Name},
						Hostname: name, Backends: backends, Filters: filters,
					})
				}
			}
		}
		status.Parents = append(status.Parents, gatewayv1.RouteParentStatus{
			ParentRef: object.Spec.ParentRefs[i], ControllerName: ControllerName,
			Conditions: []metav1.Condition{
				newCondition(string(gatewayv1.RouteConditionAccepted), string(gatewayv1.RouteReasonAccepted), "", accepted, object.Generation),
				newCondition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), "", r.resolved, object.Generation),
			},
		})
	}
	r.attached = slices.Sorted(maps.Keys(listeners))
	r.status = &Status{Object: object.ref, Generation: object.Generation, Value: status}
	r.findings = rep.sorted()
	return r
}

// claimant is a route and that hostname of its own by which it has another.
type claimant struct {
	route  objects.Ref
	origin string
}

// claim takes out the hostnames that other routes have: those with the more
// specific hostname, then the older ones. It tells so in a finding. The route is accepted and attached all the same, as the conformance
// suite has it (TCPRouteMultipleRoutesAttachment): it serves when the older one goes.
func (s *streams) claim(rep *report, ref objects.Ref, field string, placements []placement, taken map[string]claimant) []placement {
	var kept []placement
	for _, p := range placements {
		free := placement{listener: p.listener}
		for n, name := range p.hostnames {
			key := snapshot.HostKey(p.listener.key, name)
			winner, found := taken[key]
			order := compareSpecificity(p.origins[n], winner.origin)
			if !found || winner.route == ref || order < 0 {
				taken[key] = claimant{ref, p.origins[n]}
				free.add(name, p.origins[n])
				continue
			}
			what, want := "listener "+p.listener.key, "another listener"
			if name != "" {
				what, want = name+" at "+what, "another hostname or listener"
			}
			why := "which is older or the first by name"
			if order > 0 {
				why = "with the more specific hostname " + winner.origin
			}
			rep.fail(nil, Finding{Field: field,
				Message: fmt.Sprintf("%s, %s, has %s", winner.route, why, what), Want: want})
		}
		if len(free.hostnames) > 0 {
			kept = append(kept, free)
		}
	}
	return kept
}

// compileStreams compiles all routes of connections and puts what listeners
// are to pass on into the ports.
func (p *pass) compileStreams(s *scope, clusters clusterUses) {
	if !s.reframe && !s.streams {
		return
	}
	old := p.tables.streams
	if old == nil {
		old = &streams{}
	}
	next := compileStreams(p.tables.frame, p.set)
	p.tables.streams = next
	for _, ref := range slices.SortedFunc(maps.Keys(p.streamRefs()), objects.Ref.Compare) {
		was, is := old.routes[ref], next.routes[ref]
		if was == nil {
			was = &route{}
		}
		if is == nil {
			is = &route{}
		}
		clusters.count(was, is)
		p.countAttached(was, is)
		p.setStatus(ref, is.status)
		p.setFindings(ref, is.findings)
	}

	ports := next.into(p.tables.frame.ports)
	if p.prev.tables.frame != nil && equal(p.prev.Snapshot.Ports, ports) {
		ports = p.prev.Snapshot.Ports
	} else {
		p.ports = true
	}
	p.Snapshot.Ports = ports
}

// streamRefs are the routes of connections that there were and are.
func (p *pass) streamRefs() map[objects.Ref]bool {
	refs := map[objects.Ref]bool{}
	for _, s := range []*streams{p.prev.tables.streams, p.tables.streams} {
		if s != nil {
			for ref := range s.routes {
				refs[ref] = true
			}
		}
	}
	return refs
}

// into returns the ports with what their listeners pass on.
func (s *streams) into(ports []*snapshot.Port) []*snapshot.Port {
	if len(s.targets) == 0 {
		return ports
	}
	ports = slices.Clone(ports)
	for i, port := range ports {
		if !slices.ContainsFunc(port.Listeners, func(l *snapshot.Listener) bool { return s.targets[l.Key] != nil }) {
			continue
		}
		with := *port
		with.Listeners = slices.Clone(port.Listeners)
		for j, l := range with.Listeners {
			listener := *l
			listener.Targets = s.targets[l.Key]
			with.Listeners[j] = &listener
		}
		ports[i] = &with
	}
	return ports
}
