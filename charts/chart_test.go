// Package charts_test holds the chart to what it promises, with the helm that
// hack/tools pins.
package charts_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

const chart = "headgate"

// helm returns the program's path, built once into bin.
var helm = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs("../bin/helm")
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.Command("go", "build", "-o", path, "helm.sh/helm/v3/cmd/helm")
	build.Dir = "../hack/tools"
	build.Stderr = os.Stderr
	return path, build.Run()
})

func run(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	path, err := helm()
	if err != nil {
		t.Fatalf("build helm: %v", err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	home := t.TempDir() // no plugins or repositories of whoever runs the test
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err = cmd.Run(); err != nil {
		return stderr.String(), err
	}
	return out.String(), nil
}

// render returns the rendered objects by "Kind name".
func render(t *testing.T, args ...string) map[string]*unstructured.Unstructured {
	t.Helper()
	out, err := run(t, append([]string{"template", "headgate", chart, "--namespace", "headgate-system"}, args...)...)
	if err != nil {
		t.Fatalf("helm template %s: %v\n%s", args, err, out)
	}
	return parse(t, []byte(out))
}

func parse(t *testing.T, text []byte) map[string]*unstructured.Unstructured {
	t.Helper()
	objects := map[string]*unstructured.Unstructured{}
	for _, doc := range bytes.Split(append([]byte("\n"), text...), []byte("\n---")) {
		var obj unstructured.Unstructured
		if err := yaml.UnmarshalStrict(doc, &obj.Object); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(obj.Object) > 0 {
			objects[obj.GetKind()+" "+obj.GetName()] = &obj
		}
	}
	return objects
}

// as converts strictly: a field that the type lacks is an error.
func as[T any](t *testing.T, objects map[string]*unstructured.Unstructured, name string) *T {
	t.Helper()
	obj := objects[name]
	if obj == nil {
		t.Fatalf("no %s was rendered", name)
	}
	typed := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(obj.Object, typed, true); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return typed
}

func TestLint(t *testing.T) {
	if out, err := run(t, "lint", "--strict", chart); err != nil {
		t.Fatalf("helm lint: %v\n%s", err, out)
	}
}

func TestDefaults(t *testing.T) {
	objects := render(t, "--include-crds")
	want := []string{
		"ClusterRole headgate-system-headgate",
		"ClusterRoleBinding headgate-system-headgate",
		"CustomResourceDefinition authpolicies.headgate.dev",
		"CustomResourceDefinition backendpolicies.headgate.dev",
		"CustomResourceDefinition backends.headgate.dev",
		"CustomResourceDefinition backendtlspolicies.gateway.networking.k8s.io",
		"CustomResourceDefinition gatewayclasses.gateway.networking.k8s.io",
		"CustomResourceDefinition gatewayparameters.headgate.dev",
		"CustomResourceDefinition gateways.gateway.networking.k8s.io",
		"CustomResourceDefinition grpcroutes.gateway.networking.k8s.io",
		"CustomResourceDefinition httproutes.gateway.networking.k8s.io",
		"CustomResourceDefinition listenerpolicies.headgate.dev",
		"CustomResourceDefinition listenersets.gateway.networking.k8s.io",
		"CustomResourceDefinition ratelimitpolicies.headgate.dev",
		"CustomResourceDefinition referencegrants.gateway.networking.k8s.io",
		"CustomResourceDefinition tcproutes.gateway.networking.k8s.io",
		"CustomResourceDefinition tlsroutes.gateway.networking.k8s.io",
		"CustomResourceDefinition transformpolicies.headgate.dev",
		"CustomResourceDefinition udproutes.gateway.networking.k8s.io",
		"CustomResourceDefinition xbackends.gateway.networking.x-k8s.io",
		"CustomResourceDefinition xbackendtrafficpolicies.gateway.networking.x-k8s.io",
		"Deployment headgate",
		"GatewayClass headgate",
		"PodDisruptionBudget headgate",
		"Role headgate",
		"RoleBinding headgate",
		"Service headgate-metrics",
		"ServiceAccount headgate",
	}
	var got []string
	for name := range objects {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("rendered\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	if name, _, _ := unstructured.NestedString(objects["GatewayClass headgate"].Object, "spec", "controllerName"); name != "headgate.dev/gateway-controller" {
		t.Errorf("the GatewayClass is for controller %q", name)
	}
}

// The pod holds to the Pod Security Standards' restricted profile, and more.
func TestPodIsRestricted(t *testing.T) {
	pod := as[appsv1.Deployment](t, render(t), "Deployment headgate").Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser != 65532 ||
		s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("pod's securityContext is %v", s)
	}
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers, want 1", len(pod.Containers))
	}
	c := pod.Containers[0]
	if s := c.SecurityContext; *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("container's securityContext is %v", s)
	}
	if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.StartupProbe == nil {
		t.Error("a probe is missing")
	}
	if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
		t.Error("resources are missing")
	}
	if got := *pod.TerminationGracePeriodSeconds; got != 60 {
		t.Errorf("the pod is killed after %d s, want the 55 s that it takes at most, and 5", got)
	}
	if len(pod.TopologySpreadConstraints) != 2 {
		t.Errorf("%d topologySpreadConstraints, want 2", len(pod.TopologySpreadConstraints))
	}
}

