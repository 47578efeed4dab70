package compile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/headers"
	"github.com/headgate/headgate/dataplane/policy/redirect"
	"github.com/headgate/headgate/dataplane/policy/rewrite"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// ownFilters are a rule's or backendRef's Gateway API filters, in the order
// in which they are specified.
type ownFilters struct {
	configs []policy.Config
	// cors is the CORS filter, if there is one. It has a place of its own.
	cors []policy.Config
	// auth is the ExternalAuth filter, whose place is another one.
	auth    []policy.Config
	mirrors []snapshot.Mirror
	// redirects says that every request is answered with a redirection.
	redirects bool
	// extensions are the policies that ExtensionRef filters name.
	extensions []objects.Ref
	// broken, if not "", says why nothing may be let through.
	broken string
}

// forPort returns filters as a listener with this port has them: a redirect
// without scheme and port goes to the listener's port, HTTPRequestRedirectFilter.port.
func forPort(configs []policy.Config, port uint16) []policy.Config {
	i := slices.IndexFunc(configs, func(c policy.Config) bool {
		r, ok := c.(*redirect.Config)
		return ok && r.Scheme == "" && r.Port == 0
	})
	if i < 0 {
		return configs
	}
	there := *configs[i].(*redirect.Config)
	there.ListenerPort = port
	configs = slices.Clone(configs)
	configs[i] = &there
	return configs
}

// filterPlace is where a list of filters stands.
type filterPlace struct {
	field string // "spec.rules[0].filters"
	// prefixes says that all matches of the rule are prefixes.
	prefixes bool
	// backend says that they are a backendRef's.
	backend bool
}

// compileFilters compiles a list of filters. A filter that Headgate does not
// have, and a combination that makes no sense, invalidates the rule: it is
// answered 500, never served without the filter.
func (c *ruleCompiler) compileFilters(filters []gatewayv1.HTTPRouteFilter, at filterPlace) ownFilters {
	var own ownFilters
	seen := map[gatewayv1.HTTPRouteFilterType]int{}
	for i := range filters {
		f := &filters[i]
		field := fmt.Sprintf("%s[%d]", at.field, i)
		if first, again := seen[f.Type]; again && f.Type != gatewayv1.HTTPRouteFilterRequestMirror && f.Type != gatewayv1.HTTPRouteFilterExtensionRef {
			c.invalid(gatewayv1.RouteReasonIncompatibleFilters, field+".type",
				fmt.Sprintf("there is a %s in %s[%d] already", f.Type, at.field, first), "one filter of the type")
			continue
		}
		seen[f.Type] = i
		switch {
		case f.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			own.configs = append(own.configs, &headers.Config{
				Request: c.compileEdit(f.RequestHeaderModifier, field+".requestHeaderModifier", true)})
		case f.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			own.configs = append(own.configs, &headers.Config{
				Response: c.compileEdit(f.ResponseHeaderModifier, field+".responseHeaderModifier", false)})
		case f.Type == gatewayv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
			own.configs = append(own.configs, c.compileRewrite(f.URLRewrite, field+".urlRewrite", at.prefixes))
		case f.Type == gatewayv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
			own.redirects = true
			own.configs = append(own.configs, c.compileRedirect(f.RequestRedirect, field+".requestRedirect", at.prefixes))
		case f.Type == gatewayv1.HTTPRouteFilterRequestMirror && f.RequestMirror != nil:
			if mirror, ok := c.compileMirror(f.RequestMirror, field+".requestMirror"); ok {
				own.mirrors = append(own.mirrors, mirror)
			}
		case f.Type == gatewayv1.HTTPRouteFilterCORS && f.CORS != nil:
			own.cors = []policy.Config{c.compileCORS(f.CORS, field+".cors")}
		case f.Type == gatewayv1.HTTPRouteFilterExternalAuth && f.ExternalAuth != nil:
			var broken string
			own.auth, broken = c.compileExternalAuth(f.ExternalAuth, field+".externalAuth")
			own.broken = cmp.Or(own.broken, broken)
		case f.Type == gatewayv1.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil && at.backend:
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".extensionRef", "a policy holds for a rule, not for one backendRef's share of it", "the filter among those of the rule")
		case f.Type == gatewayv1.HTTPRouteFilterExtensionRef && f.ExtensionRef != nil:
			extension, broken := c.compileExtensionRef(f.ExtensionRef, field+".extensionRef")
			own.broken = cmp.Or(own.broken, broken)
			if broken == "" {
				own.extensions = append(own.extensions, extension)
			}
		default:
			c.refuseFilter(f, field)
		}
	}
	if r, ok := seen[gatewayv1.HTTPRouteFilterRequestRedirect]; ok {
		if w, ok := seen[gatewayv1.HTTPRouteFilterURLRewrite]; ok {
			c.invalid(gatewayv1.RouteReasonIncompatibleFilters, fmt.Sprintf("%s[%d]", at.field, w),
				fmt.Sprintf("URLRewrite excludes the RequestRedirect in %s[%d]", at.field, r), "one of the two")
		}
	}
	return own
}

