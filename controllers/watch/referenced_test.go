package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/headgate/headgate/controllers/objects"
)

// sink keeps what it is told.
type sink struct {
	mu      sync.Mutex
	objects map[objects.Ref]client.Object
	ready   bool
}

func newSink() *sink { return &sink{objects: map[objects.Ref]client.Object{}} }

func (s *sink) Put(ref objects.Ref, obj client.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[ref] = obj
}

func (s *sink) Delete(ref objects.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, ref)
}

func (s *sink) Ready() { s.ready = true }

func (s *sink) value(ref objects.Ref) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if secret, ok := s.objects[ref].(*corev1.Secret); ok {
		return string(secret.Data["v"])
	}
	return ""
}

func secret(name, value string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name},
		Data:       map[string][]byte{"v": []byte(value)},
	}
}

func secretRef(name string) objects.Ref {
	return objects.Ref{Kind: "Secret", Namespace: "apps", Name: name}
}

func wanting(names ...string) map[objects.Ref]bool {
	wanted := map[objects.Ref]bool{}
	for _, name := range names {
		wanted[secretRef(name)] = true
	}
	return wanted
}

// following runs a referenced over an API server that has these Secrets.
func following(t *testing.T, c client.Client, test func(t *testing.T, r *referenced, s *sink)) {
	synctest.Test(t, func(t *testing.T) {
		r, s := newReferenced(c, logr.Discard()), newSink()
		r.sink = s
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.run(ctx) }()
		test(t, r, s)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestOnlyWhatIsWantedIsKept(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(objects.Scheme()).WithObjects(secret("a", "1"), secret("b", "1"), secret("unwanted", "1")).Build()
	following(t, c, func(t *testing.T, r *referenced, s *sink) {
		write := func(obj *corev1.Secret) {
			t.Helper()
			if err := c.Update(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
			r.changed(secretRef(obj.Name))
			synctest.Wait()
		}
		first := wanting("a", "missing")
		loaded := r.load(t.Context(), first)
		if len(loaded) != 1 || string(loaded[secretRef("a")].(*corev1.Secret).Data["v"]) != "1" {
			t.Fatalf("loaded %v, want a alone", loaded)
		}
		if again := r.load(t.Context(), first); len(again) != 0 {
			t.Errorf("loaded %v again", again)
		}

		write(secret("a", "2"))
		if got := s.value(secretRef("a")); got != "2" {
			t.Errorf("a is %q, want what it was changed to", got)
		}
		write(secret("unwanted", "2"))
		if err := c.Create(t.Context(), secret("missing", "1")); err != nil {
			t.Fatal(err)
		}
		r.changed(secretRef("missing"))
		synctest.Wait()
		if s.value(secretRef("missing")) != "1" || len(s.objects) != 2 {
			t.Errorf("kept %v, want a and missing", s.objects)
		}

		// Wants change: b comes, a goes.
		if loaded := r.load(t.Context(), wanting("b", "missing")); len(loaded) != 1 || loaded[secretRef("b")] == nil {
			t.Errorf("loaded %v, want b alone", loaded)
		}
		write(secret("a", "3"))
		if len(s.objects) != 1 || s.value(secretRef("missing")) != "1" {
			t.Errorf("kept %v, want missing (and b, which the loop put)", s.objects)
		}
		if err := c.Delete(t.Context(), secret("missing", "")); err != nil {
			t.Fatal(err)
		}
		r.changed(secretRef("missing"))
		synctest.Wait()
		if len(s.objects) != 0 {
			t.Errorf("kept %v after it was deleted", s.objects)
		}
	})
}

// An API server that does not answer holds a change up for 2 s at most; what
// was wanted comes when it answers again.
func TestLoadDoesNotWaitForever(t *testing.T) {
	var mu sync.Mutex
	down := true
	c := fake.NewClientBuilder().WithScheme(objects.Scheme()).WithObjects(secret("a", "1")).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key types.NamespacedName, obj client.Object, opts ...client.GetOption) error {
			mu.Lock()
			d := down
			mu.Unlock()
			if d {
				<-ctx.Done()
				return errors.New("no answer")
			}
			return c.Get(ctx, key, obj, opts...)
		},
	}).Build()
	following(t, c, func(t *testing.T, r *referenced, s *sink) {
		wanted := wanting("a")
		for i := range 40 { // more than are asked for at once
			wanted[secretRef(fmt.Sprint("missing-", i))] = true
		}
		began := time.Now()
		if loaded := r.load(t.Context(), wanted); len(loaded) != 0 {
			t.Errorf("loaded %v", loaded)
		}
		if took := time.Since(began); took != loadTimeout {
			t.Errorf("it took %s, want %s", took, loadTimeout)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(time.Minute)
		if s.value(secretRef("a")) != "1" || len(s.objects) != 1 {
			t.Errorf("kept %v, want a", s.objects)
		}
	})
}

func TestStrip(t *testing.T) {
	obj := secret("a", "1")
	obj.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
	obj.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: "much", "kept": "little"}
	strip(obj)
	if obj.ManagedFields != nil || len(obj.Annotations) != 1 || obj.Annotations["kept"] != "little" {
		t.Errorf("stripped to %v", obj.ObjectMeta)
	}
	partial := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "a", ResourceVersion: "7",
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"}, Finalizers: []string{"f"}}}
	strip(partial)
	if partial.Name != "a" || partial.ResourceVersion != "7" || partial.Labels != nil || partial.Annotations != nil || partial.Finalizers != nil {
		t.Errorf("stripped to %v", partial.ObjectMeta)
	}
}

func TestMatters(t *testing.T) {
	gateway := func(edit func(*metav1.ObjectMeta)) client.Object {
		obj := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: "u", Generation: 1, ResourceVersion: "1", Labels: map[string]string{"a": "b"}}}
		edit(&obj.ObjectMeta)
		return obj
	}
	old := gateway(func(*metav1.ObjectMeta) {})
	now := metav1.Now()
	for name, test := range map[string]struct {
		group string
		edit  func(*metav1.ObjectMeta)
		want  bool
	}{
		"resync":                        {"gateway.networking.k8s.io", func(m *metav1.ObjectMeta) {}, false},
		"status":                        {"gateway.networking.k8s.io", func(m *metav1.ObjectMeta) { m.ResourceVersion = "2" }, false},
		"a policy's status":             {"headgate.dev", func(m *metav1.ObjectMeta) { m.ResourceVersion = "2" }, false},
		"spec":                          {"headgate.dev", func(m *metav1.ObjectMeta) { m.ResourceVersion, m.Generation = "2", 2 }, true},
		"labels":                        {"headgate.dev", func(m *metav1.ObjectMeta) { m.ResourceVersion, m.Labels = "2", nil }, true},
		"made anew":                     {"headgate.dev", func(m *metav1.ObjectMeta) { m.ResourceVersion, m.UID = "2", "v" }, true},
		"deletion":                      {"headgate.dev", func(m *metav1.ObjectMeta) { m.ResourceVersion, m.DeletionTimestamp = "2", &now }, true},
		"a Service's status":            {"", func(m *metav1.ObjectMeta) { m.ResourceVersion = "2" }, true},
		"an EndpointSlice's conditions": {"discovery.k8s.io", func(m *metav1.ObjectMeta) { m.ResourceVersion = "2" }, true},
	} {
		if got := matters(objects.Kind{Group: test.group}, old, gateway(test.edit)); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}
