package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// The condition that says that another policy took the place of this one, or
// of some of its stanzas.
const (
	conditionOverridden       = "Overridden"
	reasonOverridden          = "Overridden"
	reasonPartiallyOverridden = "PartiallyOverridden"
)

// status implements policyIndex. The ancestors are the policy's targets, and the
// routes that name it in filters.
func (x *policies) status(set *objects.Set, ref objects.Ref, remarks []remark) (*Status, []Finding) {
	p := x.compiled[ref]
	if p == nil {
		return nil, nil
	}
	r := report{object: ref, findings: p.findings[:len(p.findings):len(p.findings)]}
	value := gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}}
	for i := range p.object.Targets() {
		target := &p.object.Targets()[i]
		namespace := gatewayv1.Namespace(ref.Namespace)
		entry := gatewayv1.PolicyAncestorStatus{
			AncestorRef: gatewayv1.ParentReference{
				Group: &target.Group, Kind: &target.Kind, Namespace: &namespace, Name: target.Name, SectionName: target.SectionName,
			},
			ControllerName: ControllerName,
		}
		accepted, resolved := p.accepted, p.resolved
		var overridden *metav1.Condition
		if at, found := x.find(set, p, i, &r, &accepted); found {
			x.checkListeners(set, p, at, i, &r, &accepted)
			x.checkHTTP3(set, p, at, i, &r, &accepted)
			overridden = x.overridden(p, at, i, append(x.rivals(set, p, at), x.inside(set, p, at)...), &r, &accepted)
		}
		for _, m := range remarks {
			if m.of.target == i {
				m.add(&r, &accepted, &resolved)
			}
		}
		entry.Conditions = p.conditions(accepted, resolved, "The policy is attached.", overridden)
		value.Ancestors = append(value.Ancestors, entry)
	}
	value.Ancestors = x.namedBy(set, p, value.Ancestors)
	if len(value.Ancestors) == 0 {
		r.fail(nil, Finding{Field: "spec.targetRefs", Message: "the policy holds nowhere", Want: "targetRefs, or a rule's filter of type ExtensionRef that names it",
			Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonTargetNotFound)})
	}
	return &Status{Object: ref, Generation: p.object.GetGeneration(), Value: value}, r.findings
}

// find resolves a targetRef, and reports one that leads nowhere.
func (x *policies) find(set *objects.Set, p *compiledPolicy, target int, r *report, accepted *verdict) (place, bool) {
	kind := p.row
	ref := &p.object.Targets()[target]
	at, ok := targetOf(p, target)
	missing := func(field, message, want string) (place, bool) {
		r.fail(accepted, Finding{
			Field: fmt.Sprintf("spec.targetRefs[%d]%s", target, field), Message: message, Want: want,
			Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonTargetNotFound),
		})
		return at, false
	}
	if !ok {
		wants := make([]string, len(kind.targets))
		for i, k := range kind.targets {
			wants[i] = fmt.Sprintf("kind %s with group %q", k, objects.GroupOf(k))
		}
		return missing("", fmt.Sprintf("%s does not attach to kind %q of group %q", kind.name, ref.Kind, ref.Group), strings.Join(wants, ", or "))
	}
	object := set.Get(at.object)
	if object == nil {
		return missing(".name", fmt.Sprintf("%s does not exist", at.object), "the name of "+aKind(at.object.Kind)+" in the policy's namespace")
	}
	var sections []string
	switch o := object.(type) {
	case *gatewayv1.Gateway:
		class := objects.Get[*gatewayv1.GatewayClass](set, "", string(o.Spec.GatewayClassName))
		if class != nil && class.Spec.ControllerName != ControllerName {
			return missing(".name", fmt.Sprintf("%s is served by %s", at.object, class.Spec.ControllerName), "a Gateway whose class has controllerName "+ControllerName)
		}
		for i := range o.Spec.Listeners {
			sections = append(sections, string(o.Spec.Listeners[i].Name))
		}
	case *gatewayv1.ListenerSet:
		for i := range o.Spec.Listeners {
			sections = append(sections, string(o.Spec.Listeners[i].Name))
		}
	case *gatewayv1.HTTPRoute, *gatewayv1.GRPCRoute, *gatewayv1.TCPRoute, *gatewayv1.TLSRoute, *gatewayv1.UDPRoute:
		route := cmp.Or(formOf(object), streamOf(object))
		for i := range route.Spec.Rules {
			if name := route.Spec.Rules[i].Name; name != nil && *name != "" {
				sections = append(sections, string(*name))
			}
		}
	case *corev1.Service, *objects.ServiceImport:
		for _, port := range servicePorts(object) {
			if port.Name != "" {
				sections = append(sections, port.Name)
			}
		}
	}
	if at.section != "" && !slices.Contains(sections, at.section) {
		want := "one of " + strings.Join(sections, ", ")
		if len(sections) == 0 {
			want = "no sectionName: " + at.object.String() + " has no named sections"
		}
		return missing(".sectionName", fmt.Sprintf("%s has no section %q", at.object, at.section), want)
	}
	return at, true
}

