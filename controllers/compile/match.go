package compile

import (
	"cmp"
	"fmt"
	"regexp/syntax"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// entry is one match of a rule among those of a virtual host.
type entry struct {
	route *snapshot.Route
	grpc  grpcRank
	// origin is the route's hostname that led here; it is more than the virtual
	// host's where the listener's hostname is the more specific one.
	origin string
	// owner is the route's "namespace/name", created when it came to be,
	// in seconds; rule and match are indexes into it.
	owner       string
	created     int64
	rule, match int
}

// grpcRank is how long the names of a GRPCRoute's match are, those that are
// given as they are and those that are patterns; zero for an HTTPRoute.
type grpcRank struct{ service, servicePattern, method, methodPattern int }

// comparePrecedence orders by HTTPRouteSpec.hostnames, of the routes as they are
// written, and then by HTTPRouteRule.matches: the first of two entries
// that match a request takes it. Regular expressions, whose place the Gateway
// API leaves open, come between exact paths and prefixes, the longer first.
// GRPCRoutes, which never share a virtual host with HTTPRoutes, go by
// GRPCRouteRule.matches: service, method, headers, and then as the others.
func comparePrecedence(a, b *entry) int {
	x, y := &a.route.Match, &b.route.Match
	if order := compareSpecificity(a.origin, b.origin); order != 0 {
		return order
	}
	if order := cmp.Or(
		cmp.Compare(b.grpc.service, a.grpc.service), cmp.Compare(b.grpc.servicePattern, a.grpc.servicePattern),
		cmp.Compare(b.grpc.method, a.grpc.method), cmp.Compare(b.grpc.methodPattern, a.grpc.methodPattern),
	); order != 0 {
		return order
	}
	return cmp.Or(
		cmp.Compare(pathRank(x.Path.Type), pathRank(y.Path.Type)),
		lengthIfPattern(y.Path)-lengthIfPattern(x.Path),
		cmp.Compare(present(y.Method), present(x.Method)),
		cmp.Compare(len(y.Headers), len(x.Headers)),
		cmp.Compare(len(y.Query), len(x.Query)),
		cmp.Compare(a.created, b.created),
		cmp.Compare(a.owner, b.owner),
		cmp.Compare(a.rule, b.rule),
		cmp.Compare(a.match, b.match),
	)
}

func pathRank(kind string) int {
	switch gatewayv1.PathMatchType(kind) {
	case gatewayv1.PathMatchExact:
		return 0
	case gatewayv1.PathMatchRegularExpression:
		return 1
	}
	return 2
}

// lengthIfPattern leaves exact paths alone: of two that match a request,
// neither is longer.
func lengthIfPattern(p snapshot.PathMatch) int {
	if p.Type == string(gatewayv1.PathMatchExact) {
		return 0
	}
	return len(p.Value)
}

func present(s string) int { return min(len(s), 1) }

// maxPattern bounds regular expressions and values, as the Gateway API's CRDs do.
const maxPattern = 4096

// compileMatch compiles a match; findings' fields are relative to it.
func compileMatch(m *gatewayv1.HTTPRouteMatch) (snapshot.Match, []Finding) {
	var findings []Finding
	fail := func(field, message, want string) {
		findings = append(findings, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(gatewayv1.RouteReasonUnsupportedValue)})
	}
	out := snapshot.Match{Path: snapshot.PathMatch{Type: string(gatewayv1.PathMatchPathPrefix), Value: "/"}}
	if m.Path != nil {
		if m.Path.Type != nil {
			out.Path.Type = string(*m.Path.Type)
		}
		if m.Path.Value != nil {
			out.Path.Value = *m.Path.Value
		}
		switch gatewayv1.PathMatchType(out.Path.Type) {
		case gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix:
			if message := checkMatchPath(out.Path.Value); message != "" {
				fail(".path.value", message, `a path that begins with "/", without empty segments, "." or ".."`)
			}
			if out.Path.Type == string(gatewayv1.PathMatchPathPrefix) && len(out.Path.Value) > 1 {
				out.Path.Value = strings.TrimSuffix(out.Path.Value, "/") // it says nothing, PathMatchPathPrefix
			}
		case gatewayv1.PathMatchRegularExpression:
			if message := checkPattern(out.Path.Value); message != "" {
				fail(".path.value", message, "a regular expression in RE2's syntax")
			}
		default:
			fail(".path.type", fmt.Sprintf("%q is not supported", out.Path.Type), "Exact, PathPrefix or RegularExpression")
		}
	}
	if m.Method != nil {
		out.Method = string(*m.Method)
		if !slices.Contains(methods, *m.Method) {
			fail(".method", fmt.Sprintf("%q is not supported", *m.Method), "a method of RFC 9110 or PATCH, in upper case")
		}
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		field := fmt.Sprintf(".headers[%d]", i)
		name := strings.ToLower(string(h.Name))
		if !isToken(name) {
			fail(field+".name", fmt.Sprintf("%q is no field name", h.Name), "letters, digits and !#$%&'*+-.^_`|~")
		}
		kind := string(gatewayv1.HeaderMatchExact)
		if h.Type != nil {
			kind = string(*h.Type)
		}
		out.Headers = appendValueMatch(out.Headers, name, kind, h.Value, field, fail)
	}
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		field := fmt.Sprintf(".queryParams[%d]", i)
		if q.Name == "" {
			fail(field+".name", "it is empty", "a query parameter's name")
		}
		kind := string(gatewayv1.QueryParamMatchExact)
		if q.Type != nil {
			kind = string(*q.Type)
		}
		out.Query = appendValueMatch(out.Query, string(q.Name), kind, q.Value, field, fail)
	}
	return out, findings
}

