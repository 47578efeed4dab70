package watch

import (
	"maps"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// TestPodsAreSmall holds that of a pod's metadata no more is kept than endpoints
// may have of it, and that nothing else is a change.
func TestPodsAreSmall(t *testing.T) {
	var kind objects.Kind
	for _, k := range objects.Kinds {
		if k.Metadata {
			kind = k
		}
	}
	c := newCompactor()
	pod := func(edit func(*metav1.PartialObjectMetadata)) client.Object {
		p := partial(kind)
		p.Namespace, p.Name, p.UID, p.ResourceVersion = "shop", "app-1", "u1", "1"
		p.Labels = map[string]string{"version": "v1"}
		p.Annotations = map[string]string{compile.WeightAnnotation: "3", "kubernetes.io/config.seen": "now"}
		p.OwnerReferences = []metav1.OwnerReference{{Name: "app"}}
		p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}
		edit(p)
		kept, err := c.compactMetadata(p)
		if err != nil {
			t.Fatal(err)
		}
		return kept.(client.Object)
	}
	first := pod(func(*metav1.PartialObjectMetadata) {})
	if len(first.GetOwnerReferences())+len(first.GetManagedFields()) > 0 ||
		!maps.Equal(first.GetAnnotations(), map[string]string{compile.WeightAnnotation: "3"}) || !maps.Equal(first.GetLabels(), map[string]string{"version": "v1"}) {
		t.Errorf("%+v", first)
	}
	got, ok := keep(kind, first).(*objects.Pod)
	if !ok || objects.RefOf(got) != (objects.Ref{Kind: "Pod", Namespace: "shop", Name: "app-1"}) || got.UID != "u1" || got.Labels["version"] != "v1" {
		t.Errorf("%+v", got)
	}
	for name, test := range map[string]struct {
		edit func(*metav1.PartialObjectMetadata)
		want bool
	}{
		"status":     {func(p *metav1.PartialObjectMetadata) { p.ResourceVersion = "2" }, false},
		"annotation": {func(p *metav1.PartialObjectMetadata) { p.ResourceVersion, p.Annotations["other"] = "2", "x" }, false},
		"label":      {func(p *metav1.PartialObjectMetadata) { p.ResourceVersion, p.Labels["version"] = "2", "v2" }, true},
		"weight": {func(p *metav1.PartialObjectMetadata) {
			p.ResourceVersion, p.Annotations[compile.WeightAnnotation] = "2", "4"
		}, true},
		"another one": {func(p *metav1.PartialObjectMetadata) { p.ResourceVersion, p.UID = "2", "u2" }, true},
	} {
		if got := matters(kind, first, pod(test.edit)); got != test.want {
			t.Errorf("%s: matters is %t", name, got)
		}
	}
}
