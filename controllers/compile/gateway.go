package compile

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
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
	// kept says why the Gateway is not accepted and served as it was all the same.
	kept verdict
	// parameters are those of the class and the Gateway, nil for none. elsewhere
	// says that other pods than this one serve the Gateway.
	parameters *v1alpha1.GatewayParametersSpec
	elsewhere  bool
	// note is what a condition says that is fine.
	note string
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
	b.resolveParameters(g, class)
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
		if g.parameters != nil {
			g.note = "from a folder there is no Service that " + parametersKind + " could be about"
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
	if !g.kept.ok() {
		g.programmed = verdict{string(gatewayv1.GatewayReasonInvalid), "the Gateway is not accepted; what serves it stays as it is"}
		return
	}
	if i := slices.IndexFunc(g.listeners, func(l *listener) bool { return l.programmed.ok() }); i < 0 {
		g.programmed.fail(g.listeners[0].programmed.reason, "no listener is programmed")
	}
}

// conclude is the Gateway's status.
func (g *gateway) conclude(attached func(listener string) int32) *Status {
	generation := g.object.Generation
	refused := g.refused
	if refused.ok() {
		refused = g.kept
	}
	accepted := newCondition(string(gatewayv1.GatewayConditionAccepted), string(gatewayv1.GatewayReasonAccepted), "", refused, generation)
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
	if refused.ok() && len(invalid) > 0 {
		accepted.Reason = string(gatewayv1.GatewayReasonListenersNotValid)
		accepted.Message = "not valid, and not served: listener " + strings.Join(invalid, ", ")
	}
	status.Conditions = []metav1.Condition{
		accepted,
		newCondition(string(gatewayv1.GatewayConditionProgrammed), string(gatewayv1.GatewayReasonProgrammed), g.note, g.programmed, generation),
		newCondition(string(gatewayv1.GatewayConditionResolvedRefs), string(gatewayv1.GatewayReasonResolvedRefs), "", resolved, generation),
	}
	if len(g.insecure) > 0 {
		status.Conditions = append(status.Conditions, g.insecureFrontend())
	}
	return &Status{Object: g.ref(), Generation: generation, Value: status}
}
