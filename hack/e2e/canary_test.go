//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/hack/e2e/load"
)

// TestCanary has Flagger take new versions of a backend into service step by
// step, by the weights of an HTTPRoute that it writes and by the metrics of
// Headgate that Prometheus has, as docs/canaries.md says: the YAML is that of the page.
func TestCanary(t *testing.T) {
	install(t)
	createNamespace(t, "shop")
	// Two pods are enough, and go at once.
	apply(t, strings.Replace(backend("shop", "orders", "2s"), "replicas: 3", "replicas: 2", 1)+"\n---"+firstGateway("shop"))
	// Flagger makes the Services by itself.
	kubectl(t, "-n", "shop", "delete", "service/orders")
	address, _ := serviceOf(t, "shop", "web", 80)

	prometheus := startPrometheus(t)
	startFlagger(t, prometheus)
	page, err := os.ReadFile(root + "/docs/canaries.md")
	if err != nil {
		t.Fatal(err)
	}
	yaml := yamlOf(t, string(page))
	// Only where Prometheus is, how long it takes, and how slow this machine may be, is not as there.
	for was, is := range map[string]string{"http://prometheus.monitoring:9090": prometheus, "interval: 30s": "interval: 10s", "{max: 500}": "{max: 5000}"} {
		if !strings.Contains(yaml, was) {
			t.Fatalf("the page does not have %q", was)
		}
		yaml = strings.ReplaceAll(yaml, was, is)
	}
	apply(t, yaml)
	phase := func() string {
		return kubectl(t, "-n", "shop", "get", "canary/orders", "-o", "jsonpath={.status.phase}")
	}
	eventually(t, "Flagger has made its objects", func() error {
		if p := phase(); p != "Initialized" {
			return fmt.Errorf("the phase is %q", p)
		}
		return nil
	})
	ask := load.Options{Address: address, Host: "shop.example.com", Connections: 4, Pause: 5 * time.Millisecond}
	awaitAnswer(t, ask)

	// roll changes the Deployment under load, and returns what came of it and the
	// weights that the canary had.
	roll := func(t *testing.T, end string, env ...string) (r load.Report, weights []string) {
		l := load.Start(ask)
		kubectl(t, append([]string{"-n", "shop", "set", "env", "deployment/orders"}, env...)...)
		eventually(t, "the canary has "+end, func() error {
			weight := kubectl(t, "-n", "shop", "get", "httproute/orders", "-o", `jsonpath={.spec.rules[0].backendRefs[?(@.name=="orders-canary")].weight}`)
			if len(weights) == 0 || weights[len(weights)-1] != weight {
				weights = append(weights, weight)
			}
			if p := phase(); p != end {
				return fmt.Errorf("the phase is %q, the weights were %s", p, weights)
			}
			return nil
		})
		r = l.Stop()
		t.Logf("canary's weights %s: %s", weights, r)
		return r, weights
	}
	answeredByCanary := func(r load.Report) (n int) {
		for pod, answers := range r.By {
			if !strings.HasPrefix(pod, "orders-primary-") {
				n += answers
			}
		}
		return n
	}

	t.Run("A good version", func(t *testing.T) {
		r, weights := roll(t, "Succeeded", "VERSION=2")
		if got := strings.Join(weights, " "); !strings.Contains(got, "20 40 60") {
			t.Errorf("the canary's weights were %s, want 20 40 60 among them", got)
		}
		if len(r.Failures) > 0 || len(r.Cut) > 0 {
			t.Error("requests failed")
		}
		if answeredByCanary(r) == 0 {
			t.Error("the canary has answered none")
		}
	})
	t.Run("A version that fails", func(t *testing.T) {
		r, weights := roll(t, "Failed", "VERSION=3", "FAIL_PERCENT=50")
		if got := strings.Join(weights, " "); strings.Contains(got, "40") {
			t.Errorf("the canary's weights were %s, want none behind the first", got)
		}
		if n := r.Failed(load.Response); n == 0 || n != len(r.Failures) {
			t.Errorf("%d requests failed, %d of them by the version's fault; want some, and no other", len(r.Failures), n)
		}
		after := load.Start(ask)
		time.Sleep(2 * time.Second) // so that there is something to count
		if r := after.Stop(); len(r.Failures) > 0 || answeredByCanary(r) > 0 || r.Requests == 0 {
			t.Errorf("back at the old version: %s", r)
		}
	})
}

// startPrometheus has one scrape Headgate's pods each second, and returns its URL.
func startPrometheus(t *testing.T) string {
	var targets []string
	for _, p := range replicas(t) {
		targets = append(targets, fmt.Sprintf("%q", net.JoinHostPort(p.Status.PodIP, "9090")))
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf(`{global: {scrape_interval: 1s}, scrape_configs: [{job_name: headgate, static_configs: [{targets: [%s]}]}]}`, strings.Join(targets, ", "))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	start(t, root+"/bin/prometheus", "--config.file="+config, "--storage.tsdb.path="+dir, "--web.listen-address="+address)
	return "http://" + address
}

// startFlagger runs it beside the cluster, with the objects that it knows applied.
func startFlagger(t *testing.T, prometheus string) {
	kubectl(t, "apply", "-f", root+"/bin/flagger.yaml")
	t.Cleanup(func() { kubectl(t, "delete", "-f", root+"/bin/flagger.yaml", "--wait=false") })
	// Flagger ends at once if the API server does not serve them yet.
	eventually(t, "Flagger's kinds are served", func() error {
		_, err := run(time.Minute, "kubectl", "-n", "shop", "get", "canaries,metrictemplates,alertproviders")
		return err
	})
	_, port, _ := net.SplitHostPort(freeAddress(t))
	start(t, root+"/bin/flagger", "-kubeconfig="+os.Getenv("KUBECONFIG"), "-mesh-provider=gatewayapi:v1", "-metrics-server="+prometheus,
		"-namespace=shop", "-control-loop-interval=2s", "-port="+port, "-log-level=info")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the test ends, and shows what it has said if that fails.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		if text, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s said: %s", filepath.Base(name), text)
		}
	})
}
