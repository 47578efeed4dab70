package integration_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/compile"
)

// condition is an error unless a Gateway's condition is as wanted, for its newest generation.
func condition(t *testing.T, gateway types.NamespacedName, kind, status, reason, message string) error {
	var g gatewayv1.Gateway
	if err := kube.Get(t.Context(), gateway, &g); err != nil {
		return err
	}
	c := meta.FindStatusCondition(g.Status.Conditions, kind)
	if c == nil || string(c.Status) != status || c.Reason != reason || !strings.Contains(c.Message, message) || c.ObservedGeneration != g.Generation {
		return fmt.Errorf("%s is %+v, want %s %s with %q", kind, c, status, reason, message)
	}
	return nil
}

func withParameters(namespace string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: %s}
spec:
  gatewayClassName: headgate
  infrastructure: {labels: {team: edge}, parametersRef: {group: headgate.dev, kind: GatewayParameters, name: web}}
  listeners: [{name: http, port: 80, protocol: HTTP}]
`, namespace)
}

func parameters(namespace, spec string) string {
	return fmt.Sprintf(`{apiVersion: headgate.dev/v1alpha1, kind: GatewayParameters, metadata: {name: web, namespace: %s}, spec: %s}`, namespace, spec)
}

// What parameters make of a Service, an API server takes, step by step.
func TestParametersOfServices(t *testing.T) {
	headgate := start(t, "parameters", "127.0.0.1")
	const at = "parameters"
	apply(t, world(at))
	if err := kube.Create(t.Context(), endpoints(at, serve(t, 1, version()))); err != nil {
		t.Fatal(err)
	}
	web := types.NamespacedName{Namespace: at, Name: "web"}
	address := headgate.address(t, web, 80)
	key := types.NamespacedName{Namespace: namespace, Name: compile.ServiceName(web)}
	answers := func() {
		t.Helper()
		if now := headgate.address(t, web, 80); now != address {
			t.Errorf("the Gateway went from %s to %s", address, now)
		}
		eventually(t, "it answers", func() error {
			if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
				return fmt.Errorf("%d %q %v", status, body, err)
			}
			return nil
		})
	}
	answers()

	// There are none yet: the Gateway is not accepted, and serves as it did.
	apply(t, withParameters(at))
	eventually(t, "the Gateway is not accepted", func() error {
		return condition(t, web, "Accepted", "False", "InvalidParameters", "there is no GatewayParameters parameters/web")
	})
	if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
		t.Errorf("without its parameters, it answers %d %q %v", status, body, err)
	}

	for _, step := range []struct {
		name, spec string
		is         func(*corev1.Service) bool
	}{
		{"a class", "{service: {type: LoadBalancer, loadBalancerClass: example.com/a, loadBalancerSourceRanges: [192.0.2.0/24], annotations: {cloud/kind: nlb}}}", func(s *corev1.Service) bool {
			return s.Spec.Type == "LoadBalancer" && s.Spec.LoadBalancerClass != nil && *s.Spec.LoadBalancerClass == "example.com/a" &&
				len(s.Spec.LoadBalancerSourceRanges) == 1 && s.Annotations["cloud/kind"] == "nlb" && s.Labels["team"] == "edge"
		}},
		{"another class", "{service: {type: LoadBalancer, loadBalancerClass: example.com/b, allocateLoadBalancerNodePorts: false}}", func(s *corev1.Service) bool {
			return s.Spec.Type == "LoadBalancer" && s.Spec.LoadBalancerClass != nil && *s.Spec.LoadBalancerClass == "example.com/b" &&
				len(s.Spec.LoadBalancerSourceRanges) == 0 && s.Annotations["cloud/kind"] == "" && s.Spec.Ports[0].NodePort == 0
		}},
		{"node ports", "{service: {type: NodePort, externalTrafficPolicy: Cluster, nodePorts: [{port: 80, nodePort: 30777}]}}", func(s *corev1.Service) bool {
			return s.Spec.Type == "NodePort" && s.Spec.Ports[0].NodePort == 30777 && s.Spec.ExternalTrafficPolicy == "Cluster"
		}},
		{"the cluster only", "{service: {type: ClusterIP, internalTrafficPolicy: Local, trafficDistribution: PreferSameZone, ipFamilyPolicy: SingleStack, ipFamilies: [IPv4]}}", func(s *corev1.Service) bool {
			return s.Spec.Type == "ClusterIP" && *s.Spec.InternalTrafficPolicy == "Local" && s.Spec.TrafficDistribution != nil && s.Spec.Ports[0].NodePort == 0
		}},
		{"a load balancer again", "{service: {type: LoadBalancer}}", func(s *corev1.Service) bool {
			return s.Spec.Type == "LoadBalancer" && s.Spec.LoadBalancerClass == nil && *s.Spec.InternalTrafficPolicy == "Cluster" &&
				s.Spec.TrafficDistribution == nil && s.Spec.ExternalTrafficPolicy == "Local" && s.Spec.HealthCheckNodePort != 0
		}},
	} {
		apply(t, parameters(at, step.spec))
		eventually(t, step.name, func() error {
			var service corev1.Service
			if err := kube.Get(t.Context(), key, &service); err != nil {
				return err
			}
			if !step.is(&service) {
				return fmt.Errorf("the Service is %v %v", service.Annotations, service.Spec)
			}
			return condition(t, web, "Accepted", "True", "Accepted", "")
		})
		answers()
	}

	apply(t, parameters(at, "{service: {ipFamilies: [IPv6]}}"))
	eventually(t, "what cannot change is told", func() error {
		return condition(t, web, "Accepted", "False", "InvalidParameters", "cannot change")
	})
	if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
		t.Errorf("it answers %d %q %v", status, body, err)
	}
}

// The examples are what the API server takes them for.
func TestSamples(t *testing.T) {
	apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: site}\n")
	for _, sample := range []string{"infrastructure", "limits"} {
		if out, err := kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "../../config/samples/"+sample); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}

// What a limit cannot be is refused at once.
func TestLimitsAreValidated(t *testing.T) {
	const policy = "apiVersion: headgate.dev/v1alpha1\nkind: %s\nmetadata: {name: limits}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]\n  %s\n"
	for kind, specs := range map[string]map[string]string{
		"RateLimitPolicy": {
			"": "one of limits, concurrency, bandwidth and priority must be set",
			"limits: [{name: a, requests: 1, per: 1s, key: [{type: Request}]}]":                          "is for bandwidth",
			"concurrency: [{name: a, requests: 1, key: [{type: Request}]}]":                              "is for bandwidth",
			"bandwidth: [{name: a, bytesPerSecond: 1Mi, key: [{type: Request}, {type: Route}]}]":         "no other parts",
			"bandwidth: [{name: a, bytesPerSecond: fast}]":                                               "bytesPerSecond",
			"bandwidth: [{name: a, bytesPerSecond: 1Mi, burst: 2Mi, after: 3M, key: [{type: Request}]}]": "",
		},
		"ListenerPolicy": {
			"connections: {}":                           "connections",
			"connections: {maxAgeGrace: 1m}":            "follows maxAge",
			"connections: {max: 0}":                     "max",
			"connections: {maxAge: 1h, maxRequests: 5}": "",
		},
	} {
		for spec, want := range specs {
			file := filepath.Join(t.TempDir(), "policy.yaml")
			if err := os.WriteFile(file, fmt.Appendf(nil, policy, kind, spec), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := kubectl("apply", "--dry-run=server", "--validate=strict", "-f", file)
			if (err == nil) != (want == "") || !strings.Contains(out, want) {
				t.Errorf("%s with %q: %v\n%s", kind, spec, err, out)
			}
		}
	}
}

// A Gateway gets pods of its own. There is no kubelet, so this makes them: a
// second replica with the arguments that the Deployment gives its pods.
func TestDedicatedGateway(t *testing.T) {
	shared := start(t, "shared", "127.0.0.1")
	const at = "dedicated"
	apply(t, world(at))
	apply(t, world("dedicated-not"))
	if err := kube.Create(t.Context(), endpoints(at, serve(t, 1, version()))); err != nil {
		t.Fatal(err)
	}
	web, other := types.NamespacedName{Namespace: at, Name: "web"}, types.NamespacedName{Namespace: "dedicated-not", Name: "web"}
	before, otherBefore := shared.address(t, web, 80), shared.address(t, other, 80)
	answers := func(who, address string) {
		t.Helper()
		eventually(t, who+" serves", func() error {
			if status, body, err := get(http.DefaultClient, address, "any", "/app"); err != nil || status != 200 {
				return fmt.Errorf("%d %q %v", status, body, err)
			}
			return nil
		})
	}
	answers("the shared replica", before)

	apply(t, parameters(at, "{mode: Dedicated, deployment: {autoscaling: {maxReplicas: 3}, podLabels: {team: shop}, tolerations: [{key: edge, operator: Exists}]}}"))
	apply(t, withParameters(at))
	key := types.NamespacedName{Namespace: namespace, Name: compile.ServiceName(web)}
	var deployment appsv1.Deployment
	eventually(t, "it has a Deployment", func() error { return kube.Get(t.Context(), key, &deployment) })
	for _, obj := range []client.Object{&autoscalingv2.HorizontalPodAutoscaler{}, &policyv1.PodDisruptionBudget{}} {
		eventually(t, fmt.Sprintf("it has a %T", obj), func() error { return kube.Get(t.Context(), key, obj) })
	}
	args := deployment.Spec.Template.Spec.Containers[0].Args
	if args[len(args)-1] != "--gateway=dedicated/web" {
		t.Errorf("its pods' arguments are %q", args)
	}
	eventually(t, "the status says that its pods are awaited", func() error {
		return condition(t, web, "Programmed", "False", "AddressNotAssigned", "")
	})
	answers("the shared replica, meanwhile", before)

	own := start(t, "own", "127.0.0.2", "--gateway", "dedicated/web")
	_, port, _ := net.SplitHostPort(before)
	address := net.JoinHostPort(own.bind, port)
	answers("the Gateway's own replica", address)
	if _, err := net.DialTimeout("tcp", net.JoinHostPort(own.bind, strings.TrimPrefix(otherBefore, "127.0.0.1:")), time.Second); err == nil {
		t.Error("the Gateway's own replica serves another Gateway, too")
	}

	// As the Deployment's controller would.
	updateStatus(t, key, &deployment, func() {
		deployment.Status = appsv1.DeploymentStatus{ObservedGeneration: deployment.Generation, Replicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2, ReadyReplicas: 2}
	})
	eventually(t, "the Service selects its pods", func() error {
		var service corev1.Service
		if err := kube.Get(t.Context(), key, &service); err != nil {
			return err
		}
		for label, value := range service.Spec.Selector {
			if deployment.Spec.Template.Labels[label] != value {
				return fmt.Errorf("the Service selects %v", service.Spec.Selector)
			}
		}
		return nil
	})
	eventually(t, "the shared replica leaves it", func() error {
		conn, err := net.DialTimeout("tcp", before, time.Second)
		if err != nil {
			return nil
		}
		conn.Close()
		return errors.New("it serves still")
	})
	answers("the Gateway's own replica", address)
	if now := shared.address(t, other, 80); now != otherBefore {
		t.Errorf("the other Gateway went from %s to %s", otherBefore, now)
	}

	// Whether there are pods shows in the endpoints of its Service.
	eventually(t, "no pod is ready", func() error {
		return condition(t, web, "Programmed", "False", "NoResources", "no pod of Deployment")
	})
	ready := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4,
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: key.Name, Labels: map[string]string{discoveryv1.LabelServiceName: key.Name}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.2"}}}}
	if err := kube.Create(t.Context(), ready); err != nil {
		t.Fatal(err)
	}
	var service corev1.Service
	updateStatus(t, key, &service, func() {
		service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	})
	eventually(t, "a pod is ready", func() error { return condition(t, web, "Programmed", "True", "Programmed", "") })

	if err := kube.Delete(t.Context(), &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: web.Namespace, Name: web.Name}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all goes with the Gateway", func() error {
		for _, obj := range []client.Object{&corev1.Service{}, &appsv1.Deployment{}, &autoscalingv2.HorizontalPodAutoscaler{}, &policyv1.PodDisruptionBudget{}} {
			if err := kube.Get(t.Context(), key, obj); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the %T is still there (%v)", obj, err)
			}
		}
		return nil
	})
	if err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: release}, &deployment); err != nil {
		t.Errorf("Headgate's own Deployment: %v", err)
	}

	// The Lease goes with Headgate.
	var lease coordinationv1.Lease
	if err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: release}, &lease); err != nil {
		t.Fatal(err)
	}
	if o := lease.OwnerReferences; len(o) != 1 || o[0].Kind != "Deployment" || o[0].UID != deployment.UID {
		t.Errorf("the Lease's owners are %v", o)
	}
	if *lease.Spec.HolderIdentity != "shared" {
		t.Errorf("%s leads", *lease.Spec.HolderIdentity)
	}
}
