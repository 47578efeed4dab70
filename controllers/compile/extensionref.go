package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// A filter of type ExtensionRef names a policy of the route's namespace. The
// policy then holds for the rule as if it were attached there, nearer than all
// that are; what it does is done at its kind's place of the pipeline.

// byExtension is the target of what is attached by a filter, not by a targetRef.
const byExtension = -1

// isExtension reports whether policies of a kind can be named by a filter: those
// that act on requests and responses.
func isExtension(kind string) bool {
	return slices.ContainsFunc(policyKinds, func(k policyKind) bool { return k.name == kind && k.filters != nil })
}

// wantExtension are the kinds that a filter may name.
func wantExtension() string {
	var kinds []string
	for i := range policyKinds {
		if policyKinds[i].filters != nil {
			kinds = append(kinds, policyKinds[i].name)
		}
	}
	return fmt.Sprintf("%s or %s of group %s", strings.Join(kinds[:len(kinds)-1], ", "), kinds[len(kinds)-1], v1alpha1.GroupName)
}

// compileExtensionRef finds the policy that a rule's filter names. A filter that
// does not resolve must not be skipped, HTTPRouteFilter.type: then it returns why
// the rule lets nothing through.
func (c *ruleCompiler) compileExtensionRef(ref *gatewayv1.LocalObjectReference, field string) (extension objects.Ref, broken string) {
	fail := func(reason, suffix, message, want string) (objects.Ref, string) {
		finding := Finding{Field: field + suffix, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionResolvedRefs), Reason: reason}
		c.report.fail(&c.route.resolved, finding)
		return objects.Ref{}, finding.String()
	}
	extension, ok := objects.ExtensionOf(ref, c.object.Namespace)
	if !ok || !isExtension(extension.Kind) {
		return fail(string(gatewayv1.RouteReasonInvalidKind), ".kind", fmt.Sprintf("kind %s of group %q is no filter", ref.Kind, ref.Group), wantExtension())
	}
	if c.set.Get(extension) == nil {
		return fail(reasonRefNotFound, ".name", fmt.Sprintf("there is no %s", extension), "the name of a policy in the route's namespace")
	}
	if wrong := c.frame.policies.flaw(extension); wrong != "" {
		return fail(reasonInvalidRef, ".name", fmt.Sprintf("%s cannot be used as it is: %s", extension, wrong), "a policy that is Accepted, and whose references resolve")
	}
	return extension, ""
}

// flaw implements policyIndex.
func (x *policies) flaw(ref objects.Ref) string {
	p := x.compiled[ref]
	switch {
	case !p.accepted.ok():
		return p.accepted.message
	case !p.resolved.ok():
		return p.resolved.message
	}
	return ""
}

// concernedBy implements policyIndex.
func (x *policies) concernedBy(extension objects.Ref) []objects.Ref {
	p := x.compiled[extension]
	if p == nil {
		return nil
	}
	return append([]objects.Ref{extension}, x.outer[p.kind]...)
}

// extensions are the policies that the rules of a route name, once each.
func (r *route) extensions() (refs []objects.Ref) {
	if r == nil || r.object == nil {
		return nil
	}
	objects.EachExtensionRef(r.object.HTTPRoute, func(_ int, extension objects.Ref) { refs = append(refs, extension) })
	return sortedRefs(refs)
}

// named is a rule that names a policy in a filter.
type named struct {
	route objects.Object
	rule  int
}

// place is the rule, by its name or else by its index.
func (n named) place() place {
	at := place{object: objects.RefOf(n.route), section: strconv.Itoa(n.rule)}
	if name := formOf(n.route).Spec.Rules[n.rule].Name; name != nil && *name != "" {
		at.section = string(*name)
	}
	return at
}

// naming returns the rules that name a policy in a filter, sorted by their routes.
func naming(set *objects.Set, policy objects.Ref) (rules []named) {
	for _, ref := range set.RoutesOfExtension(policy) {
		route := set.Get(ref)
		objects.EachExtensionRef(route, func(rule int, extension objects.Ref) {
			if extension == policy {
				rules = append(rules, named{route, rule})
			}
		})
	}
	return rules
}

