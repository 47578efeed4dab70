package compile

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// listenerSet is a ListenerSet that names a Gateway of ours.
type listenerSet struct {
	parent
	object *gatewayv1.ListenerSet
	// refused and programmed are what its conditions say.
	refused, programmed verdict
}

// sortListenerSets finds the ListenerSets of each Gateway, in their order of
// precedence: the oldest first, then by name, ListenerSetSpec.listeners.
func (b *frameBuilder) sortListenerSets() {
	b.listenerSets = map[objects.Ref][]*gatewayv1.ListenerSet{}
	all := objects.All[*gatewayv1.ListenerSet](b.set)
	slices.SortStableFunc(all, func(x, y *gatewayv1.ListenerSet) int {
		return cmp.Or(cmp.Compare(x.CreationTimestamp.Unix(), y.CreationTimestamp.Unix()),
			cmp.Compare(x.Namespace+"/"+x.Name, y.Namespace+"/"+y.Name))
	})
	for _, set := range all {
		if gateway, ok := objects.GatewayOf(set); ok {
			b.listenerSets[gateway] = append(b.listenerSets[gateway], set)
			continue
		}
		b.strayListenerSet(set, ".kind", "Headgate attaches ListenerSets to Gateways only", "Gateway")
	}
}

// judgeListenerSets says which ListenerSets name no Gateway that is served.
func (b *frameBuilder) judgeListenerSets() {
	for gateway, sets := range b.listenerSets {
		for _, set := range sets {
			switch {
			case b.served[gateway] != nil:
			case b.foreign[gateway]:
				b.foreign[objects.RefOf(set)] = true
			default:
				b.strayListenerSet(set, ".name", fmt.Sprintf("there is no %s that Headgate serves", gateway), "the name of a Gateway")
			}
		}
	}
}

// strayListenerSet tells of a ListenerSet that has no Gateway of ours. Its
// status is not Headgate's to write.
func (b *frameBuilder) strayListenerSet(set *gatewayv1.ListenerSet, field, message, want string) {
	ref := objects.RefOf(set)
	b.put(ref, nil, []Finding{{
		Object: ref, Field: "spec.parentRef" + field, Message: message, Want: want,
		Condition: string(gatewayv1.ListenerSetConditionAccepted), Reason: string(gatewayv1.ListenerSetReasonPending),
	}})
}

// compileListenerSet compiles a ListenerSet and adds it to its Gateway.
func (b *frameBuilder) compileListenerSet(g *gateway, object *gatewayv1.ListenerSet) {
	s := &listenerSet{object: object}
	s.parent = parent{report: report{object: objects.RefOf(object)}, gateway: g, generation: object.Generation, status: s.conclude}
	g.sets = append(g.sets, s)
	if !g.allowedListeners.allow(b.set, g.object.Namespace, object.Namespace) {
		s.fail(&s.attached, Finding{
			Field: "spec.parentRef", Message: fmt.Sprintf("%s does not allow ListenerSets of namespace %s", g.ref(), object.Namespace),
			Want:      "a Gateway whose spec.allowedListeners includes it",
			Condition: string(gatewayv1.ListenerSetConditionAccepted), Reason: string(gatewayv1.ListenerSetReasonNotAllowed),
		})
		return
	}
	names := map[gatewayv1.SectionName]bool{}
	for i := range object.Spec.Listeners {
		spec := gatewayv1.Listener(object.Spec.Listeners[i])
		l := b.compileListener(&s.parent, i, &spec)
		if names[spec.Name] {
			l.refuse(gatewayv1.ListenerReasonInvalid, ".name", fmt.Sprintf("there is another listener %q", spec.Name), "unique names")
		}
		names[spec.Name] = true
		s.listeners = append(s.listeners, l)
	}
}

// compileAllowedListeners reads which namespaces' ListenerSets may attach; none by default.
func (g *gateway) compileAllowedListeners() {
	g.allowedListeners = namespaces{from: gatewayv1.NamespacesFromNone}
	a := g.object.Spec.AllowedListeners
	if a == nil || a.Namespaces == nil || a.Namespaces.From == nil {
		return
	}
	g.allowedListeners = compileNamespaces(*a.Namespaces.From, a.Namespaces.Selector, func(field, message, want string) {
		g.refuse(gatewayv1.GatewayReasonInvalid, "spec.allowedListeners.namespaces"+field, message, want)
	})
}

// all are the Gateway's listeners and those of its ListenerSets, by precedence.
func (g *gateway) all() iter.Seq[*listener] {
	return func(yield func(*listener) bool) {
		for _, l := range g.listeners {
			if !yield(l) {
				return
			}
		}
		for _, set := range g.sets {
			for _, l := range set.listeners {
				if !yield(l) {
					return
				}
			}
		}
	}
}

// attachedListenerSets counts those that are accepted, GatewayStatus.attachedListenerSets.
func (g *gateway) attachedListenerSets() *int32 {
	n := int32(0)
	for _, set := range g.sets {
		if set.refused.ok() {
			n++
		}
	}
	return &n
}

// settle concludes from the Gateway and the listeners on the ListenerSet, once
// their ports are known.
func (s *listenerSet) settle() {
	g := s.gateway
	switch {
	case !s.attached.ok():
		s.refused = s.attached
	case !g.refused.ok():
		s.refused.fail(string(gatewayv1.ListenerSetReasonParentNotAccepted), g.ref().String()+" is not accepted")
	case !slices.ContainsFunc(s.listeners, (*listener).valid):
		s.refused.fail(string(gatewayv1.ListenerSetReasonListenersNotValid), "none of the listeners is valid")
	}
	switch i := slices.IndexFunc(s.listeners, func(l *listener) bool { return l.programmed.ok() }); {
	case !s.refused.ok():
		s.programmed = verdict{s.refused.reason, "the ListenerSet is not accepted"}
	case i < 0:
		s.programmed.fail(s.listeners[0].programmed.reason, "no listener is programmed")
	case !g.programmed.ok():
		s.programmed.fail("ParentNotProgrammed", g.ref().String()+" is not programmed")
	}
}

// valid reports whether a listener of a ListenerSet makes the set worth
// accepting: it would serve, if it were the only one.
func (l *listener) valid() bool {
	return l.accepted.ok() && (!l.terminates() || len(l.certificates) > 0)
}

// conclude is the ListenerSet's status.
func (s *listenerSet) conclude(attached func(listener string) int32) *Status {
	accepted := newCondition(string(gatewayv1.ListenerSetConditionAccepted), string(gatewayv1.ListenerSetReasonAccepted), "", s.refused, s.generation)
	var invalid []string
	status := gatewayv1.ListenerSetStatus{}
	for _, l := range s.listeners {
		if !l.accepted.ok() {
			invalid = append(invalid, string(l.spec.Name))
		}
		status.Listeners = append(status.Listeners, gatewayv1.ListenerEntryStatus(l.status(attached(l.key))))
	}
	if s.refused.ok() && len(invalid) > 0 {
		accepted.Reason = string(gatewayv1.ListenerSetReasonListenersNotValid)
		accepted.Message = "not valid, and not served: listener " + strings.Join(invalid, ", ")
	}
	status.Conditions = []metav1.Condition{
		accepted,
		newCondition(string(gatewayv1.ListenerSetConditionProgrammed), string(gatewayv1.ListenerSetReasonProgrammed), "", s.programmed, s.generation),
	}
	return &Status{Object: s.ref(), Generation: s.generation, Value: status}
}
