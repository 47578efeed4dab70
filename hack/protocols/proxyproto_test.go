package protocols

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// haproxy passes on what comes with a header of each version, and answers with
// whom the header names by which Headgate says who its client is.
const haproxy = `
global
  maxconn 100
defaults
  timeout connect 30s
  timeout client 60s
  timeout server 60s
  unique-id-format id-%%ci
listen v1
  mode tcp
  bind 127.0.0.1:%[1]d
  server headgate 127.0.0.1:%[4]d send-proxy
listen v2
  mode tcp
  bind 127.0.0.1:%[2]d
  server headgate 127.0.0.1:%[4]d send-proxy-v2 proxy-v2-options crc32c,unique-id
listen secure
  mode tcp
  bind 127.0.0.1:%[3]d
  server headgate 127.0.0.1:%[5]d send-proxy-v2 proxy-v2-options crc32c,unique-id
frontend behind
  mode http
  bind 127.0.0.1:%[6]d accept-proxy
  http-request return status 200 content-type text/plain lf-string "%%ci:%%cp to %%fp id=%%[fc_pp_unique_id] authority=%%[fc_pp_authority] for %%[req.hdr(x-forwarded-for)]"
`

// TestHAProxy has HAProxy in front of Headgate and behind it, with the PROXY
// protocol between them.
func TestHAProxy(t *testing.T) {
	path := installed(t, "haproxy")
	v1, v2, secure, behind := freePort(t), freePort(t), freePort(t), freePort(t)
	objects := func(version string) string {
		return backend("backend", behind) + route("backend") + fmt.Sprintf(`
---
apiVersion: headgate.dev/v1alpha1
kind: ListenerPolicy
metadata: {name: in-front, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gateway}]
  proxyProtocol: {trustedSources: [127.0.0.0/8]}
---
apiVersion: headgate.dev/v1alpha1
kind: BackendPolicy
metadata: {name: behind, namespace: default}
spec:
  targetRefs: [{group: headgate.dev, kind: Backend, name: backend}]
  proxyProtocol: {version: %s}
`, version)
	}
	h := start(t, objects("V2"))
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(config, fmt.Appendf(nil, haproxy, v1, v2, secure, h.plain, h.secure, behind), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(output)
	cmd := exec.Command(path, "-db", "-f", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", log)
		}
	})
	await(t, behind)

	// ask asks by HAProxy's port, and returns the answer and the address that asked.
	ask := func(port int, scheme string) (answer, from string) {
		t.Helper()
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: h.roots}, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				if err == nil {
					from = c.LocalAddr().String()
				}
				return c, err
			},
		}
		defer transport.CloseIdleConnections()
		c := &http.Client{Transport: transport, Timeout: time.Minute}
		resp, err := c.Get(fmt.Sprintf("%s://127.0.0.1:%d/", scheme, port))
		if err != nil {
			t.Fatalf("%s by port %d: %v", scheme, port, err)
		}
		defer resp.Body.Close()
		content, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s by port %d: %d, %v", scheme, port, resp.StatusCode, err)
		}
		return string(content), from
	}
	answer, want := "", ""
	defer func() {
		if t.Failed() {
			t.Logf("last answered: %q, want %q", answer, want)
		}
	}()
	for _, version := range []string{"V2", "V1"} {
		h.apply(t, objects(version))
		for _, tt := range []struct {
			name, scheme string
			port         int
			id           bool
		}{{"v1", "http", v1, false}, {"v2", "http", v2, true}, {"secure", "https", secure, true}} {
			id := ""
			if tt.id && version == "V2" { // version 1 has no place for it
				id = "id-127.0.0.1"
			}
			// Until the changed policy is served, the answer is the former one's.
			awaitThat(t, fmt.Sprintf("the right answer by %s, sent on as %s", tt.name, version), func() bool {
				var from string
				answer, from = ask(tt.port, tt.scheme)
				want = fmt.Sprintf("%s to %d id=%s authority= for 127.0.0.1", from, tt.port, id)
				return answer == want
			})
		}
	}
}
