package compile

import (
	"slices"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// TestBackendTLSAncestors lets routes come, change and go: a policy's ancestors
// are the Gateways of those that lead to its target, and its status is made
// anew only when these differ.
func TestBackendTLSAncestors(t *testing.T) {
	all, err := decode([]byte(`
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.dev/gateway-controller}
---
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: headgate
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, {name: tcp, port: 81, protocol: TCP}]
---
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
---
kind: BackendTLSPolicy
metadata: {name: p}
spec:
  targetRefs: [{group: "", kind: Service, name: a}]
  validation: {hostname: a.internal, wellKnownCACertificates: System}
`))
	if err != nil {
		t.Fatal(err)
	}
	set := objects.NewSet()
	for _, o := range all {
		set.Put(o)
	}
	policy := objects.Ref{Kind: "BackendTLSPolicy", Namespace: "default", Name: "p"}
	result := Compile(nil, set, nil, Options{})
	ancestors := func() (names []string) {
		for _, a := range result.Status(policy).Value.(gatewayv1.PolicyStatus).Ancestors {
			names = append(names, string(a.AncestorRef.Name))
		}
		return names
	}
	step := func(what, text string, want []string, changed bool) {
		t.Helper()
		some, err := decode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		ref := set.Put(some[0])
		result = Compile(result, set, []objects.Ref{ref}, Options{})
		if got := ancestors(); !slices.Equal(got, want) {
			t.Errorf("%s: the ancestors are %v, want %v", what, got, want)
		}
		if got := slices.Contains(result.ChangedStatuses, policy); got != changed {
			t.Errorf("%s: that the status differs is %v", what, got)
		}
	}
	remove := func(what, kind, name string, want []string) {
		t.Helper()
		ref := objects.Ref{Kind: kind, Namespace: "default", Name: name}
		set.Delete(ref)
		result = Compile(result, set, []objects.Ref{ref}, Options{})
		if got := ancestors(); !slices.Equal(got, want) {
			t.Errorf("%s: the ancestors are %v, want %v", what, got, want)
		}
	}
	if got := ancestors(); len(got) > 0 {
		t.Errorf("without routes, the ancestors are %v", got)
	}
	const route = "kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw, sectionName: http}], rules: [{backendRefs: [{name: "
	gw := []string{"gw"}
	step("a route", route+"a, port: 80}]}]}", gw, true)
	step("another path", route+"a, port: 80}], matches: [{path: {value: /x}}]}]}", gw, false)
	step("another backend", route+"b, port: 80}]}]}", nil, true)
	step("only a mirror", route+"b, port: 80}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}]}]}", gw, true)
	remove("no route", "HTTPRoute", "r", nil)
	step("a route of connections", "kind: TCPRoute\nmetadata: {name: t}\nspec: {parentRefs: [{name: gw, sectionName: tcp}], rules: [{backendRefs: [{name: a, port: 80}]}]}", gw, true)
	step("and one of requests", route+"a, port: 80}]}]}", gw, false)
	remove("one of the two", "TCPRoute", "t", gw)
	remove("neither", "HTTPRoute", "r", nil)
	// A route of another namespace, which no ReferenceGrant lets refer to the Service.
	step("a stranger", "kind: HTTPRoute\nmetadata: {name: s, namespace: other}\nspec: {parentRefs: [{name: gw, namespace: default}], rules: [{backendRefs: [{name: a, namespace: default, port: 80}]}]}", nil, false)
}
