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
const grpcManifests = `
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
kind: GRPCRoute
metadata: {name: route, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - matches: [{method: {service: grpc.testing.TestService}}]
    backendRefs: [{group: headgate.dev, kind: Backend, name: upstream}]
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
// GRPCRoute. make test-protocols says where the programs are.
func TestGRPC(t *testing.T) {
	headgate, client, server := os.Getenv("HEADGATE"), os.Getenv("GRPC_CLIENT"), os.Getenv("GRPC_SERVER")
	if headgate == "" || client == "" || server == "" {
		t.Skip("HEADGATE, GRPC_CLIENT and GRPC_SERVER do not say where the programs are: use make test-protocols")
	}
	plain, secure, upstream := freePort(t), freePort(t), freePort(t)
	up := exec.Command(server, "--port", strconv.Itoa(upstream))
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = up.Process.Kill()
		_ = up.Wait()
	})
	await(t, upstream)
	chain, key := certificate(t)
	serve(t, headgate, fmt.Sprintf(grpcManifests, chain, key, plain, secure, upstream), plain, secure)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	text, err := base64.StdEncoding.DecodeString(chain)
	if err == nil {
		err = os.WriteFile(roots, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	for name, args := range map[string][]string{
		"h2c": {"--server_port", strconv.Itoa(plain)},
		"TLS": {"--server_port", strconv.Itoa(secure), "--use_tls", "--use_test_ca", "--ca_file", roots, "--server_host_override", "localhost"},
	} {
		for _, test := range grpcCases {
			t.Run(name+"/"+test, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
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
