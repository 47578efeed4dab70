package objects

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Default Gateways, GEP-3793: one with defaultScope All claims the routes with
// useDefaultGateways All, as if they named it.

// indexDefaults enters a default Gateway, or a route that leaves it to those, or takes it out again.
func (s *Set) indexDefaults(ref Ref, obj Object, change func(*refs, Ref)) {
	switch o := obj.(type) {
	case *gatewayv1.Gateway:
		if o.Spec.DefaultScope == gatewayv1.GatewayDefaultScopeAll {
			change(&s.defaultGateways, ref)
		}
	case *gatewayv1.HTTPRoute, *gatewayv1.GRPCRoute:
		if usesDefaults(o) {
			change(&s.defaultRoutes, ref)
		}
	}
}

// DefaultRoutes returns the HTTPRoutes and GRPCRoutes that default Gateways claim, sorted.
func (s *Set) DefaultRoutes() []Ref {
	return s.defaultRoutes.sorted()
}

// Claims returns references to the default Gateways that claim a route of any
// kind, sorted, without those that it names itself.
func (s *Set) Claims(route Object) []gatewayv1.ParentReference {
	if s.defaultGateways.len() == 0 || !usesDefaults(route) {
		return nil
	}
	var claims []gatewayv1.ParentReference
	for _, gateway := range s.defaultGateways.sorted() {
		if slices.ContainsFunc(commonSpec(route).ParentRefs, func(p gatewayv1.ParentReference) bool {
			named, ok := ParentOf(&p, route.GetNamespace())
			return ok && named == gateway
		}) {
			continue
		}
		group, kind, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind(gateway.Kind), gatewayv1.Namespace(gateway.Namespace)
		claims = append(claims, gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(gateway.Name)})
	}
	return claims
}

func usesDefaults(route Object) bool {
	spec := commonSpec(route)
	return spec != nil && spec.UseDefaultGateways == gatewayv1.GatewayDefaultScopeAll
}

// commonSpec is what routes of all kinds have, nil of what is no route.
func commonSpec(obj Object) *gatewayv1.CommonRouteSpec {
	switch o := obj.(type) {
	case *gatewayv1.HTTPRoute:
		return &o.Spec.CommonRouteSpec
	case *gatewayv1.GRPCRoute:
		return &o.Spec.CommonRouteSpec
	case *gatewayv1.TCPRoute:
		return &o.Spec.CommonRouteSpec
	case *gatewayv1.TLSRoute:
		return &o.Spec.CommonRouteSpec
	case *gatewayv1.UDPRoute:
		return &o.Spec.CommonRouteSpec
	}
	return nil
}
