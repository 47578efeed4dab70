package compile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/extauth"
)

// defaultAuthTimeout is how long an authorization server's answer is waited for.
const defaultAuthTimeout = 5 * time.Second

// external compiles an AuthPolicy's stanza. Its cluster is found later, see
// policies.resolve.
func (c *policyCompiler) external(spec *v1alpha1.ExternalAuth) {
	const field = "spec.external"
	before := len(c.findings)
	if spec.Disabled {
		if !equal(*spec, v1alpha1.ExternalAuth{Disabled: true}) {
			c.invalid(field+".disabled", "it excludes all else", "disabled alone, or without it")
		}
		c.guards(stanzaExternal, nil, before)
		return
	}
	if spec.BackendRef == nil {
		c.invalid(field+".backendRef", "there is none", "the authorization server")
		c.guards(stanzaExternal, nil, before)
		return
	}
	config := readExternalAuth(&gatewayv1.HTTPExternalAuthFilter{
		ExternalAuthProtocol: spec.Protocol, BackendRef: *spec.BackendRef,
		GRPCAuthConfig: spec.GRPC, HTTPAuthConfig: spec.HTTP, ForwardBody: spec.ForwardBody,
	}, func(at, message, want string) { c.invalid(field+at, message, want) })
	config.Timeout = c.duration(field+".timeout", spec.Timeout, defaultAuthTimeout, 10*time.Millisecond, time.Minute)
	config.FailOpen = spec.FailOpen
	config.Policy = c.ref.Kind + "/" + c.ref.Namespace + "/" + c.ref.Name
	c.guards(stanzaExternal, config, before)
	if len(c.findings) == before {
		c.servers = append(c.servers, server{field + ".backendRef", spec.BackendRef, stanzaExternal})
	}
}

// compileExternalAuth compiles the filter of a rule or backendRef. One whose
// server does not resolve lets nothing through: then it returns why.
func (c *ruleCompiler) compileExternalAuth(f *gatewayv1.HTTPExternalAuthFilter, field string) (configs []policy.Config, broken string) {
	before := c.refused
	config := readExternalAuth(f, func(at, message, want string) {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+at, message, want)
	})
	config.Timeout = defaultAuthTimeout
	config.Policy = c.object.ref.Kind + "/" + c.object.Namespace + "/" + c.object.Name
	if c.refused != before {
		return nil, c.refused.message
	}
	use, wrong := resolveServer(c.frame, c.set, c.report.object, &f.BackendRef, field+".backendRef", config)
	if wrong != nil {
		c.report.fail(&c.route.resolved, *wrong)
		return nil, wrong.String()
	}
	c.uses(use)
	return []policy.Config{config}, ""
}

// resolveServer finds an authorization server's cluster.
func resolveServer(f *frame, set *objects.Set, from objects.Ref, ref *gatewayv1.BackendObjectReference, field string, config *extauth.Config) (clusterUse, *Finding) {
	r := resolver{frame: f, set: set, from: from}
	if config.Protocol == extauth.GRPC {
		r.protocol = "h2c"
	}
	use, wrong := r.resolve(ref, field)
	if wrong != nil {
		return use, wrong
	}
	config.Cluster = use.cluster.Key
	if config.Protocol == extauth.GRPC {
		config.Authority = authorityOf(set, use)
	}
	return use, nil
}

// authorityOf is what a backend is called by who has only a reference to it:
// the name that TLS verifies, else a Service's name or the hostname of a Backend or XBackend.
func authorityOf(set *objects.Set, use clusterUse) string {
	if t := use.cluster.TLS; t != nil && t.ServerName != "" {
		return t.ServerName
	}
	if b := objects.Get[*v1alpha1.Backend](set, use.backend.Namespace, use.backend.Name); b != nil && use.backend.Kind == "Backend" {
		for _, e := range b.Spec.Endpoints {
			if e.Hostname != nil {
				return *e.Hostname
			}
		}
	}
	if x := objects.Get[*gatewayxv1alpha1.XBackend](set, use.backend.Namespace, use.backend.Name); use.backend.Kind == "XBackend" && x != nil && x.Spec.ExternalHostname != nil {
		return string(x.Spec.ExternalHostname.Hostname)
	}
	return use.backend.Name + "." + use.backend.Namespace + ".svc"
}

// readExternalAuth reads what the Gateway API says of an authorization server.
// fail reports a field below it.
func readExternalAuth(f *gatewayv1.HTTPExternalAuthFilter, fail func(at, message, want string)) *extauth.Config {
	config := &extauth.Config{Protocol: string(f.ExternalAuthProtocol)}
	names := func(at string, list []string, check func(string) error, want string) []string {
		var names []string
		for i, name := range list {
			if err := check(name); err != nil {
				fail(fmt.Sprintf("%s[%d]", at, i), err.Error(), want)
			}
			names = append(names, strings.ToLower(name))
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	token := func(name string) error {
		if !isToken(name) {
			return fmt.Errorf("%q is no field name", name)
		}
		return nil
	}
	switch f.ExternalAuthProtocol {
	case gatewayv1.HTTPRouteExternalAuthGRPCProtocol:
		if f.HTTPAuthConfig != nil {
			fail(".http", "the protocol is GRPC", "grpc")
		}
		if g := f.GRPCAuthConfig; g != nil {
			config.RequestHeaders = names(".grpc.allowedHeaders", g.AllowedRequestHeaders, token, "a field name")
		}
	case gatewayv1.HTTPRouteExternalAuthHTTPProtocol:
		if f.GRPCAuthConfig != nil {
			fail(".grpc", "the protocol is HTTP", "http")
		}
		if h := f.HTTPAuthConfig; h != nil {
			config.Path = authPath(h.Path, fail)
			config.RequestHeaders = names(".http.allowedHeaders", h.AllowedRequestHeaders, token, "a field name")
			config.ResponseHeaders = names(".http.allowedResponseHeaders", h.AllowedResponseHeaders, extauth.CheckHeader,
				"a field that the authorization server may set")
		}
	default:
		fail(".protocol", fmt.Sprintf("%q is not supported", f.ExternalAuthProtocol), "HTTP or GRPC")
	}
	if f.ForwardBody != nil {
		config.MaxBody = int64(f.ForwardBody.MaxSize)
	}
	return config
}

// authPath is a prefix of paths: it begins with a slash and ends with none, or
// it is empty. It has no dot segments, which a server might resolve.
func authPath(path string, fail func(at, message, want string)) string {
	path = strings.TrimRight(path, "/")
	if path == "" {
		return ""
	}
	if path[0] != '/' {
		path = "/" + path
	}
	if err := exchange.CheckPath(path); err != nil {
		fail(".http.path", cause(err), "a path that can be sent")
	} else if dots := strings.ReplaceAll(strings.ToLower(path), "%2e", "."); slices.ContainsFunc(strings.Split(dots, "/"), func(s string) bool { return s == "." || s == ".." }) {
		fail(".http.path", fmt.Sprintf("%q has dot segments", path), "a path without . and ..")
	}
	return path
}
