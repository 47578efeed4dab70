package protocols

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// One of gRPC's two test services has a route, so that for the other Headgate
// itself says that it is not implemented.
const grpcRoute = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: route, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - matches: [{method: {service: grpc.testing.TestService}}]
    backendRefs: [{group: headgate.dev, kind: Backend, name: upstream}]
`

// grpcOverTLS has the upstream spoken to over TLS.
const grpcOverTLS = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: authority, namespace: default}
binaryData: {ca.crt: %s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: upstream, namespace: default}
spec:
  targetRefs: [{group: headgate.dev, kind: Backend, name: upstream}]
  validation:
    hostname: localhost
    caCertificateRefs: [{group: "", kind: ConfigMap, name: authority}]
`

// grpcCases are those of gRPC's interoperability tests that need no account
// with anybody (doc/interop-test-descriptions.md).
var grpcCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service",
}

// TestGRPC runs gRPC's interoperability client against its server, through a
// GRPCRoute.
func TestGRPC(t *testing.T) {
	client, server := program(t, "GRPC_CLIENT"), program(t, "GRPC_SERVER")
	authority, chain, key := certificate(t)
	files := t.TempDir()
	for name, text := range map[string][]byte{"chain.pem": chain, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(files, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, upstream := range []struct {
		name    string
		args    []string // of the server
		objects string   // how Headgate speaks to it
	}{
		{"to h2c", nil, ""},
		{"to TLS", []string{"--use_tls", "--tls_cert_file", filepath.Join(files, "chain.pem"), "--tls_key_file", filepath.Join(files, "key.pem")},
			fmt.Sprintf(grpcOverTLS, base64.StdEncoding.EncodeToString(authority))},
	} {
		port := freePort(t)
		up := exec.Command(server, append([]string{"--port", strconv.Itoa(port)}, upstream.args...)...)
		if err := up.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = up.Process.Kill()
			_ = up.Wait()
		})
		await(t, port)
		h := start(t, backend("upstream", port)+grpcRoute+upstream.objects)
		for name, args := range map[string][]string{
			"h2c": {"--server_port", strconv.Itoa(h.plain)},
			"TLS": {"--server_port", strconv.Itoa(h.secure), "--use_tls", "--use_test_ca", "--ca_file", h.ca, "--server_host_override", "localhost"},
		} {
			for _, test := range grpcCases {
				t.Run(name+" "+upstream.name+"/"+test, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
					defer cancel()
					cmd := exec.CommandContext(ctx, client, append([]string{"--server_host", "127.0.0.1", "--test_case", test}, args...)...)
					cmd.Env = append(os.Environ(), "GRPC_GO_LOG_SEVERITY_LEVEL=info")
					if out, err := cmd.CombinedOutput(); err != nil {
						t.Errorf("%v\n%s", err, out)
					} else if !bytes.Contains(out, []byte("done")) && !bytes.Contains(out, []byte("Done")) {
						t.Errorf("it does not say that it did anything:\n%s", out)
					}
				})
			}
		}
	}
}
