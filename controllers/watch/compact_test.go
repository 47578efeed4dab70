package watch

import (
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// decoded is a route as it comes from an API server: nothing in it is shared.
func decoded(t *testing.T, generation int64, reason string) *gatewayv1.HTTPRoute {
	t.Helper()
	r := &gatewayv1.HTTPRoute{}
	err := yaml.Unmarshal([]byte(`
metadata:
  name: app
  namespace: apps
  uid: "1"
  labels: {team: apps, empty: ""}
  creationTimestamp: "2026-01-02T03:04:05Z"
spec:
  hostnames: [apps, apps]
  parentRefs: [{kind: Gateway, namespace: apps, name: apps}]
  rules:
  - matches: [{path: {type: Exact, value: /}}, {path: {type: Exact, value: /}}, {method: GET}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: apps, value: apps}], remove: []}}]
    backendRefs: [{name: apps, port: 80, weight: 0}]
`), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Generation, r.ResourceVersion = generation, reason
	r.Status.Parents = []gatewayv1.RouteParentStatus{{Conditions: []metav1.Condition{{Reason: reason, LastTransitionTime: r.CreationTimestamp}, {Type: "ResolvedRefs"}}}}
	return r
}

func TestCompactedObjectsSayTheSame(t *testing.T) {
	c := newCompactor()
	for range 2 {
		got, err := c.compact(decoded(t, 1, "Accepted"))
		if diff := cmp.Diff(decoded(t, 1, "Accepted"), got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	}
	tombstone := toolscache.DeletedFinalStateUnknown{Key: "a"}
	if got, err := c.compact(tombstone); got != tombstone || err != nil {
		t.Errorf("a tombstone became %v, %v", got, err)
	}
}

func TestEqualPartsAreShared(t *testing.T) {
	c := newCompactor()
	a, b := decoded(t, 1, "Accepted"), decoded(t, 1, "Accepted")
	for _, r := range []*gatewayv1.HTTPRoute{a, b} {
		if _, err := c.compact(r); err != nil {
			t.Fatal(err)
		}
	}
	data := func(s string) *byte { return unsafe.StringData(s) }
	for name, shared := range map[string]bool{
		"strings":          data(string(a.Spec.Hostnames[0])) == data(string(b.Spec.Hostnames[1])),
		"of other types":   data(a.Namespace) == data(b.Spec.Rules[0].Filters[0].RequestHeaderModifier.Set[0].Value),
		"labels":           data(a.Labels["team"]) == data(b.Labels["team"]),
		"pointers":         a.Spec.Rules[0].BackendRefs[0].Port == b.Spec.Rules[0].BackendRefs[0].Port,
		"conditions":       &a.Status.Parents[0].Conditions[0] == &b.Status.Parents[0].Conditions[0],
		"to equal strings": a.Spec.Rules[0].Matches[0].Path.Type == a.Spec.Rules[0].Matches[1].Path.Type,
	} {
		if !shared {
			t.Errorf("%s are not shared", name)
		}
	}
}

func TestVersionsShareWhatOnlyAStatusDistinguishes(t *testing.T) {
	c := newCompactor()
	store := toolscache.NewStore(toolscache.MetaNamespaceKeyFunc)
	c.stores["HTTPRoute"] = store
	keep := func(r *gatewayv1.HTTPRoute) *gatewayv1.HTTPRoute {
		if _, err := c.compact(r); err != nil {
			t.Fatal(err)
		}
		if err := store.Update(r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := keep(decoded(t, 1, "Pending"))
	second := keep(decoded(t, 1, "Accepted"))
	if &second.Spec.Rules[0] != &first.Spec.Rules[0] {
		t.Error("the spec is there twice")
	}
	if second.Status.Parents[0].Conditions[0].Reason != "Accepted" {
		t.Error("the status is the old one")
	}
	changed := decoded(t, 2, "Accepted")
	changed.ResourceVersion, changed.Spec.Hostnames[0] = "3", "other"
	if third := keep(changed); &third.Spec.Rules[0] == &second.Spec.Rules[0] || third.Spec.Hostnames[0] != "other" {
		t.Error("a new spec is the old one")
	}
}

// What is remembered to be shared is bounded.
func TestWhatIsSharedIsForgotten(t *testing.T) {
	c := newCompactor()
	for i := range 3 * maxShared {
		c.string(string(rune(i + 1)))
	}
	if len(c.strings) > maxShared {
		t.Errorf("%d strings are remembered", len(c.strings))
	}
}