// The Gateways' Services find the pods by labels that the pods do have.
func TestServiceSelectorMatchesPods(t *testing.T) {
	deployment := as[appsv1.Deployment](t, render(t, "--set", "podLabels.team=edge"), "Deployment headgate")
	for _, arg := range deployment.Spec.Template.Spec.Containers[0].Args {
		selector, ok := strings.CutPrefix(arg, "--service-selector=")
		if !ok {
			continue
		}
		for pair := range strings.SplitSeq(selector, ",") {
			key, value, _ := strings.Cut(pair, "=")
			if deployment.Spec.Template.Labels[key] != value {
				t.Errorf("pods are selected by %s=%s, but have %v", key, value, deployment.Spec.Template.Labels)
			}
		}
		return
	}
	t.Error("no --service-selector")
}

// What the chart grants is what the markers in the code ask for.
func TestRulesAreThoseOfTheMarkers(t *testing.T) {
	text, err := os.ReadFile("../config/rbac/role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	generated, rendered := parse(t, text), render(t)
	if got, want := as[rbacv1.ClusterRole](t, rendered, "ClusterRole headgate-system-headgate").Rules,
		as[rbacv1.ClusterRole](t, generated, "ClusterRole headgate").Rules; !reflect.DeepEqual(got, want) {
		t.Errorf("the ClusterRole grants\n%v\nconfig/rbac says\n%v", got, want)
	}
	if got, want := as[rbacv1.Role](t, rendered, "Role headgate").Rules,
		as[rbacv1.Role](t, generated, "Role headgate").Rules; !reflect.DeepEqual(got, want) {
		t.Errorf("the Role grants\n%v\nconfig/rbac says\n%v", got, want)
	}
}

func TestOptions(t *testing.T) {
	objects := render(t,
		"--set", "autoscaling.enabled=true",
		"--set", "metrics.serviceMonitor.enabled=true",
		"--set", "podDisruptionBudget.enabled=false",
		"--set", "gatewayClass.create=false",
		"--set", "serviceAccount.create=false",
		"--set", "gatewayService.type=ClusterIP",
		"--set", "readPods=true",
		"--set", "extraArgs={--bind-address=::}",
		"--set", "fullnameOverride=edge")
	for _, name := range []string{"HorizontalPodAutoscaler edge", "ServiceMonitor edge", "Deployment edge"} {
		if objects[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	for name := range objects {
		for _, kind := range []string{"PodDisruptionBudget", "GatewayClass", "ServiceAccount"} {
			if strings.HasPrefix(name, kind+" ") {
				t.Errorf("%s is rendered", name)
			}
		}
	}
	deployment := as[appsv1.Deployment](t, objects, "Deployment edge")
	if deployment.Spec.Replicas != nil {
		t.Error("replicas are set beside an autoscaler")
	}
	pod := deployment.Spec.Template.Spec
	if pod.ServiceAccountName != "default" {
		t.Errorf("serviceAccountName is %q", pod.ServiceAccountName)
	}
	for _, arg := range []string{"--service-type=ClusterIP", "--bind-address=::", "--lease=edge", "--deployment=edge", "--read-pods"} {
		if !slices.Contains(pod.Containers[0].Args, arg) {
			t.Errorf("no %s in %q", arg, pod.Containers[0].Args)
		}
	}
	pods := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}}
	if rules := as[rbacv1.ClusterRole](t, objects, "ClusterRole headgate-system-edge").Rules; !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return reflect.DeepEqual(r, pods) }) {
		t.Errorf("pods may not be read: %v", rules)
	}
	rules := as[rbacv1.Role](t, objects, "Role edge").Rules
	if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return slices.Equal(r.ResourceNames, []string{"edge"}) }) {
		t.Errorf("the Role is not for the lease edge: %v", rules)
	}
}

