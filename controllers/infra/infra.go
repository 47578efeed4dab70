// Package infra gives each Gateway its Service and allots the pods' ports that
// its listeners are bound to. It also makes the key of session persistence, which
// all replicas share. Only the leader runs it.
//
// What was allotted is recorded in the Services' targetPorts and nowhere else:
// every replica, and the next leader, reads it there.
package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
)

// Options say what the Services look like.
type Options struct {
	// Namespace is Headgate's own: the Services are there.
	Namespace string
	// Selector are the labels of Headgate's pods.
	Selector map[string]string
	// ClusterDomain ends the names of Services; cluster.local if empty.
	ClusterDomain string
	// Type is LoadBalancer if empty.
	Type corev1.ServiceType
	// FirstPort and LastPort bound the target ports that are allotted; 0 means
	// 10000 and 19999.
	FirstPort, LastPort int32
	Log                 logr.Logger
}

// Labels of the Services. The first two say whose they are; Services that bear
// them and that no Gateway needs are deleted.
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

// Services keeps one Service per Gateway. Its methods are safe for concurrent use.
type Services struct {
	client client.Client
	reader client.Reader
	opts   Options
	log    logr.Logger
	wake   chan struct{} // capacity 1

	mu   sync.Mutex
	want []compile.Service
	any  bool // a result was published
	keys bool // session persistence needs keys, and there are none
}

// New returns Services. The client reads from a cache, reader from the API server.
func New(c client.Client, reader client.Reader, opts Options) *Services {
	if opts.Type == "" {
		opts.Type = corev1.ServiceTypeLoadBalancer
	}
	if opts.ClusterDomain == "" {
		opts.ClusterDomain = "cluster.local"
	}
	if opts.FirstPort == 0 {
		opts.FirstPort = 10000
	}
	if opts.LastPort == 0 {
		opts.LastPort = 19999
	}
	return &Services{client: c, reader: reader, opts: opts, log: opts.Log, wake: make(chan struct{}, 1)}
}

// Publish hands over a result. It does not wait. Results come in order.
func (s *Services) Publish(result *compile.Result) {
	s.mu.Lock()
	s.want, s.any, s.keys = result.Services, true, result.NeedsSessionKeys
	s.mu.Unlock()
	s.signal()
}

func (s *Services) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run reconciles until the context ends. It may be called again after it returned.
func (s *Services) Run(ctx context.Context) error {
	const first, most = 100 * time.Millisecond, 30 * time.Second
	delay := first
	s.signal()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		err := s.reconcile(ctx)
		if err == nil || ctx.Err() != nil {
			delay = first
			continue
		}
		s.log.Error(err, "A Gateway's Service is not as it should be; trying again", "after", delay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, most)
		s.signal()
	}
}

// reconcile compares with the cache, which costs nothing, and only if
// something differs asks the API server what there is and acts: ports must not
// be allotted by what the cache has not seen yet.
func (s *Services) reconcile(ctx context.Context) error {
	s.mu.Lock()
	want, known, keys := s.want, s.any, s.keys
	s.mu.Unlock()
	if !known {
		return nil
	}
	var keysErr error
	if keys {
		keysErr = s.reconcileSessionKeys(ctx, want)
	}
	return errors.Join(keysErr, s.reconcileServices(ctx, want), s.reconcileAliases(ctx, want))
}

func (s *Services) reconcileServices(ctx context.Context, want []compile.Service) error {
	cached, err := s.list(ctx, s.client)
	if err != nil {
		return err
	}
	if plan, err := s.plan(want, cached); err == nil && plan.empty() {
		return nil
	}
	live, err := s.list(ctx, s.reader)
	if err != nil {
		return err
	}
	plan, planErr := s.plan(want, live)
	for _, name := range plan.remove {
		if err := s.delete(ctx, live[name]); err != nil {
			return err
		}
	}
	failed := planErr
	for _, service := range plan.apply {
		if err := s.write(ctx, service); err != nil {
			failed = err // others get theirs all the same
		}
	}
	return failed
}

func (s *Services) delete(ctx context.Context, old *corev1.Service) error {
	err := s.client.Delete(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: old.Namespace, Name: old.Name}},
		client.Preconditions{UID: &old.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Service %s/%s: %w", old.Namespace, old.Name, err)
	}
	s.log.Info("Deleted a Service that no Gateway needs", "service", old.Namespace+"/"+old.Name)
	return nil
}

// write creates a Service, or updates it against the version that it was made
// from: whoever changed it since is not overwritten, and the next turn sees it.
func (s *Services) write(ctx context.Context, service *corev1.Service) error {
	var err error
	if service.ResourceVersion == "" {
		err = s.client.Create(ctx, service, client.FieldOwner(fieldManager))
	} else {
		err = s.client.Update(ctx, service, client.FieldOwner(fieldManager))
	}
	if err != nil {
		return fmt.Errorf("write Service %s/%s: %w", service.Namespace, service.Name, err)
	}
	s.log.Info("Wrote a Gateway's Service", "service", service.Namespace+"/"+service.Name, "gateway", service.Annotations[gatewayAnnotation])
	return nil
}

