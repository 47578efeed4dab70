package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// route is what a route of HTTP requests compiles to, against a frame. It is immutable once
// compiled.
type route struct {
	object *form
	// hosts are its shares of virtual hosts, sorted by key.
	hosts []*host
	// clusters are the keys of those that its rules name where they are served, sorted.
	clusters []string
	// uses are the same while the route is compiled, by their keys.
	uses map[string]clusterUse
	// attached are the keys of the listeners that count it, sorted.
	attached []string
	// sessions says that a rule has session persistence.
	sessions bool
	status   *Status
	findings []Finding
	// resolved is the same for all parents.
	resolved verdict
}

// host is a virtual host, or a route's share of one.
type host struct {
	key      string // as in snapshot.Snapshot.Hosts
	listener string
	hostname string // as in snapshot.VirtualHost
	entries  []*entry
}

// compileRoute compiles one route. lost says which listener does not take it
// because of which other route.
func compileRoute(f *frame, set *objects.Set, object *form, lost func(*listener) (winner objects.Ref, beaten bool)) *route {
	r := &route{object: object, uses: map[string]clusterUse{}}
	rep := &report{object: object.ref}
	parents := f.parents(rep, set, object)
	if len(parents) == 0 {
		// Not ours to judge; whose it is will say.
		r.findings = rep.sorted()
		return r
	}

	hostnames, refused := compileHostnames(rep, object)
	object.checkDefaults(rep, &refused)
	rules, invalid, partially := r.compileRules(f, set, rep)
	r.sessions = slices.ContainsFunc(rules, (*compiledRule).hasSessions)
	status := gatewayv1.RouteStatus{}
	listeners := map[string]bool{}
	for i, parent := range parents {
		if parent == nil {
			continue
		}
		accepted := refused
		var attachments []placement
		if accepted.ok() {
			attachments = f.attach(rep, &accepted, set, object, i, parent, hostnames)
			attachments = yield(rep, &accepted, object.parentField(i), attachments, lost)
		}
		for _, a := range attachments {
			r.serve(f, a, rules)
		}
		if accepted.ok() {
			// Requests that only invalid rules match get 500 all the same.
			accepted = invalid
		}
		if accepted.ok() {
			for _, a := range attachments {
				listeners[a.listener.key] = true
			}
		}
		conditions := routeConditions(accepted, r.resolved, object.Generation)
		if accepted.ok() && !partially.ok() {
			c := newCondition(string(gatewayv1.RouteConditionPartiallyInvalid), "", "", partially, object.Generation)
			c.Status = metav1.ConditionTrue
			conditions = append(conditions, c)
		}
		status.Parents = append(status.Parents, gatewayv1.RouteParentStatus{
			ParentRef: object.Spec.ParentRefs[i], ControllerName: ControllerName, Conditions: conditions,
		})
	}
	r.attached = slices.Sorted(maps.Keys(listeners))
	for _, h := range r.hosts {
		slices.SortFunc(h.entries, comparePrecedence)
	}
	r.status = &Status{Object: rep.object, Generation: object.Generation, Value: status}
	r.findings = rep.sorted()
	return r
}

// fine are the conditions of routes with which all is well, by generation:
// most are, and share them.
var fine = func() (conditions [16][]metav1.Condition) {
	for generation := range conditions {
		conditions[generation] = newRouteConditions(verdict{}, verdict{}, int64(generation))
	}
	return conditions
}()

func routeConditions(accepted, resolved verdict, generation int64) []metav1.Condition {
	if accepted.ok() && resolved.ok() && 0 <= generation && generation < int64(len(fine)) {
		return fine[generation]
	}
	return newRouteConditions(accepted, resolved, generation)
}

func newRouteConditions(accepted, resolved verdict, generation int64) []metav1.Condition {
	return []metav1.Condition{
		newCondition(string(gatewayv1.RouteConditionAccepted), string(gatewayv1.RouteReasonAccepted), "", accepted, generation),
		newCondition(string(gatewayv1.RouteConditionResolvedRefs), string(gatewayv1.RouteReasonResolvedRefs), "", resolved, generation),
	}
}

// parents returns the Gateways and ListenerSets of ours that a route refers to,
// and the default Gateways that may claim it; nil for the other parentRefs, and
// no list at all if there is none.
func (f *frame) parents(rep *report, set *objects.Set, object *form) []*parent {
	var parents []*parent
	for i := range object.Spec.ParentRefs {
		p := &object.Spec.ParentRefs[i]
		fail := func(field, message, want string) {
			rep.fail(nil, Finding{Field: fmt.Sprintf("spec.parentRefs[%d]%s", i, field), Message: message, Want: want,
				Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonNoMatchingParent)})
		}
		ref, ok := objects.ParentOf(p, object.Namespace)
		if !ok {
			fail(".kind", "Headgate serves routes of Gateways and ListenerSets only", "Gateway or ListenerSet")
			continue
		}
		served := f.served[ref]
		if object.isClaim(i) && (served == nil || !served.mayClaim(set, object)) {
			continue // the route does not insist
		}
		if served == nil {
			if !f.foreign[ref] {
				fail(".name", fmt.Sprintf("there is no %s that Headgate serves", ref), "the name of "+aKind(ref.Kind)+", and its namespace if that is not the route's")
			}
			continue
		}
		if parents == nil {
			parents = make([]*parent, len(object.Spec.ParentRefs))
		}
		parents[i] = served
	}
	if named := len(object.Spec.ParentRefs) - object.claims; named == 0 && parents == nil {
		none := Finding{Field: "spec.parentRefs", Message: "there are none", Want: "the Gateway that is to serve the route",
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonNoMatchingParent)}
		if object.Spec.UseDefaultGateways == gatewayv1.GatewayDefaultScopeAll {
			none.Field, none.Message, none.Want = "spec.useDefaultGateways", "no default Gateway takes the route",
				"a Gateway with defaultScope All, and a listener whose allowedRoutes include the route"
		}
		rep.fail(nil, none)
	}
	return parents
}