// What the autoscaler goes by.
func TestAutoscaling(t *testing.T) {
	for _, test := range []struct {
		cpu, inFlight string
		want          []autoscalingv2.MetricSourceType
	}{
		{"70", "0", []autoscalingv2.MetricSourceType{"Resource"}},
		{"0", "200", []autoscalingv2.MetricSourceType{"Pods"}},
		{"70", "200", []autoscalingv2.MetricSourceType{"Resource", "Pods"}},
	} {
		objects := render(t, "--set", "autoscaling.enabled=true", "--set", "autoscaling.targetCPUUtilizationPercentage="+test.cpu,
			"--set", "autoscaling.targetRequestsInFlight="+test.inFlight)
		var got []autoscalingv2.MetricSourceType
		for _, m := range as[autoscalingv2.HorizontalPodAutoscaler](t, objects, "HorizontalPodAutoscaler headgate").Spec.Metrics {
			got = append(got, m.Type)
			if m.Pods != nil && (m.Pods.Metric.Name != "headgate_http_requests_in_flight" || m.Pods.Target.AverageValue.Value() != 200) {
				t.Errorf("it goes by %v", m.Pods)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("with CPU %s and requests in flight %s, it goes by %q, want %q", test.cpu, test.inFlight, got, test.want)
		}
	}
	if out, err := run(t, "template", chart, "--set", "autoscaling.enabled=true", "--set", "autoscaling.targetCPUUtilizationPercentage=0"); err == nil || !strings.Contains(out, "targetRequestsInFlight") {
		t.Errorf("an autoscaler without a target: %v, %s", err, out)
	}
}

// The Service for metrics finds Headgate's own pods, and by the same label those
// that are made after them; what selects pods for traffic is not in it.
func TestMetricsOfAllPods(t *testing.T) {
	objects := render(t)
	selector := as[corev1.Service](t, objects, "Service headgate-metrics").Spec.Selector
	deployment := as[appsv1.Deployment](t, objects, "Deployment headgate")
	if len(selector) == 0 {
		t.Error("it selects nothing")
	}
	for key, value := range selector {
		if deployment.Spec.Template.Labels[key] != value {
			t.Errorf("it selects %v, and pods have %v", selector, deployment.Spec.Template.Labels)
		}
		if _, traffic := deployment.Spec.Selector.MatchLabels[key]; traffic {
			t.Errorf("it selects by %s, which dedicated pods do not have", key)
		}
	}
}

func TestParametersOfTheClass(t *testing.T) {
	objects := render(t, "--set", "gatewayClass.parametersRef.name=defaults")
	ref, _, _ := unstructured.NestedStringMap(objects["GatewayClass headgate"].Object, "spec", "parametersRef")
	want := map[string]string{"group": "headgate.dev", "kind": "GatewayParameters", "name": "defaults", "namespace": "headgate-system"}
	if !maps.Equal(ref, want) {
		t.Errorf("parametersRef is %v, want %v", ref, want)
	}
}

func TestValuesAreChecked(t *testing.T) {
	for _, test := range []struct{ set, complaint string }{
		{"replicas=3", "replicas"},
		{"image.name=x", "name"},
		{"gatewayService.type=Ingress", "/gatewayService/type"},
		{"replicaCount=two", "/replicaCount"},
		{"metrics.service.port=0", "/metrics/service/port"},
		{"podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable"},
		{"accessLog.format=xml", "/accessLog/format"},
		{"resources.request.cpu=1", "request"},
	} {
		t.Run(test.set, func(t *testing.T) {
			out, err := run(t, "template", chart, "--set", test.set)
			if err == nil {
				t.Fatalf("--set %s was accepted", test.set)
			}
			if !strings.Contains(out, test.complaint) {
				t.Errorf("helm says %q, want it to name %s", out, test.complaint)
			}
		})
	}
}
