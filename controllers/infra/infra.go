// Package infra keeps what each Gateway needs in a cluster: its Service and the
// alias of that, and for mode Dedicated a Deployment with its autoscaler and
// disruption budget. It also makes the key of session persistence, which all
// replicas share. Only the leader runs it.
//
// What it decides is recorded in the Services and nowhere else, and every
// replica, and the next leader, reads it there: the pods' ports that a Gateway's
// listeners are bound to, in targetPorts, and whose pods serve it, in the
// selector and the annotation compile.ModeAnnotation.
package infra

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
)

// Options say what the objects look like.
type Options struct {
	// Namespace is Headgate's own: the objects are there, but for aliases.
	Namespace string
	// Selector are the labels of Headgate's own pods.
	Selector map[string]string
	// Deployment is the one that Headgate's own pods are of, and that those of
	// Gateways of mode Dedicated are made after. Empty means that there are none.
	Deployment string
	// ClusterDomain ends the names of Services; cluster.local if empty.
	ClusterDomain string
	// FirstPort and LastPort bound the target ports that are allotted; 0 means
	// 10000 and 19999.
	FirstPort, LastPort int32
	// Handover is how long each step of a change of mode takes effect before the
	// next follows; 0 means 10 s.
	Handover time.Duration
	Log      logr.Logger
}

// Labels and annotations of the objects. The first label and the annotation
// headgate.dev/gateway say whose they are; objects that bear them and that no
// Gateway needs are deleted.
const (
	managedByLabel = "app.kubernetes.io/managed-by"
	managedBy      = "headgate"
	// GatewayNameLabel is the one that GEP-1762 asks for.
	GatewayNameLabel      = "gateway.networking.k8s.io/gateway-name"
	GatewayNamespaceLabel = "headgate.dev/gateway-namespace"
	// gatewayAnnotation names the Gateway in full: a label's value has at most 63 bytes.
	gatewayAnnotation = "headgate.dev/gateway"
	// These record which labels and annotations came from the Gateway, so that
	// one that is gone from there goes from here.
	labelsAnnotation      = "headgate.dev/infrastructure-labels"
	annotationsAnnotation = "headgate.dev/infrastructure-annotations"

	fieldManager = "headgate"
)

// Kinds are the kinds that the client's cache must hold of Options.Namespace
// where Options.Deployment is set, beside Services.
func Kinds() []client.Object {
	return []client.Object{&appsv1.Deployment{}, &autoscalingv2.HorizontalPodAutoscaler{}, &policyv1.PodDisruptionBudget{}}
}

// AddToScheme registers Kinds.
func AddToScheme(scheme *runtime.Scheme) error {
	return errors.Join(appsv1.AddToScheme(scheme), autoscalingv2.AddToScheme(scheme), policyv1.AddToScheme(scheme))
}

// Keeper keeps the objects. Its methods are safe for concurrent use, but Run
// runs once at a time.
type Keeper struct {
	client client.Client
	reader client.Reader
	opts   Options
	log    logr.Logger
	wake   chan struct{} // capacity 1

	// These are Run's.
	moves    map[string]*move // by the name of the Gateway's objects
	failures map[string]*failure

	mu   sync.Mutex
	want []compile.Infrastructure
	any  bool // a result was published
	keys bool // session persistence needs keys, and there are none
}

// New returns a Keeper. The client reads from a cache, reader from the API server.
func New(c client.Client, reader client.Reader, opts Options) *Keeper {
	if opts.ClusterDomain == "" {
		opts.ClusterDomain = "cluster.local"
	}
	if opts.FirstPort == 0 {
		opts.FirstPort = 10000
	}
	if opts.LastPort == 0 {
		opts.LastPort = 19999
	}
	if opts.Handover == 0 {
		opts.Handover = 10 * time.Second
	}
	return &Keeper{client: c, reader: reader, opts: opts, log: opts.Log, wake: make(chan struct{}, 1), moves: map[string]*move{}, failures: map[string]*failure{}}
}

// Publish hands over a result. It does not wait. Results come in order.
func (k *Keeper) Publish(result *compile.Result) {
	k.mu.Lock()
	k.want, k.any, k.keys = result.Infrastructure, true, result.NeedsSessionKeys
	k.mu.Unlock()
	k.Look()
}

