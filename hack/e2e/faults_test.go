//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/headgate/headgate/hack/e2e/load"
)

// TestFaults takes away what Headgate has, under load.
func TestFaults(t *testing.T) {
	install(t)
	s := newShop(t, "faults")
	t.Run("The leader evicted", func(t *testing.T) { leaderEvicted(t, s) })
	t.Run("A replica killed", func(t *testing.T) { replicaKilled(t, s) })
	t.Run("The API server away", func(t *testing.T) { apiServerAway(t, s) })
}

// leaderEvicted has the leader's pod evicted, as draining a node does: its
// requests are finished, another leads, and the disruption budget keeps the
// other pod from following.
func leaderEvicted(t *testing.T, s *shop) {
	leader, others := leader(t), []string{}
	for _, p := range replicas(t) {
		if p.name() != leader {
			others = append(others, p.name())
		}
	}
	l := s.load()
	if _, err := evict(leader); err != nil {
		t.Fatal(err)
	}
	for _, name := range others {
		// The budget lets it go only if the leader's successor is ready already.
		_, err := evict(name)
		switch {
		case err == nil && !slices.ContainsFunc(replicas(t), pod.ready):
			t.Error("the only pod that was left was evicted")
		case err != nil && !strings.Contains(err.Error(), "disruption budget"):
			t.Error(err)
		}
	}
	settled(t, system, release)
	l.stop(t)
	eventually(t, "another pod leads", func() error {
		if now := holder(); now == "" || now == leader {
			return fmt.Errorf("%q does", now)
		}
		return nil
	})
	s.follows(t, "led")
}

// holder returns who the Lease says leads, if anybody.
func holder() string {
	name, _ := run(10*time.Second, "kubectl", "-n", system, "get", "lease", release, "-o", "jsonpath={.spec.holderIdentity}")
	return name
}

// leader returns the name of the pod that leads.
func leader(t *testing.T) (name string) {
	t.Helper()
	eventually(t, "a pod leads", func() error {
		if name = holder(); name == "" {
			return errors.New("none does")
		}
		return nil
	})
	return name
}

func evict(pod string) (string, error) {
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, system)
	return runIn(eviction, time.Minute, "kubectl", "create", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", system, pod), "-f", "-")
}

