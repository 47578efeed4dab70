package integration_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/headgate/headgate/api/v1alpha1"
)

// TestExternalAuth asks an authorization server over TLS, whose authority is in a
// ClusterTrustBundle: by a rule's filter, by a policy at the Gateway, and by one
// that a rule names.
func TestExternalAuth(t *testing.T) {
	headgate := start(t, "externalauth", "127.0.0.1")
	apply(t, world("externalauth"))
	if err := kube.Create(t.Context(), endpoints("externalauth", serve(t, 1, version()))); err != nil {
		t.Fatal(err)
	}
	pair, authority, _ := identity(t, "authz.internal")
	// Not at loopback, where a Backend must not lead to in a cluster.
	address, err := instanceAddress(2)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	authz := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", "from "+r.URL.Path)
		if r.Header.Get("Authorization") != "let me in" {
			http.Error(w, "not you", http.StatusForbidden)
		}
	})}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}
	authz.StartTLS()
	t.Cleanup(authz.Close)
	apply(t, fmt.Sprintf(`
apiVersion: headgate.dev/v1alpha1
kind: Backend
metadata: {name: authz, namespace: externalauth}
spec: {endpoints: [{ip: %s, port: %d}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: authz, namespace: externalauth}
spec:
  targetRefs: [{group: headgate.dev, kind: Backend, name: authz}]
  validation: {hostname: authz.internal, caCertificateRefs: [{group: certificates.k8s.io, kind: ClusterTrustBundle, name: externalauth}]}
---
apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: named, namespace: externalauth}
spec: {external: {protocol: HTTP, backendRef: {group: headgate.dev, kind: Backend, name: authz}, http: {path: /named}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: externalauth}
spec:
  parentRefs: [{name: web}]
  rules:
  - matches: [{path: {value: /filter}}]
    filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {group: headgate.dev, kind: Backend, name: authz}, http: {path: /by}}}]
    backendRefs: [{name: app, port: 80}]
  - matches: [{path: {value: /named}}]
    filters: [{type: ExtensionRef, extensionRef: {group: headgate.dev, kind: AuthPolicy, name: named}}]
    backendRefs: [{name: app, port: 80}]
  - matches: [{path: {value: /policy}}]
    backendRefs: [{name: app, port: 80}]
`, l.Addr().(*net.TCPAddr).IP, l.Addr().(*net.TCPAddr).Port))
	at := headgate.address(t, types.NamespacedName{Namespace: "externalauth", Name: "web"}, 80)
	answers := func(path string, status int, body string, header ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s: %d %q", path, status, body), func() error {
			got, text, err := get(http.DefaultClient, at, "any", path, header...)
			if err != nil || got != status || body != "" && text != body {
				return fmt.Errorf("%d %q, %v", got, text, err)
			}
			return nil
		})
	}
	bundle := func(text string) {
		apply(t, fmt.Sprintf("apiVersion: certificates.k8s.io/v1\nkind: ClusterTrustBundle\nmetadata: {name: externalauth}\nspec: {trustBundle: %q}\n", text))
	}
	me := []string{"Authorization", "let me in"}

	// Nobody can be verified, so nobody is asked.
	answers("/filter", 503, "", me...)
	bundle(authority)
	answers("/filter", 200, "version from /by/filter", me...)
	answers("/filter", 403, "not you\n")
	answers("/named", 200, "version from /named/named", me...)
	answers("/named", 403, "not you\n")
	answers("/policy", 200, "version ")
	_, other, _ := identity(t, "authz.internal")
	bundle(other)
	answers("/filter", 503, "", me...)
	bundle(authority)
	answers("/filter", 200, "version from /by/filter", me...)

	apply(t, `
apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: gateway, namespace: externalauth}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  external: {protocol: HTTP, backendRef: {group: headgate.dev, kind: Backend, name: authz}, http: {path: /gateway}}
`)
	answers("/policy", 403, "not you\n")
	answers("/policy", 200, "version from /gateway/policy", me...)
	answers("/named", 200, "version from /named/named", me...)
	eventually(t, "the named policy tells which route names it", func() error {
		var p v1alpha1.AuthPolicy
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "externalauth", Name: "named"}, &p); err != nil {
			return err
		}
		if a := p.Status.Ancestors; len(a) != 1 || a[0].AncestorRef.Name != "app" || *a[0].AncestorRef.Kind != "HTTPRoute" {
			return fmt.Errorf("the ancestors are %v", a)
		}
		return nil
	})
}
