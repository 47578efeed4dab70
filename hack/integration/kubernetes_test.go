package integration_test

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/hack/quickstart/shop"
)

// The same folder and the same table as in standalone mode: the same answers.
func TestShop(t *testing.T) {
	headgate := start(t, "shop", "127.0.0.1")
	var instances [3]netip.AddrPort
	for i := range instances {
		instances[i] = serve(t, i+1, shop.Demo(fmt.Sprint("demo-", i+1)))
	}
	s, err := shop.Prepare("../../config/samples/shop", t.TempDir(), shop.Options{Instances: instances})
	if err != nil {
		t.Fatal(err)
	}
	// Objects that come before their namespace are refused; the second time they are not.
	eventually(t, "kubectl apply -f the folder", func() error {
		if out, err := kubectl("apply", "-f", s.Dir); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	web := types.NamespacedName{Namespace: "shop-gateway", Name: "web"}
	c, err := s.NewClient(headgate.address(t, web, 8080), headgate.address(t, web, 8443))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the statuses are written", func() error { return statusesAreFine(t, "shop-gateway", "shop", "shop-audit") })

	table, err := s.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range table {
		t.Run(tc.Name, func(t *testing.T) {
			for _, problem := range c.Do(t.Context(), &tc).Problems {
				t.Error(problem)
			}
		})
	}

	// What the leader has written says the same afterwards: nothing is written again.
	written := func() float64 { return headgate.metric(t, "headgate_status_writes_total") }
	var before float64
	eventually(t, "all statuses are written", func() error {
		before = written()
		time.Sleep(time.Second)
		if now := written(); now != before || now == 0 {
			return fmt.Errorf("%v are, and a second before it were %v", now, before)
		}
		return nil
	})
	apply(t, "{apiVersion: v1, kind: Namespace, metadata: {name: shop-audit, labels: {touched: now}}}")
	time.Sleep(time.Second) // nothing to wait for: nothing is to happen
	if after := written(); after != before {
		t.Errorf("%v statuses were written, %v of them for nothing", after, after-before)
	}
}

// statusesAreFine is an error unless everything in some namespaces says that it works.
func statusesAreFine(t *testing.T, namespaces ...string) error {
	var class gatewayv1.GatewayClass
	if err := kube.Get(t.Context(), types.NamespacedName{Name: "headgate"}, &class); err != nil {
		return err
	}
	if c := meta.FindStatusCondition(class.Status.Conditions, "Accepted"); c == nil || c.Status != "True" || c.ObservedGeneration != class.Generation {
		return fmt.Errorf("GatewayClass: %v", class.Status.Conditions)
	}
	if c := meta.FindStatusCondition(class.Status.Conditions, "SupportedVersion"); c == nil || c.Status != "True" || c.Message != "Gateway API "+bundleVersion {
		return fmt.Errorf("SupportedVersion is not what the CRDs say: %+v", c)
	}
	if len(class.Status.SupportedFeatures) == 0 {
		return fmt.Errorf("GatewayClass has no supportedFeatures")
	}
	checked := 0
	for _, namespace := range namespaces {
		var gateways gatewayv1.GatewayList
		if err := kube.List(t.Context(), &gateways, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, g := range gateways.Items {
			for _, kind := range []string{"Accepted", "Programmed"} {
				if c := meta.FindStatusCondition(g.Status.Conditions, kind); c == nil || c.ObservedGeneration != g.Generation {
					return fmt.Errorf("Gateway %s: %v", g.Name, g.Status.Conditions)
				}
			}
			for _, l := range g.Status.Listeners {
				for _, kind := range []string{"Accepted", "Programmed", "ResolvedRefs"} {
					if c := meta.FindStatusCondition(l.Conditions, kind); c == nil || c.Status != "True" || c.LastTransitionTime.IsZero() {
						return fmt.Errorf("Gateway %s, listener %s: %v", g.Name, l.Name, l.Conditions)
					}
				}
				if l.AttachedRoutes == 0 {
					return fmt.Errorf("Gateway %s, listener %s has no routes", g.Name, l.Name)
				}
			}
			checked++
		}
		var routes gatewayv1.HTTPRouteList
		if err := kube.List(t.Context(), &routes, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, r := range routes.Items {
			if len(r.Status.Parents) != 1 {
				return fmt.Errorf("HTTPRoute %s: parents %v", r.Name, r.Status.Parents)
			}
			for _, kind := range []string{"Accepted", "ResolvedRefs"} {
				if c := meta.FindStatusCondition(r.Status.Parents[0].Conditions, kind); c == nil || c.Status != "True" || c.ObservedGeneration != r.Generation {
					return fmt.Errorf("HTTPRoute %s: %v", r.Name, r.Status.Parents[0].Conditions)
				}
			}
			checked++
		}
		for _, list := range []client.ObjectList{&v1alpha1.AuthPolicyList{}, &v1alpha1.RateLimitPolicyList{}, &v1alpha1.TransformPolicyList{}, &v1alpha1.BackendPolicyList{}, &v1alpha1.ListenerPolicyList{}} {
			if err := kube.List(t.Context(), list, client.InNamespace(namespace)); err != nil {
				return err
			}
			items, err := meta.ExtractList(list)
			if err != nil {
				return err
			}
			for _, item := range items {
				p := item.(v1alpha1.Policy)
				if len(p.PolicyStatus().Ancestors) == 0 {
					return fmt.Errorf("%T %s has no ancestors", p, p.GetName())
				}
				for _, a := range p.PolicyStatus().Ancestors {
					if c := meta.FindStatusCondition(a.Conditions, "Accepted"); a.ControllerName != compile.ControllerName || c == nil || c.Status != "True" || c.ObservedGeneration != p.GetGeneration() {
						return fmt.Errorf("%T %s: %v", p, p.GetName(), a)
					}
				}
				checked++
			}
		}
	}
	if checked < 5 {
		return fmt.Errorf("%d objects only", checked)
	}
	return nil
}

// world is a Gateway with a route to one Service, in a namespace of its own.
func world(name string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: %[1]s}
spec:
  gatewayClassName: headgate
  infrastructure: {labels: {team: edge}}
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: %[1]s}
spec: {ports: [{name: http, port: 80}]}
---
%[2]s`, name, route(name, 0))
}

func route(namespace string, version int) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: %s}
spec:
  parentRefs: [{name: web}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /app}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: X-Version, value: "%d"}]}
    backendRefs: [{name: app, port: 80}]
`, namespace, version)
}

func endpoints(namespace string, addresses ...netip.AddrPort) *discoveryv1.EndpointSlice {
	ready, http, port := true, "http", int32(addresses[0].Port())
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = namespace, "app-1"
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "app"}
	slice.Ports = []discoveryv1.EndpointPort{{Name: &http, Port: &port}}
	for _, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return slice
}

