//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/hack/e2e/load"
)

// shop is a Gateway with two backends behind it: steady, whose pods serve on
// for a while when they are told to end, and abrupt, whose pods do not.
type shop struct {
	namespace string
	plain     string // address of listener http
	secure    string // address of listener https
	podPort   string // where the pods have listener http
	roots     *x509.CertPool
}

const shopHost = "shop.example.com"

// newShop makes one in a namespace of its own, and removes it when the test ends.
func newShop(t *testing.T, namespace string) *shop {
	t.Helper()
	createNamespace(t, namespace)
	s := &shop{namespace: namespace, roots: x509.NewCertPool()}
	certificate, key := newCertificate(t, s.roots, shopHost)
	apply(t, secret(namespace, "tls", certificate, key)+
		backend(namespace, "steady", "5s")+backend(namespace, "abrupt", "0s")+fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: %[1]s}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: %[1]s}
spec:
  parentRefs: [{name: web}]
  hostnames: [%[2]s]
  rules:
  - matches: [{path: {value: /abrupt}}]
    backendRefs: [{name: abrupt, port: 80}]
  - backendRefs: [{name: steady, port: 80}]
`, namespace, shopHost))
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/steady", within)
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/abrupt", within)
	s.locate(t)
	return s
}

// locate finds out where the Gateway is, and waits until it serves.
func (s *shop) locate(t *testing.T) {
	t.Helper()
	s.plain, s.podPort = serviceOf(t, s.namespace, "web", 80)
	s.secure, _ = serviceOf(t, s.namespace, "web", 443)
	awaitAnswer(t, load.Options{Address: s.plain, Host: shopHost})
	awaitAnswer(t, load.Options{Address: s.plain, Host: shopHost, Path: "/abrupt"})
	awaitAnswer(t, load.Options{Address: s.secure, Host: shopHost, TLS: s.tls()})
}

func (s *shop) tls() *tls.Config { return &tls.Config{RootCAs: s.roots} }

// loads are all ways to ask, at once.
type loads map[string]*load.Load

// load starts asking the shop in every way.
func (s *shop) load() loads {
	const pause = 20 * time.Millisecond
	l := loads{}
	for name, o := range map[string]load.Options{
		"HTTP/1.1, kept":         {Address: s.plain, Connections: 8},
		"HTTP/1.1, kept, POST":   {Address: s.plain, Connections: 4, Method: "POST"},
		"HTTP/1.1, seldom":       {Address: s.plain, Connections: 8, Pause: time.Second},
		"HTTP/1.1, new":          {Address: s.plain, Connections: 2, Fresh: true},
		"HTTP/1.1, slow":         {Address: s.plain, Connections: 4, Path: "/?after=3s"},
		"HTTP/1.1 TLS, kept":     {Address: s.secure, Connections: 4, TLS: s.tls()},
		"HTTP/1.1 TLS, new":      {Address: s.secure, Connections: 1, TLS: s.tls(), Fresh: true},
		"HTTP/2 TLS, kept":       {Address: s.secure, Connections: 4, TLS: s.tls(), HTTP2: true},
		"HTTP/2 TLS, kept, POST": {Address: s.secure, Connections: 2, TLS: s.tls(), HTTP2: true, Method: "POST"},
		"HTTP/2 TLS, slow":       {Address: s.secure, Connections: 2, TLS: s.tls(), HTTP2: true, Path: "/?after=3s"},
		"HTTP/2, kept":           {Address: s.plain, Connections: 2, HTTP2: true},
		"HTTP/1.1, abrupt":       {Address: s.plain, Connections: 4, Path: "/abrupt"},
	} {
		o.Host, o.Timeout = shopHost, 15*time.Second
		if o.Pause == 0 {
			o.Pause = pause
		}
		l[name] = load.Start(o)
	}
	return l
}

// stop ends the load and fails the test if any request failed. What was done
// meanwhile takes connections' announced ends along; others it may not cut.
func (l loads) stop(t *testing.T) map[string]load.Report {
	t.Helper()
	reports := map[string]load.Report{}
	for name, one := range l {
		reports[name] = one.Stop()
	}
	requests, announced := 0, 0
	for _, name := range slices.Sorted(maps.Keys(reports)) {
		r := reports[name]
		requests += r.Requests
		announced += r.Announced
		if len(r.Failures) > 0 || len(r.Cut) > 0 || r.Requests == 0 {
			t.Errorf("%s: %s", name, r)
		}
	}
	t.Logf("%d requests, and %d connections closed as announced", requests, announced)
	return reports
}

func createNamespace(t *testing.T, name string) {
	t.Helper()
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", name, "--wait=false") })
}

// backend is a Deployment of three pods and its Service. The image is the one
// that make e2e makes.
func backend(namespace, name, delay string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {selector: {app: %[2]s}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  replicas: 3
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      enableServiceLinks: false
      containers:
      - name: backend
        image: headgate-e2e-backend:dev
        args: [--delay=%[3]s]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`, namespace, name, delay)
}

func secret(namespace, name string, certificate, key []byte) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: %s, namespace: %s}
stringData:
  tls.crt: |
%s
  tls.key: |
%s
`, name, namespace, indent(certificate), indent(key))
}

func indent(text []byte) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n    ")
}

// newCertificate makes a certificate that signs for itself, and has roots trust it.
func newCertificate(t *testing.T, roots *x509.CertPool, host string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "e2e"}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	roots.AppendCertsFromPEM(certificate)
	return certificate, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}