// maxAncestors is PolicyStatus.ancestors' bound.
const maxAncestors = 16

// namedBy adds the routes that name a policy in filters to its ancestors, as many
// as there is room for; the policy holds at all of them.
func (x *policies) namedBy(set *objects.Set, p *compiledPolicy, ancestors []gatewayv1.PolicyAncestorStatus) []gatewayv1.PolicyAncestorStatus {
	group, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Namespace(p.ref.Namespace)
	for _, n := range naming(set, p.ref) {
		ref := objects.RefOf(n.route)
		kind, name := gatewayv1.Kind(ref.Kind), gatewayv1.ObjectName(ref.Name)
		if last := len(ancestors) - 1; last >= 0 && ancestors[last].AncestorRef.Kind != nil && *ancestors[last].AncestorRef.Kind == kind &&
			ancestors[last].AncestorRef.Name == name && ancestors[last].AncestorRef.SectionName == nil {
			continue // another rule of the route has said so
		}
		if len(ancestors) == maxAncestors {
			break
		}
		overridden := x.overridden(p, place{object: p.ref}, byExtension, x.outside(set, p, n), &report{}, nil)
		ancestors = append(ancestors, gatewayv1.PolicyAncestorStatus{
			AncestorRef:    gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: name},
			ControllerName: ControllerName,
			Conditions:     p.conditions(p.accepted, p.resolved, "A filter of the route names the policy.", overridden),
		})
	}
	return ancestors
}

// outside are the policies that meet one at a rule which names it: those that are
// attached there or above are further out, and of those that the rule names, the
// last is the nearest.
func (x *policies) outside(set *objects.Set, p *compiledPolicy, n named) []rival {
	rivals := x.rivals(set, p, n.place())
	for i := range rivals {
		rivals[i].depth = min(rivals[i].depth, 0) - 1
	}
	depth := -1
	objects.EachExtensionRef(n.route, func(rule int, extension objects.Ref) {
		switch other := x.compiled[extension]; {
		case rule != n.rule:
		case extension == p.ref:
			depth = 1
		case other != nil && other.kind == p.kind:
			rivals = append(rivals, rival{attached{other, n.place(), byExtension}, true, depth})
		}
	})
	return rivals
}

// inside are the policies that rules below a place name in filters, which are
// nearer than one that is attached there.
func (x *policies) inside(set *objects.Set, p *compiledPolicy, at place) (rivals []rival) {
	if p.row.filters == nil {
		return nil
	}
	for _, ref := range set.Extensions(p.ref.Kind) {
		if ref == p.ref || x.compiled[ref] == nil {
			continue
		}
		for _, n := range naming(set, ref) {
			rule := n.place()
			meets := rule.object == at.object && (at.section == "" || at.section == rule.section)
			if !meets && rule.object != at.object {
				outer, _ := x.above(set, n.route, p.kind)
				meets = slices.ContainsFunc(outer, func(up above) bool { return up.object == at.object && up.meets(at.section) })
			}
			if meets {
				rivals = append(rivals, rival{attached{x.compiled[ref], rule, byExtension}, rule == at, 3})
			}
		}
	}
	return rivals
}

// conditions are a policy's at one ancestor; overridden may be nil.
func (p *compiledPolicy) conditions(accepted, resolved verdict, message string, overridden *metav1.Condition) []metav1.Condition {
	generation := p.object.GetGeneration()
	conditions := []metav1.Condition{newCondition(string(gatewayv1.PolicyConditionAccepted),
		string(gatewayv1.PolicyReasonAccepted), message, accepted, generation)}
	if len(p.wanted)+len(p.servers) > 0 || !resolved.ok() {
		conditions = append(conditions, newCondition(conditionResolvedRefs, reasonResolvedRefs, "All references resolve.", resolved, generation))
	}
	if overridden != nil {
		overridden.ObservedGeneration = generation
		conditions = append(conditions, *overridden)
	}
	return conditions
}