func version() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "version ", r.Header.Get("X-Version"))
	})
}

// Two Gateways that both want port 80, and what becomes of their Services.
func TestServices(t *testing.T) {
	headgate := start(t, "services", "127.0.0.1")
	apply(t, world("services-a"))
	apply(t, world("services-b"))
	at := serve(t, 1, version())
	a, b := types.NamespacedName{Namespace: "services-a", Name: "web"}, types.NamespacedName{Namespace: "services-b", Name: "web"}
	if err := kube.Create(t.Context(), endpoints("services-a", at)); err != nil {
		t.Fatal(err)
	}
	addressA, addressB := headgate.address(t, a, 80), headgate.address(t, b, 80)
	if addressA == addressB {
		t.Fatalf("both are at %s", addressA)
	}
	eventually(t, "a has an endpoint, b has none", func() error {
		for address, want := range map[string]int{addressA: 200, addressB: 503} {
			if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != want {
				return fmt.Errorf("%s: %d %q %v, want %d", address, status, body, err, want)
			}
		}
		return nil
	})

	key := types.NamespacedName{Namespace: namespace, Name: compile.ServiceName(a)}
	var service corev1.Service
	if err := kube.Get(t.Context(), key, &service); err != nil {
		t.Fatal(err)
	}
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Labels["team"] != "edge" ||
		service.Labels["gateway.networking.k8s.io/gateway-name"] != "web" || service.Spec.Selector["app.kubernetes.io/name"] != "headgate" {
		t.Errorf("Service is %v %v", service.Labels, service.Spec)
	}

	aliasKey := types.NamespacedName{Namespace: a.Namespace, Name: "web-headgate"}
	var alias corev1.Service
	eventually(t, "the Gateway has a name in its own namespace", func() error { return kube.Get(t.Context(), aliasKey, &alias) })
	if want := service.Name + "." + namespace + ".svc."; alias.Labels["team"] != "edge" || !strings.HasPrefix(alias.Spec.ExternalName, want) {
		t.Errorf("the alias is %v %v, and does not lead to %s", alias.Labels, alias.Spec, want)
	}

	// A load balancer's address becomes the Gateway's.
	updateStatus(t, key, &service, func() {
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
	})
	eventually(t, "the Gateway has the Service's address", func() error {
		var g gatewayv1.Gateway
		if err := kube.Get(t.Context(), a, &g); err != nil {
			return err
		}
		if len(g.Status.Addresses) != 1 || g.Status.Addresses[0].Value != "203.0.113.7" ||
			!meta.IsStatusConditionTrue(g.Status.Conditions, "Programmed") {
			return fmt.Errorf("addresses %v, conditions %v", g.Status.Addresses, g.Status.Conditions)
		}
		return nil
	})

	// Deleted by hand, it comes back with the same ports.
	if err := kube.Delete(t.Context(), &service); err != nil {
		t.Fatal(err)
	}
	if again := headgate.address(t, a, 80); again != addressA {
		t.Errorf("the Gateway went from %s to %s", addressA, again)
	}

	// With its Gateway it goes, and nothing else does.
	if err := kube.Delete(t.Context(), &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: a.Namespace, Name: a.Name}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its Services are gone", func() error {
		for _, key := range []types.NamespacedName{key, aliasKey} {
			if err := kube.Get(t.Context(), key, &service); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s is still there (%v)", key, err)
			}
		}
		return nil
	})
	if again := headgate.address(t, b, 80); again != addressB {
		t.Errorf("the other Gateway went from %s to %s", addressB, again)
	}
	if err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: release + "-metrics"}, &service); err != nil {
		t.Errorf("the chart's own Service: %v", err)
	}
	// The route says that it belongs to nobody any more.
	eventually(t, "the route's parent is gone", func() error {
		var r gatewayv1.HTTPRoute
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "services-a", Name: "app"}, &r); err != nil {
			return err
		}
		for _, p := range r.Status.Parents {
			if meta.IsStatusConditionTrue(p.Conditions, "Accepted") {
				return fmt.Errorf("parents are %v", r.Status.Parents)
			}
		}
		return nil
	})
}

