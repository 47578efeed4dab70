package status

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

var (
	earlier = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later   = earlier.Add(time.Hour)
)

func condition(kind, status, reason string, at time.Time) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, ObservedGeneration: 1}
	if !at.IsZero() {
		c.LastTransitionTime = metav1.NewTime(at)
	}
	return c
}

func TestConditions(t *testing.T) {
	var unset time.Time
	for _, test := range []struct {
		name            string
		have, want, get []metav1.Condition
	}{{
		name: "new ones get the time",
		want: []metav1.Condition{condition("Accepted", "True", "Accepted", unset)},
		get:  []metav1.Condition{condition("Accepted", "True", "Accepted", later)},
	}, {
		name: "the time stays while the status does, whatever else changes",
		have: []metav1.Condition{condition("Accepted", "False", "NoMatchingParent", earlier)},
		want: []metav1.Condition{condition("Accepted", "False", "NotAllowedByListeners", unset)},
		get:  []metav1.Condition{condition("Accepted", "False", "NotAllowedByListeners", earlier)},
	}, {
		name: "the time changes with the status",
		have: []metav1.Condition{condition("Accepted", "Unknown", "Pending", time.Unix(0, 0)), condition("Programmed", "True", "Programmed", earlier)},
		want: []metav1.Condition{condition("Programmed", "True", "Programmed", unset), condition("Accepted", "True", "Accepted", unset)},
		get:  []metav1.Condition{condition("Accepted", "True", "Accepted", later), condition("Programmed", "True", "Programmed", earlier)},
	}, {
		name: "what Headgate says no more goes, what others say stays",
		have: []metav1.Condition{condition("Conflicted", "True", "X", earlier), condition("example.com/Audited", "True", "X", earlier), condition("headgate.dev/Old", "True", "X", earlier)},
		want: []metav1.Condition{condition("Accepted", "True", "Accepted", unset)},
		get:  []metav1.Condition{condition("example.com/Audited", "True", "X", earlier), condition("Accepted", "True", "Accepted", later)},
	}} {
		t.Run(test.name, func(t *testing.T) {
			got := merger{now: metav1.NewTime(later)}.conditions(test.have, test.want)
			if diff := cmp.Diff(test.get, got); diff != "" {
				t.Error(diff)
			}
			again := merger{now: metav1.NewTime(later.Add(time.Hour))}.conditions(got, test.want)
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("merged once more: %s", diff)
			}
		})
	}
}

const others = "example.com/controller"

func parent(controller, name, reason string, at time.Time) gatewayv1.RouteParentStatus {
	return gatewayv1.RouteParentStatus{
		ParentRef:      gatewayv1.ParentReference{Name: gatewayv1.ObjectName(name)},
		ControllerName: gatewayv1.GatewayController(controller),
		Conditions:     []metav1.Condition{condition("Accepted", "True", reason, at)},
	}
}

func TestRouteParents(t *testing.T) {
	var unset time.Time
	route := &gatewayv1.HTTPRoute{}
	route.Status.Parents = []gatewayv1.RouteParentStatus{
		parent(compile.ControllerName, "gone", "Accepted", earlier),
		parent(others, "web", "Theirs", earlier),
		parent(compile.ControllerName, "web", "Accepted", earlier),
	}
	want := &compile.Status{Value: gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{
		parent(compile.ControllerName, "new", "Accepted", unset),
		parent(compile.ControllerName, "web", "Accepted", unset),
	}}}
	changed, err := merge(route, want, later)
	if err != nil || !changed {
		t.Fatalf("changed %v, error %v", changed, err)
	}
	if diff := cmp.Diff([]gatewayv1.RouteParentStatus{
		parent(others, "web", "Theirs", earlier),
		parent(compile.ControllerName, "web", "Accepted", earlier),
		parent(compile.ControllerName, "new", "Accepted", later),
	}, route.Status.Parents); diff != "" {
		t.Error(diff)
	}
	if changed, _ := merge(route, want, later.Add(time.Hour)); changed {
		t.Error("the same status is a change")
	}
	if changed, _ := merge(route, nil, later); !changed || len(route.Status.Parents) != 1 || route.Status.Parents[0].ControllerName != others {
		t.Errorf("a route that is Headgate's no more has parents %v", route.Status.Parents)
	}
	if changed, _ := merge(&gatewayv1.HTTPRoute{}, nil, later); changed {
		t.Error("a stranger's route was changed")
	}
}