// maxNamed bounds how many policies a message names.
const maxNamed = 8

// overridden says which of a policy's stanzas do not hold everywhere below a
// target, and whose hold there instead; nil if all do.
func (x *policies) overridden(p *compiledPolicy, at place, target int, rivals []rival, r *report, accepted *verdict) *metav1.Condition {
	lost := map[string]bool{}     // stanzas that hold nowhere below the target
	conflict := map[string]bool{} // of these, those that a policy with the same target sets
	type where struct{ stanza, place string }
	settled := map[where]bool{} // at one place the first rival holds, by precedence
	var said []string
	more := 0
	for _, rival := range rivals {
		var names []string
		for i := range p.stanzas {
			name := p.stanzas[i].name
			if rival.policy.stanza(name) == nil || !rival.beats(p) || settled[where{name, rival.place.String()}] {
				continue
			}
			settled[where{name, rival.place.String()}] = true
			names = append(names, name)
			if rival.covers {
				lost[name] = true
				conflict[name] = conflict[name] || rival.place == at
			}
		}
		switch {
		case len(names) == 0:
		case len(said) == maxNamed:
			more++
		default:
			said = append(said, fmt.Sprintf("%s: %s at %s, which is %s", strings.Join(names, ", "), rival.policy, rival.place, rival.reason()))
		}
	}
	if len(said) == 0 {
		return nil
	}
	message := "Set by another policy: " + strings.Join(said, "; ")
	if more > 0 {
		message += fmt.Sprintf("; and %d more", more)
	}
	if len(conflict) == len(p.stanzas) && allTrue(conflict) {
		r.fail(accepted, Finding{
			Field:   fmt.Sprintf("spec.targetRefs[%d]", target),
			Message: "nothing of this policy holds at " + at.String() + ". " + message,
			Want:    "one policy for each setting of a target", Condition: string(gatewayv1.PolicyConditionAccepted),
			Reason: string(gatewayv1.PolicyReasonConflicted),
		})
	}
	c := &metav1.Condition{Type: conditionOverridden, Status: metav1.ConditionTrue, Reason: reasonPartiallyOverridden, Message: message + "."}
	if len(lost) == len(p.stanzas) {
		c.Reason = reasonOverridden
	}
	return c
}

func allTrue(m map[string]bool) bool {
	for _, v := range m {
		if !v {
			return false
		}
	}
	return true
}

// rival is a policy of the same kind that meets another one somewhere.
type rival struct {
	attached
	// covers says that it is met everywhere below the other one's target.
	covers bool
	depth  int // relative to the other one's: below 0 is outer, above 0 nearer
}

// beats reports whether the rival's stanzas hold where both set the same.
func (q *rival) beats(p *compiledPolicy) bool {
	switch {
	case q.depth < 0:
		return q.policy.object.IsEnforced()
	case q.depth > 0:
		return !p.object.IsEnforced()
	}
	return precedence(q.policy, p) < 0
}

