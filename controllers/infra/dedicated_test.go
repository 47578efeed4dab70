package infra

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
)

func keeper() *Keeper {
	opts := options()
	opts.Deployment = modelName
	return New(nil, nil, opts)
}

func TestDedicatedPodsAreMadeAfterHeadgatesOwn(t *testing.T) {
	d := keeper().deployment(nil, model(), dedicated("a", 80))
	pod := d.Spec.Template.Spec
	if pod.ServiceAccountName != "headgate" || len(pod.Containers) != 2 || pod.Containers[1].Image != "headgate:1" {
		t.Errorf("pods are %v", pod)
	}
	if args := pod.Containers[1].Args; !slices.Equal(args, []string{"--lease=headgate", "--gateway=apps/a"}) || len(pod.Containers[0].Args) > 0 {
		t.Errorf("arguments are %q", args)
	}
	if *d.Spec.Replicas != 2 {
		t.Errorf("there are %d replicas", *d.Spec.Replicas)
	}
	if l := d.Spec.Template.Labels; l["app.kubernetes.io/part-of"] != "headgate" || l[GatewayNameLabel] != "a" || l[managedByLabel] != managedBy {
		t.Errorf("labels are %v", l)
	}
	if spread := pod.TopologySpreadConstraints; len(spread) != 1 || !maps.Equal(spread[0].LabelSelector.MatchLabels, d.Spec.Selector.MatchLabels) {
		t.Errorf("spread is %v", spread)
	}
	if o := d.OwnerReferences; len(o) != 1 || o[0].Kind != "GatewayClass" || o[0].UID != "class" {
		t.Errorf("its owners are %v", o)
	}
}

func TestParametersOfPods(t *testing.T) {
	w := dedicated("a", 80)
	w.Deployment = v1alpha1.GatewayDeployment{
		Replicas:          new(int32(5)),
		Resources:         &v1alpha1.GatewayResources{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}},
		PodLabels:         v1alpha1.Labels{"team": "shop"},
		PodAnnotations:    map[string]string{"note": "well"},
		NodeSelector:      v1alpha1.Labels{"pool": "edge"},
		Tolerations:       []corev1.Toleration{{Key: "edge", Operator: corev1.TolerationOpExists}},
		Affinity:          &corev1.Affinity{},
		PriorityClassName: new("high"),
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
			{TopologyKey: "rack"}, {TopologyKey: "row", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "shop"}}},
		},
	}
	d := keeper().deployment(nil, model(), w)
	template := d.Spec.Template
	if *d.Spec.Replicas != 5 || template.Labels["team"] != "shop" || template.Annotations["note"] != "well" || template.Annotations["theirs"] != "annotation" {
		t.Errorf("%d replicas, labels %v, annotations %v", *d.Spec.Replicas, template.Labels, template.Annotations)
	}
	pod := template.Spec
	if cpu := pod.Containers[1].Resources.Requests.Cpu(); cpu.Value() != 1 || !pod.Containers[0].Resources.Requests.Cpu().IsZero() {
		t.Errorf("Headgate asks for CPU %v, its neighbour for %v", cpu, pod.Containers[0].Resources.Requests.Cpu())
	}
	if pod.NodeSelector["pool"] != "edge" || len(pod.Tolerations) != 1 || pod.Affinity == nil || pod.PriorityClassName != "high" {
		t.Errorf("pods are %v", pod)
	}
	if s := pod.TopologySpreadConstraints; len(s) != 2 || s[0].LabelSelector.MatchLabels[dedicatedLabel] != w.Name || s[1].LabelSelector.MatchLabels["team"] != "shop" {
		t.Errorf("spread is %v", s)
	}
	if w.Deployment.TopologySpreadConstraints[0].LabelSelector != nil {
		t.Error("the parameters were edited")
	}
}

// No label that somebody asks for brings another Gateway's traffic to the pods.
func TestNoOtherServiceSelectsDedicatedPods(t *testing.T) {
	k := keeper()
	w := dedicated("a", 80)
	w.Labels = map[string]string{"app": "headgate"}
	w.Deployment.PodLabels = v1alpha1.Labels{"app": "headgate", dedicatedLabel: "headgate-apps-b"}
	got := labels.Set(k.deployment(nil, model(), w).Spec.Template.Labels)
	if labels.SelectorFromSet(selector).Matches(got) || labels.SelectorFromSet(dedicatedSelector(dedicated("b"))).Matches(got) {
		t.Errorf("pods are selected as others are: %v", got)
	}
	if !labels.SelectorFromSet(dedicatedSelector(w)).Matches(got) {
		t.Errorf("pods are not selected: %v", got)
	}
}

// What an API server fills in is no change, and what anybody takes away is one.
func TestDefaultsAreNoDrift(t *testing.T) {
	k := keeper()
	w := dedicated("a", 80)
	w.Deployment.Autoscaling = &v1alpha1.GatewayAutoscaling{MaxReplicas: 5}
	d := k.deployment(nil, model(), w)
	d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyAlways
	d.Spec.Template.Spec.Containers[1].ImagePullPolicy = corev1.PullIfNotPresent
	d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	d.Spec.Replicas = new(int32(4)) // by the autoscaler
	d.ResourceVersion = "7"
	same := func(what string, w compile.Infrastructure, m *appsv1.Deployment, want bool) {
		t.Helper()
		next := k.deployment(d, m, w)
		if got := next.Spec.Template.Spec.RestartPolicy != ""; got != want {
			t.Errorf("%s: the same %v, want %v", what, got, want)
		}
		if *next.Spec.Replicas != 4 {
			t.Errorf("%s: replicas go from 4 to %d", what, *next.Spec.Replicas)
		}
	}
	same("nothing changed", w, model(), true)
	newer := model()
	newer.Spec.Template.Spec.Containers[1].Image = "headgate:2"
	same("a new version of Headgate", w, newer, false)
	without := w
	without.Deployment.PodLabels = v1alpha1.Labels{"team": "shop"}
	same("a new label", without, model(), false)
	d.Spec.Template.Spec.Containers[1].Args = []string{"--lease=headgate"}
	same("somebody took an argument away", w, model(), false)
}

