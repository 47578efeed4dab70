package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/admin"
	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/infra"
	"github.com/headgate/headgate/controllers/loop"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/controllers/status"
	"github.com/headgate/headgate/controllers/watch"
	"github.com/headgate/headgate/dataplane/observe"
)

// clusterOptions are the flags of Kubernetes mode.
type clusterOptions struct {
	kubeconfig  string
	namespace   string
	identity    string
	selector    map[string]string
	lease       string
	deployment  string
	gateway     string
	serviceType string
	readPods    bool
}

func newClusterOptions() clusterOptions {
	hostname, _ := os.Hostname()
	o := clusterOptions{
		namespace:   "headgate-system",
		identity:    hostname,
		selector:    map[string]string{"app.kubernetes.io/name": "headgate"},
		lease:       "headgate",
		serviceType: string(corev1.ServiceTypeLoadBalancer),
	}
	if v := os.Getenv("POD_NAMESPACE"); v != "" {
		o.namespace = v
	}
	if v := os.Getenv("POD_NAME"); v != "" {
		o.identity = v
	}
	return o
}

func (o *clusterOptions) register(f *pflag.FlagSet) {
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "reach the cluster by this `file` (default $KUBECONFIG, or the pod's own account)")
	f.StringVar(&o.namespace, "namespace", o.namespace, "Headgate's own namespace, where the Gateways' Services are (default $POD_NAMESPACE)")
	f.StringVar(&o.identity, "identity", o.identity, "this replica's name among those that elect a leader (default $POD_NAME)")
	f.StringToStringVar(&o.selector, "service-selector", o.selector, "the `labels` of Headgate's pods, by which the Gateways' Services select them")
	f.StringVar(&o.lease, "lease", o.lease, "the Lease by which replicas elect a leader")
	f.StringVar(&o.deployment, "deployment", "", "Headgate's own Deployment, after which those of Gateways of mode Dedicated are made (default: there are none)")
	f.StringVar(&o.gateway, "gateway", "", "serve this Gateway only, as `namespace/name`, and never lead: for the pods of a Gateway of mode Dedicated")
	f.StringVar(&o.serviceType, "service-type", o.serviceType, "the type of the Gateways' Services: LoadBalancer, NodePort or ClusterIP")
	f.BoolVar(&o.readPods, "read-pods", false, "read pods' labels and weights where a BackendPolicy asks for them; Headgate must be allowed to list and watch pods then")
}

// kubernetes gets its objects from a cluster, and writes statuses and
// infrastructure there.
type kubernetes struct {
	config  *rest.Config
	opts    *clusterOptions
	gateway types.NamespacedName // of --gateway
	metrics *observe.Metrics
	log     logr.Logger
	lack    atomic.Pointer[string] // what connect waits for

	// connect makes these.
	cluster  *watch.Cluster
	version  string // of the Gateway API's CRDs
	statuses *status.Writer
	infra    *infra.Keeper
}

