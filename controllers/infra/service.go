package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
)

// fieldsAnnotation records which fields of a Service's spec its Gateway's
// parameters set, so that one that is gone from there goes from here.
const fieldsAnnotation = "headgate.dev/infrastructure-fields"

// reconcileServices compares with the cache, which costs nothing, and only if
// something differs asks the API server what there is and acts: ports must not
// be allotted by what the cache has not seen yet.
func (k *Keeper) reconcileServices(ctx context.Context, want []compile.Infrastructure, cached map[string]*corev1.Service) error {
	plan, err := k.plan(want, cached)
	if len(plan.remove) == 0 && !k.anyToTry(plan.apply) {
		return errors.Join(err, k.writeServices(ctx, plan.apply))
	}
	live, err := k.list(ctx, k.reader)
	if err != nil {
		return err
	}
	plan, err = k.plan(want, live)
	for _, name := range plan.remove {
		err = errors.Join(err, k.delete(ctx, live[name]))
	}
	return errors.Join(err, k.writeServices(ctx, plan.apply))
}

// anyToTry reports whether any of the writes is to be tried now.
func (k *Keeper) anyToTry(services []*corev1.Service) bool {
	return slices.ContainsFunc(services, func(s *corev1.Service) bool { return k.heldBack(s) == nil })
}

// writeServices writes what is not held back; the others get theirs all the same
// where one fails.
func (k *Keeper) writeServices(ctx context.Context, services []*corev1.Service) error {
	var errs []error
	for _, service := range services {
		errs = append(errs, k.write(ctx, service))
	}
	return errors.Join(errs...)
}

// list returns the Services in Headgate's namespace, by name.
func (k *Keeper) list(ctx context.Context, from client.Reader) (map[string]*corev1.Service, error) {
	var list corev1.ServiceList
	if err := from.List(ctx, &list, client.InNamespace(k.opts.Namespace)); err != nil {
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

// plan compares what is wanted with what there is. An error is about the
// Services that it leaves out; the others are planned.
func (k *Keeper) plan(want []compile.Infrastructure, have map[string]*corev1.Service) (plan, error) {
	var (
		p      plan
		failed error
		names  = map[string]bool{}
		ports  = newAllotment(k.opts.FirstPort, k.opts.LastPort)
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
		if w.Kept {
			continue
		}
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
		if desired := k.service(old, w, targets); old == nil || !equality.Semantic.DeepEqual(old, desired) {
			p.apply = append(p.apply, desired)
		}
	}
	return p, failed
}

// service returns old, or a new Service, as the Gateway needs it. What is not
// said here is not Headgate's to set and stays.
func (k *Keeper) service(old *corev1.Service, w compile.Infrastructure, targets []int32) *corev1.Service {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: k.opts.Namespace, Name: w.Name}}
	if old != nil {
		service = old.DeepCopy()
	}
	setMetadata(service, w, merged(w.Service.Labels, w.Labels), merged(w.Service.Annotations, w.Annotations))
	k.setServing(service, w)

	spec := &service.Spec
	spec.Type = corev1.ServiceType(*w.Service.Type)
	if balanced := corev1.ServiceTypeLoadBalancer; old != nil && old.Spec.Type == balanced && spec.Type == balanced && changesClass(old, &w.Service) {
		// A load balancer's class cannot be changed, only go with the type and come
		// again: the next turn finds a Service that has none.
		spec.Type = corev1.ServiceTypeClusterIP
	}
	setFields(service, &w.Service)
	spec.LoadBalancerIP = ""
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		spec.LoadBalancerIP = w.LoadBalancerIP
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
		setNodePort(p, spec, &w.Service)
	}
	return service
}