func TestAutoscalerAndBudget(t *testing.T) {
	k := keeper()
	for _, test := range []struct {
		name       string
		deployment v1alpha1.GatewayDeployment
		min, max   int32 // of the autoscaler
		budget     bool
	}{
		{name: "by default", budget: true},
		{name: "one", deployment: v1alpha1.GatewayDeployment{Replicas: new(int32(1))}},
		{name: "three", deployment: v1alpha1.GatewayDeployment{Replicas: new(int32(3))}, budget: true},
		{name: "up to five", deployment: v1alpha1.GatewayDeployment{Autoscaling: &v1alpha1.GatewayAutoscaling{MaxReplicas: 5}}, min: 2, max: 5, budget: true},
		{name: "one to five", deployment: v1alpha1.GatewayDeployment{Autoscaling: &v1alpha1.GatewayAutoscaling{MinReplicas: new(int32(1)), MaxReplicas: 5}}, min: 1, max: 5},
		{name: "up to one", deployment: v1alpha1.GatewayDeployment{Autoscaling: &v1alpha1.GatewayAutoscaling{MaxReplicas: 1}}, min: 1, max: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := dedicated("a", 80)
			w.Deployment = test.deployment
			a := k.autoscaler(nil, w)
			switch {
			case (a != nil) != (test.max > 0):
				t.Errorf("autoscaler is %v", a)
			case a != nil && (*a.Spec.MinReplicas != test.min || a.Spec.MaxReplicas != test.max || *a.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 || a.Spec.ScaleTargetRef.Name != w.Name):
				t.Errorf("autoscaler is %v", a.Spec)
			}
			if b := k.budget(nil, w); (b != nil) != test.budget {
				t.Errorf("budget is %v", b)
			}
		})
	}
}

// All that a Gateway has goes with it, and what is not Headgate's stays.
func TestOrphansAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		mine := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine", Labels: map[string]string{managedByLabel: managedBy}}}
		if err := c.Create(t.Context(), mine); err != nil {
			t.Fatal(err)
		}
		a, b := dedicated("a", 80), dedicated("b", 80)
		a.Deployment.Autoscaling = &v1alpha1.GatewayAutoscaling{MaxReplicas: 5}
		c.publish(a, b)
		kinds := func() []client.Object {
			return []client.Object{&corev1.Service{}, &appsv1.Deployment{}, &policyv1.PodDisruptionBudget{}, &autoscalingv2.HorizontalPodAutoscaler{}}
		}
		for _, obj := range kinds() {
			if !c.has(obj, a.Name) {
				t.Errorf("there is no %T", obj)
			}
		}
		if c.has(&autoscalingv2.HorizontalPodAutoscaler{}, b.Name) {
			t.Error("there is an autoscaler that nobody asked for")
		}
		a.Deployment.Autoscaling, a.Deployment.Replicas = nil, new(int32(1))
		c.publish(a, b)
		if c.has(&autoscalingv2.HorizontalPodAutoscaler{}, a.Name) || c.has(&policyv1.PodDisruptionBudget{}, a.Name) {
			t.Error("the autoscaler or the budget is still there")
		}
		c.publish(b)
		for _, obj := range kinds() {
			if c.has(obj, a.Name) {
				t.Errorf("the Gateway went, and its %T is still there", obj)
			}
		}
		if !c.has(&appsv1.Deployment{}, b.Name) || !c.has(&appsv1.Deployment{}, "mine") || !c.has(&appsv1.Deployment{}, modelName) {
			t.Error("another Deployment went too")
		}
	})
}

// While parameters are not valid, all stays, and no other Gateway gets the ports.
func TestWhatIsKeptStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		w := dedicated("a", 80)
		c.publish(w)
		var before, after corev1.Service
		c.get(&before, w.Name)
		kept := compile.Infrastructure{Gateway: w.Gateway, Name: w.Name, Alias: w.Alias, Class: w.Class, ClassUID: w.ClassUID, Kept: true}
		c.publish(kept)
		time.Sleep(time.Minute)
		c.publish(kept)
		c.get(&after, w.Name)
		if before.ResourceVersion != after.ResourceVersion {
			t.Errorf("the Service was written: %v", after)
		}
		if got, want := c.place(w), (place{deployed: true, selected: true}); got != want {
			t.Errorf("it is at %+v, want %+v", got, want)
		}
		if !c.has(&policyv1.PodDisruptionBudget{}, w.Name) {
			t.Error("the budget went")
		}
	})
	a := newAllotment(10000, 10000)
	a.keep(compile.Infrastructure{Name: "a", Kept: true}, []corev1.ServicePort{{Port: 80, Protocol: "TCP", TargetPort: intstrFrom(10000)}})
	if ports, err := a.allot(wanted("b", 80)); err == nil {
		t.Errorf("another Gateway got port %v", ports)
	}
}
