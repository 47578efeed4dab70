package infra

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

const namespace = "headgate-system"

var selector = map[string]string{"app": "headgate"}

func options() Options {
	return Options{Namespace: namespace, Selector: selector, Log: logr.Discard()}
}

func wanted(name string, ports ...int32) compile.Infrastructure {
	w := compile.Infrastructure{Gateway: objects.Ref{Kind: "Gateway", Namespace: "apps", Name: name}, Name: "headgate-apps-" + name, Alias: name + "-headgate",
		Class: "headgate", ClassUID: "class", Mode: v1alpha1.GatewayModeShared}
	w.Service.Type = new(v1alpha1.GatewayServiceType("LoadBalancer"))
	for _, p := range ports {
		w.Ports = append(w.Ports, compile.ServicePort{Name: fmt.Sprint("tcp-", p), Port: p, Protocol: "TCP"})
	}
	return w
}

func (p plan) empty() bool { return len(p.remove) == 0 && len(p.apply) == 0 }

// planned plans and returns what there is after it.
func planned(t *testing.T, s *Keeper, want []compile.Infrastructure, have map[string]*corev1.Service) (plan, map[string]*corev1.Service) {
	t.Helper()
	p, err := s.plan(want, have)
	if err != nil {
		t.Fatal(err)
	}
	after := map[string]*corev1.Service{}
	for name, service := range have {
		if !slices.Contains(p.remove, name) {
			after[name] = service
		}
	}
	for _, service := range p.apply {
		after[service.Name] = service
	}
	return p, after
}

func targets(services map[string]*corev1.Service) map[string]int32 {
	m := map[string]int32{}
	for name, service := range services {
		for _, p := range service.Spec.Ports {
			m[fmt.Sprint(name, " ", p.Protocol, " ", p.Port)] = p.TargetPort.IntVal
		}
	}
	return m
}

func TestGatewaysNeverShareATargetPort(t *testing.T) {
	opts := options()
	opts.FirstPort, opts.LastPort = 10000, 10011 // so that they collide
	s := New(nil, nil, opts)
	want := []compile.Infrastructure{wanted("a", 80, 443), wanted("b", 80, 443), wanted("c", 80, 443), wanted("d", 80, 443, 8080)}
	want[3].Ports = append(want[3].Ports, compile.ServicePort{Name: "udp-443", Port: 443, Protocol: "UDP"})
	_, have := planned(t, s, want, nil)
	seen := map[string]string{}
	for key, target := range targets(have) {
		if target < 10000 || target > 10011 {
			t.Errorf("%s has target port %d, outside 10000 to 10011", key, target)
		}
		socket := fmt.Sprint(strings.Fields(key)[1], target)
		if other := seen[socket]; other != "" {
			t.Errorf("%s and %s share target port %s", key, other, socket)
		}
		seen[socket] = key
	}
	if len(seen) != 10 {
		t.Errorf("%d target ports, want 10", len(seen))
	}
}

func TestTargetPortsStay(t *testing.T) {
	s := New(nil, nil, options())
	_, have := planned(t, s, []compile.Infrastructure{wanted("a", 80), wanted("b", 80)}, nil)
	before := targets(have)

	// Others come and go, a port is added, the order changes.
	p, have := planned(t, s, []compile.Infrastructure{wanted("c", 80), wanted("b", 8080, 80)}, have)
	if !slices.Equal(p.remove, []string{"headgate-apps-a"}) {
		t.Errorf("removed %q", p.remove)
	}
	after := targets(have)
	if key := "headgate-apps-b TCP 80"; after[key] != before[key] {
		t.Errorf("%s went from %d to %d", key, before[key], after[key])
	}

	if p, _ := planned(t, s, []compile.Infrastructure{wanted("c", 80), wanted("b", 8080, 80)}, have); !p.empty() {
		t.Errorf("nothing changed, but there is %v to do", p)
	}

	// Deleted by mistake: it comes back with the ports that it had.
	delete(have, "headgate-apps-b")
	_, have = planned(t, s, []compile.Infrastructure{wanted("c", 80), wanted("b", 8080, 80)}, have)
	if got := targets(have); fmt.Sprint(got) != fmt.Sprint(after) {
		t.Errorf("after a deletion there are %v, before it were %v", got, after)
	}
}

