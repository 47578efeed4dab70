package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// The API's own bounds on the lists that controllers share.
const (
	maxParents   = 32
	maxAncestors = 16
)

// part is the part of an object's status that compile speaks about, by
// pointer, or nil for kinds that bear none.
func part(obj objects.Object) any {
	switch o := obj.(type) {
	case *gatewayv1.GatewayClass:
		return &o.Status
	case *gatewayv1.Gateway:
		return &o.Status
	case *gatewayv1.ListenerSet:
		return &o.Status
	case *gatewayv1.HTTPRoute:
		return &o.Status.RouteStatus
	case *gatewayv1.GRPCRoute:
		return &o.Status.RouteStatus
	case *gatewayv1.TLSRoute:
		return &o.Status.RouteStatus
	case *gatewayv1.TCPRoute:
		return &o.Status.RouteStatus
	case *gatewayv1.UDPRoute:
		return &o.Status.RouteStatus
	case *gatewayv1.BackendTLSPolicy:
		return &o.Status
	case *gatewayxv1alpha1.XBackend:
		return &o.Status
	case *gatewayxv1alpha1.XBackendTrafficPolicy:
		return &o.Status
	case v1alpha1.Policy:
		return o.PolicyStatus()
	case *v1alpha1.Backend:
		return &o.Status
	}
	return nil
}

// merge edits an object's status to say what want does, and reports whether it
// said something else before. Entries of other controllers stay as they are,
// and a condition whose status did not change keeps its time. A nil want takes
// Headgate's entries away.
func merge(obj objects.Object, want *compile.Status, at time.Time) (changed bool, err error) {
	m := merger{now: metav1.NewTime(at.Truncate(time.Second))}
	switch have := part(obj).(type) {
	case *gatewayv1.GatewayClassStatus:
		if want == nil {
			return false, nil
		}
		status, ok := want.Value.(gatewayv1.GatewayClassStatus)
		if !ok {
			return false, mismatch(want)
		}
		status.Conditions = m.conditions(have.Conditions, status.Conditions)
		return replace(have, status), nil
	case *gatewayv1.GatewayStatus:
		if want == nil {
			return false, nil
		}
		status, ok := want.Value.(gatewayv1.GatewayStatus)
		if !ok {
			return false, mismatch(want)
		}
		status.Conditions = m.conditions(have.Conditions, status.Conditions)
		status.Listeners = listeners(m, have.Listeners, status.Listeners)
		return replace(have, status), nil
	case *gatewayv1.ListenerSetStatus:
		if want == nil {
			return false, nil
		}
		status, ok := want.Value.(gatewayv1.ListenerSetStatus)
		if !ok {
			return false, mismatch(want)
		}
		status.Conditions = m.conditions(have.Conditions, status.Conditions)
		status.Listeners = listeners(m, have.Listeners, status.Listeners)
		return replace(have, status), nil
	case *gatewayv1.RouteStatus:
		var status gatewayv1.RouteStatus
		if want != nil {
			var ok bool
			if status, ok = want.Value.(gatewayv1.RouteStatus); !ok {
				return false, mismatch(want)
			}
		}
		status.Parents = m.parents(have.Parents, status.Parents)
		return replace(have, status), nil
	case *gatewayv1.PolicyStatus:
		var status gatewayv1.PolicyStatus
		if want != nil {
			var ok bool
			if status, ok = want.Value.(gatewayv1.PolicyStatus); !ok {
				return false, mismatch(want)
			}
		}
		status.Ancestors = m.ancestors(have.Ancestors, status.Ancestors)
		return replace(have, status), nil
	case *gatewayxv1alpha1.BackendStatus:
		var status gatewayxv1alpha1.BackendStatus
		if want != nil {
			var ok bool
			if status, ok = want.Value.(gatewayxv1alpha1.BackendStatus); !ok {
				return false, mismatch(want)
			}
		}
		status.Ancestors = m.backendAncestors(have.Ancestors, status.Ancestors)
		return replace(have, status), nil
	case *v1alpha1.BackendStatus:
		if want == nil {
			return false, nil
		}
		status, ok := want.Value.(v1alpha1.BackendStatus)
		if !ok {
			return false, mismatch(want)
		}
		status.Conditions = m.conditions(have.Conditions, status.Conditions)
		return replace(have, status), nil
	}
	return false, nil
}

func mismatch(want *compile.Status) error {
	return fmt.Errorf("compile made a %T for %s, which is not that kind's status", want.Value, want.Object)
}

func replace[T any](have *T, want T) bool {
	if equality.Semantic.DeepEqual(*have, want) {
		return false
	}
	*have = want
	return true
}

