//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestIsolation has two owners with a Gateway each, of one name, port and
// hostname, in namespaces of their own: over TLS, neither sees the other's
// certificate, routes or policies, and what one refers to in the other's
// namespace resolves by its grant only. That no kind of reference gets around
// grants is held by a table in controllers/compile.
func TestIsolation(t *testing.T) {
	install(t)
	red, blue := newOwner(t, "red"), newOwner(t, "blue")

	// Red guards its Gateway, with a key in its namespace.
	apply(t, `
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: red}
stringData: {alice: the-key-of-alice}
---
apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: guard, namespace: red}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  apiKey: {secretRefs: [{name: keys}]}
`)
	red.eventually(t, "/", "", 401, "")
	red.eventually(t, "/", "the-key-of-alice", 200, "red-")
	blue.eventually(t, "/", "", 200, "blue-")

	// Blue tries to get at what is red's.
	apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: intruder, namespace: blue}
spec:
  parentRefs: [{name: web, namespace: red}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{path: {value: /intruder}}]
    backendRefs: [{name: shop, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: thief, namespace: blue}
spec:
  parentRefs: [{name: web}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{path: {value: /thief}}]
    backendRefs: [{name: shop, namespace: red, port: 80}]
---
apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: opener, namespace: blue}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}]
  apiKey: {secretRefs: [{name: keys}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: forger, namespace: blue}
spec:
  gatewayClassName: headgate
  listeners:
  - name: https
    port: 443
    protocol: HTTPS
    tls: {certificateRefs: [{name: tls, namespace: red}]}
`)
	// The policy whose keys are red's lets nobody in, with such a key or without.
	blue.eventually(t, "/", "", 500, "")
	blue.always(t, "/", "the-key-of-alice", 500, "")
	kubectl(t, "-n", "blue", "delete", "authpolicy/opener")
	blue.eventually(t, "/thief", "", 500, "")
	red.always(t, "/intruder", "the-key-of-alice", 200, "red-")
	eventually(t, "blue's listener is told that it may not have red's certificate", func() error {
		reason := kubectl(t, "-n", "blue", "get", "gateway/forger", "-o",
			`jsonpath={.status.listeners[0].conditions[?(@.type=="ResolvedRefs")].reason}`)
		if reason != "RefNotPermitted" {
			return fmt.Errorf("the reason is %q", reason)
		}
		return nil
	})

	// Red grants both, and takes it back.
	apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: blue, namespace: red}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: blue}
  - {group: gateway.networking.k8s.io, kind: Gateway, namespace: blue}
  to:
  - {group: "", kind: Service, name: shop}
  - {group: "", kind: Secret, name: tls}
`)
	blue.eventually(t, "/thief", "", 200, "red-")
	forger := &owner{name: "blue", roots: red.roots}
	forger.address, _ = serviceOf(t, "blue", "forger", 443)
	forger.eventually(t, "/", "", 404, "")
	kubectl(t, "-n", "red", "delete", "referencegrant/blue")
	blue.eventually(t, "/thief", "", 500, "")
	eventually(t, "red's certificate is served by blue no more", func() error {
		if status, _, err := forger.ask("/", ""); err == nil {
			return fmt.Errorf("answered %d", status)
		}
		return nil
	})
	blue.always(t, "/", "", 200, "blue-")
	red.always(t, "/", "", 401, "")
}

// owner has a Gateway and a backend in a namespace of its own.
type owner struct {
	name    string
	address string
	roots   *x509.CertPool // trust its certificate and no other
}

func newOwner(t *testing.T, name string) *owner {
	t.Helper()
	createNamespace(t, name)
	o := &owner{name: name, roots: x509.NewCertPool()}
	certificate, key := newCertificate(t, o.roots, shopHost)
	// The pods' names begin with the Deployment's.
	deployment := strings.NewReplacer("name: shop,", "name: "+name+",", "app: shop", "app: "+name, "replicas: 3", "replicas: 1")
	service, pods, _ := strings.Cut(backend(name, "shop", "0s"), "apiVersion: apps/v1")
	apply(t, secret(name, "tls", certificate, key)+
		strings.ReplaceAll(service, "app: shop", "app: "+name)+"apiVersion: apps/v1"+deployment.Replace(pods)+fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: %[1]s}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: https, hostname: %[2]s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: %[1]s}
spec:
  parentRefs: [{name: web}]
  hostnames: [%[2]s]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
`, name, shopHost))
	o.address, _ = serviceOf(t, name, "web", 443)
	o.eventually(t, "/", "", 200, name+"-")
	return o
}

// ask sends a request, over a connection of its own, as who trusts the owner's
// certificate alone.
func (o *owner) ask(path, key string) (status int, body string, err error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 30 * time.Second}, "tcp", o.address, &tls.Config{RootCAs: o.roots, ServerName: shopHost})
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequest("GET", "https://"+shopHost+path, nil)
	if err != nil {
		return 0, "", err
	}
	if key != "" {
		request.Header.Set("X-API-Key", key)
	}
	response, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// check asks once. The body is to begin with who answers.
func (o *owner) check(path, key string, status int, by string) error {
	got, body, err := o.ask(path, key)
	if err != nil {
		return err
	}
	if got != status || !strings.HasPrefix(body, by) {
		return fmt.Errorf("%s%s: got %d %.80q, want %d by %q", o.name, path, got, body, status, by)
	}
	return nil
}

// eventually waits until it is so at every replica.
func (o *owner) eventually(t *testing.T, path, key string, status int, by string) {
	t.Helper()
	inRow := 0
	eventually(t, o.name+path, func() error {
		for inRow < 10 {
			if err := o.check(path, key, status, by); err != nil {
				inRow = 0
				return err
			}
			inRow++
		}
		return nil
	})
}

// always checks that it is so already.
func (o *owner) always(t *testing.T, path, key string, status int, by string) {
	t.Helper()
	for range 10 {
		if err := o.check(path, key, status, by); err != nil {
			t.Error(err)
		}
	}
}