func (q *rival) reason() string {
	switch {
	case q.depth < 0 || q.depth == 0 && q.policy.object.IsEnforced():
		return "enforced"
	case q.depth > 0:
		return "nearer"
	}
	return "older, or the first by name"
}

// rivals returns the policies that meet a policy at one of its targets: of the same
// object and its sections, of what is above it and of what is below it.
func (x *policies) rivals(set *objects.Set, p *compiledPolicy, at place) []rival {
	var rivals []rival
	add := func(object objects.Ref, depth int, section func(string) (meets, covers bool)) {
		for _, a := range x.attached[object] {
			if a.policy.kind != p.kind || a.policy == p && a.place == at ||
				slices.ContainsFunc(rivals, func(q rival) bool { return q.policy == a.policy && q.place == a.place }) {
				continue
			}
			if meets, covers := section(a.place.section); meets {
				rivals = append(rivals, rival{a, covers, depth + truth(a.place.section != "") - truth(at.section != "")})
			}
		}
	}
	add(at.object, 0, func(section string) (meets, covers bool) {
		return section == at.section || section == "" || at.section == "", section == at.section || section == ""
	})
	if isRoute(at.object.Kind) {
		above, alone := x.above(set, set.Get(at.object), p.kind)
		for _, up := range above {
			add(up.object, -2, func(section string) (meets, covers bool) {
				return up.meets(section), alone && (section == "" || section == up.section)
			})
		}
		return rivals
	}
	for _, listeners := range objects.All[*gatewayv1.ListenerSet](set) {
		gateway, _ := objects.GatewayOf(listeners)
		switch ref := objects.RefOf(listeners); {
		case ref == at.object:
			add(gateway, -2, func(section string) (meets, covers bool) { return section == "", true })
		case gateway == at.object && at.section == "":
			add(ref, 2, func(string) (meets, covers bool) { return true, false })
		}
	}
	for _, ref := range x.routes[p.kind] {
		above, _ := x.above(set, set.Get(ref), p.kind)
		for _, up := range above {
			if up.object != at.object || !up.meets(at.section) {
				continue
			}
			add(ref, 2, func(string) (meets, covers bool) { return true, false })
			break
		}
	}
	return rivals
}

// above is what a route is below of.
type above struct {
	place
	// whole says that policies of the object's sections do not hold for the
	// route: it is below the Gateway by a ListenerSet's listener.
	whole bool
}

// meets reports whether what is attached to a section of the object, or to all
// of it, holds for the route.
func (a above) meets(section string) bool {
	return section == "" || !a.whole && (a.section == "" || section == a.section)
}

// above returns what a route is below of, for a kind of policy: Gateways,
// ListenerSets and listeners, or the Services and Backends that it names. The
// latter are given as whole objects. alone says that it is below one thing only.
func (x *policies) above(set *objects.Set, route objects.Object, kind int) (list []above, alone bool) {
	if route == nil {
		return nil, false
	}
	if kind != backendPolicies {
		parents := slices.Concat(objects.ParentRefs(route), set.Claims(route))
		if stream := streamOf(route).claimed(set, route); stream != nil {
			parents = stream.Spec.ParentRefs
		}
		for _, parent := range parents {
			ref, ok := objects.ParentOf(&parent, route.GetNamespace())
			if !ok {
				continue
			}
			at := above{place: place{object: ref}}
			if parent.SectionName != nil {
				at.section = string(*parent.SectionName)
			}
			list = append(list, at)
			if listeners, _ := set.Get(ref).(*gatewayv1.ListenerSet); listeners != nil {
				if gateway, ok := objects.GatewayOf(listeners); ok {
					list = append(list, above{place: place{object: gateway}, whole: true})
				}
			}
		}
		return list, len(parents) == 1
	}
	seen := map[objects.Ref]bool{}
	objects.EachBackendRef(route, func(b *gatewayv1.BackendObjectReference) {
		if backend, ok := objects.BackendOf(b, route.GetNamespace()); ok && !seen[backend] {
			seen[backend] = true
			list = append(list, above{place: place{object: backend}})
		}
	})
	return list, len(list) == 1
}
