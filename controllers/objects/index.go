package objects

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// index enters an object under what it refers to, or takes it out again.
func (s *Set) index(ref Ref, obj Object, change func(*refs, Ref)) {
	switch o := obj.(type) {
	case *discoveryv1.EndpointSlice:
		for _, backend := range BackendsOf(o) {
			at(s.slicesByBackend, backend, ref, change)
		}
	}
	for _, parent := range ParentRefs(obj) {
		if parent, ok := ParentOf(&parent, ref.Namespace); ok {
			at(s.routesByParent, parent, ref, change)
		}
	}
	s.indexDefaults(ref, obj, change)
	enter := func(b *gatewayv1.BackendObjectReference) {
		if backend, ok := BackendOf(b, ref.Namespace); ok {
			at(s.routesByBackend, backend, ref, change)
		}
	}
	EachBackendRef(obj, enter)
	EachExternalAuthRef(obj, enter)
	EachExtensionRef(obj, func(_ int, extension Ref) {
		at(s.routesByExtension, extension, ref, change)
	})
}

// at applies a change to the names under key and lets empty sets go.
func at[K comparable](index map[K]refs, key K, ref Ref, change func(*refs, Ref)) {
	names := index[key]
	change(&names, ref)
	if names.len() == 0 {
		delete(index, key)
	} else {
		index[key] = names
	}
}

// BackendsOf returns what an EndpointSlice's endpoints are of: a Service, a
// ServiceImport, or both where an implementation of the Multi-Cluster Services API
// makes a Service for each ServiceImport.
func BackendsOf(slice *discoveryv1.EndpointSlice) (refs []Ref) {
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		refs = append(refs, Ref{Kind: "Service", Namespace: slice.Namespace, Name: name})
	}
	if name := slice.Labels[labelImportName]; name != "" {
		refs = append(refs, Ref{Kind: "ServiceImport", Namespace: slice.Namespace, Name: name})
	}
	return refs
}

// ParentOf returns the Gateway or ListenerSet that a parentRef of a route in
// namespace names; false if it names another kind.
func ParentOf(p *gatewayv1.ParentReference, namespace string) (Ref, bool) {
	kind := "Gateway"
	if p.Kind != nil {
		kind = string(*p.Kind)
	}
	if p.Group != nil && *p.Group != gatewayv1.GroupName || kind != "Gateway" && kind != "ListenerSet" {
		return Ref{}, false
	}
	if p.Namespace != nil {
		namespace = string(*p.Namespace)
	}
	return Ref{Kind: kind, Namespace: namespace, Name: string(p.Name)}, true
}

// GatewayOf returns the Gateway that a ListenerSet attaches to; false if its
// parentRef names another kind.
func GatewayOf(set *gatewayv1.ListenerSet) (Ref, bool) {
	p := &set.Spec.ParentRef
	if p.Group != nil && *p.Group != gatewayv1.GroupName || p.Kind != nil && *p.Kind != "Gateway" {
		return Ref{}, false
	}
	namespace := set.Namespace
	if p.Namespace != nil {
		namespace = string(*p.Namespace)
	}
	return Ref{Kind: "Gateway", Namespace: namespace, Name: string(p.Name)}, true
}

// BackendOf returns the object that a backendRef from namespace names; false
// if it is of a kind that is no backend.
func BackendOf(b *gatewayv1.BackendObjectReference, namespace string) (Ref, bool) {
	group, kind := "", "Service"
	if b.Group != nil {
		group = string(*b.Group)
	}
	if b.Kind != nil {
		kind = string(*b.Kind)
	}
	if k, ok := KindOf(schema.GroupKind{Group: group, Kind: kind}); !ok || !k.Backend {
		return Ref{}, false
	}
	if b.Namespace != nil {
		namespace = string(*b.Namespace)
	}
	return Ref{Kind: kind, Namespace: namespace, Name: string(b.Name)}, true
}

// ParentRefs returns a route's parentRefs, nil for what is no route.
func ParentRefs(obj Object) []gatewayv1.ParentReference {
	switch o := obj.(type) {
	case *gatewayv1.HTTPRoute:
		return o.Spec.ParentRefs
	case *gatewayv1.GRPCRoute:
		return o.Spec.ParentRefs
	}
	return nil
}

// ExtensionOf returns the object that a filter of type ExtensionRef names, of a
// route in namespace; false if it is of a kind that Headgate does not read.
func ExtensionOf(e *gatewayv1.LocalObjectReference, namespace string) (Ref, bool) {
	_, ok := KindOf(schema.GroupKind{Group: string(e.Group), Kind: string(e.Kind)})
	return Ref{Kind: string(e.Kind), Namespace: namespace, Name: string(e.Name)}, ok
}

// EachExtensionRef calls f for the objects that the rules of a route name in
// filters of type ExtensionRef, with the rule's index.
func EachExtensionRef(route Object, f func(rule int, extension Ref)) {
	each := func(rule int, e *gatewayv1.LocalObjectReference) {
		if e == nil {
			return
		}
		if ref, ok := ExtensionOf(e, route.GetNamespace()); ok {
			f(rule, ref)
		}
	}
	switch o := route.(type) {
	case *gatewayv1.HTTPRoute:
		for i := range o.Spec.Rules {
			for j := range o.Spec.Rules[i].Filters {
				each(i, o.Spec.Rules[i].Filters[j].ExtensionRef)
			}
		}
	case *gatewayv1.GRPCRoute:
		for i := range o.Spec.Rules {
			for j := range o.Spec.Rules[i].Filters {
				each(i, o.Spec.Rules[i].Filters[j].ExtensionRef)
			}
		}
	}
}

// EachExternalAuthRef calls f for the authorization servers that a route's
// filters name.
func EachExternalAuthRef(route Object, f func(*gatewayv1.BackendObjectReference)) {
	o, ok := route.(*gatewayv1.HTTPRoute)
	if !ok {
		return
	}
	servers := func(filters []gatewayv1.HTTPRouteFilter) {
		for i := range filters {
			if a := filters[i].ExternalAuth; a != nil {
				f(&a.BackendRef)
			}
		}
	}
	for i := range o.Spec.Rules {
		rule := &o.Spec.Rules[i]
		servers(rule.Filters)
		for j := range rule.BackendRefs {
			servers(rule.BackendRefs[j].Filters)
		}
	}
}

// EachBackendRef calls f for every backendRef of a route, mirrors included.
func EachBackendRef(route Object, f func(*gatewayv1.BackendObjectReference)) {
	switch o := route.(type) {
	case *gatewayv1.HTTPRoute:
		mirrors := func(filters []gatewayv1.HTTPRouteFilter) {
			for i := range filters {
				if m := filters[i].RequestMirror; m != nil {
					f(&m.BackendRef)
				}
			}
		}
		for i := range o.Spec.Rules {
			rule := &o.Spec.Rules[i]
			mirrors(rule.Filters)
			for j := range rule.BackendRefs {
				f(&rule.BackendRefs[j].BackendObjectReference)
				mirrors(rule.BackendRefs[j].Filters)
			}
		}
	case *gatewayv1.GRPCRoute:
		mirrors := func(filters []gatewayv1.GRPCRouteFilter) {
			for i := range filters {
				if m := filters[i].RequestMirror; m != nil {
					f(&m.BackendRef)
				}
			}
		}
		for i := range o.Spec.Rules {
			rule := &o.Spec.Rules[i]
			mirrors(rule.Filters)
			for j := range rule.BackendRefs {
				f(&rule.BackendRefs[j].BackendObjectReference)
				mirrors(rule.BackendRefs[j].Filters)
			}
		}
	}
}
