package compile

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// grants are the ReferenceGrants, by the namespace that they open.
type grants map[string][]*gatewayv1.ReferenceGrant

func newGrants(set *objects.Set) grants {
	g := grants{}
	for _, grant := range objects.All[*gatewayv1.ReferenceGrant](set) {
		g[grant.Namespace] = append(g[grant.Namespace], grant)
	}
	return g
}

// allow reports whether an object may refer to another one: always within a
// namespace, across namespaces if a ReferenceGrant in to's namespace says so.
// Both kinds are among objects.Kinds.
func (g grants) allow(from, to objects.Ref) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	for _, grant := range g[to.Namespace] {
		if grantsFrom(grant.Spec.From, from) && grantsTo(grant.Spec.To, to) {
			return true
		}
	}
	return false
}

func grantsFrom(entries []gatewayv1.ReferenceGrantFrom, from objects.Ref) bool {
	for _, e := range entries {
		if string(e.Kind) == from.Kind && string(e.Group) == objects.GroupOf(from.Kind) && string(e.Namespace) == from.Namespace {
			return true
		}
	}
	return false
}

func grantsTo(entries []gatewayv1.ReferenceGrantTo, to objects.Ref) bool {
	for _, e := range entries {
		if string(e.Kind) == to.Kind && string(e.Group) == objects.GroupOf(to.Kind) && (e.Name == nil || *e.Name == "" || string(*e.Name) == to.Name) {
			return true
		}
	}
	return false
}