var methods = []gatewayv1.HTTPMethod{
	gatewayv1.HTTPMethodGet, gatewayv1.HTTPMethodHead, gatewayv1.HTTPMethodPost, gatewayv1.HTTPMethodPut,
	gatewayv1.HTTPMethodDelete, gatewayv1.HTTPMethodConnect, gatewayv1.HTTPMethodOptions, gatewayv1.HTTPMethodTrace,
	gatewayv1.HTTPMethodPatch,
}

// appendValueMatch adds a match unless there is one for that name: the first
// entry holds, HTTPHeaderMatch.name and HTTPQueryParamMatch.name.
func appendValueMatch(list []snapshot.ValueMatch, name, kind, value, field string, fail func(field, message, want string)) []snapshot.ValueMatch {
	switch kind {
	case "Exact":
	case "RegularExpression":
		if message := checkPattern(value); message != "" {
			fail(field+".value", message, "a regular expression in RE2's syntax")
		}
	default:
		fail(field+".type", fmt.Sprintf("%q is not supported", kind), "Exact or RegularExpression")
	}
	if slices.ContainsFunc(list, func(m snapshot.ValueMatch) bool { return m.Name == name }) {
		return list
	}
	return append(list, snapshot.ValueMatch{Name: name, Type: kind, Value: value})
}

// checkPattern says what is wrong with a regular expression, "" if nothing is.
func checkPattern(pattern string) string {
	if len(pattern) > maxPattern {
		return fmt.Sprintf("it has %d bytes, more than %d", len(pattern), maxPattern)
	}
	if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
		return err.Error()
	}
	return ""
}

// checkMatchPath says what is wrong with an exact or prefix path, "" if
// nothing is. The rules are those of HTTPPathMatch: such a path could never
// match, as the requests' paths are normalised.
func checkMatchPath(path string) string {
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Sprintf("%q does not begin with /", path)
	case len(path) > 1024:
		return fmt.Sprintf("it has %d bytes, more than 1024", len(path))
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F", "#", "?"} {
		if strings.Contains(path, bad) {
			return fmt.Sprintf("%q contains %q", path, bad)
		}
	}
	for _, bad := range []string{"/..", "/."} {
		if strings.HasSuffix(path, bad) {
			return fmt.Sprintf("%q ends with %q", path, bad)
		}
	}
	return ""
}

// isToken reports whether name is a field name, RFC 9110 section 5.6.2.
func isToken(name string) bool {
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return name != ""
}
