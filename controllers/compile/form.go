package compile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// form is a route of HTTP requests as it is compiled: an HTTPRoute, or a
// GRPCRoute read as the HTTPRoute that says the same. Fields have the same
// paths in both. Only matches differ, and are asked for by match.
type form struct {
	*gatewayv1.HTTPRoute
	ref objects.Ref
	// grpc is the GRPCRoute that was read, else nil.
	grpc *gatewayv1.GRPCRoute
	// claims is how many of its parentRefs, the last ones, are default Gateways
	// that the route does not name.
	claims int
}

// claimed adds the default Gateways to the parentRefs of a form, which may be nil.
func (f *form) claimed(set *objects.Set, object objects.Object) *form {
	if f == nil {
		return nil
	}
	if claims := set.Claims(object); len(claims) > 0 {
		route := *f.HTTPRoute // the object itself is not to be edited
		route.Spec.ParentRefs = slices.Concat(route.Spec.ParentRefs, claims)
		f.HTTPRoute, f.claims = &route, len(claims)
	}
	return f
}

// routeIn returns the route of HTTP requests of that name with the Gateways that
// claim it; nil if there is none.
func routeIn(set *objects.Set, ref objects.Ref) *form {
	object := set.Get(ref)
	return formOf(object).claimed(set, object)
}

// isClaim reports whether a parentRef is a default Gateway that the route does not name.
func (f *form) isClaim(parent int) bool { return parent >= len(f.Spec.ParentRefs)-f.claims }

// parentField is the path of what a parentRef comes from.
func (f *form) parentField(parent int) string {
	if f.isClaim(parent) {
		return "spec.useDefaultGateways"
	}
	return fmt.Sprintf("spec.parentRefs[%d]", parent)
}

// checkDefaults refuses scopes that the API does not have.
func (f *form) checkDefaults(rep *report, refused *verdict) {
	switch f.Spec.UseDefaultGateways {
	case "", gatewayv1.GatewayDefaultScopeNone, gatewayv1.GatewayDefaultScopeAll:
	default:
		rep.fail(refused, Finding{Field: "spec.useDefaultGateways", Message: fmt.Sprintf("%q is no scope", f.Spec.UseDefaultGateways), Want: "All or None",
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonUnsupportedValue)})
	}
}

// isForm reports whether objects of a kind are routes of HTTP requests.
func isForm(kind string) bool { return kind == "HTTPRoute" || kind == "GRPCRoute" }

// isRoute reports whether objects of a kind are routes.
func isRoute(kind string) bool { return isForm(kind) || isStream(kind) }

// formOf returns nil for what is no route of HTTP requests, and for nil.
func formOf(object objects.Object) *form {
	switch o := object.(type) {
	case *gatewayv1.HTTPRoute:
		if len(o.Spec.Rules) == 0 {
			// The default of HTTPRouteSpec.rules, which a route lacks that no API server saw.
			o = o.DeepCopy()
			o.Spec.Rules = []gatewayv1.HTTPRouteRule{{}}
		}
		return &form{HTTPRoute: o, ref: objects.RefOf(o)}
	case *gatewayv1.GRPCRoute:
		h := &gatewayv1.HTTPRoute{ObjectMeta: o.ObjectMeta}
		h.Spec.CommonRouteSpec, h.Spec.Hostnames = o.Spec.CommonRouteSpec, o.Spec.Hostnames
		for i := range o.Spec.Rules {
			from := &o.Spec.Rules[i]
			rule := gatewayv1.HTTPRouteRule{
				Name: from.Name, Matches: make([]gatewayv1.HTTPRouteMatch, len(from.Matches)),
				Filters: httpFilters(from.Filters), SessionPersistence: from.SessionPersistence,
			}
			for j := range from.BackendRefs {
				b := &from.BackendRefs[j]
				rule.BackendRefs = append(rule.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: httpFilters(b.Filters)})
			}
			h.Spec.Rules = append(h.Spec.Rules, rule)
		}
		return &form{HTTPRoute: h, ref: objects.RefOf(o), grpc: o}
	}
	return nil
}