// follows checks that a new route is served by every replica, and has its status.
func (s *shop) follows(t *testing.T, path string) {
	t.Helper()
	apply(t, fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  parentRefs: [{name: web}]
  hostnames: [%[1]s.example.com]
  rules: [{backendRefs: [{name: steady, port: 80}]}]
`, path, s.namespace))
	for _, p := range replicas(t) {
		awaitAnswer(t, load.Options{Address: net.JoinHostPort(p.Status.PodIP, s.podPort), Host: path + ".example.com"})
	}
	kubectl(t, "-n", s.namespace, "wait", "httproute/"+path, within,
		`--for=jsonpath={.status.parents[0].conditions[?(@.type=="Accepted")].status}=True`)
}

// replicaKilled kills a replica as a kernel does that is out of memory. What it
// was asked just then is lost and nothing else: what others were asked is not,
// and new connections fail no longer than Kubernetes takes to notice.
func replicaKilled(t *testing.T, s *shop) {
	pods := replicas(t)
	victim, other := pods[0], pods[1]
	const connections = 8
	start := func(address string, fresh bool) *load.Load {
		return load.Start(load.Options{Address: address, Host: shopHost, Path: "/?after=50ms", Connections: connections, Fresh: fresh, Pause: 5 * time.Millisecond})
	}
	direct := func(p pod) *load.Load { return start(net.JoinHostPort(p.Status.PodIP, s.podPort), false) }
	onVictim, onOther := direct(victim), direct(other)
	kept, fresh := start(s.plain, false), start(s.plain, true)
	time.Sleep(500 * time.Millisecond) // so that each is in the midst of it

	killed := time.Now()
	if err := syscall.Kill(processOf(t, victim), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica is started again and ready", func() error {
		for _, p := range replicas(t) {
			if p.name() == victim.name() && p.ready() && p.Status.ContainerStatuses[0].RestartCount > victim.Status.ContainerStatuses[0].RestartCount {
				return nil
			}
		}
		return errors.New("it is not")
	})
	time.Sleep(time.Second)

	if r := onOther.Stop(); len(r.Failures) > 0 || len(r.Cut) > 0 {
		t.Errorf("requests to the other replica: %s", r)
	}
	for name, l := range map[string]*load.Load{"that replica": onVictim, "the Gateway over kept connections": kept, "the Gateway over new connections": fresh} {
		r := l.Stop()
		if lost := r.Failed(load.Exchange) + r.Failed(load.Response); lost > connections {
			t.Errorf("requests to %s: more lost than were in flight: %s", name, r)
		}
		refused := time.Duration(0)
		for _, f := range r.Failures {
			if f.Stage == load.Connect {
				refused = f.At.Sub(killed)
			}
		}
		if refused > 15*time.Second {
			t.Errorf("requests to %s: connections were refused %v after the kill: %s", name, refused, r)
		}
		t.Logf("requests to %s: %d answered, %d of %d in flight lost; %d connections refused, the last after %v",
			name, r.Requests, r.Failed(load.Exchange), connections, r.Failed(load.Connect), refused.Round(time.Millisecond))
	}
}

// processOf returns the process ID of a replica, as this machine sees it.
func processOf(t *testing.T, p pod) int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte("\x00--identity="+p.name()+"\x00")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process is %s", p.name())
	return 0
}

// apiServerAway takes the API server away for a while. What serves goes on, and
// says that it does not see changes; what starts then serves nothing, and says
// why. When the API server is back, all catch up.
func apiServerAway(t *testing.T, s *shop) {
	pods := replicas(t)
	l := s.load()
	apiServer(t, "stop")
	back := false
	defer func() {
		if !back {
			apiServer(t, "start")
		}
	}()
	began := time.Now()
	for _, p := range pods {
		eventually(t, p.name()+" says that it sees no changes", func() error {
			if age := staleness(t, p); age <= 0 {
				return fmt.Errorf("headgate_watch_stale_seconds is %v", age)
			}
			if !strings.Contains(logOf(t, p), "Changes in the cluster are not seen") {
				return errors.New("its log does not")
			}
			return nil
		})
	}
	time.Sleep(*outage - time.Since(began))
	t.Logf("the API server has been away for %v", time.Since(began).Round(time.Second))
	for _, p := range pods {
		if status, why := readiness(p); status != http.StatusOK {
			t.Errorf("%s is not ready: %s", p.name(), why)
		}
	}
	l.stop(t)

	started, other := pods[0], pods[1]
	kept := load.Start(load.Options{Address: net.JoinHostPort(other.Status.PodIP, s.podPort), Host: shopHost, Connections: 4, Pause: 10 * time.Millisecond})
	first := processOf(t, started)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica that starts without an API server says so", func() error {
		status, why := readiness(started)
		if status != http.StatusServiceUnavailable || !strings.Contains(why, "the API server cannot be reached") {
			return fmt.Errorf("readiness is %d: %s", status, why)
		}
		if !strings.Contains(logOf(t, started), "Not ready: nothing is served without a cluster") {
			return errors.New("its log does not")
		}
		return nil
	})
	t.Logf("a replica was started without it, after %v", time.Since(began).Round(time.Second))
	second := processOf(t, started)
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(started.Status.PodIP, s.podPort), time.Second); err == nil {
		conn.Close()
		t.Error("it listens, though it cannot know what to serve")
	}

	apiServer(t, "start")
	back = true
	returned := time.Now()
	t.Logf("it is back after %v", time.Since(began).Round(time.Second))
	for _, p := range pods {
		// kube-proxy, by which pods reach the API server, has lost it too.
		eventually(t, p.name()+" has caught up", func() error {
			if status, why := readiness(p); status != http.StatusOK {
				return fmt.Errorf("readiness is %d: %s", status, why)
			}
			if age := staleness(t, p); age != 0 {
				return fmt.Errorf("headgate_watch_stale_seconds is %v", age)
			}
			return nil
		})
	}
	t.Logf("all have caught up %v later", time.Since(returned).Round(time.Second))
	eventually(t, "the log says that changes are seen again", func() error {
		if !strings.Contains(logOf(t, other), "Changes in the cluster are seen again") {
			return errors.New("it does not")
		}
		return nil
	})
	if now := processOf(t, started); now != second {
		t.Error("the replica that started without an API server did not wait for it")
	}
	s.follows(t, "back")
	if r := kept.Stop(); len(r.Failures) > 0 || len(r.Cut) > 0 {
		t.Errorf("requests to the replica that served on: %s", r)
	}
}

func apiServer(t *testing.T, what string) {
	t.Helper()
	if _, err := run(patience, cluster, "api-server", what); err != nil {
		t.Fatal(err)
	}
}

// readiness asks a replica itself.
func readiness(p pod) (status int, text string) { return ask(p, "/readyz") }

func ask(p pod, path string) (status int, text string) {
	client := http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + net.JoinHostPort(p.Status.PodIP, "9090") + path)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, strings.TrimSpace(string(body))
}

// staleness returns the greatest headgate_watch_stale_seconds of a replica.
func staleness(t *testing.T, p pod) (oldest float64) {
	t.Helper()
	_, text := ask(p, "/metrics")
	kinds := 0
	for line := range strings.Lines(text) {
		if sample, ok := strings.CutPrefix(line, "headgate_watch_stale_seconds{"); ok {
			_, value, _ := strings.Cut(sample, "} ")
			age, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			oldest = max(oldest, age)
			kinds++
		}
	}
	if kinds == 0 {
		return -1 // which is neither fine nor stale
	}
	return oldest
}

// logOf returns what a replica has logged since it was made, read where the
// kubelet has it: an API server need not be there.
func logOf(t *testing.T, p pod) string {
	t.Helper()
	dir := os.Getenv("CLUSTER_DIR")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".cache", "headgate-cluster")
	}
	files, err := filepath.Glob(filepath.Join(dir, "log", "pods", fmt.Sprintf("%s_%s_*", system, p.name()), "headgate", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
