package compile

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// shop is n HTTPRoutes, each with a hostname, two rules, a Service and its
// EndpointSlice of its own.
func shop(n int) *objects.Set {
	set := objects.NewSet()
	set.Put(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "headgate"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: ControllerName}})
	set.Put(&gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "gw"}, Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "headgate", Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: "HTTP"}}}})
	for i := range n {
		set.Put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d", i)},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
		set.Put(shopSlice(i, "10.0.0.1"))
		set.Put(shopRoute(i, "/"))
	}
	return set
}

func shopSlice(i int, address string) *discoveryv1.EndpointSlice {
	port := int32(8080)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d-1", i),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", i)}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}, {Addresses: []string{"10.0.0.2"}}, {Addresses: []string{"10.0.0.3"}}},
	}
}

func shopRoute(i int, path string) *gatewayv1.HTTPRoute {
	port := gatewayv1.PortNumber(80)
	backend := []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
		Name: gatewayv1.ObjectName(fmt.Sprintf("s%d", i)), Port: &port}}}}
	api := "/api"
	return &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("r%d", i)}, Spec: gatewayv1.HTTPRouteSpec{
		CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "gw"}}},
		Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("h%d.example.com", i))},
		Rules: []gatewayv1.HTTPRouteRule{
			{Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &path}}}, BackendRefs: backend},
			{Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &api}}}, BackendRefs: backend},
		},
	}}
}

// BenchmarkCompile shows what a change costs beside 500 and 5,000 routes: a
// route, an EndpointSlice or a Service the same beside both, a Namespace (or a
// policy, or a ReferenceGrant) a pass over all.
func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{500, 5000} {
		set := shop(n)
		first := Compile(nil, set, nil, Options{})
		changes := []struct {
			name string
			next func(i int) objects.Object
		}{
			{"route", func(i int) objects.Object { return shopRoute(n/2, fmt.Sprintf("/v%d", i)) }},
			{"endpointslice", func(i int) objects.Object { return shopSlice(n/2, fmt.Sprintf("10.1.0.%d", i%250)) }},
			{"service", func(i int) objects.Object {
				return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s0"},
					Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}, {Name: "more", Port: int32(81 + i%2)}}}}
			}},
			{"namespace", func(i int) objects.Object {
				return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Generation: int64(i)}}
			}},
		}
		for _, change := range changes {
			b.Run(fmt.Sprintf("%s/%d", change.name, n), func(b *testing.B) {
				b.ReportAllocs()
				result := first
				for i := range b.N {
					ref := set.Put(change.next(i))
					result = Compile(result, set, []objects.Ref{ref}, Options{})
				}
			})
		}
		b.Run(fmt.Sprintf("all/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				Compile(nil, set, nil, Options{})
			}
		})
	}
}

// TestCostOfChange holds the claim of BenchmarkCompile by counting: a changed
// route or EndpointSlice allocates about as much beside 2,000 routes as beside 200.
func TestCostOfChange(t *testing.T) {
	cost := func(n int, next func(i int) objects.Object) float64 {
		set := shop(n)
		result := Compile(nil, set, nil, Options{})
		i := 0
		return testing.AllocsPerRun(50, func() {
			i++
			ref := set.Put(next(i))
			result = Compile(result, set, []objects.Ref{ref}, Options{})
			if result.Delta.Empty() {
				t.Fatal("nothing changed")
			}
		})
	}
	for name, next := range map[string]func(i int) objects.Object{
		"route":         func(i int) objects.Object { return shopRoute(7, fmt.Sprintf("/v%d", i)) },
		"endpointslice": func(i int) objects.Object { return shopSlice(7, fmt.Sprintf("10.1.0.%d", i)) },
	} {
		few, many := cost(200, next), cost(2000, next)
		if many > 1.5*few {
			t.Errorf("%s: %.0f allocations beside 200 routes, %.0f beside 2,000", name, few, many)
		}
	}
}
