// Package protocols holds the real binary to the clients and the suites of
// others. make test-protocols installs these, and says where they are.
package protocols

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// base is what every test serves: two listeners, for http and https.
const base = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.dev/gateway-controller}
---
apiVersion: v1
kind: Secret
metadata: {name: certificate, namespace: default}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway, namespace: default}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: %d, protocol: HTTP}
  - {name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]}}
`

// headgate is the program that serves a test's objects, on loopback.
type headgate struct {
	plain, secure int            // the listeners' ports
	ca            string         // the file with the authority that signed for localhost
	roots         *x509.CertPool // the same
	chain         []byte         // the certificate
	folder        string         // of the manifests
	out, log      *output        // what it writes
	cmd           *exec.Cmd
	ended         chan struct{} // closed when it has
	err           error         // what it ended with, then
}

// program returns the path of a program that make test-protocols builds.
func program(t *testing.T, variable string) string {
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("%s does not say where the program is: use make test-protocols", variable)
	}
	return path
}

// installed returns the path of a program of the system's. Only without
// Headgate a test is skipped for its want.
func installed(t *testing.T, name string) string {
	program(t, "HEADGATE")
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// start serves base and these objects, until the test ends.
func start(t *testing.T, objects string, flags ...string) *headgate {
	t.Helper()
	h := &headgate{plain: freePort(t), secure: freePort(t), folder: t.TempDir()}
	authority, chain, key := certificate(t)
	h.chain = chain
	h.ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(h.ca, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	h.roots = x509.NewCertPool()
	h.roots.AppendCertsFromPEM(authority)
	encode := base64.StdEncoding.EncodeToString
	h.write(t, "base.yaml", fmt.Sprintf(base, encode(chain), encode(key), h.plain, h.secure))
	h.apply(t, objects)
	h.run(t, flags...)
	await(t, h.plain)
	await(t, h.secure)
	return h
}

// run serves the folder until the test ends.
func (h *headgate) run(t *testing.T, flags ...string) {
	t.Helper()
	h.out, h.log, h.ended = new(output), new(output), make(chan struct{})
	flags = append([]string{"--manifests", h.folder, "--bind-address", "127.0.0.1", "--admin-address", "", "--shutdown-timeout", "5s"}, flags...)
	h.cmd = exec.Command(program(t, "HEADGATE"), flags...)
	h.cmd.Stdout, h.cmd.Stderr = h.out, h.log
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		h.err = h.cmd.Wait()
		close(h.ended)
	}()
	t.Cleanup(func() {
		_ = h.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-h.ended:
		case <-time.After(time.Minute):
			_ = h.cmd.Process.Kill()
			t.Error("headgate does not end")
			<-h.ended
		}
		if h.err != nil || t.Failed() {
			t.Errorf("headgate: %v\n%s", h.err, h.log)
		}
	})
}

// apply replaces the test's objects.
func (h *headgate) apply(t *testing.T, objects string) { h.write(t, "objects.yaml", objects) }

func (h *headgate) write(t *testing.T, name, text string) {
	t.Helper()
	err := os.WriteFile(filepath.Join(h.folder, "."+name), []byte(text), 0o600)
	if err == nil {
		err = os.Rename(filepath.Join(h.folder, "."+name), filepath.Join(h.folder, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// backend is a Backend at a port of loopback.
func backend(name string, port int) string {
	return fmt.Sprintf(`
---
apiVersion: headgate.dev/v1alpha1
kind: Backend
metadata: {name: %s, namespace: default}
spec: {endpoints: [{ip: 127.0.0.1, port: %d}]}
`, name, port)
}

// route is an HTTPRoute that sends everything to the Backend of its name.
func route(name string) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{group: headgate.dev, kind: Backend, name: %[1]s}]
`, name)
}

// portOf returns the port of a test server.
func portOf(a net.Addr) int { return a.(*net.TCPAddr).Port }

// output keeps what a program writes, to be read meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until somebody listens on a port.
func await(t *testing.T, port int) {
	t.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	awaitThat(t, "a listener at "+address, func() bool {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
}

func awaitThat(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// certificate returns an authority, and a certificate of its for localhost.
func certificate(t *testing.T) (authority, chain, key []byte) {
	now := time.Now()
	sign := func(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if by == nil {
			by = private
		}
		template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(90*24*time.Hour)
		template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, private.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		return der, private
	}
	root := &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA: true, BasicConstraintsValid: true,
	}
	rootDER, rootKey := sign(root, root, nil)
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CRLDistributionPoints: []string{"http://localhost/crl"},
	}
	leafDER, leafKey := sign(leaf, root, rootKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return encode("CERTIFICATE", rootDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", pkcs8)
}

// freePort returns a port that nobody had a moment ago.
func freePort(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return portOf(ln.Addr())
}

// last returns the last lines of a text.
func last(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