// Both replicas serve; one of them writes, and the other one takes over.
func TestOneReplicaLeads(t *testing.T) {
	one := start(t, "one", "127.0.0.1")
	two := start(t, "two", "127.0.0.2")
	apply(t, world("leader"))
	if err := kube.Create(t.Context(), endpoints("leader", serve(t, 1, version()))); err != nil {
		t.Fatal(err)
	}
	web := types.NamespacedName{Namespace: "leader", Name: "web"}
	for _, r := range []*replica{one, two} {
		address := r.address(t, web, 80)
		eventually(t, r.name+" serves", func() error {
			if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
				return fmt.Errorf("%d %q %v", status, body, err)
			}
			return nil
		})
	}
	observed := func(generation int64) error {
		var r gatewayv1.HTTPRoute
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "leader", Name: "app"}, &r); err != nil {
			return err
		}
		for _, p := range r.Status.Parents {
			if c := meta.FindStatusCondition(p.Conditions, "Accepted"); c != nil && c.ObservedGeneration == generation && r.Generation == generation {
				return nil
			}
		}
		return fmt.Errorf("generation %d, parents %v", r.Generation, r.Status.Parents)
	}
	eventually(t, "the route's status is written", func() error { return observed(1) })

	// A write is counted when it has returned, which is after others can read it.
	wrote := func(what string, replicas ...*replica) (by *replica) {
		t.Helper()
		eventually(t, what, func() error {
			for _, r := range replicas {
				if r.metric(t, "headgate_status_writes_total") > 0 {
					by = r
					return nil
				}
			}
			return errors.New("nobody does")
		})
		return by
	}
	leader, follower := wrote("a replica counts its write", one, two), two
	if leader == two {
		follower = one
	}
	if n := follower.metric(t, "headgate_status_writes_total"); n != 0 {
		t.Errorf("the follower wrote %v statuses", n)
	}

	leader.stop(t)
	apply(t, route("leader", 1))
	eventually(t, "the other replica took over", func() error { return observed(2) })
	wrote("the new leader counts its write", follower)
}

