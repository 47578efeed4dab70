// Package objects is the world as compile sees it: the Kubernetes objects that
// matter to Headgate, indexed by what refers to them. Both watch (a cluster)
// and manifests (a folder) fill it.
//
// A Set belongs to one goroutine, the loop that fills it and compiles from it.
// Objects in it are never edited: a changed object is a new one.
package objects

import (
	"cmp"
	"reflect"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Ref names an object. Kinds that Headgate reads are unique without their group.
type Ref struct {
	Kind      string
	Namespace string
	Name      string
}

// NamespacedName returns the name without the kind.
func (r Ref) NamespacedName() types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

// String returns "Kind namespace/name".
func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + " " + r.Name
	}
	return r.Kind + " " + r.Namespace + "/" + r.Name
}

// Compare orders by kind, namespace and name.
func (r Ref) Compare(other Ref) int {
	return cmp.Or(
		cmp.Compare(r.Kind, other.Kind),
		cmp.Compare(r.Namespace, other.Namespace),
		cmp.Compare(r.Name, other.Name))
}

// Object is a Kubernetes object; controller-runtime's client.Object is the same.
type Object interface {
	metav1.Object
	runtime.Object
}

// RefOf names an object by its Go type; the Kind is "" if Headgate does not
// read objects of that type.
func RefOf(obj Object) Ref {
	obj = canonical(obj)
	return Ref{Kind: kindOf[reflect.TypeOf(obj)], Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// Set holds objects by name. The zero Set is not usable; see NewSet.
type Set struct {
	objects map[string]map[types.NamespacedName]Object // by kind

	slicesByBackend map[Ref]refs
	routesByParent  map[Ref]refs
	routesByBackend map[Ref]refs
	// defaultGateways claim defaultRoutes.
	defaultGateways, defaultRoutes refs
	routesByExtension              map[Ref]refs
}

// NewSet returns an empty Set.
func NewSet() *Set {
	s := &Set{
		objects:           map[string]map[types.NamespacedName]Object{},
		slicesByBackend:   map[Ref]refs{},
		routesByParent:    map[Ref]refs{},
		routesByBackend:   map[Ref]refs{},
		routesByExtension: map[Ref]refs{},
	}
	for _, k := range Kinds {
		s.objects[k.Name] = map[types.NamespacedName]Object{}
	}
	return s
}

// Put adds an object or replaces the one of the same kind and name, and returns
// its name. An object of a kind that Headgate does not read is left out, and
// its Ref has no Kind. The object must not be edited afterwards.
func (s *Set) Put(obj Object) Ref {
	obj = canonical(obj)
	ref := RefOf(obj)
	if ref.Kind == "" {
		return ref
	}
	s.Delete(ref)
	s.objects[ref.Kind][ref.NamespacedName()] = obj
	s.index(ref, obj, (*refs).add)
	return ref
}

// Delete removes an object; one that is not there is fine.
func (s *Set) Delete(ref Ref) {
	old, ok := s.objects[ref.Kind][ref.NamespacedName()]
	if !ok {
		return
	}
	delete(s.objects[ref.Kind], ref.NamespacedName())
	s.index(ref, old, (*refs).remove)
}

// Get returns the object of that name, or nil.
func (s *Set) Get(ref Ref) Object {
	return s.objects[ref.Kind][ref.NamespacedName()]
}

// Has reports whether there is any object of a kind.
func (s *Set) Has(kind string) bool { return len(s.objects[kind]) > 0 }

// Len returns the number of objects.
func (s *Set) Len() int {
	n := 0
	for _, m := range s.objects {
		n += len(m)
	}
	return n
}

// Get returns the object of type T with that name, or the zero T (nil).
func Get[T Object](s *Set, namespace, name string) T {
	obj, _ := s.objects[kindOf[reflect.TypeFor[T]()]][types.NamespacedName{Namespace: namespace, Name: name}].(T)
	return obj
}

// All returns every object of type T, sorted by namespace and name.
func All[T Object](s *Set) []T {
	m := s.objects[kindOf[reflect.TypeFor[T]()]]
	all := make([]T, 0, len(m))
	for _, obj := range m {
		all = append(all, obj.(T))
	}
	slices.SortFunc(all, func(a, b T) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return all
}

// EndpointSlicesOf returns the EndpointSlices of a Service or ServiceImport, sorted by name.
func (s *Set) EndpointSlicesOf(backend Ref) []*discoveryv1.EndpointSlice {
	names := s.slicesByBackend[backend]
	all := make([]*discoveryv1.EndpointSlice, 0, names.len())
	for _, ref := range names.sorted() {
		all = append(all, s.Get(ref).(*discoveryv1.EndpointSlice))
	}
	return all
}

// RoutesOfParent returns the HTTPRoutes and GRPCRoutes with a parentRef to a
// Gateway or ListenerSet, existing or not, and those that it claims, sorted.
func (s *Set) RoutesOfParent(ref Ref) []Ref {
	named := s.routesByParent[ref]
	if !s.defaultGateways.has(ref) {
		return named.sorted()
	}
	all := append(named.sorted(), s.defaultRoutes.sorted()...)
	slices.SortFunc(all, Ref.Compare)
	return slices.Compact(all)
}

// RoutesOfExtension returns the routes, of any kind, with a rule that names an
// object in a filter of type ExtensionRef, sorted.
func (s *Set) RoutesOfExtension(ref Ref) []Ref {
	names := s.routesByExtension[ref]
	return names.sorted()
}

// Extensions returns what routes name in such filters of a kind, existing or not, sorted.
func (s *Set) Extensions(kind string) []Ref {
	var list []Ref
	for ref := range s.routesByExtension {
		if ref.Kind == kind {
			list = append(list, ref)
		}
	}
	slices.SortFunc(list, Ref.Compare)
	return list
}

// RoutesOfBackend returns the routes, of any kind, that name an object in a
// backendRef or a filter, sorted.
func (s *Set) RoutesOfBackend(ref Ref) []Ref {
	names := s.routesByBackend[ref]
	return names.sorted()
}
