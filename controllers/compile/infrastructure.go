package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// Infrastructure is what a Gateway needs in a cluster.
type Infrastructure struct {
	Gateway objects.Ref
	// Class is the Gateway's GatewayClass.
	Class    string
	ClassUID types.UID
	// Name is that of what is made for the Gateway in Options.Namespace; Alias is
	// the name that leads to its Service in the Gateway's namespace.
	Name, Alias string
	// Kept says that the Gateway's parameters are not valid, and all that there
	// is for it stays as it is. The following are not set then.
	Kept  bool
	Ports []ServicePort
	// Labels and Annotations are those of the Gateway's spec.infrastructure: they
	// go onto all that is made for it.
	Labels, Annotations map[string]string
	// LoadBalancerIP is the address that the Gateway asks for, "" for any.
	LoadBalancerIP string
	// Service is what the parameters say of the Service; its type is set.
	Service v1alpha1.GatewayService
	Mode    v1alpha1.GatewayMode
	// Deployment is what they say of the pods of mode Dedicated.
	Deployment v1alpha1.GatewayDeployment
}

// ServicePort is a port that at least one accepted listener declares.
type ServicePort struct {
	Name     string
	Port     int32
	Protocol string // "TCP" or "UDP"
}

// ModeAnnotation of a Gateway's Service records the mode by which the Gateway is
// served: with GatewayModeDedicated, Headgate's own pods leave it to others.
const ModeAnnotation = "headgate.dev/mode"

// infrastructureOf returns what the Gateway needs, if it needs anything.
func (b *frameBuilder) infrastructureOf(g *gateway) (Infrastructure, bool) {
	if b.opts.Namespace == "" || !g.refused.ok() {
		return Infrastructure{}, false
	}
	n := Infrastructure{
		Gateway: g.ref(), Name: ServiceName(g.ref().NamespacedName()),
		Alias: aliasName(g.object.Name, g.class.Name), Class: g.class.Name, ClassUID: g.class.UID,
	}
	if !g.kept.ok() {
		n.Kept = true
		return n, true
	}
	n.LoadBalancerIP = g.loadBalancerIP()
	n.Ports = g.servicePorts()
	if i := g.object.Spec.Infrastructure; i != nil {
		n.Labels, n.Annotations = plain(i.Labels), plain(i.Annotations)
	}
	kind := serviceType(g.parameters, b.opts)
	n.Mode = modeOf(g.parameters)
	if p := g.parameters; p != nil {
		if p.Service != nil {
			n.Service = *p.Service
		}
		if p.Deployment != nil && n.Mode == v1alpha1.GatewayModeDedicated {
			n.Deployment = *p.Deployment
		}
	}
	n.Service.Type = &kind
	return n, len(n.Ports) > 0
}

// plain returns a map of plain strings, nil for an empty one.
func plain[K, V ~string](m map[K]V) map[string]string {
	if len(m) == 0 {
		return nil
	}
	strings := make(map[string]string, len(m))
	for key, value := range m {
		strings[string(key)] = string(value)
	}
	return strings
}

// servicePorts are the ports of the accepted listeners, sorted.
func (g *gateway) servicePorts() (ports []ServicePort) {
	for l := range g.all() {
		transports := []string{l.transport()}
		if l.http3 != nil {
			transports = append(transports, "udp")
		}
		for _, transport := range transports {
			port := ServicePort{Name: fmt.Sprintf("%s-%d", transport, l.spec.Port), Port: l.spec.Port, Protocol: strings.ToUpper(transport)}
			if l.accepted.ok() && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	slices.SortFunc(ports, func(x, y ServicePort) int { return cmp.Or(int(x.Port-y.Port), cmp.Compare(x.Protocol, y.Protocol)) })
	return ports
}

// bindThroughService takes bound ports and addresses from the Gateway's Service.
func (b *frameBuilder) bindThroughService(g *gateway) {
	name := ServiceName(g.ref().NamespacedName())
	service := objects.Get[*corev1.Service](b.set, b.opts.Namespace, name)
	for l := range g.all() {
		if service != nil {
			for _, p := range service.Spec.Ports {
				if p.Port != l.spec.Port || p.TargetPort.IntVal <= 0 || p.TargetPort.IntVal > 65535 {
					continue
				}
				if string(transportOf(p)) == strings.ToUpper(l.transport()) {
					l.bound = uint16(p.TargetPort.IntVal)
				} else if l.http3 != nil {
					l.boundUDP = uint16(p.TargetPort.IntVal)
				}
			}
		}
		if l.bound == 0 {
			l.programmed.fail(string(gatewayv1.ListenerReasonPending), fmt.Sprintf("Service %s/%s has no target port for port %d yet", b.opts.Namespace, name, l.spec.Port))
		}
	}
	if service != nil {
		g.checkFamilies(service)
		b.judgeMode(g, service)
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			g.addAddress(ingress.IP)
			g.addAddress(ingress.Hostname)
		}
		if len(g.addresses) == 0 && service.Spec.Type != corev1.ServiceTypeLoadBalancer && service.Spec.ClusterIP != corev1.ClusterIPNone {
			g.addAddress(service.Spec.ClusterIP)
		}
	}
	g.judgeAddresses(service)
	if len(g.addresses) == 0 {
		g.programmed.fail(string(gatewayv1.GatewayReasonAddressNotAssigned), fmt.Sprintf("Service %s/%s has no address yet", b.opts.Namespace, name))
	}
}

// judgeMode says whose pods serve the Gateway, as its Service records it.
func (b *frameBuilder) judgeMode(g *gateway, service *corev1.Service) {
	if service.Annotations[ModeAnnotation] != string(v1alpha1.GatewayModeDedicated) {
		if modeOf(g.parameters) == v1alpha1.GatewayModeDedicated {
			g.note = "Headgate's own pods serve the Gateway until those of its Deployment are ready"
		}
		return
	}
	g.elsewhere = b.opts.Gateway.Name == ""
	b.dedicated[objects.RefOf(service)] = true
	for _, slice := range b.set.EndpointSlicesOf(objects.RefOf(service)) {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				return
			}
		}
	}
	g.programmed.fail(string(gatewayv1.GatewayReasonNoResources), fmt.Sprintf("no pod of Deployment %s/%s is ready", service.Namespace, service.Name))
}

// checkFamilies holds parameters to what the Gateway's Service cannot change.
func (g *gateway) checkFamilies(service *corev1.Service) {
	if p := g.parameters; p != nil && p.Service != nil && len(p.Service.IPFamilies) > 0 && len(service.Spec.IPFamilies) > 0 {
		if want, have := p.Service.IPFamilies[0], service.Spec.IPFamilies[0]; want != have {
			g.keep(gatewayv1.GatewayReasonInvalidParameters, "spec.infrastructure.parametersRef",
				fmt.Sprintf("spec.service.ipFamilies[0]: Service %s/%s has %s first, and cannot change that to %s", service.Namespace, service.Name, have, want),
				fmt.Sprintf("%s first, or to delete the Service for a new one", have))
		}
	}
}