var changes = flag.Int("changes", 150, "how often TestHitless changes a route and its endpoints")

// Routes and endpoints change while requests run: none fails, none is wrong.
func TestHitless(t *testing.T) {
	headgate := start(t, "hitless", "127.0.0.1")
	apply(t, world("hitless"))
	first, second := serve(t, 1, version()), serve(t, 2, version())
	slice := endpoints("hitless", first)
	if err := kube.Create(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
	address := headgate.address(t, types.NamespacedName{Namespace: "hitless", Name: "web"}, 80)
	eventually(t, "it serves", func() error {
		if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
			return fmt.Errorf("%d %q %v", status, body, err)
		}
		return nil
	})

	var (
		wg       sync.WaitGroup
		stop     = make(chan struct{})
		done     atomic.Int64
		newest   atomic.Int64 // version that was applied
		problems = make(chan string, 100)
	)
	for i := range 8 {
		// Half of them on a connection each, half on a new one for every request.
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}, Timeout: 10 * time.Second}
		wg.Go(func() {
			defer c.CloseIdleConnections()
			last := int64(-1)
			for {
				select {
				case <-stop:
					return
				default:
				}
				status, body, err := get(c, address, "any", "/app")
				after := newest.Load()
				var v int64
				if err != nil || status != 200 {
					err = fmt.Errorf("status %d, %w", status, err)
				} else if _, err = fmt.Sscanf(body, "version %d", &v); err == nil && (v < last || v > after+1) {
					err = fmt.Errorf("version %d after %d, while %d is the newest", v, last, after)
				}
				if err != nil {
					select {
					case problems <- fmt.Sprintf("request %d: %v %q", done.Load(), err, body):
					default:
					}
				}
				last = v
				done.Add(1)
			}
		})
	}
	for i := range *changes {
		var r gatewayv1.HTTPRoute
		update(t, types.NamespacedName{Namespace: "hitless", Name: "app"}, &r, func() {
			r.Spec.Rules[0].Filters[0].RequestHeaderModifier.Set[0].Value = fmt.Sprint(i + 1)
		})
		newest.Store(int64(i + 1))
		to := [][]netip.AddrPort{{second}, {first}}[i%2]
		var s discoveryv1.EndpointSlice
		update(t, client.ObjectKeyFromObject(slice), &s, func() {
			moved := endpoints("hitless", to...)
			s.Endpoints, s.Ports = moved.Endpoints, moved.Ports
		})
	}
	eventually(t, "the last change serves", func() error {
		if _, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || body != fmt.Sprint("version ", *changes) {
			return fmt.Errorf("%q %v", body, err)
		}
		return nil
	})
	close(stop)
	wg.Wait()
	close(problems)
	for p := range problems {
		t.Error(p)
	}
	if done.Load() < int64(*changes) {
		t.Errorf("%d requests only", done.Load())
	}
	t.Logf("%d requests during %d changes of the route and as many of its endpoints", done.Load(), *changes)
}