// setServing records whose pods serve the Gateway, and selects those that are to
// get its traffic.
func (k *Keeper) setServing(service *corev1.Service, w compile.Infrastructure) {
	at := place{shared: true}
	if m := k.moves[w.Name]; m != nil {
		at = m.next
	}
	service.Spec.Selector = k.opts.Selector
	if at.selected {
		service.Spec.Selector = dedicatedSelector(w)
	}
	mode := v1alpha1.GatewayModeDedicated
	if at.shared {
		mode = v1alpha1.GatewayModeShared
	}
	service.Annotations[compile.ModeAnnotation] = string(mode)
}

// setFields sets what parameters say, and unsets what they said before.
func setFields(service *corev1.Service, p *v1alpha1.GatewayService) {
	spec := &service.Spec
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	f := fields{before: strings.Fields(service.Annotations[fieldsAnnotation])}
	setField(&f, "loadBalancerClass", &spec.LoadBalancerClass, p.LoadBalancerClass, p.LoadBalancerClass != nil, balanced)
	setField(&f, "loadBalancerSourceRanges", &spec.LoadBalancerSourceRanges, p.LoadBalancerSourceRanges, p.LoadBalancerSourceRanges != nil, balanced)
	setField(&f, "allocateLoadBalancerNodePorts", &spec.AllocateLoadBalancerNodePorts, p.AllocateLoadBalancerNodePorts, p.AllocateLoadBalancerNodePorts != nil, balanced)
	setField(&f, "internalTrafficPolicy", &spec.InternalTrafficPolicy, p.InternalTrafficPolicy, p.InternalTrafficPolicy != nil, true)
	setField(&f, "ipFamilyPolicy", &spec.IPFamilyPolicy, p.IPFamilyPolicy, p.IPFamilyPolicy != nil, true)
	setField(&f, "ipFamilies", &spec.IPFamilies, p.IPFamilies, p.IPFamilies != nil, true)
	setField(&f, "trafficDistribution", &spec.TrafficDistribution, p.TrafficDistribution, p.TrafficDistribution != nil, true)
	service.Annotations[fieldsAnnotation] = strings.Join(f.set, " ")

	spec.ExternalTrafficPolicy = ""
	if spec.Type != corev1.ServiceTypeClusterIP {
		// So that the client's address is seen: limits and balancing go by it.
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		if p.ExternalTrafficPolicy != nil {
			spec.ExternalTrafficPolicy = *p.ExternalTrafficPolicy
		}
	}
	if !balanced || spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		spec.HealthCheckNodePort = 0
	}
}

// changesClass reports whether parameters ask for another class of load balancer
// than a Service has.
func changesClass(old *corev1.Service, p *v1alpha1.GatewayService) bool {
	if p.LoadBalancerClass == nil {
		return old.Spec.LoadBalancerClass != nil && slices.Contains(strings.Fields(old.Annotations[fieldsAnnotation]), "loadBalancerClass")
	}
	return old.Spec.LoadBalancerClass == nil || *old.Spec.LoadBalancerClass != *p.LoadBalancerClass
}

// fields are the names of fields that parameters set before and set now.
type fields struct{ before, set []string }

// setField sets a field to what is given. If nothing is, it goes if it was given
// before; and it goes from a Service of a type that has none.
func setField[T any](f *fields, name string, field *T, value T, given, has bool) {
	var none T
	switch {
	case !has:
		*field = none
	case given:
		*field = value
		f.set = append(f.set, name)
	case slices.Contains(f.before, name):
		*field = none
	}
}

// setNodePort sets a port's node port, or takes it away where there is none to be.
func setNodePort(port *corev1.ServicePort, spec *corev1.ServiceSpec, p *v1alpha1.GatewayService) {
	if spec.Type == corev1.ServiceTypeClusterIP || spec.AllocateLoadBalancerNodePorts != nil && !*spec.AllocateLoadBalancerNodePorts {
		port.NodePort = 0
	}
	if spec.Type == corev1.ServiceTypeClusterIP {
		return
	}
	for _, n := range p.NodePorts {
		protocol := n.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		if n.Port == port.Port && protocol == port.Protocol {
			port.NodePort = n.NodePort
		}
	}
}
