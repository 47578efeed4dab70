package watch

import (
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/objects"
)

// compactor makes objects small before they are kept: there may be tens of
// thousands. It drops what nobody here reads, lets equal parts be one, and takes back
// what decoding has set aside for more. Objects that are kept are never edited,
// so they may share. It is safe for concurrent use.
type compactor struct {
	mu sync.Mutex
	// stores are where the kept objects are, by kind.
	stores  map[string]toolscache.Store
	strings map[string]string
	// pointers are to values of basic types, by those values.
	pointers map[any]reflect.Value
	// conditions are of statuses: most routes have the same two.
	conditions map[[2]metav1.Condition][]metav1.Condition
}

// maxShared bounds the values that are remembered to be shared, of each sort.
// What belongs together mostly comes together, so they may be forgotten.
const maxShared = 1 << 13

func newCompactor() *compactor {
	return &compactor{
		stores:   map[string]toolscache.Store{},
		strings:  map[string]string{},
		pointers: map[any]reflect.Value{},

		conditions: map[[2]metav1.Condition][]metav1.Condition{},
	}
}

// keptIn says where the objects of a kind are kept.
func (c *compactor) keptIn(kind string, store toolscache.Store) {
	c.mu.Lock()
	c.stores[kind] = store
	c.mu.Unlock()
}

// compact edits an object that nobody else has yet. It is a cache's transform.
func (c *compactor) compact(obj any) (any, error) {
	strip(obj)
	return c.share(obj)
}

// share lets an object's parts be one with those of others.
func (c *compactor) share(obj any) (any, error) {
	o, ok := obj.(client.Object)
	if !ok {
		return obj, nil // a tombstone
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.walk(reflect.ValueOf(obj).Elem())
	c.shareWithPrevious(o)
	return obj, nil
}

// strip drops what nobody here reads and what makes up much of most objects.
func strip(obj any) {
	o, err := meta.Accessor(obj)
	if err != nil {
		return
	}
	o.SetManagedFields(nil)
	if _, partial := obj.(*metav1.PartialObjectMetadata); partial {
		o.SetAnnotations(nil)
		o.SetLabels(nil)
		o.SetOwnerReferences(nil)
		o.SetFinalizers(nil)
	} else if annotations := o.GetAnnotations(); annotations[corev1.LastAppliedConfigAnnotation] != "" {
		delete(annotations, corev1.LastAppliedConfigAnnotation)
	}
}

// shareWithPrevious takes an object's parts over from the version before, if
// only the status is another: the cache holds the newest version, and compile
// the one whose spec it saw first.
func (c *compactor) shareWithPrevious(obj client.Object) {
	ref := objects.RefOf(obj)
	store := c.stores[ref.Kind]
	if store == nil || !isCustom(objects.GroupOf(ref.Kind)) {
		return
	}
	was, ok, err := store.GetByKey(ref.NamespacedName().String())
	if !ok || err != nil {
		return
	}
	old, ok := was.(client.Object)
	if !ok || reflect.TypeOf(old) != reflect.TypeOf(obj) || matters(objects.Kind{Group: objects.GroupOf(ref.Kind)}, old, obj) {
		return
	}
	obj.SetLabels(old.GetLabels())
	obj.SetAnnotations(old.GetAnnotations())
	spec := reflect.ValueOf(obj).Elem().FieldByName("Spec")
	if spec.IsValid() {
		spec.Set(reflect.ValueOf(old).Elem().FieldByName("Spec"))
	}
}

// walk makes everything in a value share what it can.
func (c *compactor) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() > 0 {
			v.SetString(c.string(v.String()))
		}
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		if basic(v.Type().Elem().Kind()) {
			v.Set(c.pointer(v))
		} else {
			c.walk(v.Elem())
		}
	case reflect.Slice:
		if v.Len() < v.Cap() {
			exact := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(exact, v)
			v.Set(exact)
		}
		if v.Type().Elem().Kind() != reflect.Uint8 {
			for i := range v.Len() {
				c.walk(v.Index(i))
			}
		}
		if list, ok := v.Interface().([]metav1.Condition); ok && len(list) == 2 {
			v.Set(reflect.ValueOf(c.pair(list)))
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]string); ok && m != nil {
			same := make(map[string]string, len(m))
			for key, value := range m {
				same[c.string(key)] = c.string(value)
			}
			v.Set(reflect.ValueOf(same))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Field(i); field.CanSet() {
				c.walk(field)
			}
		}
	}
}

func basic(k reflect.Kind) bool {
	return k == reflect.String || k == reflect.Bool || reflect.Int <= k && k <= reflect.Float64
}

func (c *compactor) string(s string) string { return shared(c.strings, s, s) }

// pair shares two conditions whose strings are shared already.
func (c *compactor) pair(list []metav1.Condition) []metav1.Condition {
	return shared(c.conditions, [2]metav1.Condition(list), list)
}

func (c *compactor) pointer(p reflect.Value) reflect.Value {
	return shared(c.pointers, p.Elem().Interface(), p)
}

// shared returns the value that is known by the key, this one if there is none.
func shared[K comparable, V any](known map[K]V, key K, value V) V {
	if first, ok := known[key]; ok {
		return first
	}
	if len(known) == maxShared {
		clear(known)
	}
	known[key] = value
	return value
}
