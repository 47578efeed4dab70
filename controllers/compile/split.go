package compile

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// compileSplit compiles a BackendPolicy's split.
func compileSplit(c *policyCompiler, spec *v1alpha1.BackendPolicySpec) *snapshot.Split {
	const field = "spec.split"
	if i := slices.IndexFunc(spec.TargetRefs, func(t v1alpha1.TargetRef) bool { return !isForm(string(t.Kind)) }); i >= 0 {
		c.invalid(field, fmt.Sprintf("it is about the backendRefs of rules, and targetRefs[%d] is a %s", i, spec.TargetRefs[i].Kind),
			"no split, or HTTPRoutes and GRPCRoutes alone as targetRefs")
	}
	if len(spec.Split.HashOn) == 0 {
		c.invalid(field+".hashOn", "it is not set", "what a client is known by")
	}
	return &snapshot.Split{HashOn: compileHashOn(c, field, spec.Split.HashOn)}
}

// split implements policyIndex.
func (x *policies) split(route *form, rule int) *snapshot.Split {
	split, _ := x.effective(backendPolicies, rulePlaces(route, rule)...).value("split").(*snapshot.Split)
	return split
}

// backendName tells a backend of a rule from others, by what it refers to and by
// how many before it refer to the same: not by what that is just now, so that a
// Service which is gone for a while comes back to the same clients.
func backendName(ref *gatewayv1.BackendObjectReference, namespace string, before []snapshot.Backend) string {
	name := fmt.Sprintf("%s/%s/%s/%s", valueOr(ref.Group, ""), valueOr(ref.Kind, "Service"), valueOr(ref.Namespace, gatewayv1.Namespace(namespace)), ref.Name)
	if ref.Port != nil {
		name += fmt.Sprintf("/%d", *ref.Port)
	}
	same := 0
	for _, b := range before {
		if b.Name == name || strings.HasPrefix(b.Name, name+" ") {
			same++
		}
	}
	if same > 0 {
		name += fmt.Sprintf(" %d", same+1)
	}
	return name
}
