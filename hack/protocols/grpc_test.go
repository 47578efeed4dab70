package protocols

import (
	"bytes"
	"context"
	"os"
	"os/exec"
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
	for _, upstream := range []struct {
		name    string
		args    []string // of the server
		objects string   // how Headgate speaks to it
	}{
		{"to h2c", nil, ""},
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
}