func ancestor(controller string, i int) gatewayv1.PolicyAncestorStatus {
	return gatewayv1.PolicyAncestorStatus{
		AncestorRef:    gatewayv1.ParentReference{Name: gatewayv1.ObjectName(fmt.Sprint("gateway-", i))},
		ControllerName: gatewayv1.GatewayController(controller),
		Conditions:     []metav1.Condition{condition("Accepted", "True", "Accepted", time.Time{})},
	}
}

func TestAtMost16Ancestors(t *testing.T) {
	policy := &v1alpha1.AuthPolicy{}
	for i := range 10 {
		policy.Status.Ancestors = append(policy.Status.Ancestors, ancestor(others, i))
	}
	var want gatewayv1.PolicyStatus
	for i := range 10 {
		want.Ancestors = append(want.Ancestors, ancestor(compile.ControllerName, i))
	}
	for range 2 {
		if _, err := merge(policy, &compile.Status{Value: want}, later); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, a := range policy.Status.Ancestors {
			count[string(a.ControllerName)]++
		}
		if count[others] != 10 || count[compile.ControllerName] != 6 {
			t.Errorf("ancestors by controller: %v, want 10 of theirs and 6", count)
		}
	}
}

func TestXBackendAncestors(t *testing.T) {
	entry := func(controller, name string) gatewayxv1alpha1.BackendAncestorStatus {
		return gatewayxv1alpha1.BackendAncestorStatus{ControllerName: gatewayv1.GatewayController(controller),
			AncestorRef: gatewayv1.ParentReference{Name: gatewayv1.ObjectName(name)}, Conditions: []metav1.Condition{condition("Accepted", "True", "Accepted", time.Time{})}}
	}
	host := &gatewayxv1alpha1.XBackend{Status: gatewayxv1alpha1.BackendStatus{Ancestors: []gatewayxv1alpha1.BackendAncestorStatus{
		entry(others, "theirs"), entry(compile.ControllerName, "gone")}}}
	want := &compile.Status{Value: gatewayxv1alpha1.BackendStatus{Ancestors: []gatewayxv1alpha1.BackendAncestorStatus{entry(compile.ControllerName, "web")}}}
	if changed, err := merge(host, want, later); err != nil || !changed {
		t.Fatalf("changed %v, error %v", changed, err)
	}
	if got := host.Status.Ancestors; len(got) != 2 || got[0].AncestorRef.Name != "theirs" || got[1].AncestorRef.Name != "web" || !got[1].Conditions[0].LastTransitionTime.Time.Equal(later) {
		t.Errorf("the ancestors are %v", got)
	}
	if changed, err := merge(host, want, later.Add(time.Hour)); err != nil || changed {
		t.Errorf("the same status is a change: %v", err)
	}
	if changed, err := merge(host, nil, later); err != nil || !changed || len(host.Status.Ancestors) != 1 {
		t.Errorf("Headgate's entries stay: %v, %v", host.Status.Ancestors, err)
	}
	if _, err := merge(host, &compile.Status{Value: gatewayv1.RouteStatus{}}, later); err == nil {
		t.Error("a route's status was taken for an XBackend's")
	}
}

func TestGatewayListeners(t *testing.T) {
	gateway := &gatewayv1.Gateway{}
	gateway.Status.Listeners = []gatewayv1.ListenerStatus{
		{Name: "gone"},
		{Name: "http", AttachedRoutes: 1, Conditions: []metav1.Condition{condition("Programmed", "True", "Programmed", earlier)}},
	}
	want := gatewayv1.GatewayStatus{
		Conditions: []metav1.Condition{condition("Accepted", "True", "Accepted", time.Time{})},
		Listeners: []gatewayv1.ListenerStatus{
			{Name: "http", AttachedRoutes: 2, Conditions: []metav1.Condition{condition("Programmed", "True", "Programmed", time.Time{})}},
		},
	}
	if changed, err := merge(gateway, &compile.Status{Value: want}, later); err != nil || !changed {
		t.Fatalf("changed %v, error %v", changed, err)
	}
	if got := gateway.Status.Listeners; len(got) != 1 || got[0].AttachedRoutes != 2 || got[0].SupportedKinds == nil ||
		!got[0].Conditions[0].LastTransitionTime.Time.Equal(earlier) {
		t.Errorf("listeners are %v", got)
	}
	if !want.Listeners[0].Conditions[0].LastTransitionTime.IsZero() || want.Listeners[0].SupportedKinds != nil {
		t.Error("compile's result was edited")
	}
	if _, err := merge(gateway, &compile.Status{Value: gatewayv1.RouteStatus{}}, later); err == nil {
		t.Error("a route's status was taken for a Gateway's")
	}
}