func TestRecordedPortsThatCannotStayAreReplaced(t *testing.T) {
	s := New(nil, nil, options())
	want := []compile.Infrastructure{wanted("a", 80), wanted("b", 80), wanted("c", 80)}
	_, have := planned(t, s, want, nil)
	first := have["headgate-apps-a"].Spec.Ports[0].TargetPort
	have["headgate-apps-b"].Spec.Ports[0].TargetPort = first               // somebody else's
	have["headgate-apps-c"].Spec.Ports[0].TargetPort = intstr.FromInt32(1) // out of range
	p, have := planned(t, s, want, have)
	if len(p.apply) != 2 {
		t.Errorf("%d Services are written, want 2", len(p.apply))
	}
	if got := have["headgate-apps-a"].Spec.Ports[0].TargetPort; got != first {
		t.Errorf("the first comer's port went from %v to %v", first, got)
	}
	seen := map[int32]bool{}
	for _, target := range targets(have) {
		seen[target] = true
	}
	if len(seen) != 3 || seen[1] {
		t.Errorf("target ports are %v", targets(have))
	}
}

func TestNoPortLeft(t *testing.T) {
	opts := options()
	opts.FirstPort, opts.LastPort = 10000, 10001
	s := New(nil, nil, opts)
	p, err := s.plan([]compile.Infrastructure{wanted("a", 80), wanted("b", 80), wanted("c", 80)}, nil)
	if err == nil || !strings.Contains(err.Error(), "10000 to 10001") || !strings.Contains(err.Error(), "apps/c") {
		t.Errorf("error is %v", err)
	}
	if len(p.apply) != 2 {
		t.Errorf("%d Services are written, want the 2 that fit", len(p.apply))
	}
}

func TestOnlyWhatIsHeadgatesIsTouched(t *testing.T) {
	s := New(nil, nil, options())
	want := wanted("a", 80, 443)
	want.Labels = map[string]string{"team": "edge"}
	want.Annotations = map[string]string{"cloud/kind": "nlb"}
	_, have := planned(t, s, []compile.Infrastructure{want}, nil)

	service := have[want.Name]
	service.ResourceVersion = "7"
	service.Labels["theirs"] = "label"
	service.Annotations["theirs"] = "annotation"
	service.Spec.Ports[0].NodePort = 30080
	service.Spec.ClusterIP = "10.0.0.1"
	service.Spec.LoadBalancerClass = new("internal")
	if p, _ := planned(t, s, []compile.Infrastructure{want}, have); !p.empty() {
		t.Fatalf("what others set is to be written over: %v", p)
	}

	// The Gateway drops its label, changes its annotation and one port.
	want.Labels, want.Annotations = nil, map[string]string{"cloud/kind": "alb"}
	want.Ports[1].Port, want.Ports[1].Name = 8443, "tcp-8443"
	p, have := planned(t, s, []compile.Infrastructure{want}, have)
	if len(p.apply) != 1 {
		t.Fatalf("%d Services are written, want 1", len(p.apply))
	}
	got := have[want.Name]
	if got.ResourceVersion != "7" || got.Labels["theirs"] != "label" || got.Annotations["theirs"] != "annotation" ||
		got.Spec.Ports[0].NodePort != 30080 || got.Spec.ClusterIP != "10.0.0.1" || *got.Spec.LoadBalancerClass != "internal" {
		t.Errorf("what others set is gone: %v", got)
	}
	if _, ok := got.Labels["team"]; ok || got.Annotations["cloud/kind"] != "alb" {
		t.Errorf("the Gateway's metadata is %v, %v", got.Labels, got.Annotations)
	}
	if len(got.Spec.Ports) != 2 || got.Spec.Ports[1].Port != 8443 || got.Spec.Ports[1].NodePort != 0 {
		t.Errorf("ports are %v", got.Spec.Ports)
	}
	if got.Labels[GatewayNameLabel] != "a" || got.Labels[GatewayNamespaceLabel] != "apps" {
		t.Errorf("labels are %v", got.Labels)
	}
}

func TestDriftIsUndone(t *testing.T) {
	for name, edit := range map[string]func(*corev1.Service){
		"selector":    func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "other"} },
		"type":        func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort },
		"target port": func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(80) },
		"extra port":  func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 9}) },
		"label":       func(s *corev1.Service) { delete(s.Labels, GatewayNameLabel) },
	} {
		t.Run(name, func(t *testing.T) {
			s := New(nil, nil, options())
			want := []compile.Infrastructure{wanted("a", 80)}
			_, have := planned(t, s, want, nil)
			before := have["headgate-apps-a"].DeepCopy()
			edit(have["headgate-apps-a"])
			p, have := planned(t, s, want, have)
			if len(p.apply) != 1 {
				t.Fatalf("%d Services are written, want 1", len(p.apply))
			}
			if got := have["headgate-apps-a"]; fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("Service is %v, want %v", got, before)
			}
		})
	}
}