func httpFilters(filters []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var list []gatewayv1.HTTPRouteFilter
	for _, f := range filters {
		list = append(list, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return list
}

// match compiles a match of a rule; findings' fields are relative to it.
func (f *form) match(rule, i int) (compiledMatch, []Finding) {
	if f.grpc == nil {
		m, findings := compileMatch(&matchesOr(f.Spec.Rules[rule].Matches)[i])
		return compiledMatch{index: i, match: m}, findings
	}
	return compileGRPCMatch(i, &matchesOr(f.grpc.Spec.Rules[rule].Matches)[i])
}

// matchesOr returns the one match that holds for every request if there are none.
func matchesOr[M any](matches []M) []M {
	if len(matches) == 0 {
		return make([]M, 1)
	}
	return matches
}

// The names that an exact match may have, as the CRD says.
var (
	grpcService = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// compileGRPCMatch compiles a match on service, method and headers to one on
// the path, which is "/service/method" in gRPC over HTTP/2.
func compileGRPCMatch(index int, m *gatewayv1.GRPCRouteMatch) (compiledMatch, []Finding) {
	var findings []Finding
	fail := func(field, message, want string) {
		findings = append(findings, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonUnsupportedValue)})
	}
	out := compiledMatch{index: index, match: snapshot.Match{Path: snapshot.PathMatch{Type: string(gatewayv1.PathMatchPathPrefix), Value: "/"}}}
	if m.Method != nil {
		kind, service, method := gatewayv1.GRPCMethodMatchExact, "", ""
		if m.Method.Type != nil {
			kind = *m.Method.Type
		}
		if m.Method.Service != nil {
			service = *m.Method.Service
		}
		if m.Method.Method != nil {
			method = *m.Method.Method
		}
		if kind == gatewayv1.GRPCMethodMatchExact {
			out.grpc = grpcRank{service: len(service), method: len(method)}
		} else {
			out.grpc = grpcRank{servicePattern: len(service), methodPattern: len(method)}
		}
		if service == "" && method == "" {
			fail(".method", "it has neither service nor method", "one of the two, or both")
		}
		switch kind {
		case gatewayv1.GRPCMethodMatchExact:
			if service != "" && (len(service) > 1024 || !grpcService.MatchString(service)) {
				fail(".method.service", fmt.Sprintf("%q is no gRPC service", service), `a name such as "shop.v1.Orders"`)
			}
			if method != "" && (len(method) > 1024 || !grpcMethod.MatchString(method)) {
				fail(".method.method", fmt.Sprintf("%q is no gRPC method", method), `a name such as "Get"`)
			}
		case gatewayv1.GRPCMethodMatchRegularExpression:
			for _, field := range []struct{ name, pattern string }{{".method.service", service}, {".method.method", method}} {
				if message := checkPattern(field.pattern); message != "" {
					fail(field.name, message, "a regular expression in RE2's syntax")
				}
			}
		default:
			fail(".method.type", fmt.Sprintf("%q is not supported", kind), "Exact or RegularExpression")
		}
		out.match.Path = grpcPath(kind, service, method)
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		field := fmt.Sprintf(".headers[%d]", i)
		name := strings.ToLower(string(h.Name))
		if !isToken(name) {
			fail(field+".name", fmt.Sprintf("%q is no field name", h.Name), "letters, digits and !#$%&'*+-.^_`|~")
		}
		kind := string(gatewayv1.GRPCHeaderMatchExact)
		if h.Type != nil {
			kind = string(*h.Type)
		}
		out.match.Headers = appendValueMatch(out.match.Headers, name, kind, h.Value, field, fail)
	}
	return out, findings
}

// grpcPath is the match on the path for one on service and method; an empty
// one is any.
func grpcPath(kind gatewayv1.GRPCMethodMatchType, service, method string) snapshot.PathMatch {
	const anyName = "[^/]+"
	if kind == gatewayv1.GRPCMethodMatchRegularExpression {
		pattern := func(p string) string {
			if p == "" {
				return anyName
			}
			return "(?:" + p + ")"
		}
		return snapshot.PathMatch{Type: string(gatewayv1.PathMatchRegularExpression), Value: "/" + pattern(service) + "/" + pattern(method)}
	}
	switch {
	case service == "":
		return snapshot.PathMatch{Type: string(gatewayv1.PathMatchRegularExpression), Value: "/" + anyName + "/" + regexp.QuoteMeta(method)}
	case method == "":
		return snapshot.PathMatch{Type: string(gatewayv1.PathMatchPathPrefix), Value: "/" + service}
	}
	return snapshot.PathMatch{Type: string(gatewayv1.PathMatchExact), Value: "/" + service + "/" + method}
}