// statuses stands in for compile.
type statuses map[objects.Ref]*compile.Status

func (s statuses) of(ref objects.Ref) *compile.Status { return s[ref] }

func (s statuses) refs() []objects.Ref {
	return slices.SortedFunc(maps.Keys(s), objects.Ref.Compare)
}

func gateway(name string, generation int64) *gatewayv1.Gateway {
	return &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name, Generation: generation}}
}

func accepted(name string, generation int64) (objects.Ref, *compile.Status) {
	ref := objects.Ref{Kind: "Gateway", Namespace: "apps", Name: name}
	return ref, &compile.Status{Object: ref, Generation: generation, Value: gatewayv1.GatewayStatus{
		Conditions: []metav1.Condition{condition("Accepted", "True", "Accepted", time.Time{})},
	}}
}

func isAccepted(t *testing.T, c client.Client, name string) bool {
	t.Helper()
	var g gatewayv1.Gateway
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "apps", Name: name}, &g); err != nil {
		t.Fatal(err)
	}
	return len(g.Status.Conditions) == 1 && g.Status.Conditions[0].Status == metav1.ConditionTrue
}

func builder(objs ...client.Object) *fake.ClientBuilder {
	return fake.NewClientBuilder().WithScheme(objects.Scheme()).WithObjects(objs...).
		WithStatusSubresource(&gatewayv1.Gateway{}, &gatewayv1.HTTPRoute{})
}

func TestWriterWritesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		// c was deleted and made anew: compile has yet to see its generation.
		c := builder(gateway("a", 1), gateway("b", 1), gateway("c", 2)).Build()
		metrics := prometheus.NewRegistry()
		w := NewWriter(c, c, Options{Metrics: metrics, Log: logr.Discard()})
		world := statuses{}
		for _, name := range []string{"a", "c", "deleted"} {
			ref, status := accepted(name, 1)
			world[ref] = status
		}
		// Published before this replica leads: the objects are found by listing.
		w.publish(world.refs(), world.of)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		if !isAccepted(t, c, "a") || isAccepted(t, c, "b") || isAccepted(t, c, "c") {
			t.Error("want a written, and neither b, which has no status, nor c, which compile has not seen")
		}

		w.publish(world.refs(), world.of) // nothing new
		synctest.Wait()

		ref, status := accepted("c", 2)
		world[ref] = status
		w.publish([]objects.Ref{ref}, world.of)
		synctest.Wait()
		if !isAccepted(t, c, "c") {
			t.Error("c was not written")
		}

		// Somebody takes a's status away.
		a := gateway("a", 1)
		if err := c.Get(ctx, client.ObjectKeyFromObject(a), a); err != nil {
			t.Fatal(err)
		}
		a.Status.Conditions = nil
		if err := c.Status().Update(ctx, a); err != nil {
			t.Fatal(err)
		}
		w.Look(objects.Ref{Kind: "Gateway", Namespace: "apps", Name: "a"})
		w.Look(objects.Ref{Kind: "Service", Namespace: "apps", Name: "a"}) // bears no status
		time.Sleep(time.Second)                                            // a was written just now
		synctest.Wait()
		if !isAccepted(t, c, "a") {
			t.Error("a was not written again")
		}
		families, err := metrics.Gather()
		if err != nil || len(families) != 1 || len(families[0].Metric) != 1 || families[0].Metric[0].Counter.GetValue() != 3 {
			t.Errorf("metrics are %v (%v), want 3 writes", families, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}

		// It leads no more: nothing is written, and nothing piles up.
		ref, status = accepted("b", 1)
		world[ref] = status
		w.publish([]objects.Ref{ref}, world.of)
		synctest.Wait()
		if isAccepted(t, c, "b") {
			t.Error("b was written without the lead")
		}
		// It leads again.
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		go func() { ended <- w.Run(ctx) }()
		synctest.Wait()
		if !isAccepted(t, c, "b") {
			t.Error("b was not written with the lead")
		}
		cancel()
		<-ended
	})
}

