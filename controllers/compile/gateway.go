package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// gateway is a Gateway of one of our classes.
type gateway struct {
	parent
	object *gatewayv1.Gateway
	class  *gatewayv1.GatewayClass
	// sets are the ListenerSets that name the Gateway, first those whose listeners take precedence.
	sets             []*listenerSet
	allowedListeners namespaces
	addresses        []gatewayv1.GatewayStatusAddress
	// refused says why nothing of the Gateway is served; accepted what its
	// condition says, which may be True although some listeners are not valid.
	refused, programmed verdict
	// validations are what spec.tls.frontend asks of clients, by field, and
	// insecure the fields of those that let everybody in.
	validations map[string]frontendValidation
	insecure    []string
	// client is what the Gateway shows to backends that it speaks TLS to, nil for nothing.
	client   *clientCertificate
	resolved verdict // spec.tls.backend
}

func (b *frameBuilder) compileGateway(object *gatewayv1.Gateway, class *gatewayClass) *gateway {
	g := &gateway{object: object, class: objects.Get[*gatewayv1.GatewayClass](b.set, "", string(object.Spec.GatewayClassName))}
	g.parent = parent{report: report{object: objects.RefOf(object)}, gateway: g, generation: object.Generation, status: g.conclude}
	if !class.accepted.ok() {
		g.refuse(gatewayv1.GatewayReasonInvalid, "spec.gatewayClassName", class.object.String()+" is not accepted", "a GatewayClass that is")
	}
	g.checkUnsupported()
	b.resolveClientCertificate(g)
	g.checkAddresses(b.opts)
	g.compileAllowedListeners()
	names := map[gatewayv1.SectionName]bool{}
	for i := range object.Spec.Listeners {
		l := b.compileListener(&g.parent, i, &object.Spec.Listeners[i])
		if names[l.spec.Name] {
			g.refuse(gatewayv1.GatewayReasonInvalid, l.field+".name", fmt.Sprintf("there is another listener %q", l.spec.Name), "unique names")
		}
		names[l.spec.Name] = true
		g.listeners = append(g.listeners, l)
	}
	for _, set := range b.listenerSets[g.ref()] {
		b.compileListenerSet(g, set)
	}
	g.checkPorts()
	g.markConflicts()
	g.markHTTP3(b.policies)
	if b.opts.Namespace == "" {
		for l := range g.all() {
			l.bound, l.boundUDP = uint16(l.spec.Port), uint16(l.spec.Port)
		}
		for _, address := range b.opts.Addresses {
			g.addAddress(address)
		}
		return g
	}
	b.bindThroughService(g)
	return g
}

// refuse makes the whole Gateway not accepted.
func (g *gateway) refuse(reason gatewayv1.GatewayConditionReason, field, message, want string) {
	g.fail(&g.refused, Finding{Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.GatewayConditionAccepted), Reason: string(reason)})
}

// checkUnsupported refuses what would otherwise be accepted and ignored.
func (g *gateway) checkUnsupported() {
	spec := &g.object.Spec
	if len(spec.Listeners) == 0 {
		g.refuse(gatewayv1.GatewayReasonInvalid, "spec.listeners", "there are none", "at least one listener")
	}
	if i := spec.Infrastructure; i != nil && i.ParametersRef != nil {
		g.refuse(gatewayv1.GatewayReasonInvalidParameters, "spec.infrastructure.parametersRef", "parameters are not supported", "no parametersRef")
	}
	if t := spec.TLS; t != nil {
		if t.Frontend != nil {
			g.checkFrontend(t.Frontend)
		}
	}
	switch spec.DefaultScope {
	case "", gatewayv1.GatewayDefaultScopeNone, gatewayv1.GatewayDefaultScopeAll:
	default:
		g.refuse(gatewayv1.GatewayReasonInvalid, "spec.defaultScope", fmt.Sprintf("%q is no scope", spec.DefaultScope), "All or None")
	}
}

