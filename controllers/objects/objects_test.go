package objects

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"

	"github.com/headgate/headgate/api/v1alpha1"
)

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func TestKinds(t *testing.T) {
	scheme := Scheme()
	names := map[string]bool{}
	for _, k := range Kinds {
		if names[k.Name] {
			t.Errorf("%s is there twice", k.Name)
		}
		names[k.Name] = true
		gvks, _, err := scheme.ObjectKinds(k.Object)
		if err != nil || len(gvks) != 1 {
			t.Fatalf("%s: %v, %v", k.Name, gvks, err)
		}
		if gvk := gvks[0]; gvk.Kind != k.Name || gvk.Group != k.Group {
			t.Errorf("the list says %s of %q, and the scheme %v", k.Name, k.Group, gvk)
		}
		if ref := RefOf(k.Object); ref.Kind != k.Name {
			t.Errorf("RefOf(%T) = %v", k.Object, ref)
		}
		if found, ok := KindOf(gvks[0].GroupKind()); !ok || found.Name != k.Name {
			t.Errorf("KindOf(%v) = %v, %v", gvks[0].GroupKind(), found.Name, ok)
		}
		if GroupOf(k.Name) != k.Group {
			t.Errorf("GroupOf(%s) = %q", k.Name, GroupOf(k.Name))
		}
	}
}

func TestSet(t *testing.T) {
	s := NewSet()
	first, second := &corev1.Service{ObjectMeta: meta("a", "x")}, &corev1.Service{ObjectMeta: meta("a", "x")}
	ref := s.Put(first)
	if want := (Ref{"Service", "a", "x"}); ref != want {
		t.Fatalf("Put = %v, want %v", ref, want)
	}
	s.Put(second)
	if s.Len() != 1 || s.Get(ref) != Object(second) || Get[*corev1.Service](s, "a", "x") != second {
		t.Error("the newer object did not replace the older")
	}
	if got := Get[*corev1.Service](s, "a", "y"); got != nil {
		t.Errorf("Get of what is not there = %v", got)
	}
	if got := s.Get(Ref{"Service", "a", "y"}); got != nil {
		t.Errorf("Get of what is not there = %v", got)
	}
	s.Put(&corev1.Service{ObjectMeta: meta("a", "b")})
	s.Put(&corev1.Service{ObjectMeta: meta("B", "a")})
	var order []string
	for _, o := range All[*corev1.Service](s) {
		order = append(order, o.Namespace+"/"+o.Name)
	}
	if want := []string{"B/a", "a/b", "a/x"}; !slices.Equal(order, want) {
		t.Errorf("All = %v, want %v", order, want)
	}
	s.Delete(ref)
	s.Delete(ref)
	if s.Len() != 2 || s.Get(ref) != nil {
		t.Error("the object is still there")
	}
}

func TestSetOtherVersionsAndKinds(t *testing.T) {
	s := NewSet()
	ref := s.Put(&gatewayv1beta1.ReferenceGrant{ObjectMeta: meta("a", "g")})
	if ref.Kind != "ReferenceGrant" || Get[*gatewayv1.ReferenceGrant](s, "a", "g") == nil {
		t.Errorf("a v1beta1 object was put as %v, and is not there as v1", ref)
	}
	if ref := s.Put(&corev1.PersistentVolumeClaim{ObjectMeta: meta("a", "p")}); ref.Kind != "" || s.Len() != 1 {
		t.Errorf("a PersistentVolumeClaim was put as %v", ref)
	}
	if ref := s.Put(&corev1.Pod{ObjectMeta: meta("a", "p")}); ref.Kind != "Pod" || Get[*Pod](s, "a", "p") == nil {
		t.Errorf("a Pod was put as %v, and is not there as its metadata", ref)
	}
	s.Delete(Ref{Kind: "Pod", Namespace: "a", Name: "p"})
	if ref := s.Put(&gatewayv1beta1.HTTPRoute{ObjectMeta: meta("a", "r")}); ref.Kind != "HTTPRoute" {
		t.Errorf("a v1beta1 HTTPRoute was put as %v", ref)
	}
	for _, obj := range []runtime.Object{&gatewayv1beta1.Gateway{}, &gatewayv1beta1.GatewayClass{}, &ServiceImportV1alpha1{}} {
		if ref := RefOf(obj.(Object)); ref.Kind == "" {
			t.Errorf("%T has no kind", obj)
		}
	}
}

