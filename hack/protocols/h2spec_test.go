// Package protocols holds the real binary to the suites of others.
package protocols

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const manifests = `
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
---
apiVersion: headgate.dev/v1alpha1
kind: Backend
metadata: {name: upstream, namespace: default}
spec: {endpoints: [{ip: 127.0.0.1, port: %d}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{group: headgate.dev, kind: Backend, name: upstream}]
`

// TestH2spec runs h2spec, all of it, in front of an upstream that speaks
// HTTP/1.1. make test-protocols says where the programs are.
func TestH2spec(t *testing.T) {
	h2spec, headgate := os.Getenv("H2SPEC"), os.Getenv("HEADGATE")
	if h2spec == "" || headgate == "" {
		t.Skip("H2SPEC and HEADGATE do not say where the programs are: use make test-protocols")
	}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "some content\n")
	}))
	defer up.Close()
	plain, secure := freePort(t), freePort(t)
	chain, key := certificate(t)
	serve(t, headgate, fmt.Sprintf(manifests, chain, key, plain, secure, up.Listener.Addr().(*net.TCPAddr).Port), plain, secure)

	for _, test := range []struct {
		name string
		args []string
	}{
		{"TLS", []string{"-t", "-k", "-p", strconv.Itoa(secure)}},
		{"h2c", []string{"-p", strconv.Itoa(plain)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command(h2spec, append([]string{"--strict", "-h", "127.0.0.1"}, test.args...)...)
			out, _ := cmd.CombinedOutput() // it exits with an error if a test fails
			summary := regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`).FindSubmatch(out)
			if summary == nil {
				t.Fatalf("h2spec has no result:\n%s", out)
			}
			t.Logf("%s", summary[0])
			if n, _ := strconv.Atoi(string(summary[1])); n < 147 || !bytes.Equal(summary[1], summary[2]) {
				_, failures, _ := bytes.Cut(out, []byte("\nFailures:"))
				t.Errorf("%s, want all of 147 or more to pass:\n%s", summary[0], failures)
			}
		})
	}
}

// serve starts Headgate with manifests that make it listen on these ports, and
// ends it with the test.
func serve(t *testing.T, headgate, text string, ports ...int) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "all.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(headgate, "--manifests", folder, "--bind-address", "127.0.0.1", "--admin-address", "")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("headgate: %v\n%s", err, log.String())
		}
	})
	for _, port := range ports {
		await(t, port)
	}
}

// await waits until somebody listens on a port.
func await(t *testing.T, port int) {
	t.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		nc, err := net.Dial("tcp", address)
		if err == nil {
			nc.Close()
			return
		}
		if time.Now().After(until) {
			t.Fatalf("nobody listens: %v", err)
		}
	}
}

// certificate returns a certificate and its key as a Secret has them.
func certificate(t *testing.T) (chain, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

// freePort returns a port that nobody had a moment ago.
func freePort(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}