// bindThroughService takes bound ports and addresses from the Gateway's Service.
func (b *frameBuilder) bindThroughService(g *gateway) {
	name := ServiceName(types.NamespacedName{Namespace: g.object.Namespace, Name: g.object.Name})
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

func (g *gateway) addAddress(value string) {
	if value == "" {
		return
	}
	kind := gatewayv1.IPAddressType
	if !isIP(value) {
		kind = gatewayv1.HostnameAddressType
	}
	g.addresses = append(g.addresses, gatewayv1.GatewayStatusAddress{Type: &kind, Value: value})
}

// settle concludes from the listeners on the Gateway, once their ports are known.
func (g *gateway) settle() {
	accepted := 0
	for _, l := range g.listeners {
		if l.accepted.ok() {
			accepted++
		}
	}
	if accepted == 0 && g.refused.ok() {
		g.refused.fail(string(gatewayv1.GatewayReasonListenersNotValid), "none of the listeners is valid")
	}
	for l := range g.all() {
		switch {
		case !g.refused.ok():
			l.programmed = verdict{string(gatewayv1.ListenerReasonInvalid), "the Gateway is not accepted"}
		case !l.conflicted.ok():
			l.programmed = verdict{l.accepted.reason, "the listener is not accepted"}
		case !l.accepted.ok():
			l.programmed = verdict{string(gatewayv1.ListenerReasonInvalid), "the listener is not accepted"}
		}
	}
	if !g.refused.ok() {
		g.programmed = verdict{string(gatewayv1.GatewayReasonInvalid), "the Gateway is not accepted"}
		return
	}
	if i := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.programmed.ok() }); i < 0 {
		g.programmed.fail(g.listeners[0].programmed.reason, "no listener is programmed")
	}
}

// conclude is the Gateway's status.
func (g *gateway) conclude(attached func(listener string) int32) *Status {
	generation := g.object.Generation
	accepted := newCondition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonAccepted), "", g.refused, generation)
	var invalid []string
	resolved := g.resolved
	status := gatewayv1.GatewayStatus{Addresses: g.addresses}
	if g.object.Spec.AllowedListeners != nil {
		status.AttachedListenerSets = g.attachedListenerSets()
	}
	for _, l := range g.listeners {
		if !l.accepted.ok() {
			invalid = append(invalid, string(l.spec.Name))
		}
		if !l.resolved.ok() {
			resolved.fail(string(gatewayv1.GatewayReasonListenersNotResolved), l.resolved.message)
		}
		status.Listeners = append(status.Listeners, l.status(attached(l.key)))
	}
	if g.refused.ok() && len(invalid) > 0 {
		accepted.Reason = string(gatewayv1.GatewayReasonListenersNotValid)
		accepted.Message = "not valid, and not served: listener " + strings.Join(invalid, ", ")
	}
	status.Conditions = []metav1.Condition{
		accepted,
		newCondition(string(gatewayv1.GatewayConditionProgrammed), string(gatewayv1.GatewayReasonProgrammed), "", g.programmed, generation),
		newCondition(string(gatewayv1.GatewayConditionResolvedRefs), string(gatewayv1.GatewayReasonResolvedRefs), "", resolved, generation),
	}
	if len(g.insecure) > 0 {
		status.Conditions = append(status.Conditions, g.insecureFrontend())
	}
	return &Status{Object: g.ref(), Generation: generation, Value: status}
}

// service returns what the Gateway needs from infrastructure.
func (b *frameBuilder) service(g *gateway) (Service, bool) {
	if b.opts.Namespace == "" || !g.refused.ok() {
		return Service{}, false
	}
	s := Service{
		Gateway: g.ref(), Name: ServiceName(types.NamespacedName{Namespace: g.object.Namespace, Name: g.object.Name}),
		Alias: aliasName(g.object.Name, g.class.Name), Class: g.class.Name, ClassUID: g.class.UID,
		LoadBalancerIP: g.loadBalancerIP(),
	}
	for l := range g.all() {
		transports := []string{l.transport()}
		if l.http3 != nil {
			transports = append(transports, "udp")
		}
		for _, transport := range transports {
			port := ServicePort{Name: fmt.Sprintf("%s-%d", transport, l.spec.Port), Port: l.spec.Port, Protocol: strings.ToUpper(transport)}
			if l.accepted.ok() && !slices.Contains(s.Ports, port) {
				s.Ports = append(s.Ports, port)
			}
		}
	}
	slices.SortFunc(s.Ports, func(x, y ServicePort) int { return cmp.Or(int(x.Port-y.Port), cmp.Compare(x.Protocol, y.Protocol)) })
	if i := g.object.Spec.Infrastructure; i != nil {
		for key, value := range i.Labels {
			if s.Labels == nil {
				s.Labels = map[string]string{}
			}
			s.Labels[string(key)] = string(value)
		}
		for key, value := range i.Annotations {
			if s.Annotations == nil {
				s.Annotations = map[string]string{}
			}
			s.Annotations[string(key)] = string(value)
		}
	}
	return s, len(s.Ports) > 0
}