// mayClaim reports whether any listener takes a route by its kind, namespace and hostnames.
func (p *parent) mayClaim(set *objects.Set, object *form) bool {
	hostnames := object.Spec.Hostnames
	if len(hostnames) == 0 {
		hostnames = []gatewayv1.Hostname{""}
	}
	for _, l := range p.allowing(set, object, p.listeners) {
		for _, name := range hostnames {
			if _, ok := intersectHostnames(l.hostname, strings.ToLower(string(name))); ok {
				return true
			}
		}
	}
	return false
}

// allowing returns those of a parent's listeners that allow the route, by its
// kind and namespace.
func (p *parent) allowing(set *objects.Set, object *form, listeners []*listener) (allowing []*listener) {
	for _, l := range listeners {
		if l.takes(object.ref.Kind) && l.namespaces.allow(set, p.ref().Namespace, object.Namespace) {
			allowing = append(allowing, l)
		}
	}
	return allowing
}

// named returns the listeners that a parentRef names.
func (p *parent) named(ref *gatewayv1.ParentReference) (named []*listener) {
	for _, l := range p.listeners {
		if (ref.SectionName == nil || *ref.SectionName == "" || *ref.SectionName == l.spec.Name) && (ref.Port == nil || *ref.Port == l.spec.Port) {
			named = append(named, l)
		}
	}
	return named
}

// compileHostnames returns the route's hostnames, sorted; one empty one if it has none.
func compileHostnames(rep *report, object *form) ([]string, verdict) {
	var refused verdict
	if len(object.Spec.Hostnames) == 0 {
		return []string{""}, refused
	}
	var names []string
	for i, h := range object.Spec.Hostnames {
		name := strings.ToLower(string(h))
		if !validHostname(name, true) {
			rep.fail(&refused, Finding{Field: fmt.Sprintf("spec.hostnames[%d]", i), Message: fmt.Sprintf("%q is no hostname", h),
				Want:      `a DNS name such as "shop.example.com" or "*.example.com"`,
				Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonUnsupportedValue)})
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), refused
}

// compileRules compiles all rules. invalid fails if none is valid, partially
// if some are not.
func (r *route) compileRules(f *frame, set *objects.Set, rep *report) (rules []*compiledRule, invalid, partially verdict) {
	object := r.object
	var first, all verdict
	var broken []string
	from := len(rep.findings)
	for i := range object.Spec.Rules {
		c := &ruleCompiler{frame: f, set: set, object: object, index: i, route: r, report: rep}
		rules = append(rules, c.compile())
		if !c.ok() {
			broken = append(broken, fmt.Sprint(i))
			first.fail(c.refused.reason, c.refused.message)
			all.fail(c.refused.reason, c.refused.message)
		}
	}
	switch len(broken) {
	case 0:
		return rules, verdict{}, verdict{}
	case len(object.Spec.Rules):
		return rules, first, verdict{}
	}
	for i := range rep.findings[from:] {
		if finding := &rep.findings[from+i]; finding.Condition == string(gatewayv1.RouteConditionAccepted) {
			finding.Condition = string(gatewayv1.RouteConditionPartiallyInvalid)
		}
	}
	return rules, verdict{}, verdict{
		// The one reason that the condition lists, and the prefix that it prescribes.
		reason:  string(gatewayv1.RouteReasonUnsupportedValue),
		message: fmt.Sprintf("Dropped Rule %s: what it matches is answered 500. %s", strings.Join(broken, ", "), all.message),
	}
}

// placement is a listener that a route attaches to, with the hostnames that
// both allow, and those of the route that they come from: of several, the most
// specific.
type placement struct {
	listener  *listener
	hostnames []string
	origins   []string
}

func (p *placement) add(hostname, origin string) {
	i := slices.Index(p.hostnames, hostname)
	switch {
	case i < 0:
		p.hostnames, p.origins = append(p.hostnames, hostname), append(p.origins, origin)
	case compareSpecificity(origin, p.origins[i]) < 0:
		p.origins[i] = origin
	}
}

