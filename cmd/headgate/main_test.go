package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/headgate/headgate/controllers/admin"
)

// The test binary is the command when it is told to be, see startProcess.
const beCommand = "HEADGATE_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(beCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const shop = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: headgate}
spec: {controllerName: headgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: headgate
  listeners:
  - {name: http, port: GATEWAYPORT, protocol: HTTP}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: BACKENDPORT}]
endpoints: [{addresses: [127.0.0.1]}]
`

const shopRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: web}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{path: {value: /cart}, method: GET}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: X-Version, value: "VERSION"}]}
    backendRefs: [{name: shop, port: 80}]
`

// folder writes files into a new folder; texts come as name, text, name, text.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func fill(text string, pairs ...string) string { return strings.NewReplacer(pairs...).Replace(text) }

func shopFolder(t *testing.T) string {
	return folder(t,
		"shop.yaml", fill(shop, "GATEWAYPORT", "8080", "BACKENDPORT", "8081"),
		"route.yaml", fill(shopRoute, "VERSION", "1"))
}

func TestUsageErrors(t *testing.T) {
	dir := shopFolder(t)
	for _, c := range []struct{ args, want string }{
		{"serv", `unknown command "serv": want one of check, endpoints, routes, or none to serve`},
		{"--manifest x", "unknown flag: --manifest"},
		{"check", "check: want one folder, got 0"},
		{"check a b", "check: want one folder, got 2"},
		{"check " + dir + "/none", "no such file or directory"},
		{"check " + dir + "/shop.yaml", "is a file, not a folder"},
		{"check -o xml " + dir, `--output "xml": want one of [table json yaml]`},
		{"routes a b", "routes: want one folder or none, got 2"},
		{"--manifests " + dir + " --bind-address localhost", `--bind-address "localhost": want an IP address`},
		{"--manifests " + dir + " --admin-address 9901", `--admin-address "9901": want host:port`},
		{"--manifests " + dir + " --metrics-address x", `--metrics-address "x": want host:port`},
		{"--manifests " + dir + " --access-log xml", `--access-log "xml": want off, json or text`},
		{"--manifests " + dir + " --log-level loud", `--log-level "loud": want error, info or debug`},
		{"--manifests " + dir + " --log-format xml", `--log-format "xml": want text or json`},
		{"--manifests " + dir + " --shutdown-timeout -1s", "want a duration of 0s or more"},
		{"--manifests " + dir + " --overload-scheduling-delay 1us", "want a duration from 1ms to 1m"},
		{"--manifests " + dir + " --overload-memory-percent 100", "want a number from 1 to 99"},
	} {
		_, stderr, code := command(t, strings.Fields(c.args)...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("headgate %s: exit code %d, %q; want %q", c.args, code, stderr, c.want)
		}
	}
}

func TestFailures(t *testing.T) {
	_, stderr, code := command(t, "routes", "--admin-address", "127.0.0.1:1")
	if code != exitFault || !strings.Contains(stderr, "no Headgate answers at 127.0.0.1:1") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	_, stderr, code = command(t, "--manifests", filepath.Join(t.TempDir(), "none"))
	if code != exitFault || !strings.Contains(stderr, "--manifests: stat") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, stderr, code = command(t)
	if code != exitUsage || !strings.Contains(stderr, "want --manifests FOLDER") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestVersionIsOneLine(t *testing.T) {
	out, _, code := command(t, "--version")
	if code != exitOK || !strings.HasPrefix(out, "headgate ") || strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "\n") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestHelpHasExamples(t *testing.T) {
	for _, args := range []string{"--help", "check --help", "routes --help", "endpoints --help"} {
		out, _, code := command(t, strings.Fields(args)...)
		if code != exitOK || !strings.Contains(out, "Examples:") || !strings.Contains(out, "Flags:") {
			t.Errorf("headgate %s: exit code %d, %q", args, code, out)
		}
	}
}

func TestCheckSaysOK(t *testing.T) {
	dir := shopFolder(t)
	out, stderr, code := command(t, "check", dir)
	if code != exitOK || out != "ok: 5 objects in 2 files\n" || stderr != "" {
		t.Errorf("exit code %d, %q, %q", code, out, stderr)
	}
	out, _, code = command(t, "check", "-o", "json", dir)
	if code != exitOK || out != "[]\n" {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestCheckWarnsWithoutFailing(t *testing.T) {
	dir := folder(t, "d.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n")
	out, _, code := command(t, "check", dir)
	if code != exitOK || !strings.Contains(out, "warning: Deployment is not a kind that Headgate reads") || !strings.Contains(out, "ok: 0 objects in 0 files") {
		t.Errorf("exit code %d, %q", code, out)
	}
}

func TestCheckOutputsAgree(t *testing.T) {
	dir := folder(t, "r.yaml", fill(shopRoute, "VERSION", "1"))
	asJSON, _, code := command(t, "check", "-o", "json", dir)
	if code != exitFault {
		t.Errorf("exit code %d", code)
	}
	asYAML, _, _ := command(t, "check", "-o", "yaml", dir)
	var a, b []admin.Entry
	if err := json.Unmarshal([]byte(asJSON), &a); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(asYAML), &b); err != nil {
		t.Fatal(err)
	}
	if len(a) == 0 || len(a) != len(b) || a[0] != b[0] || a[0].Reason == "" || a[0].Condition == "" {
		t.Errorf("%+v and %+v", a, b)
	}
}

func TestTablesOfAFolder(t *testing.T) {
	dir := shopFolder(t)
	for command_, want := range map[string]string{
		"routes": `LISTENER          HOSTNAME          MATCH        ROUTE         RULE  FILTERS  BACKENDS
default/web/http  shop.example.com  GET /cart/*  default/shop  0     headers  Service/default/shop/80
`,
		"endpoints": `CLUSTER                  ENDPOINT        STATE  TIER  ZONE  WEIGHT  IN FLIGHT  OF ALL  REQUESTS  FAILURES  LATENCY  FAILED CHECK
Service/default/shop/80  127.0.0.1:8081  ready  0     -     1       0          -       0         0         0s       -
`,
	} {
		out, stderr, code := command(t, command_, dir)
		if code != exitOK || out != want {
			t.Errorf("%s: exit code %d, %q\n%s", command_, code, stderr, out)
		}
	}
	out, _, _ := command(t, "routes", "-o", "json", dir)
	var rows []admin.Route
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 1 || rows[0].Backends[0].Cluster != "Service/default/shop/80" {
		t.Errorf("%v: %+v", err, rows)
	}
}