// update edits an object, again if somebody else did.
func update(t *testing.T, key types.NamespacedName, obj client.Object, edit func()) {
	t.Helper()
	retried(t, key, obj, edit, func() error { return kube.Update(t.Context(), obj) })
}

// updateStatus is the same for what is in an object's status.
func updateStatus(t *testing.T, key types.NamespacedName, obj client.Object, edit func()) {
	t.Helper()
	retried(t, key, obj, edit, func() error { return kube.Status().Update(t.Context(), obj) })
}

func retried(t *testing.T, key types.NamespacedName, obj client.Object, edit func(), write func() error) {
	t.Helper()
	for {
		if err := kube.Get(t.Context(), key, obj); err != nil {
			t.Fatal(err)
		}
		edit()
		err := write()
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
	}
}

// A Secret is followed from when something refers to it.
func TestSecretsAreFollowed(t *testing.T) {
	headgate := start(t, "secrets", "127.0.0.1")
	apply(t, world("secrets"))
	if err := kube.Create(t.Context(), endpoints("secrets", serve(t, 1, version()))); err != nil {
		t.Fatal(err)
	}
	address := headgate.address(t, types.NamespacedName{Namespace: "secrets", Name: "web"}, 80)
	answers := func(want map[string]int) {
		t.Helper()
		eventually(t, fmt.Sprintf("keys get %v", want), func() error {
			for key, status := range want {
				if got, _, err := get(http.DefaultClient, address, "any", "/app", "X-Api-Key", key); err != nil || got != status {
					return fmt.Errorf("key %q gets %d (%v)", key, got, err)
				}
			}
			return nil
		})
	}
	keys := func(key string) string {
		return "{apiVersion: v1, kind: Secret, metadata: {name: keys, namespace: secrets}, stringData: {alice: " + key + "}}"
	}
	answers(map[string]int{"": 200})
	apply(t, `
apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: keys, namespace: secrets}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app}]
  apiKey:
    from: [{header: X-Api-Key}]
    secretRefs: [{name: keys}]
`)
	answers(map[string]int{"": 500, "first-key-of-alice": 500}) // there are no keys: nobody gets in
	apply(t, keys("first-key-of-alice"))
	answers(map[string]int{"": 401, "first-key-of-alice": 200, "second-key-of-alice": 401})
	apply(t, keys("second-key-of-alice"))
	answers(map[string]int{"": 401, "first-key-of-alice": 401, "second-key-of-alice": 200})
	if out, err := kubectl("delete", "secret", "keys", "-n", "secrets"); err != nil {
		t.Fatal(out)
	}
	answers(map[string]int{"second-key-of-alice": 500})
}

