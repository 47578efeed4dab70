package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// world is a control plane, a Headgate, and what stands behind it.
type world struct {
	*options
	name     string
	out      io.Writer
	kube     client.Client
	config   *rest.Config
	account  string // kubeconfig of Headgate's account
	headgate *headgate
	// echoes are where backends are: each says who it is.
	echoes []net.Listener
	// failed counts the answers that were wrong.
	failed int
	// before are the API server's counts at the scenario's start.
	before writes
}

// measure runs a scenario.
func (s scenario) measure(ctx context.Context, o *options, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "headgate-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w := &world{options: o, name: s.name, out: out}
	stop, err := w.controlPlane(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	address, err := endpointAddress()
	if err != nil {
		return err
	}
	for i := range 2 {
		l, err := net.Listen("tcp", address+":0")
		if err != nil {
			return err
		}
		server := &http.Server{Handler: echo(i)}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		w.echoes = append(w.echoes, l)
	}
	if w.headgate, err = start(o.headgate, w.account); err != nil {
		return err
	}
	defer func() { w.headgate.stop() }()
	if err := w.headgate.ready(ctx); err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d routes, %d CPUs, load before %.14s\n", s.name, s.routes, runtime.NumCPU(), load)
	if err := w.settled(ctx, "with nothing"); err != nil {
		return err
	}
	if w.before, err = w.writes(ctx); err != nil {
		return err
	}
	if err := s.run(ctx, w, s.routes); err != nil {
		return err
	}
	if err := w.reportWrites(ctx, s.routes); err != nil {
		return err
	}
	if w.failed > 0 {
		return fmt.Errorf("%d answers were wrong; none may be", w.failed)
	}
	return nil
}

// echo answers with who it is and which route the request came by, as the
// route's filter says.
func echo(i int) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(rw, "%d %s", i, r.Header.Get("X-Route"))
	})
}

// controlPlane starts an etcd and a kube-apiserver with the CRDs, Headgate's
// namespace and an account that has its rights.
func (w *world) controlPlane(dir string) (stop func() error, err error) {
	ctrl.SetLogger(logr.Discard()) // envtest would complain that there is none
	scheme := objects.Scheme()
	utilruntime.Must(rbacv1.AddToScheme(scheme))
	env := &envtest.Environment{
		Scheme:                   scheme,
		CRDDirectoryPaths:        []string{filepath.Join(w.crds, "config/crd/experimental"), filepath.Join(root, "config/crd")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	// It would look for a default route, which this network lacks.
	address, err := endpointAddress()
	if err != nil {
		return nil, err
	}
	env.ControlPlane.GetAPIServer().Configure().Set("advertise-address", address)
	if w.config, err = env.Start(); err != nil {
		return nil, fmt.Errorf("start the control plane: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.Stop())
		}
	}()
	w.config.QPS = -1
	if w.kube, err = client.New(w.config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	// An account like a pod's, so that the API server treats it as one.
	user := envtest.User{Name: "system:serviceaccount:" + namespace + ":headgate",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}}
	account, err := env.AddUser(user, nil)
	if err != nil {
		return nil, err
	}
	text, err := account.KubeConfig()
	if err != nil {
		return nil, err
	}
	w.account = filepath.Join(dir, "account.kubeconfig")
	if err := os.WriteFile(w.account, text, 0o600); err != nil {
		return nil, err
	}
	binding := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user.Name}},
	}
	binding.Name = "headgate"
	if err := w.create(context.Background(), namespaceObject(namespace), binding, gatewayClass()); err != nil {
		return nil, err
	}
	return env.Stop, nil
}

// root is the repository's, from where the program runs.
var root = "."

// create creates objects, one after the other.
func (w *world) create(ctx context.Context, list ...client.Object) error {
	for _, obj := range list {
		if err := w.kube.Create(ctx, obj); err != nil {
			return fmt.Errorf("create %T %s/%s: %w", obj, obj.GetNamespace(), obj.GetName(), err)
		}
	}
	return nil
}

// createMany creates objects, several at once.
func (w *world) createMany(ctx context.Context, list []client.Object) error {
	return inParallel(list, 16, func(obj client.Object) error { return w.create(ctx, obj) })
}