// refuseFilter explains why a filter is not one of those that are supported.
func (c *ruleCompiler) refuseFilter(f *gatewayv1.HTTPRouteFilter, field string) {
	want := "RequestHeaderModifier, ResponseHeaderModifier, URLRewrite, RequestRedirect, RequestMirror, CORS, ExternalAuth or ExtensionRef"
	if c.object.grpc != nil {
		want = "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror or ExtensionRef"
	}
	name := string(f.Type)
	supported := slices.Contains(strings.FieldsFunc(want, func(r rune) bool { return r == ' ' || r == ',' }), name)
	switch {
	case supported:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, fmt.Sprintf("type is %s, but %s is missing", name, lowerFirst(name)), lowerFirst(name))
	default:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".type", fmt.Sprintf("%q is not supported", name), want)
	}
}

// cause returns what is wrong without where: the field path says that.
func cause(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

func lowerFirst(s string) string {
	if strings.HasPrefix(s, "URL") {
		return "url" + s[3:]
	}
	if s == "CORS" {
		return "cors"
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// compileEdit compiles a header modifier. One name may have one action only,
// HTTPHeaderFilter; of equal names in one list the first holds, HTTPHeader.name.
func (c *ruleCompiler) compileEdit(f *gatewayv1.HTTPHeaderFilter, field string, request bool) headers.Edit {
	var edit headers.Edit
	action := map[string]string{}
	// claim reports whether the entry is the first of its name.
	claim := func(list string, i int, name, suffix string) bool {
		key := strings.ToLower(name)
		if other, taken := action[key]; taken {
			if other != list {
				c.invalid(gatewayv1.RouteReasonUnsupportedValue, fmt.Sprintf("%s.%s[%d]%s", field, list, i, suffix),
					fmt.Sprintf("%s is in %s.%s too", name, field, other), "one action per header")
			}
			return false
		}
		action[key] = list
		return true
	}
	lines := func(list string, from []gatewayv1.HTTPHeader) (to []headers.Field) {
		for i, h := range from {
			if !claim(list, i, string(h.Name), ".name") {
				continue
			}
			line := headers.Field{Name: string(h.Name), Value: h.Value}
			one := headers.Edit{Add: []headers.Field{line}}
			if list == "set" {
				one = headers.Edit{Set: one.Add}
			}
			c.checkEdit(one, request, fmt.Sprintf("%s.%s[%d]", field, list, i))
			to = append(to, line)
		}
		return to
	}
	edit.Set = lines("set", f.Set)
	edit.Add = lines("add", f.Add)
	for i, name := range f.Remove {
		if claim("remove", i, name, "") {
			c.checkEdit(headers.Edit{Remove: []string{name}}, request, fmt.Sprintf("%s.remove[%d]", field, i))
			edit.Remove = append(edit.Remove, name)
		}
	}
	return edit
}

func (c *ruleCompiler) checkEdit(edit headers.Edit, request bool, field string) {
	config := headers.Config{Response: edit}
	if request {
		config = headers.Config{Request: edit}
	}
	if err := config.Check(); err != nil {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, cause(err), "a header that may be edited, and a value without control characters")
	}
}

func (c *ruleCompiler) compileRewrite(f *gatewayv1.HTTPURLRewriteFilter, field string, prefixes bool) policy.Config {
	config := &rewrite.Config{}
	if f.Hostname != nil {
		config.Hostname = c.compileFilterHostname(*f.Hostname, field)
	}
	config.FullPath, config.Prefix = c.compilePathModifier(f.Path, field+".path", prefixes)
	if err := config.Check(); err != nil && c.ok() {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, cause(err), "a hostname and a path that can be sent")
	}
	return config
}

func (c *ruleCompiler) compileFilterHostname(name gatewayv1.PreciseHostname, field string) string {
	if !validHostname(string(name), false) {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".hostname", fmt.Sprintf("%q is no hostname", name), "a DNS name without a wildcard")
	}
	return strings.ToLower(string(name))
}

