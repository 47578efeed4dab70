package infra

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// serves reports whether the pods that a place's Service selects serve.
func (p place) serves() bool {
	if p.selected {
		return p.deployed
	}
	return p.shared
}

// From wherever the selected pods serve, no step goes to where they do not, no
// step but the first and the waited-for ones goes before its time, and all lead
// to where the mode has its Gateways.
func TestTheSelectedPodsServe(t *testing.T) {
	for _, want := range []v1alpha1.GatewayMode{v1alpha1.GatewayModeShared, v1alpha1.GatewayModeDedicated} {
		for i := range 8 {
			start := place{deployed: i&1 != 0, selected: i&2 != 0, shared: i&4 != 0}
			for _, available := range []bool{false, true} {
				for _, lasted := range []bool{false, true} {
					next := start.step(want, available, lasted)
					if start.serves() && !next.serves() {
						t.Errorf("to %s (available %v, lasted %v): from %+v to %+v", want, available, lasted, start, next)
					}
					if start.shared && !start.selected && next.selected && !available {
						t.Errorf("to %s: the traffic goes to pods that are not available: %+v", want, next)
					}
				}
			}
			at := start
			for range 5 {
				at = at.step(want, true, true)
			}
			if !at.settled(want) {
				t.Errorf("to %s: from %+v it comes to %+v", want, start, at)
			}
		}
	}
}

const modelName = "headgate"

// model is Headgate's own Deployment, as an API server has it.
func model() *appsv1.Deployment {
	labels := map[string]string{"app": "headgate", "app.kubernetes.io/part-of": "headgate", "app.kubernetes.io/managed-by": "Helm"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: modelName, Labels: map[string]string{managedByLabel: "Helm"}},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(2)),
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"theirs": "annotation"}},
				Spec: corev1.PodSpec{
					ServiceAccountName: "headgate",
					Containers: []corev1.Container{
						{Name: "beside", Image: "beside"},
						{Name: "headgate", Image: "headgate:1", Args: []string{"--lease=headgate"}},
					},
					TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "kubernetes.io/hostname",
						WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: selector}}},
				},
			},
		},
	}
}

// dedicated is a Gateway of mode Dedicated.
func dedicated(name string, ports ...int32) compile.Infrastructure {
	w := wanted(name, ports...)
	w.Mode = v1alpha1.GatewayModeDedicated
	return w
}

// cluster is a fake API server with a Keeper that runs.
type cluster struct {
	t *testing.T
	client.Client
	keeper *Keeper
}

func newCluster(t *testing.T) *cluster {
	scheme := objects.Scheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(model()).WithStatusSubresource(&appsv1.Deployment{}).Build()
	opts := options()
	opts.Deployment = modelName
	k := New(c, c, opts)
	ended := make(chan error)
	go func() { ended <- k.Run(t.Context()) }()
	t.Cleanup(func() { <-ended })
	return &cluster{t, c, k}
}

// publish hands over what is wanted and lets everything settle that waits for no
// time to pass. The fake client tells nobody of changes, so this does, too.
func (c *cluster) publish(want ...compile.Infrastructure) {
	for range 4 {
		c.keeper.Publish(&compile.Result{Infrastructure: want})
		synctest.Wait()
	}
}

// place is where a Gateway is, as its objects record it.
func (c *cluster) place(w compile.Infrastructure) place {
	c.t.Helper()
	var service corev1.Service
	c.get(&service, w.Name)
	p := place{
		deployed: c.has(&appsv1.Deployment{}, w.Name),
		selected: equality.Semantic.DeepEqual(service.Spec.Selector, dedicatedSelector(w)),
		shared:   service.Annotations[compile.ModeAnnotation] == "Shared",
	}
	if !p.selected && !equality.Semantic.DeepEqual(service.Spec.Selector, selector) {
		c.t.Errorf("the Service selects %v", service.Spec.Selector)
	}
	return p
}

func (c *cluster) get(obj client.Object, name string) {
	c.t.Helper()
	if err := c.Get(c.t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, obj); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) has(obj client.Object, name string) bool {
	err := c.Get(c.t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, obj)
	if client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
	return err == nil
}

func (c *cluster) makeAvailable(name string) {
	var d appsv1.Deployment
	c.get(&d, name)
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, UpdatedReplicas: *d.Spec.Replicas, AvailableReplicas: *d.Spec.Replicas}
	if err := c.Status().Update(c.t.Context(), &d); err != nil {
		c.t.Fatal(err)
	}
}

func TestAChangeOfModeMovesTheTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		to := func(what string, w compile.Infrastructure, want place) {
			t.Helper()
			c.publish(w)
			if got := c.place(w); got != want {
				t.Errorf("%s: it is at %+v, want %+v", what, got, want)
			}
		}
		const handover = 10 * time.Second
		w := wanted("a", 80)
		to("at first", w, place{shared: true})
		var before corev1.Service
		c.get(&before, w.Name)

		w = dedicated("a", 80)
		to("its pods start", w, place{deployed: true, shared: true})
		time.Sleep(time.Minute)
		to("its pods take a minute", w, place{deployed: true, shared: true})
		c.makeAvailable(w.Name)
		to("its pods are ready", w, place{deployed: true, selected: true, shared: true})
		time.Sleep(handover / 2)
		to("shortly after", w, place{deployed: true, selected: true, shared: true})
		time.Sleep(handover / 2)
		synctest.Wait()
		to("all nodes know", w, place{deployed: true, selected: true})

		w = wanted("a", 80)
		to("back: Headgate's own pods start", w, place{deployed: true, selected: true, shared: true})
		time.Sleep(handover)
		synctest.Wait()
		to("they serve", w, place{deployed: true, shared: true})
		time.Sleep(handover)
		synctest.Wait()
		to("nobody is sent to its pods", w, place{shared: true})

		var after corev1.Service
		c.get(&after, w.Name)
		if fmt.Sprint(after.Spec.Ports) != fmt.Sprint(before.Spec.Ports) {
			t.Errorf("the target ports went from %v to %v", before.Spec.Ports, after.Spec.Ports)
		}
	})
}

// A Gateway that is to be dedicated from the start has no traffic to be moved.
func TestANewGatewayIsDedicatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		w := dedicated("a", 80)
		c.publish(w)
		if got, want := c.place(w), (place{deployed: true, selected: true}); got != want {
			t.Errorf("it is at %+v, want %+v", got, want)
		}
	})
}