// Look says that an object of Kinds changed. It does not wait.
func (k *Keeper) Look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run reconciles until the context ends. It may be called again after it returned.
func (k *Keeper) Run(ctx context.Context) error {
	delay, said := firstDelay, ""
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		waited := false
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-again.C:
			waited = true
		}
		wait, err := k.reconcile(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			delay, said = firstDelay, ""
		} else {
			wait = sooner(wait, delay)
			if waited {
				delay = min(2*delay, mostDelay)
			}
			if text := err.Error(); waited || text != said {
				k.log.Error(err, "A Gateway's infrastructure is not as it should be; trying again", "after", wait)
				said = text
			}
		}
		if wait > 0 {
			again.Reset(wait)
		}
	}
}

// sooner returns the shorter of two times to wait, of which 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// reconcile makes all that differs what it should be. It returns after what
// time to look again, 0 for not before something happens.
func (k *Keeper) reconcile(ctx context.Context) (time.Duration, error) {
	k.mu.Lock()
	want, known, keys := k.want, k.any, k.keys
	k.mu.Unlock()
	if !known {
		return 0, nil
	}
	services, err := k.list(ctx, k.client)
	if err != nil {
		return 0, err
	}
	deployments, err := k.deployments(ctx)
	if err != nil {
		return 0, err
	}
	wait := k.moveAll(want, services, deployments)
	var keysErr error
	if keys {
		keysErr = k.reconcileSessionKeys(ctx, want)
	}
	err = errors.Join(keysErr,
		k.reconcileServices(ctx, want, services),
		k.reconcileAliases(ctx, want),
		k.reconcileDedicated(ctx, want, deployments),
	)
	return sooner(wait, k.untilRetry()), err
}

func ours(obj metav1.Object) bool {
	return obj.GetLabels()[managedByLabel] == managedBy && obj.GetAnnotations()[gatewayAnnotation] != ""
}

// setMetadata sets the labels and annotations that are Headgate's and the
// Gateway's. Others, such as a cloud's load balancer's, stay. The object goes
// with the GatewayClass, should Headgate be uninstalled before it can delete it.
func setMetadata(obj metav1.Object, w compile.Infrastructure, gatewayLabels, gatewayAnnotations map[string]string) {
	if w.ClassUID != "" {
		obj.SetOwnerReferences([]metav1.OwnerReference{classOf(&w)})
	}
	labels, annotations := maps.Clone(obj.GetLabels()), maps.Clone(obj.GetAnnotations())
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	for _, key := range strings.Fields(annotations[labelsAnnotation]) {
		delete(labels, key)
	}
	for _, key := range strings.Fields(annotations[annotationsAnnotation]) {
		delete(annotations, key)
	}
	maps.Copy(labels, gatewayLabels)
	maps.Copy(annotations, gatewayAnnotations)
	maps.Copy(labels, identity(w))
	annotations[gatewayAnnotation] = w.Gateway.NamespacedName().String()
	annotations[labelsAnnotation] = strings.Join(slices.Sorted(maps.Keys(gatewayLabels)), " ")
	annotations[annotationsAnnotation] = strings.Join(slices.Sorted(maps.Keys(gatewayAnnotations)), " ")
	obj.SetLabels(labels)
	obj.SetAnnotations(annotations)
}

// identity are the labels of all that is a Gateway's.
func identity(w compile.Infrastructure) map[string]string {
	return map[string]string{
		managedByLabel:        managedBy,
		GatewayNameLabel:      labelValue(w.Gateway.Name),
		GatewayNamespaceLabel: w.Gateway.Namespace,
	}
}

// labelValue cuts a name to what a label's value may hold.
func labelValue(name string) string {
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// merged returns two maps as one, the second of which holds.
func merged[V ~string](under map[string]V, over map[string]string) map[string]string {
	if len(under) == 0 {
		return over
	}
	all := make(map[string]string, len(under)+len(over))
	for key, value := range under {
		all[key] = string(value)
	}
	maps.Copy(all, over)
	return all
}