func TestIndexes(t *testing.T) {
	s := NewSet()
	slice := func(name, service string) *discoveryv1.EndpointSlice {
		e := &discoveryv1.EndpointSlice{ObjectMeta: meta("a", name)}
		e.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		return e
	}
	names := func(all []*discoveryv1.EndpointSlice) (list []string) {
		for _, e := range all {
			list = append(list, e.Name)
		}
		return list
	}
	s.Put(slice("2", "x"))
	s.Put(slice("1", "x"))
	s.Put(slice("3", ""))
	if got := names(s.EndpointSlicesOf(Ref{"Service", "a", "x"})); !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("the slices of x are %v", got)
	}
	s.Put(slice("1", "y"))
	if x, y := names(s.EndpointSlicesOf(Ref{"Service", "a", "x"})), names(s.EndpointSlicesOf(Ref{"Service", "a", "y"})); !slices.Equal(x, []string{"2"}) || !slices.Equal(y, []string{"1"}) {
		t.Errorf("after one moved, the slices of x are %v, of y %v", x, y)
	}
	s.Delete(Ref{"EndpointSlice", "a", "1"})
	if got := s.EndpointSlicesOf(Ref{"Service", "a", "y"}); len(got) != 0 {
		t.Errorf("the slices of y are %v", names(got))
	}

	// A ServiceImport's may be a Service's too.
	both := slice("4", "derived")
	both.Labels["multicluster.kubernetes.io/service-name"] = "x"
	s.Put(both)
	for _, backend := range []Ref{{"Service", "a", "derived"}, {"ServiceImport", "a", "x"}} {
		if got := names(s.EndpointSlicesOf(backend)); !slices.Equal(got, []string{"4"}) {
			t.Errorf("the slices of %v are %v", backend, got)
		}
	}
	s.Delete(Ref{"EndpointSlice", "a", "4"})
	if _, there := s.slicesByBackend[Ref{"ServiceImport", "a", "x"}]; there {
		t.Error("a slice that is gone is still a ServiceImport's")
	}

	other, group, kind := gatewayv1.Namespace("b"), gatewayv1.Group(v1alpha1.GroupName), gatewayv1.Kind("Backend")
	service := gatewayv1.Kind("Service")
	core := gatewayv1.Group("")
	route := &gatewayv1.HTTPRoute{ObjectMeta: meta("a", "r")}
	route.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: "gw"}, {Name: "gw", Namespace: &other}, {Name: "s", Kind: &service, Group: &core}}
	ref := func(name string, namespace *gatewayv1.Namespace) gatewayv1.BackendObjectReference {
		return gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(name), Namespace: namespace}
	}
	mirror := func(r gatewayv1.BackendObjectReference) []gatewayv1.HTTPRouteFilter {
		return []gatewayv1.HTTPRouteFilter{{RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{BackendRef: r}}}
	}
	custom := ref("backend", nil)
	custom.Group, custom.Kind = &group, &kind
	route.Spec.Rules = []gatewayv1.HTTPRouteRule{{
		Filters: append(mirror(ref("rule-mirror", &other)),
			gatewayv1.HTTPRouteFilter{ExternalAuth: &gatewayv1.HTTPExternalAuthFilter{BackendRef: ref("auth", &other)}}),
		BackendRefs: []gatewayv1.HTTPBackendRef{
			{BackendRef: gatewayv1.BackendRef{BackendObjectReference: ref("service", nil)}, Filters: mirror(ref("ref-mirror", nil))},
			{BackendRef: gatewayv1.BackendRef{BackendObjectReference: custom}},
		},
	}}
	rule := &route.Spec.Rules[0]
	for _, name := range []string{"t", "t", "u"} {
		rule.Filters = append(rule.Filters, gatewayv1.HTTPRouteFilter{ExtensionRef: &gatewayv1.LocalObjectReference{
			Group: v1alpha1.GroupName, Kind: "TransformPolicy", Name: gatewayv1.ObjectName(name)}})
	}
	rule.Filters = append(rule.Filters, gatewayv1.HTTPRouteFilter{ExtensionRef: &gatewayv1.LocalObjectReference{
		Group: "example.com", Kind: "TransformPolicy", Name: "v"}})
	s.Put(route)
	backends := []Ref{{"Service", "a", "service"}, {"Service", "b", "rule-mirror"}, {"Service", "b", "auth"}, {"Service", "a", "ref-mirror"}, {"Backend", "a", "backend"}}
	check := func(want int) {
		t.Helper()
		for _, b := range backends {
			if got := len(s.RoutesOfBackend(b)); got != want {
				t.Errorf("%v has %d routes, want %d", b, got, want)
			}
		}
		for _, name := range []string{"t", "u"} {
			if got := len(s.RoutesOfExtension(Ref{"TransformPolicy", "a", name})); got != want {
				t.Errorf("TransformPolicy a/%s has %d routes, want %d", name, got, want)
			}
		}
		if got := len(s.Extensions("TransformPolicy")); got != 2*want {
			t.Errorf("%d TransformPolicies are named, want %d", got, 2*want)
		}
		for _, namespace := range []string{"a", "b"} {
			if got := len(s.RoutesOfParent(Ref{Kind: "Gateway", Namespace: namespace, Name: "gw"})); got != want {
				t.Errorf("Gateway %s/gw has %d routes, want %d", namespace, got, want)
			}
		}
	}
	check(1)
	if got := s.RoutesOfParent(Ref{Kind: "Gateway", Namespace: "a", Name: "s"}); len(got) != 0 {
		t.Error("a Service was taken for a Gateway")
	}
	s.Put(route) // the same again must not be indexed twice
	check(1)
	s.Delete(RefOf(route))
	check(0)
	if len(s.routesByBackend)+len(s.routesByParent)+len(s.routesByExtension) != 0 {
		t.Error("empty entries stay in the indexes")
	}
}
