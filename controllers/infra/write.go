package infra

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What failed is tried again after the first delay, then after twice as long,
// and so on until the most.
const firstDelay, mostDelay = 100 * time.Millisecond, 30 * time.Second

// failure is a write that the API server did not take. One Gateway's does not
// make the others wait, nor is it repeated whenever something happens elsewhere.
type failure struct {
	object client.Object
	err    error
	delay  time.Duration
	retry  time.Time
}

func failureKey(obj client.Object) string {
	return fmt.Sprintf("%T %s", obj, client.ObjectKeyFromObject(obj))
}

// heldBack returns the error with which the same write failed, until it is to be
// tried again; nil if it is to be tried.
func (k *Keeper) heldBack(obj client.Object) error {
	f := k.failures[failureKey(obj)]
	if f == nil || !time.Now().Before(f.retry) || !equality.Semantic.DeepEqual(f.object, obj) {
		return nil
	}
	return f.err
}

// write creates an object, or updates it against the version that it was made
// from: whoever changed it since is not overwritten, and the next turn sees it.
func (k *Keeper) write(ctx context.Context, obj client.Object) error {
	if err := k.heldBack(obj); err != nil {
		return err
	}
	kind, name, tried := k.kindOf(obj), client.ObjectKeyFromObject(obj).String(), obj.DeepCopyObject().(client.Object)
	var err error
	if obj.GetResourceVersion() == "" {
		err = k.client.Create(ctx, obj, client.FieldOwner(fieldManager))
	} else {
		err = k.client.Update(ctx, obj, client.FieldOwner(fieldManager))
	}
	if err != nil {
		err = fmt.Errorf("write %s %s: %w", kind, name, err)
		delay := firstDelay
		if f := k.failures[failureKey(obj)]; f != nil && equality.Semantic.DeepEqual(f.object, tried) {
			delay = min(2*f.delay, mostDelay)
		}
		k.failures[failureKey(obj)] = &failure{object: tried, err: err, delay: delay, retry: time.Now().Add(delay)}
		return err
	}
	delete(k.failures, failureKey(obj))
	k.log.Info("Wrote a Gateway's object", "kind", kind, "object", name, "gateway", obj.GetAnnotations()[gatewayAnnotation])
	return nil
}

// untilRetry returns when the next failed write is to be tried again, 0 if there
// is none. It forgets those that nobody wants any more.
func (k *Keeper) untilRetry() (wait time.Duration) {
	for key, f := range k.failures {
		left := time.Until(f.retry)
		if left < -mostDelay {
			delete(k.failures, key)
		} else if left > 0 {
			wait = sooner(wait, left)
		}
	}
	return wait
}

func (k *Keeper) delete(ctx context.Context, old client.Object) error {
	kind, name, uid := k.kindOf(old), client.ObjectKeyFromObject(old).String(), old.GetUID()
	err := k.client.Delete(ctx, old, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete %s %s: %w", kind, name, err)
	}
	k.log.Info("Deleted what no Gateway needs", "kind", kind, "object", name)
	return nil
}

func (k *Keeper) kindOf(obj client.Object) string {
	gvk, _ := k.client.GroupVersionKindFor(obj)
	return gvk.Kind
}