// attach finds the listeners of a parent that take the route. The verdict says
// what stood in the way if there is none.
func (f *frame) attach(rep *report, accepted *verdict, set *objects.Set, object *form, i int, to *parent, hostnames []string) []placement {
	ref := &object.Spec.ParentRefs[i]
	fail := func(reason gatewayv1.RouteConditionReason, field, message, want string) []placement {
		rep.fail(accepted, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(reason)})
		return nil
	}
	field := object.parentField(i)
	named := to.named(ref)
	allowing := to.allowing(set, object, named)
	switch {
	case !to.attached.ok():
		return fail(gatewayv1.RouteReasonNoMatchingParent, field, fmt.Sprintf("%s is not attached to its Gateway", to.ref()), "one that is")
	case len(named) == 0 && ref.SectionName != nil && *ref.SectionName != "":
		return fail(gatewayv1.RouteReasonNoMatchingParent, field+".sectionName",
			fmt.Sprintf("%s has no listener %s%s", to.ref(), *ref.SectionName, atPort(ref.Port)), "one of "+to.listenerNames())
	case len(named) == 0:
		return fail(gatewayv1.RouteReasonNoMatchingParent, field+".port",
			fmt.Sprintf("%s has no listener%s", to.ref(), atPort(ref.Port)), "the port of one of "+to.listenerNames())
	case object.ref.Kind == "TLSRoute" && !slices.ContainsFunc(named, func(l *listener) bool { return l.spec.Protocol == gatewayv1.TLSProtocolType }):
		return fail(gatewayv1.RouteReasonNotAllowedByListeners, field, fmt.Sprintf("no listener of %s has protocol TLS", to.ref()), "a listener with protocol TLS")
	case len(allowing) == 0:
		return fail(gatewayv1.RouteReasonNotAllowedByListeners, field,
			fmt.Sprintf("no listener of %s allows %ss of namespace %s", to.ref(), object.ref.Kind, object.Namespace),
			"a listener whose allowedRoutes include them")
	}
	var placements []placement
	for _, l := range allowing {
		p := placement{listener: l}
		for _, name := range hostnames {
			if common, ok := intersectHostnames(l.hostname, name); ok {
				p.add(common, name)
			}
		}
		if len(p.hostnames) > 0 {
			placements = append(placements, p)
		}
	}
	if len(placements) == 0 {
		var have []string
		for _, l := range allowing {
			have = append(have, l.hostname)
		}
		return fail(gatewayv1.RouteReasonNoMatchingListenerHostname, "spec.hostnames",
			fmt.Sprintf("no listener of %s has a hostname in common", to.ref()), "a hostname within "+strings.Join(have, ", "))
	}
	return placements
}

// yield takes out the listeners where another route has the hostnames. The
// verdict says which if there is none left.
func yield(rep *report, accepted *verdict, field string, placements []placement, lost func(*listener) (winner objects.Ref, beaten bool)) []placement {
	var kept []placement
	var says *Finding
	for _, p := range placements {
		winner, beaten := lost(p.listener)
		if !beaten {
			kept = append(kept, p)
		} else if says == nil {
			says = &Finding{Field: field,
				Message:   fmt.Sprintf("%s, which is older or the first by name, has a hostname in common at listener %s", winner, p.listener.spec.Name),
				Want:      "hostnames that HTTPRoutes and GRPCRoutes of a listener do not share",
				Condition: string(gatewayv1.RouteConditionAccepted), Reason: "HostnameConflict"}
		}
	}
	if len(kept) == 0 && says != nil {
		rep.fail(accepted, *says)
	}
	return kept
}

func atPort(port *gatewayv1.PortNumber) string {
	if port == nil {
		return ""
	}
	return fmt.Sprintf(" on port %d", *port)
}

func (p *parent) listenerNames() string {
	var names []string
	for _, l := range p.listeners {
		names = append(names, fmt.Sprintf("%s (port %d)", l.spec.Name, l.spec.Port))
	}
	return strings.Join(names, ", ")
}

// findHost returns where among r.hosts a key is or would be.
func (r *route) findHost(key string) (at int, there bool) {
	return slices.BinarySearchFunc(r.hosts, key, func(h *host, key string) int { return strings.Compare(h.key, key) })
}

// serve enters the rules into the virtual hosts of a listener.
func (r *route) serve(f *frame, p placement, rules []*compiledRule) {
	if !p.listener.serves() {
		return
	}
	owner := r.object.Namespace + "/" + r.object.Name
	for n, name := range p.hostnames {
		if name == "" {
			name = "*"
		}
		h := &host{key: snapshot.HostKey(p.listener.key, name), listener: p.listener.key, hostname: name}
		at, there := r.findHost(h.key)
		if there {
			continue // another parentRef led here already
		}
		for _, rule := range rules {
			served := rule.on(p.listener, r, f.policies)
			for _, m := range rule.matches {
				h.entries = append(h.entries, &entry{
					route: &snapshot.Route{Match: m.match, Rule: served}, grpc: m.grpc,
					origin: p.origins[n], owner: owner, created: r.object.CreationTimestamp.Unix(),
					rule: rule.index, match: m.index,
				})
			}
		}
		if len(h.entries) > 0 {
			r.hosts = slices.Insert(r.hosts, at, h)
		}
	}
}