// inParallel calls f for all, some at a time, and returns the errors.
func inParallel[T any](list []T, workers int, f func(T) error) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
		next   = make(chan T)
	)
	for range workers {
		wg.Go(func() {
			for item := range next {
				if err := f(item); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	for _, item := range list {
		mu.Lock()
		over := failed != nil
		mu.Unlock()
		if over {
			break
		}
		next <- item
	}
	close(next)
	wg.Wait()
	return failed
}

// served waits until a Gateway's port is bound, and returns its address.
func (w *world) served(ctx context.Context, gateway types.NamespacedName, port int32) (address string, err error) {
	err = await(ctx, time.Minute, fmt.Sprintf("Gateway %s serves port %d", gateway, port), 50*time.Millisecond, func() error {
		var service corev1.Service
		if err := w.kube.Get(ctx, types.NamespacedName{Namespace: namespace, Name: compile.ServiceName(gateway)}, &service); err != nil {
			return err
		}
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port })
		if i < 0 {
			return fmt.Errorf("its Service's ports are %v", service.Spec.Ports)
		}
		address = net.JoinHostPort("127.0.0.1", service.Spec.Ports[i].TargetPort.String())
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return address, err
}

// settled waits until memory does not move any more, and prints it.
func (w *world) settled(ctx context.Context, what string) error {
	last, since := memory{}, time.Now()
	for began := time.Now(); time.Since(since) < w.settle && time.Since(began) < 2*time.Minute; time.Sleep(500 * time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now, err := w.headgate.memory()
		if err != nil {
			return err
		}
		if diff := now.resident - last.resident; diff > 1 || diff < -1 {
			last, since = now, time.Now()
		}
	}
	return w.report(what)
}

// report prints the memory that there is now.
func (w *world) report(what string) error {
	now, err := w.headgate.memory()
	if err != nil {
		return err
	}
	fmt.Fprintf(w.out, "  memory %s: %s\n", what, now)
	return nil
}

// heap writes a profile of the heap, if asked to.
func (w *world) heap(what string) error {
	if w.profile == "" {
		return nil
	}
	return w.headgate.profile("heap", filepath.Join(w.profile, w.name+"-"+what+".heap"))
}

// writes counts what the API server was asked to write, by resource and verb.
type writes map[string]int

// writes asks the API server's metrics. Statuses are written by Headgate alone.
func (w *world) writes(ctx context.Context) (writes, error) {
	httpClient, err := rest.HTTPClientFor(w.config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(w.config.Host, "/")+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server's metrics: %s", response.Status)
	}
	counts := writes{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `subresource="status"`) || !strings.Contains(line, `verb="PATCH"`) {
			continue
		}
		_, rest, _ := strings.Cut(line, `resource="`)
		resource, _, _ := strings.Cut(rest, `"`)
		n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return nil, err
		}
		counts[resource] += int(n)
	}
	return counts, nil
}

// quietWrites waits until no more statuses are written.
func (w *world) quietWrites(ctx context.Context) (writes, error) {
	quiet := min(3*time.Second, w.settle)
	last, since := writes{}, time.Now()
	for time.Since(since) < quiet {
		now, err := w.writes(ctx)
		if err != nil {
			return nil, err
		}
		if fmt.Sprint(now) != fmt.Sprint(last) {
			last, since = now, time.Now()
		}
		time.Sleep(250 * time.Millisecond)
	}
	return last, nil
}

// reportWrites prints how many statuses were written in all.
func (w *world) reportWrites(ctx context.Context, routes int) error {
	counts, err := w.quietWrites(ctx)
	if err != nil {
		return err
	}
	var parts []string
	all := 0
	for resource, n := range counts {
		if n -= w.before[resource]; n > 0 {
			parts, all = append(parts, fmt.Sprintf("%s %d", resource, n)), all+n
		}
	}
	slices.Sort(parts)
	fmt.Fprintf(w.out, "  statuses written: %s; %.2f a route\n", strings.Join(parts, ", "), float64(all)/float64(routes))
	return nil
}
