package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pki is an authority of its own.
type pki struct {
	t    *testing.T
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{t: t}
	p.root, p.key = p.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true})
	return p
}

func (p *pki) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(365 * 24 * time.Hour)
	}
	parent, by := p.root, p.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return cert, key
}

func certificatePEM(all ...*x509.Certificate) (text string) {
	for _, c := range all {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return text
}

// secret is a certificate in a Secret's YAML.
func (p *pki) secret(namespace, name string, template *x509.Certificate) string {
	p.t.Helper()
	cert, key := p.sign(template)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {namespace: %s, name: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n", namespace, name,
		encode(certificatePEM(cert, p.root)), encode(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))))
}

// authorities is the root in a ConfigMap's YAML.
func (p *pki) authorities(namespace, name string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: %s, name: %s}\ndata:\n  ca.crt: |\n    %s\n", namespace, name,
		strings.ReplaceAll(strings.TrimSpace(certificatePEM(p.root)), "\n", "\n    "))
}

// TestTheTLSSampleIsFine checks config/samples/tls with what it says that it needs.
func TestTheTLSSampleIsFine(t *testing.T) {
	p := newPKI(t)
	needs := p.secret("edge", "edge-tls", &x509.Certificate{DNSNames: []string{"*.example.com"}, OCSPServer: []string{"http://ocsp.example.com"}}) +
		p.secret("edge", "edge-identity", &x509.Certificate{DNSNames: []string{"edge.internal"}}) +
		p.authorities("edge", "client-authorities") + p.authorities("payments", "internal-ca")
	dir := folder(t, "needs.yaml", needs)
	samples, err := filepath.Glob("../../config/samples/tls/*.yaml")
	if err != nil || len(samples) == 0 {
		t.Fatal(samples, err)
	}
	for _, path := range samples {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, stderr, code := command(t, "check", dir); code != exitOK || !strings.HasPrefix(out, "ok: ") || stderr != "" {
		t.Errorf("exit code %d, %q\n%s", code, stderr, out)
	}
}

func TestCheckWarnsOfExpiry(t *testing.T) {
	p := newPKI(t)
	for what, end := range map[string]time.Time{"": time.Now().Add(15 * 24 * time.Hour), "expires at": time.Now().Add(13 * 24 * time.Hour), "has expired at": time.Now().Add(-time.Hour)} {
		gateway := strings.Replace(fill(shop, "GATEWAYPORT", "8443"), "protocol: HTTP}", "protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}", 1)
		dir := folder(t, "shop.yaml", fill(gateway, "BACKENDPORT", "8081"), "cert.yaml", p.secret("default", "cert", &x509.Certificate{NotAfter: end}))
		out, _, code := command(t, "check", dir)
		if warned := strings.Contains(out, "warning: the certificate "+what+" ") && strings.Contains(out, "cert.yaml:"); code != exitOK || warned != (what != "") {
			t.Errorf("%q: exit code %d, %s", what, code, out)
		}
	}
}

// TestServesBackendsWithTLS runs the whole of it: a folder, a policy, an
// endpoint, and the authority changed under way.
func TestServesBackendsWithTLS(t *testing.T) {
	p, other := newPKI(t), newPKI(t)
	cert, key := p.sign(&x509.Certificate{DNSNames: []string{"shop.internal"}})
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+r.TLS.ServerName)
	}))
	backend.EnableHTTP2 = true
	backend.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	backend.StartTLS()
	defer backend.Close()

	g := startProcess(t)
	policy := `---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: shop}]
  validation: {hostname: shop.internal, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}
`
	answers := func(want string) func() bool {
		return func() bool {
			_, body, err := g.get("/cart")
			return err == nil && body == want || err != nil && strings.HasPrefix(err.Error(), want)
		}
	}
	// The policy first: nothing is sent before it can be verified.
	g.write("tls.yaml", policy)
	g.await("refusal without an authority", answers("502"))
	g.write("shop.yaml", g.shop("http://"+backend.Listener.Addr().String()))
	g.write("tls.yaml", policy+p.authorities("default", "ca"))
	g.await("answer over TLS", answers("HTTP/1.1 shop.internal"))
	g.write("backend.yaml", "apiVersion: headgate.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {name: shop}\nspec: {targetRefs: [{group: \"\", kind: Service, name: shop}], protocol: Auto}\n")
	g.await("answer in HTTP/2", answers("HTTP/2.0 shop.internal"))
	g.write("tls.yaml", policy+other.authorities("default", "ca"))
	g.await("refusal with another authority", answers("502"))
	g.await("log that says why", func() bool { return strings.Contains(g.log.String(), "tls_unknown_authority") })
}