func newKubernetes(o *serveOptions, metrics *observe.Metrics, log logr.Logger) (*kubernetes, error) {
	switch corev1.ServiceType(o.cluster.serviceType) {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort, corev1.ServiceTypeClusterIP:
	default:
		return nil, usageError{fmt.Errorf("--service-type %q: want LoadBalancer, NodePort or ClusterIP", o.cluster.serviceType)}
	}
	var gateway types.NamespacedName
	if o.cluster.gateway != "" {
		var ok bool
		if gateway.Namespace, gateway.Name, ok = strings.Cut(o.cluster.gateway, "/"); !ok || gateway.Namespace == "" || gateway.Name == "" {
			return nil, usageError{fmt.Errorf("--gateway %q: want namespace/name", o.cluster.gateway)}
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.cluster.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, usageError{errors.New("there is no cluster to serve for: want --manifests FOLDER, --kubeconfig FILE, KUBECONFIG, or to run in a pod")}
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	ctrl.SetLogger(log.WithName("controller-runtime"))
	klog.SetLogger(log.WithName("client-go"))
	return &kubernetes{config: config, opts: &o.cluster, gateway: gateway, metrics: metrics, log: log}, nil
}

const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Second
)

// connect connects to the API server. While that is away, or the CRDs are, it
// says so and tries again: a process that ended would only be started later,
// and is not asked whether it is ready meanwhile.
func (k *kubernetes) connect(ctx context.Context) error {
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		err := k.try(ctx)
		if err == nil {
			k.lack.Store(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why := err.Error()
		k.lack.Store(&why)
		k.log.Error(err, "Not ready: nothing is served without a cluster; trying again", "after", delay.String())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

func (k *kubernetes) waiting() string {
	if why := k.lack.Load(); why != nil {
		return *why
	}
	return ""
}

// try connects once.
func (k *kubernetes) try(ctx context.Context) error {
	options := watch.Options{
		Namespace: k.opts.namespace,
		Identity:  k.opts.identity,
		Seen:      func(ref objects.Ref) { k.statuses.Look(ref) },
		Metrics:   k.metrics.Registry(),
		Log:       k.log.WithName("watch"),
	}
	if k.gateway.Name == "" {
		options.Lease = k.opts.lease
		if k.opts.deployment != "" {
			options.Deployment = k.opts.deployment
			options.Kept, options.AddToScheme = infra.Kinds(), infra.AddToScheme
			options.KeptChanged = func() { k.infra.Look() }
		}
	}
	var err error
	k.cluster, err = watch.New(ctx, k.config, options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if k.version, err = k.cluster.BundleVersion(ctx); err != nil {
		k.log.Error(err, "GatewayClasses will claim the version that Headgate was built with")
	}
	k.statuses = status.NewWriter(k.cluster.Client(), k.cluster.Reader(), status.Options{
		Metrics: k.metrics.Registry(),
		Log:     k.log.WithName("status"),
	})
	k.infra = infra.New(k.cluster.Client(), k.cluster.Reader(), infra.Options{
		Namespace:  k.opts.namespace,
		Selector:   k.opts.selector,
		Deployment: k.opts.deployment,
		Log:        k.log.WithName("infra"),

		ClusterDomain: clusterDomain("/etc/resolv.conf"),
	})
	return nil
}

// clusterDomain returns what the names of the cluster's Services end in, as the
// kubelet says to pods in the search list of their resolv.conf; "" if it does not.
func clusterDomain(resolvConf string) string {
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "search" {
			continue
		}
		for _, name := range words[1:] {
			if domain, ok := strings.CutPrefix(name, "svc."); ok {
				return strings.TrimSuffix(domain, ".")
			}
		}
	}
	return ""
}

func (k *kubernetes) loopOptions(o *loop.Options) {
	o.Compile = compile.Options{
		Namespace: k.opts.namespace, BundleVersion: k.version, Gateway: k.gateway,
		ClusterDomain: clusterDomain("/etc/resolv.conf"),
		Dedicated:     k.opts.deployment != "", ServiceType: v1alpha1.GatewayServiceType(k.opts.serviceType),
		ReadPods: k.opts.readPods,
	}
	o.Load = k.cluster.Load
	o.Published = func(result *compile.Result) {
		k.statuses.Publish(result)
		k.infra.Publish(result)
		for _, ref := range result.ChangedFindings {
			for _, f := range result.FindingsOf(ref) {
				k.log.V(1).Info("Not as written: " + entryText(findingEntry(nil, f)))
			}
		}
	}
	// What is written together comes together; a busy cluster still converges.
	o.Holdoff, o.Ceiling = time.Millisecond, 500*time.Millisecond
}

func (k *kubernetes) run(ctx context.Context, l *loop.Loop) error {
	return k.cluster.Run(ctx, l, k.statuses.Run, k.infra.Run)
}

func (k *kubernetes) shutdownDelay() time.Duration { return 5 * time.Second }

func (k *kubernetes) report(result *compile.Result) []admin.Entry {
	entries := []admin.Entry{}
	if result != nil {
		for _, f := range result.Findings() {
			entries = append(entries, findingEntry(nil, f))
		}
	}
	return entries
}