// list returns the Services in Headgate's namespace, by name.
func (s *Services) list(ctx context.Context, from client.Reader) (map[string]*corev1.Service, error) {
	var list corev1.ServiceList
	if err := from.List(ctx, &list, client.InNamespace(s.opts.Namespace)); err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	services := make(map[string]*corev1.Service, len(list.Items))
	for i := range list.Items {
		services[list.Items[i].Name] = &list.Items[i]
	}
	return services, nil
}

// plan is what there is to do.
type plan struct {
	remove []string          // sorted
	apply  []*corev1.Service // new, or of the version that there is
}

func (p plan) empty() bool { return len(p.remove) == 0 && len(p.apply) == 0 }

// plan compares what is wanted with what there is. An error is about the
// Services that it leaves out; the others are planned.
func (s *Services) plan(want []compile.Service, have map[string]*corev1.Service) (plan, error) {
	var (
		p      plan
		failed error
		names  = map[string]bool{}
		ports  = newAllotment(s.opts.FirstPort, s.opts.LastPort)
	)
	for _, w := range want {
		names[w.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if ours(have[name]) && !names[name] && have[name].DeletionTimestamp == nil {
			p.remove = append(p.remove, name)
		}
	}
	// Ports that are recorded stay; then new ones come from what is left.
	for _, w := range want {
		if old := have[w.Name]; old != nil && ours(old) {
			ports.keep(w, old.Spec.Ports)
		}
	}
	for _, w := range want {
		old := have[w.Name]
		if old != nil && !ours(old) {
			failed = fmt.Errorf("there is a Service %s/%s that is not Headgate's, but Gateway %s needs one of that name: rename it or delete it",
				old.Namespace, old.Name, w.Gateway.NamespacedName())
			continue
		}
		targets, err := ports.allot(w)
		if err != nil {
			failed = err
			continue
		}
		if desired := s.service(old, w, targets); old == nil || !equality.Semantic.DeepEqual(old, desired) {
			p.apply = append(p.apply, desired)
		}
	}
	return p, failed
}

func ours(service *corev1.Service) bool {
	return service.Labels[managedByLabel] == managedBy && service.Annotations[gatewayAnnotation] != ""
}

// service returns old, or a new Service, as the Gateway needs it. What is not
// said here is not Headgate's to set and stays.
func (s *Services) service(old *corev1.Service, w compile.Service, targets []int32) *corev1.Service {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: s.opts.Namespace, Name: w.Name}}
	if old != nil {
		service = old.DeepCopy()
	}
	s.setMetadata(service, w)

	spec := &service.Spec
	spec.Type = s.opts.Type
	spec.Selector = s.opts.Selector
	spec.ExternalTrafficPolicy = ""
	spec.LoadBalancerIP = ""
	if s.opts.Type == corev1.ServiceTypeLoadBalancer {
		spec.LoadBalancerIP = w.LoadBalancerIP
	}
	if s.opts.Type != corev1.ServiceTypeClusterIP {
		// So that the client's address is seen: limits and balancing go by it.
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	before := spec.Ports
	spec.Ports = make([]corev1.ServicePort, len(w.Ports))
	for i, port := range w.Ports {
		p := &spec.Ports[i]
		// The API server numbered its node port; that stays.
		for _, b := range before {
			if b.Port == port.Port && string(b.Protocol) == port.Protocol {
				*p = b
			}
		}
		p.Name, p.Port, p.Protocol = port.Name, port.Port, corev1.Protocol(port.Protocol)
		p.TargetPort = intstr.FromInt32(targets[i])
	}
	return service
}

// setMetadata sets the labels and annotations that are Headgate's and the
// Gateway's. Others, such as a cloud's load balancer's, stay. The Service goes
// with the GatewayClass, should Headgate be uninstalled before it can delete it.
func (s *Services) setMetadata(service *corev1.Service, w compile.Service) {
	if w.ClassUID != "" {
		service.OwnerReferences = []metav1.OwnerReference{classOf(&w)}
	}
	if service.Labels == nil {
		service.Labels = map[string]string{}
	}
	if service.Annotations == nil {
		service.Annotations = map[string]string{}
	}
	for _, key := range strings.Fields(service.Annotations[labelsAnnotation]) {
		delete(service.Labels, key)
	}
	for _, key := range strings.Fields(service.Annotations[annotationsAnnotation]) {
		delete(service.Annotations, key)
	}
	maps.Copy(service.Labels, w.Labels)
	maps.Copy(service.Annotations, w.Annotations)
	service.Labels[managedByLabel] = managedBy
	service.Labels[GatewayNameLabel] = labelValue(w.Gateway.Name)
	service.Labels[GatewayNamespaceLabel] = w.Gateway.Namespace
	service.Annotations[gatewayAnnotation] = w.Gateway.NamespacedName().String()
	service.Annotations[labelsAnnotation] = strings.Join(slices.Sorted(maps.Keys(w.Labels)), " ")
	service.Annotations[annotationsAnnotation] = strings.Join(slices.Sorted(maps.Keys(w.Annotations)), " ")
}

// labelValue cuts a name to what a label's value may hold.
func labelValue(name string) string {
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}