func (c *ruleCompiler) compilePathModifier(m *gatewayv1.HTTPPathModifier, field string, prefixes bool) (full, prefix *string) {
	switch {
	case m == nil:
	case m.Type == gatewayv1.FullPathHTTPPathModifier && m.ReplaceFullPath != nil && m.ReplacePrefixMatch == nil:
		return m.ReplaceFullPath, nil
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil && m.ReplaceFullPath == nil:
		if !prefixes {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".type", "ReplacePrefixMatch needs PathPrefix matches, and the rule has others",
				"ReplaceFullPath, or matches of type PathPrefix only")
		}
		return nil, m.ReplacePrefixMatch
	case m.Type == gatewayv1.FullPathHTTPPathModifier:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, "type ReplaceFullPath goes with replaceFullPath alone", "replaceFullPath, and no replacePrefixMatch")
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, "type ReplacePrefixMatch goes with replacePrefixMatch alone", "replacePrefixMatch, and no replaceFullPath")
	default:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".type", fmt.Sprintf("%q is not supported", m.Type), "ReplaceFullPath or ReplacePrefixMatch")
	}
	return nil, nil
}

func (c *ruleCompiler) compileRedirect(f *gatewayv1.HTTPRequestRedirectFilter, field string, prefixes bool) policy.Config {
	config := &redirect.Config{}
	if f.Scheme != nil {
		config.Scheme = *f.Scheme
		if config.Scheme != "http" && config.Scheme != "https" {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".scheme", fmt.Sprintf("%q is not supported", config.Scheme), "http or https")
		}
	}
	if f.Hostname != nil {
		config.Hostname = c.compileFilterHostname(*f.Hostname, field)
	}
	if f.Port != nil {
		config.Port = uint16(*f.Port)
		if *f.Port < 1 || *f.Port > 65535 {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".port", fmt.Sprintf("%d is no port", *f.Port), "1 to 65535")
		}
	}
	config.StatusCode = 302
	if f.StatusCode != nil {
		config.StatusCode = *f.StatusCode
		if !slices.Contains([]int{301, 302, 303, 307, 308}, config.StatusCode) {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".statusCode", fmt.Sprintf("%d is not supported", config.StatusCode), "301, 302, 303, 307 or 308")
		}
	}
	config.FullPath, config.Prefix = c.compilePathModifier(f.Path, field+".path", prefixes)
	if err := config.Check(); err != nil && c.ok() {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, cause(err), "a location that can be sent")
	}
	return config
}

// compileMirror compiles a mirror. One that does not resolve is left out, and
// the rule serves without it, HTTPRequestMirrorFilter.backendRef.
func (c *ruleCompiler) compileMirror(f *gatewayv1.HTTPRequestMirrorFilter, field string) (snapshot.Mirror, bool) {
	mirror := snapshot.Mirror{Numerator: 100, Denominator: 100}
	switch {
	case f.Percent != nil && f.Fraction != nil:
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, "percent and fraction exclude each other", "one of the two")
	case f.Percent != nil:
		mirror.Numerator = uint32(*f.Percent)
		if *f.Percent < 0 || *f.Percent > 100 {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".percent", fmt.Sprintf("%d is no percentage", *f.Percent), "0 to 100")
		}
	case f.Fraction != nil:
		denominator := int32(100)
		if f.Fraction.Denominator != nil {
			denominator = *f.Fraction.Denominator
		}
		if f.Fraction.Numerator < 0 || denominator < 1 || f.Fraction.Numerator > denominator {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".fraction",
				fmt.Sprintf("%d/%d is not between 0 and 1", f.Fraction.Numerator, denominator), "a numerator from 0 to the denominator")
		}
		mirror.Numerator, mirror.Denominator = uint32(f.Fraction.Numerator), uint32(denominator)
	}
	use, ok := c.resolve(&f.BackendRef, field+".backendRef")
	if !ok || mirror.Numerator == 0 {
		return mirror, false
	}
	c.uses(use)
	mirror.Cluster = use.cluster.Key
	return mirror, true
}