type merger struct{ now metav1.Time }

// conditions keeps the order of the old ones, so that equal conditions are
// equal lists.
func (m merger) conditions(old, want []metav1.Condition) []metav1.Condition {
	merged := make([]metav1.Condition, 0, len(want))
	for _, o := range old {
		if i := slices.IndexFunc(want, func(w metav1.Condition) bool { return w.Type == o.Type }); i >= 0 {
			c := want[i]
			c.LastTransitionTime = o.LastTransitionTime
			if c.Status != o.Status {
				c.LastTransitionTime = m.now
			}
			merged = append(merged, c)
		} else if foreign(o.Type) {
			merged = append(merged, o)
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(old, func(o metav1.Condition) bool { return o.Type == w.Type }) {
			w.LastTransitionTime = m.now
			merged = append(merged, w)
		}
	}
	return merged
}

// foreign reports whether a condition's type carries somebody else's domain.
func foreign(conditionType string) bool {
	domain, _, prefixed := strings.Cut(conditionType, "/")
	return prefixed && domain != v1alpha1.GroupVersion.Group
}

// listeners merges those of a Gateway or of a ListenerSet: the two types are one.
func listeners[L gatewayv1.ListenerStatus | gatewayv1.ListenerEntryStatus](m merger, old, want []L) []L {
	merged := make([]L, 0, len(want))
	for _, next := range want {
		w := gatewayv1.ListenerStatus(next)
		var before []metav1.Condition
		for _, o := range old {
			if o := gatewayv1.ListenerStatus(o); o.Name == w.Name {
				before = o.Conditions
			}
		}
		w.Conditions = m.conditions(before, w.Conditions)
		if w.SupportedKinds == nil {
			w.SupportedKinds = []gatewayv1.RouteGroupKind{} // null is not a list
		}
		merged = append(merged, L(w))
	}
	return merged
}

func (m merger) parents(old, want []gatewayv1.RouteParentStatus) []gatewayv1.RouteParentStatus {
	return mergeShared(m, old, want, maxParents, func(e *gatewayv1.RouteParentStatus) shared {
		return shared{e.ControllerName, e.ParentRef, &e.Conditions}
	})
}

func (m merger) ancestors(old, want []gatewayv1.PolicyAncestorStatus) []gatewayv1.PolicyAncestorStatus {
	return mergeShared(m, old, want, maxAncestors, func(e *gatewayv1.PolicyAncestorStatus) shared {
		return shared{e.ControllerName, e.AncestorRef, &e.Conditions}
	})
}

func (m merger) backendAncestors(old, want []gatewayxv1alpha1.BackendAncestorStatus) []gatewayxv1alpha1.BackendAncestorStatus {
	return mergeShared(m, old, want, maxParents, func(e *gatewayxv1alpha1.BackendAncestorStatus) shared {
		return shared{e.ControllerName, e.AncestorRef, &e.Conditions}
	})
}

// shared is what the entries of lists that several controllers share have in common.
type shared struct {
	controller gatewayv1.GatewayController
	ref        gatewayv1.ParentReference
	conditions *[]metav1.Condition
}

func mergeShared[E any](m merger, old, want []E, limit int, of func(*E) shared) []E {
	return entries[E]{
		ours: func(e E) bool { return of(&e).controller == compile.ControllerName },
		same: func(a, b E) bool { return equality.Semantic.DeepEqual(of(&a).ref, of(&b).ref) },
		update: func(old, want E) E {
			conditions := of(&want).conditions
			*conditions = m.conditions(*of(&old).conditions, *conditions)
			return want
		},
		limit: limit,
	}.merge(old, want)
}

// entries merges a list that several controllers share, each with entries of
// its own.
type entries[E any] struct {
	ours   func(E) bool
	same   func(a, b E) bool
	update func(old, want E) E
	limit  int
}

// merge keeps others' entries and the order, and drops ours that are not
// wanted any more. What exceeds the limit is left out: others' entries are not
// ours to push out.
func (e entries[E]) merge(old, want []E) []E {
	merged := make([]E, 0, len(old)+len(want))
	done := make([]bool, len(want))
	for _, o := range old {
		if !e.ours(o) {
			merged = append(merged, o)
			continue
		}
		i := slices.IndexFunc(want, func(w E) bool { return e.same(o, w) })
		if i >= 0 && !done[i] {
			merged = append(merged, e.update(o, want[i]))
			done[i] = true
		}
	}
	for i, w := range want {
		if !done[i] && len(merged) < e.limit {
			var none E
			merged = append(merged, e.update(none, w))
		}
	}
	return merged
}
