package compile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestStapleAndExpiry: a response that the issuer has signed is part of the
// certificate, one about another is not; and status says when it all ends.
func TestStapleAndExpiry(t *testing.T) {
	end := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rootKey, leafKey := key(), key()
	sign := func(template, parent *x509.Certificate, public any) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: end}
	root := sign(authority, authority, rootKey.Public())
	leaf := sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"shop.example.com"}, NotAfter: end}, root, leafKey.Public())
	response := func(serial int64) []byte {
		at := end.Add(-1000 * time.Hour)
		der, err := ocsp.CreateResponse(root, root, ocsp.Response{Status: ocsp.Good, SerialNumber: big.NewInt(serial), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	secret := func(staple []byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cert"}, Data: map[string][]byte{
			"tls.crt": append(block("CERTIFICATE", leaf.Raw), block("CERTIFICATE", root.Raw)...), "tls.key": block("PRIVATE KEY", private), "tls.ocsp-staple": staple,
		}}
	}
	good := readKeyPair(objects.Ref{Kind: "Secret", Namespace: "default", Name: "cert"}, secret(response(2)))
	if good.finding != nil || len(good.certificate.OCSPStaple) == 0 {
		t.Errorf("%v", good.finding)
	}
	bad := readKeyPair(objects.Ref{Kind: "Secret", Namespace: "default", Name: "cert"}, secret(response(3)))
	if bad.finding == nil || bad.certificate == nil || bad.certificate.OCSPStaple != nil || !strings.Contains(bad.finding.Message, "tls.ocsp-staple") {
		t.Errorf("%v, %v", bad.finding, bad.certificate)
	}
	l := &listener{certificates: []*snapshot.Certificate{good.certificate}}
	if got, want := l.expiries(), "certificate default/cert expires at 2031-02-03T04:05:06Z"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
