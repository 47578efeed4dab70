package compile

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/cors"
)

// defaultMaxAge is HTTPCORSFilter.maxAge's, in seconds.
const defaultMaxAge = 5

func (c *ruleCompiler) compileCORS(f *gatewayv1.HTTPCORSFilter, field string) policy.Config {
	config := &cors.Config{
		AllowOrigins:     mapAll(f.AllowOrigins, func(o gatewayv1.CORSOrigin) string { return string(o) }),
		AllowCredentials: f.AllowCredentials != nil && *f.AllowCredentials,
		AllowMethods:     mapAll(f.AllowMethods, func(m gatewayv1.HTTPMethodWithWildcard) string { return string(m) }),
		AllowHeaders:     mapAll(f.AllowHeaders, func(n gatewayv1.HTTPHeaderName) string { return string(n) }),
		ExposeHeaders:    mapAll(f.ExposeHeaders, func(n gatewayv1.HTTPHeaderName) string { return string(n) }),
		MaxAge:           f.MaxAge,
	}
	if config.MaxAge == 0 {
		config.MaxAge = defaultMaxAge
	}
	// Each entry by itself, so that the finding says which one.
	fine := true
	check := func(at string, one cors.Config, want string) {
		one.MaxAge = max(one.MaxAge, defaultMaxAge)
		if err := one.Check(); err != nil {
			fine = false
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+at, cause(err), want)
		}
	}
	for i, o := range config.AllowOrigins {
		check(fmt.Sprintf(".allowOrigins[%d]", i), cors.Config{AllowOrigins: []string{o}},
			`an origin such as "https://shop.example.com", "https://*.example.com:8443", or "*" alone`)
	}
	for i, m := range config.AllowMethods {
		check(fmt.Sprintf(".allowMethods[%d]", i), cors.Config{AllowMethods: []string{m}}, `a method, or "*" alone`)
	}
	for i, n := range config.AllowHeaders {
		check(fmt.Sprintf(".allowHeaders[%d]", i), cors.Config{AllowHeaders: []string{n}}, `a field name, or "*" alone`)
	}
	for i, n := range config.ExposeHeaders {
		check(fmt.Sprintf(".exposeHeaders[%d]", i), cors.Config{ExposeHeaders: []string{n}}, `a field name, or "*"`)
	}
	if err := config.Check(); fine && err != nil {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, cause(err), `"*" without others, and a maxAge of a second or more`)
	}
	return config
}

// sharedCORS returns the rule's CORS filter, which may stand at the rule or at
// all of its backendRefs. A preflight is answered before a backend is chosen, so
// these have to agree.
func (c *ruleCompiler) sharedCORS(rule []policy.Config, backends [][]policy.Config, field string) []policy.Config {
	for i, own := range backends {
		at := fmt.Sprintf("%s[%d].filters", field, i)
		switch {
		case len(own) > 0 && len(rule) > 0:
			c.invalid(gatewayv1.RouteReasonIncompatibleFilters, at, "the rule has a CORS filter already", "one CORS filter")
		case !equalConfigs(own, backends[0]):
			c.invalid(gatewayv1.RouteReasonIncompatibleFilters, at,
				fmt.Sprintf("its CORS filter is not that of %s[0], and preflights are answered before a backend is chosen", field),
				"a CORS filter in the rule's filters")
		}
	}
	if len(backends) > 0 && len(backends[0]) > 0 {
		return backends[0]
	}
	return rule
}