// An object whose status changes all the time is written now and then.
func TestWriterGathersChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := builder(gateway("a", 1)).Build()
		metrics := prometheus.NewRegistry()
		w := NewWriter(c, c, Options{Interval: time.Second, Metrics: metrics, Log: logr.Discard()})
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		const last = 999
		for n := range last + 1 {
			ref, status := accepted("a", 1)
			gateway := status.Value.(gatewayv1.GatewayStatus)
			gateway.Listeners = []gatewayv1.ListenerStatus{{Name: "http", AttachedRoutes: int32(n)}}
			status.Value = gateway
			w.publish([]objects.Ref{ref}, statuses{ref: status}.of)
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		var g gatewayv1.Gateway
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "apps", Name: "a"}, &g); err != nil {
			t.Fatal(err)
		}
		if len(g.Status.Listeners) != 1 || g.Status.Listeners[0].AttachedRoutes != last {
			t.Errorf("listeners are %v, want what was published last", g.Status.Listeners)
		}
		families, err := metrics.Gather()
		if n := families[0].Metric[0].Counter.GetValue(); err != nil || n < 5 || n > 7 {
			t.Errorf("%v writes in 5 s, want one a second", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWriterTriesAgain(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "gateways"}, "a", errors.New("changed"))
	for name, test := range map[string]struct {
		refuse []error
		tries  int
	}{
		"conflict":         {[]error{conflict}, 2},
		"many conflicts":   {[]error{conflict, conflict, conflict, conflict, conflict, conflict}, 7},
		"no API server":    {[]error{errors.New("connection refused"), errors.New("connection refused")}, 3},
		"deleted meantime": {[]error{apierrors.NewNotFound(schema.GroupResource{Resource: "gateways"}, "a")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			tries := 0
			c := builder(gateway("a", 1)).WithInterceptorFuncs(interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
					mu.Lock()
					defer mu.Unlock()
					if tries++; tries <= len(test.refuse) {
						return test.refuse[tries-1]
					}
					return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
				},
			}).Build()
			synctest.Test(t, func(t *testing.T) {
				w := NewWriter(c, c, Options{Log: logr.Discard()})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan error, 1)
				go func() { ended <- w.Run(ctx) }()
				ref, status := accepted("a", 1)
				w.publish([]objects.Ref{ref}, statuses{ref: status}.of)
				time.Sleep(time.Hour) // the bubble's: it passes once all wait
				mu.Lock()
				defer mu.Unlock()
				if tries != test.tries {
					t.Errorf("%d tries, want %d", tries, test.tries)
				}
				if ok := isAccepted(t, c, "a"); ok != (test.tries > len(test.refuse)) {
					t.Errorf("written: %v", ok)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A patch is against the version that was read, so what another controller
// wrote in between is not lost.
func TestOthersEntriesSurviveARace(t *testing.T) {
	route := &gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "r", Generation: 1}}
	live := builder(route).Build()
	stale := &gatewayv1.HTTPRoute{}
	if err := live.Get(t.Context(), client.ObjectKeyFromObject(route), stale); err != nil {
		t.Fatal(err)
	}
	theirs := stale.DeepCopy()
	theirs.Status.Parents = []gatewayv1.RouteParentStatus{parent(others, "web", "Theirs", earlier)}
	if err := live.Status().Update(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	cached := interceptor.NewClient(live, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			stale.DeepCopyInto(obj.(*gatewayv1.HTTPRoute))
			return nil
		},
	})
	w := NewWriter(cached, live, Options{Log: logr.Discard()})
	ref := objects.RefOf(route)
	world := statuses{ref: {Object: ref, Generation: 1, Value: gatewayv1.RouteStatus{
		Parents: []gatewayv1.RouteParentStatus{parent(compile.ControllerName, "web", "Accepted", time.Time{})},
	}}}
	w.publish(nil, world.of)
	if wrote, err := w.write(t.Context(), ref); err != nil || !wrote {
		t.Fatalf("written: %v, %v", wrote, err)
	}
	var got gatewayv1.HTTPRoute
	if err := live.Get(t.Context(), client.ObjectKeyFromObject(route), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Status.Parents) != 2 || got.Status.Parents[0].ControllerName != others {
		t.Errorf("parents are %v", got.Status.Parents)
	}
}
