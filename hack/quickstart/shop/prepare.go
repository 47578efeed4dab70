// Package shop makes the example in config/samples/shop runnable, and holds the
// requests that show it at work. The quickstart and the integration tests use
// it, so that a folder and a cluster are held to the same answers.
package shop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Options are what the example cannot know.
type Options struct {
	// Instances are where demo-1, demo-2 and demo-3 listen.
	Instances [3]netip.AddrPort
	// HTTPPort and HTTPSPort replace the listeners' 8080 and 8443; 0 leaves them.
	HTTPPort, HTTPSPort uint16
}

// Shop is a runnable copy of the example, with keys of its own.
type Shop struct {
	// Dir is the folder of manifests.
	Dir string
	// CA verifies the HTTPS listener's certificate; PEM.
	CA []byte
	// Vars are what the requests of the table are filled in with.
	Vars map[string]string
}

// Prepare copies the example from src to dst, which must exist, with the
// instances' addresses, and adds the Secrets that it names, with new keys.
func Prepare(src, dst string, opts Options) (*Shop, error) {
	if opts.HTTPPort == 0 {
		opts.HTTPPort = 8080
	}
	if opts.HTTPSPort == 0 {
		opts.HTTPSPort = 8443
	}
	files, err := filepath.Glob(filepath.Join(src, "*.yaml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no manifests in %s", src)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		switch filepath.Base(file) {
		case "gateway.yaml":
			text = bytes.ReplaceAll(text, []byte("port: 8080"), fmt.Appendf(nil, "port: %d", opts.HTTPPort))
			text = bytes.ReplaceAll(text, []byte("port: 8443"), fmt.Appendf(nil, "port: %d", opts.HTTPSPort))
		case "endpoints.yaml":
			if text, err = relocate(text, opts.Instances); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
		}
		if err := os.WriteFile(filepath.Join(dst, filepath.Base(file)), text, 0o644); err != nil {
			return nil, err
		}
	}

	s := &Shop{Dir: dst, Vars: map[string]string{
		"HTTP_PORT":  strconv.Itoa(int(opts.HTTPPort)),
		"HTTPS_PORT": strconv.Itoa(int(opts.HTTPSPort)),
	}}
	secrets, err := s.secrets(time.Now())
	if err != nil {
		return nil, err
	}
	return s, os.WriteFile(filepath.Join(dst, "secrets.yaml"), secrets, 0o600)
}

// relocate gives each EndpointSlice the address of the instance that its label names.
func relocate(text []byte, instances [3]netip.AddrPort) ([]byte, error) {
	var out [][]byte
	for _, doc := range bytes.Split(text, []byte("\n---\n")) {
		var slice discoveryv1.EndpointSlice
		if err := yaml.UnmarshalStrict(doc, &slice); err != nil {
			return nil, err
		}
		i, err := strconv.Atoi(slice.Labels["shop.example.com/instance"])
		if err != nil || i < 1 || i > len(instances) {
			return nil, fmt.Errorf("EndpointSlice %s: no such instance", slice.Name)
		}
		at, port := instances[i-1], int32(instances[i-1].Port())
		slice.Endpoints[0].Addresses = []string{at.Addr().String()}
		slice.Ports[0].Port = &port
		if at.Addr().Is6() {
			slice.AddressType = discoveryv1.AddressTypeIPv6
		}
		doc, err := yaml.Marshal(&slice)
		if err != nil {
			return nil, err
		}
		out = append(out, doc)
	}
	return bytes.Join(out, []byte("---\n")), nil
}

// secrets makes the Secrets that the example names, and the variables that go with them.
func (s *Shop) secrets(now time.Time) ([]byte, error) {
	apiKey := rand.Text()
	s.Vars["API_KEY"] = apiKey

	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	for name, token := range map[string]struct {
		key      *ecdsa.PrivateKey
		audience string
		expiry   time.Duration
	}{
		"JWT":                {signer, "shop", 24 * time.Hour},
		"JWT_EXPIRED":        {signer, "shop", -time.Hour},
		"JWT_OTHER_AUDIENCE": {signer, "warehouse", 24 * time.Hour},
		"JWT_FORGED":         {stranger, "shop", 24 * time.Hour},
	} {
		if s.Vars[name], err = sign(token.key, map[string]any{
			"iss": "https://login.example.com", "aud": token.audience, "sub": "bob", "plan": "gold",
			"iat": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(token.expiry).Unix(),
		}); err != nil {
			return nil, err
		}
	}
	jwks, err := publicJWKS(&signer.PublicKey)
	if err != nil {
		return nil, err
	}
	cert, key, err := certificate("shop.example.com", now)
	if err != nil {
		return nil, err
	}
	s.CA = cert

	var out [][]byte
	for _, secret := range []corev1.Secret{
		{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders-keys"},
			Type:       corev1.SecretTypeOpaque,
			Data:       map[string][]byte{"alice": []byte(apiKey)},
		}, {
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "accounts-jwks"},
			Type:       corev1.SecretTypeOpaque,
			Data:       map[string][]byte{"jwks.json": jwks},
		}, {
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop-gateway", Name: "shop-tls"},
			Type:       corev1.SecretTypeTLS,
			Data:       map[string][]byte{corev1.TLSCertKey: cert, corev1.TLSPrivateKeyKey: key},
		},
	} {
		secret.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}
		doc, err := yaml.Marshal(&secret)
		if err != nil {
			return nil, err
		}
		out = append(out, doc)
	}
	return bytes.Join(out, []byte("---\n")), nil
}

const keyID = "demo"

var base64url = base64.RawURLEncoding

// sign makes an ES256 token, RFC 7515 and RFC 7518 section 3.4.
func sign(key *ecdsa.PrivateKey, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64url.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT","kid":"`+keyID+`"}`)) + "." + base64url.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", err
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64url.EncodeToString(signature[:]), nil
}

// publicJWKS is the key set that verifies what key signed, RFC 7517.
func publicJWKS(key *ecdsa.PublicKey) ([]byte, error) {
	point, err := key.Bytes() // 4, x, y
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": keyID,
		"x": base64url.EncodeToString(point[1:33]), "y": base64url.EncodeToString(point[33:]),
	}}})
}

// certificate makes a self-signed certificate and its key; PEM.
func certificate(host string, now time.Time) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &private.PublicKey, private)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
