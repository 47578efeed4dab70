package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/infra"
	"github.com/headgate/headgate/controllers/objects"
)

const (
	release   = "headgate"
	namespace = "headgate-system"
)

// The one control plane that all tests share; each has namespaces of its own.
var (
	kube        client.Client // may do everything
	kubectlBin  string
	adminFile   string // kubeconfig
	accountFile string // kubeconfig of the chart's ServiceAccount
	stateDir    string
)

func runTests(m *testing.M) (code int, err error) {
	stateDir, err = os.MkdirTemp("", "headgate-integration-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(stateDir)
	scheme := objects.Scheme()
	utilruntime.Must(infra.AddToScheme(scheme))
	utilruntime.Must(coordinationv1.AddToScheme(scheme))
	utilruntime.Must(rbacv1.AddToScheme(scheme))

	env := &envtest.Environment{
		Scheme:                   scheme,
		CRDDirectoryPaths:        []string{filepath.Join(os.Getenv(gatewayAPI), "config/crd/experimental"), "../../config/crd"},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// It would look for a default route, which the tests' network lacks.
	own, err := instanceAddress(1)
	if err != nil {
		return 0, err
	}
	env.ControlPlane.GetAPIServer().Configure().Set("advertise-address", strings.TrimSuffix(own, ":0"))
	config, err := env.Start()
	if err != nil {
		return 0, fmt.Errorf("start the control plane: %w", err)
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	if kube, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return 0, err
	}
	kubectlBin = env.ControlPlane.KubectlPath
	adminFile = filepath.Join(stateDir, "admin.kubeconfig")
	if err := os.WriteFile(adminFile, env.KubeConfig, 0o600); err != nil {
		return 0, err
	}
	account, err := env.AddUser(envtest.User{
		Name:   "system:serviceaccount:" + namespace + ":" + release,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace},
	}, nil)
	if err != nil {
		return 0, err
	}
	text, err := account.KubeConfig()
	if err != nil {
		return 0, err
	}
	accountFile = filepath.Join(stateDir, "account.kubeconfig")
	if err := os.WriteFile(accountFile, text, 0o600); err != nil {
		return 0, err
	}
	// The chart, as it would be installed; its pods do not start.
	if err := kube.Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return 0, err
	}
	if out, err := kubectl("apply", "--server-side", "-f", os.Getenv(chartEnv)); err != nil {
		return 0, fmt.Errorf("install the chart: %w\n%s", err, out)
	}
	// A patch release of the CRDs that Headgate was not built with.
	if out, err := kubectl("annotate", "--overwrite", "crd", "gatewayclasses.gateway.networking.k8s.io",
		consts.BundleVersionAnnotation+"="+bundleVersion); err != nil {
		return 0, fmt.Errorf("annotate the CRD: %w\n%s", err, out)
	}
	// The API server sees the rights that the chart grants some time after it took them.
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out, err := kubectl("auth", "can-i", "list", "gateways.gateway.networking.k8s.io", "--all-namespaces",
			"--as", "system:serviceaccount:"+namespace+":"+release)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("the chart's ServiceAccount has no rights: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

const bundleVersion = "v1.6.99"

func kubectl(args ...string) (string, error) {
	cmd := exec.Command(kubectlBin, append([]string{"--kubeconfig", adminFile}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+filepath.Join(stateDir, "kubectl"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply applies YAML as a user would.
func apply(t *testing.T, yaml string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := kubectl("apply", "-f", file); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// replica is a running Headgate.
type replica struct {
	name  string
	bind  string // address that its listeners are bound to
	admin string
	cmd   *exec.Cmd
	log   *bytes.Buffer // to be read after ended
	ended chan error
}

// look at what the binary and the chart are made from, so that go test runs
// these tests again when any of it changed, rather than trust its cache.
var look = sync.OnceValue(func() error {
	for _, dir := range []string{"api", "cmd", "config", "controllers", "dataplane", "charts"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			_, err = os.Stat(path)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
})

// start starts a replica with an address of its own, since all bind the same
// ports, and with more arguments.
func start(t *testing.T, name, bind string, more ...string) *replica {
	t.Helper()
	if err := look(); err != nil {
		t.Fatal(err)
	}
	r := &replica{name: name, bind: bind, admin: freeAddress(t), log: &bytes.Buffer{}, ended: make(chan error, 1)}
	r.cmd = exec.Command(os.Getenv(headgateBin), append(more,
		"--kubeconfig", accountFile, "--namespace", namespace, "--identity", name, "--lease", release, "--deployment", release,
		"--service-selector", "app.kubernetes.io/name=headgate", "--bind-address", bind,
		"--admin-address", r.admin, "--shutdown-delay", "0s", "--shutdown-timeout", "5s", "--log-level", "debug")...)
	pipe, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(pipe); lines.Scan(); {
			r.log.Write(append(lines.Bytes(), '\n'))
		}
		r.ended <- r.cmd.Wait()
	}()
	t.Cleanup(func() { r.stop(t) })
	eventually(t, name+" is ready", func() error {
		select {
		case err := <-r.ended:
			r.ended <- err
			t.Fatalf("%s ended: %v\n%s", name, err, r.log)
		default:
		}
		response, err := http.Get("http://" + r.admin + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return errors.New(response.Status)
		}
		return nil
	})
	return r
}

// stop ends a replica as a kubelet does. It may be called twice.
func (r *replica) stop(t *testing.T) {
	t.Helper()
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-r.ended:
		if err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	case <-time.After(patience):
		_ = r.cmd.Process.Kill()
		t.Errorf("%s did not end within %s", r.name, patience)
		<-r.ended
	}
	r.cmd = nil
	if strings.Contains(r.log.String(), "DATA RACE") {
		t.Errorf("%s raced", r.name)
	}
	if strings.Contains(r.log.String(), "forbidden") {
		t.Errorf("%s lacks a right", r.name)
	}
	if t.Failed() {
		t.Logf("%s's log:\n%s", r.name, r.log)
	}
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

// metric sums the samples of a metric on the admin address.
func (r *replica) metric(t *testing.T, name string) float64 {
	t.Helper()
	response, err := http.Get("http://" + r.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok && (rest[0] == '{' || rest[0] == ' ') {
			var value float64
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &value); err != nil {
				t.Fatal(err)
			}
			sum += value
		}
	}
	return sum
}

// address is where a Gateway's listener is served: its port of the Gateway's
// Service, led to this replica.
func (r *replica) address(t *testing.T, gateway types.NamespacedName, port int32) string {
	t.Helper()
	var address string
	eventually(t, fmt.Sprintf("Gateway %s is programmed, and its port %d allotted", gateway, port), func() error {
		var g gatewayv1.Gateway
		if err := kube.Get(t.Context(), gateway, &g); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(g.Status.Conditions, string(gatewayv1.GatewayConditionAccepted)) {
			return fmt.Errorf("conditions are %v", g.Status.Conditions)
		}
		var service corev1.Service
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: compile.ServiceName(gateway)}, &service); err != nil {
			return err
		}
		for _, p := range service.Spec.Ports {
			if p.Port == port {
				address = net.JoinHostPort(r.bind, p.TargetPort.String())
				conn, err := net.DialTimeout("tcp", address, time.Second)
				if err == nil {
					conn.Close()
				}
				return err
			}
		}
		return fmt.Errorf("ports are %v", service.Spec.Ports)
	})
	return address
}

// patience is how long anything that is awaited may take, on a machine that has
// other things to do. Twice a minute Headgate asks for kinds that were not there.
const patience = 2 * time.Minute

// eventually tries until it works.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %s: %v", patience, what, err)
}

// serve runs a handler where endpoints may be.
func serve(t *testing.T, i int, handler http.Handler) netip.AddrPort {
	t.Helper()
	address, err := instanceAddress(i)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// get asks a listener for a host and path, and returns the answer's status and body.
func get(c *http.Client, address, host, path string, header ...string) (int, string, error) {
	request, err := http.NewRequest("GET", "http://"+address+path, nil)
	if err != nil {
		return 0, "", err
	}
	request.Host = host
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := c.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}
