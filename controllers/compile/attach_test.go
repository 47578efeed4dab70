package compile

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

func target(kind, name, section string) v1alpha1.TargetRef {
	var ref v1alpha1.TargetRef
	ref.Group, ref.Kind, ref.Name = gatewayv1.Group(objects.GroupOf(kind)), gatewayv1.Kind(kind), gatewayv1.ObjectName(name)
	if section != "" {
		s := gatewayv1.SectionName(section)
		ref.SectionName = &s
	}
	return ref
}

// limits makes a RateLimitPolicy; older ones have the smaller age.
func limits(name string, age int, enforced bool, at v1alpha1.TargetRef, names ...string) *v1alpha1.RateLimitPolicy {
	p := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: metav1.Unix(int64(age), 0)}}
	p.Spec.TargetRefs, p.Spec.Enforced = []v1alpha1.TargetRef{at}, enforced
	for _, l := range names {
		p.Spec.Limits = append(p.Spec.Limits, v1alpha1.RateLimit{Name: l, Requests: 1, Per: "1s"})
	}
	return p
}

func TestEffective(t *testing.T) {
	var (
		gateway  = target("Gateway", "gw", "")
		listener = target("Gateway", "gw", "http")
		route    = target("HTTPRoute", "r", "")
		rule     = target("HTTPRoute", "r", "a")
	)
	places := []place{
		{objects.Ref{Kind: "Gateway", Namespace: "n", Name: "gw"}, ""}, {objects.Ref{Kind: "Gateway", Namespace: "n", Name: "gw"}, "http"},
		{objects.Ref{Kind: "HTTPRoute", Namespace: "n", Name: "r"}, ""}, {objects.Ref{Kind: "HTTPRoute", Namespace: "n", Name: "r"}, "a"},
	}
	for _, c := range []struct {
		name     string
		policies []*v1alpha1.RateLimitPolicy
		want     []string // limit@policy
	}{
		{"none", nil, nil},
		{"they add up", []*v1alpha1.RateLimitPolicy{limits("a", 1, false, gateway, "x"), limits("b", 1, false, rule, "y")}, []string{"x@a", "y@b"}},
		{"the nearest holds", []*v1alpha1.RateLimitPolicy{
			limits("a", 1, false, gateway, "x", "y"), limits("b", 1, false, listener, "x"), limits("c", 1, false, route, "x"), limits("d", 1, false, rule, "x"),
		}, []string{"x@d", "y@a"}},
		{"the outermost enforced holds", []*v1alpha1.RateLimitPolicy{
			limits("a", 1, false, gateway, "x"), limits("b", 1, true, listener, "x"), limits("c", 1, true, route, "x"), limits("d", 1, false, rule, "x"),
		}, []string{"x@b"}},
		{"enforced does not keep others from adding", []*v1alpha1.RateLimitPolicy{
			limits("a", 1, true, gateway, "x"), limits("b", 1, false, route, "y"),
		}, []string{"x@a", "y@b"}},
		{"at one place: the older", []*v1alpha1.RateLimitPolicy{limits("a", 2, false, route, "x"), limits("b", 1, false, route, "x")}, []string{"x@b"}},
		{"at one place: by name", []*v1alpha1.RateLimitPolicy{limits("b", 1, false, route, "x"), limits("a", 1, false, route, "x")}, []string{"x@a"}},
		{"at one place: the enforced", []*v1alpha1.RateLimitPolicy{limits("a", 1, false, route, "x"), limits("b", 2, true, route, "x")}, []string{"x@b"}},
		{"other places do not count", []*v1alpha1.RateLimitPolicy{
			limits("a", 1, true, target("Gateway", "gw", "https"), "x"), limits("b", 1, true, target("HTTPRoute", "r", "b"), "x"), limits("c", 1, true, target("Gateway", "r", ""), "x"),
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := objects.NewSet()
			for _, p := range c.policies {
				set.Put(p)
			}
			x := newPolicyIndex(set, nil, Options{}).(*policies)
			var got []string
			for _, w := range x.effective(rateLimitPolicies, places...) {
				got = append(got, fmt.Sprintf("%s@%s", w.stanza.name[len("limits["):len(w.stanza.name)-1], w.policy.ref.Name))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestAttachedTo(t *testing.T) {
	set := objects.NewSet()
	for _, p := range []*v1alpha1.RateLimitPolicy{
		limits("gateway", 1, false, target("Gateway", "gw", ""), "x"),
		limits("route", 1, false, target("HTTPRoute", "r", "a"), "x"),
		limits("other", 1, false, target("HTTPRoute", "s", ""), "x"),
	} {
		set.Put(p)
	}
	x := newPolicyIndex(set, nil, Options{})
	for _, c := range []struct {
		of   objects.Ref
		want string
	}{
		{objects.Ref{Kind: "Gateway", Namespace: "n", Name: "gw"}, "[RateLimitPolicy n/gateway]"},
		// A changed route may come to or leave what the Gateway's policy is overridden at.
		{objects.Ref{Kind: "HTTPRoute", Namespace: "n", Name: "r"}, "[RateLimitPolicy n/gateway RateLimitPolicy n/route]"},
		{objects.Ref{Kind: "HTTPRoute", Namespace: "n", Name: "bare"}, "[]"},
		{objects.Ref{Kind: "HTTPRoute", Namespace: "m", Name: "r"}, "[]"},
	} {
		if got := fmt.Sprint(x.attachedTo(c.of)); got != c.want {
			t.Errorf("attached to %v: %s, want %s", c.of, got, c.want)
		}
	}
}

func BenchmarkPolicyIndex(b *testing.B) {
	set := objects.NewSet()
	for i := range 5000 {
		set.Put(limits(fmt.Sprintf("p%d", i), 1, false, target("HTTPRoute", fmt.Sprintf("r%d", i), ""), "x"))
	}
	b.ReportAllocs()
	for b.Loop() {
		newPolicyIndex(set, nil, Options{})
	}
}

// TestAllowedRoutesChange changes whose routes or listeners a Gateway takes, and
// nothing else: the routes that it had are compiled again.
func TestAllowedRoutesChange(t *testing.T) {
	gateway := func(spec string) []objects.Object {
		return decodeText(t, "kind: Gateway\nmetadata: {name: gw}\nspec: {gatewayClassName: headgate, "+spec+"}\n")
	}
	const others = `
kind: ListenerSet
metadata: {name: empty}
spec: {parentRef: {name: gw}}
---
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: gw}, {kind: ListenerSet, name: empty}], rules: [{}]}
`
	for _, change := range []struct{ name, from, to string }{
		{"kinds",
			"listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}]",
			"listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]"},
		{"a selector of everything for none",
			"listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {}}}}]",
			"listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]"},
		{"ListenerSets",
			"listeners: [{name: http, port: 80, protocol: HTTP}], allowedListeners: {namespaces: {from: All}}",
			"listeners: [{name: http, port: 80, protocol: HTTP}]"},
	} {
		t.Run(change.name, func(t *testing.T) {
			set := objects.NewSet()
			for _, object := range slices.Concat(decodeFile(t, "testdata/defaults.yaml"), gateway(change.from), decodeText(t, others)) {
				set.Put(object)
			}
			result := Compile(nil, set, nil, Options{})
			for _, spec := range []string{change.to, change.from} {
				changed := set.Put(gateway(spec)[0])
				result = Compile(result, set, []objects.Ref{changed}, Options{})
				sameResult(t, spec, Compile(nil, set, nil, Options{}), result)
			}
		})
	}
}