func TestAStrangersServiceIsLeftAlone(t *testing.T) {
	s := New(nil, nil, options())
	stranger := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "headgate-apps-a"}}
	bystander := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "metrics",
		Labels: map[string]string{managedByLabel: managedBy}}}
	p, err := s.plan([]compile.Infrastructure{wanted("a", 80), wanted("b", 80)},
		map[string]*corev1.Service{stranger.Name: stranger, bystander.Name: bystander})
	if err == nil || !strings.Contains(err.Error(), "headgate-system/headgate-apps-a") || !strings.Contains(err.Error(), "apps/a") {
		t.Errorf("error is %v", err)
	}
	if len(p.remove) != 0 || len(p.apply) != 1 || p.apply[0].Name != "headgate-apps-b" {
		t.Errorf("plan is %v", p)
	}
}

// The loop against an API server that refuses the first write: it tries again,
// deletes what no Gateway needs, and ends with its context.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := false
		c := fake.NewClientBuilder().WithScheme(objects.Scheme()).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if !refused {
					refused = true
					return fmt.Errorf("not now")
				}
				return c.Create(ctx, obj, opts...)
			},
		}).Build()
		s := New(c, c, options())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()

		s.Publish(&compile.Result{Infrastructure: []compile.Infrastructure{wanted("a", 80)}})
		time.Sleep(time.Minute) // synctest's: it passes once all wait
		var service corev1.Service
		key := types.NamespacedName{Namespace: namespace, Name: "headgate-apps-a"}
		if err := c.Get(ctx, key, &service); err != nil {
			t.Fatalf("after a refused write: %v", err)
		}
		if !refused {
			t.Error("nothing was refused")
		}
		aliased := types.NamespacedName{Namespace: "apps", Name: "a-headgate"}
		if err := c.Get(ctx, aliased, &service); err != nil {
			t.Fatalf("the Gateway's namespace: %v", err)
		}

		s.Publish(&compile.Result{})
		synctest.Wait()
		for _, key := range []types.NamespacedName{key, aliased} {
			if err := c.Get(ctx, key, &service); client.IgnoreNotFound(err) != nil || err == nil {
				t.Errorf("after its Gateway went, the Service %s is still there (%v)", key, err)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyLoadBalancersAreAskedForAnAddress(t *testing.T) {
	want := wanted("a", 80)
	want.LoadBalancerIP = "192.0.2.1"
	for kind, address := range map[v1alpha1.GatewayServiceType]string{"LoadBalancer": "192.0.2.1", "NodePort": "", "ClusterIP": ""} {
		want.Service.Type = &kind
		_, have := planned(t, New(nil, nil, options()), []compile.Infrastructure{want}, nil)
		if got := have[want.Name].Spec.LoadBalancerIP; got != address {
			t.Errorf("%s: the Service asks for %q, want %q", kind, got, address)
		}
	}
}

// What the API server refuses of one Gateway is tried again now and then, and
// the others do not wait for it, however often something happens.
func TestOneGatewaysFailureIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tried := 0
		c := fake.NewClientBuilder().WithScheme(objects.Scheme()).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
				if obj.GetName() == "headgate-apps-bad" {
					tried++
					return fmt.Errorf("no")
				}
				return c.Create(ctx, obj, opts...)
			},
		}).Build()
		k := New(c, c, options())
		ended := make(chan error)
		go func() { ended <- k.Run(t.Context()) }()
		t.Cleanup(func() { <-ended })
		k.Publish(&compile.Result{Infrastructure: []compile.Infrastructure{wanted("bad", 80)}})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if tried < 20 || tried > 40 {
			t.Errorf("it was tried %d times in 10 minutes, want about every 30 s", tried)
		}
		tried = 0
		for range 10 {
			k.Publish(&compile.Result{Infrastructure: []compile.Infrastructure{wanted("bad", 80), wanted("good", 80)}})
			synctest.Wait()
		}
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "headgate-apps-good"}, &corev1.Service{}); err != nil {
			t.Errorf("the other Gateway's Service: %v", err)
		}
		if tried > 1 {
			t.Errorf("with each of 10 changes, it was tried again: %d times", tried)
		}
	})
}
