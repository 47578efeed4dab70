package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// identity makes a certificate that is its own authority, and the two parts of it in PEM.
func identity(t *testing.T, name string) (pair tls.Certificate, cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, cert, key
}

// TestBackendTLS follows a BackendTLSPolicy and a Gateway's client certificate
// through what may become of them, as the conformance suite's tests of them do.
func TestBackendTLS(t *testing.T) {
	headgate := start(t, "backendtls", "127.0.0.1")
	apply(t, world("backendtls"))
	pair, authority, _ := identity(t, "app.internal")
	_, client, clientKey := identity(t, "headgate.internal")
	known := x509.NewCertPool()
	known.AppendCertsFromPEM([]byte(client))
	address, err := instanceAddress(1)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			who = r.TLS.PeerCertificates[0].DNSNames[0]
		}
		fmt.Fprint(w, r.TLS.ServerName, " ", who)
	})}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: known}}
	server.StartTLS()
	t.Cleanup(server.Close)
	if err := kube.Create(t.Context(), endpoints("backendtls", l.Addr().(*net.TCPAddr).AddrPort())); err != nil {
		t.Fatal(err)
	}
	gateway := types.NamespacedName{Namespace: "backendtls", Name: "web"}
	at := headgate.address(t, gateway, 80)

	answers := func(status int, body string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d %q", status, body), func() error {
			got, text, err := get(http.DefaultClient, at, "any", "/app")
			if err != nil || got != status || body != "" && text != body {
				return fmt.Errorf("%d %q, %v", got, text, err)
			}
			return nil
		})
	}
	says := func(policy, accepted, resolved string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s is Accepted=%s and ResolvedRefs=%s", policy, accepted, resolved), func() error {
			var p gatewayv1.BackendTLSPolicy
			if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "backendtls", Name: policy}, &p); err != nil {
				return err
			}
			if len(p.Status.Ancestors) != 1 || p.Status.Ancestors[0].AncestorRef.Name != "web" || *p.Status.Ancestors[0].AncestorRef.Kind != "Gateway" {
				return fmt.Errorf("the ancestors are %v", p.Status.Ancestors)
			}
			conditions := p.Status.Ancestors[0].Conditions
			for kind, reason := range map[string]string{"Accepted": accepted, "ResolvedRefs": resolved} {
				want := metav1.ConditionFalse
				if reason == kind {
					want = metav1.ConditionTrue
				}
				if c := meta.FindStatusCondition(conditions, kind); c == nil || c.Reason != reason || c.Status != want || c.ObservedGeneration != p.Generation {
					return fmt.Errorf("%v, generation %d", conditions, p.Generation)
				}
			}
			return nil
		})
	}
	policy := func(name, hostname string) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: %s, namespace: backendtls}
spec:
  targetRefs: [{group: "", kind: Service, name: app}]
  validation: {hostname: %s, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}
`, name, hostname)
	}
	ca := func(text string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ca, namespace: backendtls}\ndata: {ca.crt: %q}\n", text)
	}
	apply(t, policy("app", "app.internal"))
	says("app", "NoValidCACertificate", "InvalidCACertificateRef")
	answers(502, "")
	apply(t, ca(authority))
	says("app", "Accepted", "ResolvedRefs")
	answers(200, "app.internal nobody")
	apply(t, ca(""))
	says("app", "NoValidCACertificate", "InvalidCACertificateRef")
	answers(502, "")
	apply(t, ca(authority))
	answers(200, "app.internal nobody")
	// Another name: the policy is fine, and no endpoint is.
	apply(t, policy("app", "other.internal"))
	says("app", "Accepted", "ResolvedRefs")
	answers(502, "")
	apply(t, policy("app", "app.internal"))
	answers(200, "app.internal nobody")
	// A second policy for the same target is not needed, and does no harm.
	apply(t, policy("z-second", "other.internal"))
	says("z-second", "Conflicted", "ResolvedRefs")
	says("app", "Accepted", "ResolvedRefs")
	answers(200, "app.internal nobody")

	// The Gateway's certificate is shown once it can be read; until then nothing is sent.
	web := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: web, namespace: backendtls}\nspec:\n  gatewayClassName: headgate\n" +
		"  infrastructure: {labels: {team: edge}}\n  listeners: [{name: http, port: 80, protocol: HTTP}]\n  tls: {backend: {clientCertificateRef: {name: identity}}}\n"
	resolves := func(reason string) {
		t.Helper()
		eventually(t, "the Gateway's ResolvedRefs is "+reason, func() error {
			var g gatewayv1.Gateway
			if err := kube.Get(t.Context(), gateway, &g); err != nil {
				return err
			}
			c := meta.FindStatusCondition(g.Status.Conditions, string(gatewayv1.GatewayConditionResolvedRefs))
			accepted := meta.IsStatusConditionTrue(g.Status.Conditions, string(gatewayv1.GatewayConditionAccepted))
			if c == nil || c.Reason != reason || !accepted || c.ObservedGeneration != g.Generation {
				return fmt.Errorf("%v", g.Status.Conditions)
			}
			return nil
		})
	}
	apply(t, web)
	resolves("InvalidClientCertificateRef")
	answers(502, "")
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: identity, namespace: backendtls}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n", encode(client), encode(clientKey)))
	resolves("ResolvedRefs")
	answers(200, "app.internal headgate.internal")
	if out, err := kubectl("delete", "backendtlspolicy", "app", "z-second", "-n", "backendtls"); err != nil {
		t.Fatal(out)
	}
	answers(400, "") // what a server of TLS says to plaintext
}