// kubectl refuses nonsense at once.
func TestBadPoliciesAreRefused(t *testing.T) {
	if _, err := kubectl("create", "namespace", "refused"); err != nil {
		t.Fatal(err)
	}
	const target = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app}]"
	for _, test := range []struct{ name, kind, spec, complaint string }{
		{"no target", "BackendPolicy", "connectTimeout: 1s", "targetRefs"},
		{"an authorization server and none", "AuthPolicy", target + "\n  external: {disabled: true, protocol: GRPC}", "disabled excludes all else"},
		{"an authorization server that is not named", "AuthPolicy", target + "\n  external: {timeout: 1s}", "protocol and backendRef must be set"},
		{"one protocol with the other's settings", "AuthPolicy", target + "\n  external: {protocol: HTTP, backendRef: {name: a, port: 80}, grpc: {}}", "grpc is for protocol GRPC"},
		{"a target that policies do not attach to", "AuthPolicy", "targetRefs: [{group: '', kind: Pod, name: p}]\n  apiKey: {from: [{header: A}], secretRefs: [{name: s}]}", "targetRefs"},
		{"an unknown field", "AuthPolicy", target + "\n  apiKeys: {}", "apiKeys"},
		{"two places at once", "AuthPolicy", target + "\n  apiKey: {from: [{header: A, cookie: b}], secretRefs: [{name: s}]}", "exactly one of header, query and cookie"},
		{"an algorithm that there is not", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {algorithm: Fastest}", "Fastest"},
		{"a hash of nothing", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {algorithm: Maglev}", "hashOn must be set with RingHash and Maglev"},
		{"an expression that is not there", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {algorithm: Maglev, hashOn: [{type: Expression}]}", "expression must be set if type is Expression"},
		{"a key that nothing reaches", "BackendPolicy", target + "\n  split: {hashOn: [{type: ClientIP}, {type: Consumer}]}", "nothing can follow them"},
		{"a subset by one header twice", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {subset: {selectors: [{header: X-A, label: a}, {header: x-a, label: b}]}}", "headers and labels must differ"},
		{"a fallback without labels", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {subset: {selectors: [{header: X-A, label: a}], fallback: Default}}", "default must be set with fallback Default"},
		{"a label of an endpoint that is none", "Backend", "endpoints: [{ip: 192.0.2.1, port: 80, labels: {'a b': c}}]", "a label's name must be one"},
		{"a split of what has no versions", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  split: {hashOn: [{type: ClientIP}]}", "only be set at HTTPRoutes and GRPCRoutes"},
		{"a field that the algorithm makes no use of", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  balance: {algorithm: IPHash, slowStart: {window: 30s}}", "slowStart can only be set with"},
		{"a protocol where it says nothing", "BackendPolicy", "targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: app}]\n  protocol: HTTP1", "always in HTTP/2"},
		{"two health checks at once", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {tcp: {}, grpc: {}}", "exactly one of http, grpc, tcp and udp"},
		{"a health check that outlasts its interval", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {tcp: {}, interval: 500ms}", "timeout must not be longer than interval"},
		{"a datagram of nothing", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {udp: {}}", "send"},
		{"bytes in two ways", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {tcp: {send: {text: a, base64: YWFh}}}", "exactly one of text and base64"},
		{"bytes that are none", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {tcp: {send: {base64: '%%%%'}}}", "base64"},
		{"content of a response to HEAD", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  healthCheck: {http: {method: HEAD, bodyContains: ok}}", "no content for bodyContains"},
		{"a fault that is none", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fault: {headers: [{name: X, value: any}]}", "one of delay and abort must be set"},
		{"a delay without an end", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fault: {delay: {time: 1h}}", "must be from 1ms to 5m"},
		{"an error that is none", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fault: {abort: {status: 200}}", "400"},
		{"a circuit breaker that bounds nothing", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  circuitBreaker: {}", "one of maxRequests, maxRetries, perEndpoint and adaptiveConcurrency must be set"},
		{"a queue for nothing", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  circuitBreaker: {maxRetries: 1, queue: {maxRequests: 1}}", "nothing would wait"},
		{"an endless queue", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  circuitBreaker: {maxRequests: 1, queue: {maxRequests: 1, timeout: 1h}}", "must be from 1ms to 1m"},
		{"a hedge at no time", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  hedge: {maxHedges: 2}", "one of after and afterPercentile must be set"},
		{"a hedge of gRPC that may not be", "BackendPolicy", "targetRefs: [{group: gateway.networking.k8s.io, kind: GRPCRoute, name: app}]\n  hedge: {after: 5ms}", "needs nonIdempotent"},
		{"a fallback to nothing", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fallback: {minHealthyPercent: 50}", "one of backendRefs and response must be set"},
		{"a share that nobody asks for", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fallback: {conditions: [Reset], minHealthyPercent: 50, backendRefs: [{name: spare, port: 80}]}", "for the condition NoEndpoint"},
		{"content where there can be none", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  fallback: {response: {status: 204, body: gone}}", "have no content"},
		{"a permanent cookie without an end", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}", "absoluteTimeout must be set"},
		{"a header field with a cookie's attributes", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  sessionPersistence: {type: Header, cookieConfig: {path: /}}", "only be set with type Cookie"},
		{"a back-off that cannot grow", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  retry: {maxBackoff: 1ms}", "must not be shorter than backoff"},
		{"a status of no error to retry", "BackendPolicy", "targetRefs: [{group: '', kind: Service, name: app}]\n  retry: {codes: [200]}", "400"},
		{"a Backend without endpoints", "Backend", "endpoints: []", "endpoints"},
		{"parameters that say nothing", "GatewayParameters", "{}", "one of service, mode and deployment"},
		{"a deployment of what is shared", "GatewayParameters", "{mode: Shared, deployment: {replicas: 2}}", "no deployment"},
		{"a load balancer's class without one", "GatewayParameters", "service: {type: NodePort, loadBalancerClass: example.com/a}", "loadBalancerClass needs type LoadBalancer"},
		{"a policy for what does not come from outside", "GatewayParameters", "service: {type: ClusterIP, externalTrafficPolicy: Local}", "externalTrafficPolicy needs type"},
		{"a range that is none", "GatewayParameters", "service: {loadBalancerSourceRanges: [192.0.2.0]}", "must be a CIDR"},
		{"a node port twice", "GatewayParameters", "service: {nodePorts: [{port: 80, nodePort: 30080}, {port: 81, nodePort: 30080}]}", "same nodePort"},
		{"two families in a single stack", "GatewayParameters", "service: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6]}", "no SingleStack"},
		{"a label that is none", "GatewayParameters", "service: {labels: {a: b c}}", "labels.a"},
		{"an annotation that is none", "GatewayParameters", "service: {annotations: {a b: c}}", "a key must be"},
		{"replicas beside an autoscaler", "GatewayParameters", "deployment: {replicas: 2, autoscaling: {maxReplicas: 3}}", "in each other's way"},
		{"an autoscaler upside down", "GatewayParameters", "deployment: {autoscaling: {minReplicas: 4, maxReplicas: 3}}", "more than maxReplicas"},
		{"SRV records with a port", "Backend", "endpoints: [{srv: _http._tcp.example.com, port: 80}]", "not with srv and unix"},
		{"SRV records with a weight", "Backend", "endpoints: [{srv: _http._tcp.example.com, weight: 2}]", "their own weights"},
		{"an address without a port", "Backend", "endpoints: [{ip: 192.0.2.1}]", "port must be set with ip and hostname"},
		{"a Unix socket that is nowhere", "Backend", "endpoints: [{unix: app.sock}]", "unix"},
		{"an endpoint with two addresses", "Backend", "endpoints: [{ip: 192.0.2.1, hostname: a.example.com, port: 80}]", "exactly one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			yaml := fmt.Sprintf("apiVersion: headgate.dev/v1alpha1\nkind: %s\nmetadata: {name: bad, namespace: refused}\nspec:\n  %s\n", test.kind, test.spec)
			file := t.TempDir() + "/bad.yaml"
			if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := kubectl("apply", "--validate=strict", "-f", file)
			if err == nil {
				t.Fatalf("it was accepted:\n%s", yaml)
			}
			if !strings.Contains(out, test.complaint) {
				t.Errorf("kubectl says %q, want it to say %q", out, test.complaint)
			}
		})
	}
}

// The chart's objects are what the API server takes them for.
// Other tests have changed some of them.
func TestChartIsValid(t *testing.T) {
	out, err := kubectl("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", os.Getenv(chartEnv))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"deployment.apps/headgate", "poddisruptionbudget.policy/headgate",
		"horizontalpodautoscaler.autoscaling/headgate", "gatewayclass.gateway.networking.k8s.io/headgate"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
}
