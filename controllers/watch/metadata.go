package watch

import (
	"context"
	"maps"
	"sync"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// metadata watches kinds of which metadata alone is read, from when a result
// first asks for them. There is one, Pod. It is not given up again: who has asked
// once is likely to do so again.
type metadata struct {
	cluster *Cluster
	log     logr.Logger

	mu    sync.Mutex
	began bool
}

// partial is an empty object of a kind of which metadata alone is read.
func partial(kind objects.Kind) *metav1.PartialObjectMetadata {
	obj := &metav1.PartialObjectMetadata{}
	obj.SetGroupVersionKind(schema.GroupVersionKind{Group: kind.Group, Version: "v1", Kind: kind.Name})
	return obj
}

// load returns all pods at the first time that a result asks for any, so that
// nothing serves without what they say. It waits for the API server as Load does.
func (m *metadata) load(ctx context.Context, result *compile.Result) map[objects.Ref]client.Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !result.ReadsPods || m.began {
		return nil
	}
	m.began = true
	loaded := map[objects.Ref]client.Object{}
	for _, kind := range objects.Kinds {
		if !kind.Metadata {
			continue
		}
		if _, _, err := m.cluster.served(kind); err != nil {
			m.log.Error(err, "A kind cannot be followed", "kind", kind.Name)
		}
		registration, err := m.cluster.watch(ctx, kind, m.cluster.referenced.sink)
		if err != nil {
			m.log.Error(err, "A kind is not to be had; its objects count as if there were none", "kind", kind.Name)
			continue
		}
		wait, cancel := context.WithTimeout(ctx, loadTimeout)
		synced := toolscache.WaitFor(wait, "", registration.HasSyncedChecker())
		cancel()
		if !synced {
			m.log.Info("A kind is slow to come; its objects count as if there were none until then. May Headgate list and watch it?", "kind", kind.Name)
			continue
		}
		informer, err := m.cluster.manager.GetCache().GetInformer(ctx, partial(kind), cache.BlockUntilSynced(false))
		if err != nil {
			continue // it is there
		}
		if shared, ok := informer.(toolscache.SharedInformer); ok {
			for _, obj := range shared.GetStore().List() {
				kept := keep(kind, obj.(client.Object))
				loaded[objects.RefOf(kept)] = kept
			}
		}
	}
	return loaded
}

// keep is an object as the sink gets it.
func keep(kind objects.Kind, obj client.Object) client.Object {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok && kind.Metadata {
		return &objects.Pod{ObjectMeta: o.ObjectMeta}
	}
	return obj
}

// compactMetadata is a cache's transform for these kinds: labels stay, and of
// the annotations the weight.
func (c *compactor) compactMetadata(obj any) (any, error) {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return c.compact(obj)
	}
	labels, weight := o.Labels, o.Annotations[compile.WeightAnnotation]
	strip(o)
	if o.Labels = labels; weight != "" {
		o.Annotations = map[string]string{compile.WeightAnnotation: weight}
	}
	return c.share(o)
}

// sameMetadata reports whether two versions have the same of what is kept.
func sameMetadata(old, obj client.Object) bool {
	return old.GetUID() == obj.GetUID() && maps.Equal(old.GetLabels(), obj.GetLabels()) && maps.Equal(old.GetAnnotations(), obj.GetAnnotations())
}
