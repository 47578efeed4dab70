package compile

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// frontendValidation is what a Gateway's spec.tls.frontend asks of clients at some of its listeners.
type frontendValidation struct {
	// clients is nil if none of the authorities can be used.
	clients  *snapshot.ClientCertificates
	findings []Finding
}

// frontend returns the validation that holds for an HTTPS listener and its
// field: its port's, or else the default. Nil means none.
func (g *gateway) frontend(port gatewayv1.PortNumber) (*gatewayv1.FrontendTLSValidation, string) {
	t := g.object.Spec.TLS
	if t == nil || t.Frontend == nil {
		return nil, ""
	}
	for i := range t.Frontend.PerPort {
		if p := &t.Frontend.PerPort[i]; p.Port == port {
			return p.TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls.validation", i)
		}
	}
	return t.Frontend.Default.Validation, "spec.tls.frontend.default.validation"
}

// compileFrontend compiles FrontendTLSValidation for an HTTPS listener.
func (b *frameBuilder) compileFrontend(l *listener) {
	g := l.parent.gateway
	spec, field := g.frontend(l.spec.Port)
	if spec == nil || l.spec.Protocol != gatewayv1.HTTPSProtocolType {
		return
	}
	v, known := g.validations[field]
	if !known {
		v = b.validation(g, spec, field)
		if g.validations == nil {
			g.validations = map[string]frontendValidation{}
		}
		g.validations[field] = v
		for _, f := range v.findings {
			g.fail(nil, f) // once, not for every listener
		}
	}
	for _, f := range v.findings {
		l.resolved.fail(f.Reason, f.String())
	}
	if l.clients = v.clients; l.clients == nil {
		l.accepted.fail(string(gatewayv1.ListenerReasonNoValidCACertificate), field+".caCertificateRefs: none of them can be used, so no client's certificate could be verified")
	}
}

func (b *frameBuilder) validation(g *gateway, spec *gatewayv1.FrontendTLSValidation, field string) (v frontendValidation) {
	clients := &snapshot.ClientCertificates{Mode: "Required"}
	if spec.Mode == gatewayv1.AllowInsecureFallback {
		clients.Mode = "Unverified"
	}
	for i := range spec.CACertificateRefs {
		ref := &spec.CACertificateRefs[i]
		fail := func(reason gatewayv1.ListenerConditionReason, suffix, message, want string) {
			v.findings = append(v.findings, Finding{
				Field: fmt.Sprintf("%s.caCertificateRefs[%d]%s", field, i, suffix), Message: message, Want: want,
				Condition: string(gatewayv1.ListenerConditionResolvedRefs), Reason: string(reason),
			})
		}
		namespace := g.object.Namespace
		if ref.Namespace != nil {
			namespace = string(*ref.Namespace)
		}
		to, ok := authorityRef(ref.Group, ref.Kind, namespace, ref.Name)
		if !ok {
			fail(gatewayv1.ListenerReasonInvalidCACertificateKind, ".kind", fmt.Sprintf("kind %s of group %q is not supported", ref.Kind, ref.Group), wantAuthorityKind)
			continue
		}
		if to.Namespace == "" && ref.Namespace != nil {
			fail(gatewayv1.ListenerReasonInvalidCACertificateRef, ".namespace", fmt.Sprintf("%s is in no namespace", to), "no namespace")
			continue
		}
		if to.Namespace != "" && !b.grants.allow(g.ref(), to) {
			fail(gatewayv1.ListenerReasonRefNotPermitted, ".namespace", fmt.Sprintf("no ReferenceGrant allows %s to refer to %s", g.ref(), to),
				fmt.Sprintf("a ReferenceGrant in namespace %s from Gateways of namespace %s to %ss", to.Namespace, g.object.Namespace, to.Kind))
			continue
		}
		b.frame.want(to)
		roots, problem := readAuthorities(b.set, to)
		if problem != "" {
			fail(gatewayv1.ListenerReasonInvalidCACertificateRef, ".name", problem, wantAuthorityOrBundle)
			continue
		}
		clients.Roots = append(clients.Roots, roots...)
	}
	if len(clients.Roots) > 0 {
		v.clients = clients
	}
	return v
}

// checkFrontend refuses modes that the API does not have.
func (g *gateway) checkFrontend(t *gatewayv1.FrontendTLSConfig) {
	check := func(v *gatewayv1.FrontendTLSValidation, field string) {
		if v == nil {
			return
		}
		switch v.Mode {
		case "", gatewayv1.AllowValidOnly:
		case gatewayv1.AllowInsecureFallback:
			g.insecure = append(g.insecure, field)
		default:
			g.refuse(gatewayv1.GatewayReasonInvalid, field+".mode", fmt.Sprintf("%q is not a mode", v.Mode), "AllowValidOnly or AllowInsecureFallback")
		}
	}
	check(t.Default.Validation, "spec.tls.frontend.default.validation")
	for i := range t.PerPort {
		check(t.PerPort[i].TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d].tls.validation", i))
	}
}

// checkPorts tells of validations for ports without an HTTPS listener. It is no
// reason to refuse the Gateway: a ListenerSet may bring one.
func (g *gateway) checkPorts() {
	if t := g.object.Spec.TLS; t != nil && t.Frontend != nil {
		for i := range t.Frontend.PerPort {
			port, found := t.Frontend.PerPort[i].Port, false
			for l := range g.all() {
				found = found || l.spec.Port == port && l.spec.Protocol == gatewayv1.HTTPSProtocolType
			}
			if !found {
				g.fail(nil, Finding{Field: fmt.Sprintf("spec.tls.frontend.perPort[%d].port", i),
					Message: fmt.Sprintf("no listener has protocol HTTPS and port %d", port), Want: "the port of a listener with protocol HTTPS"})
			}
		}
	}
}

// insecureFrontend is the condition that warns of AllowInsecureFallback.
func (g *gateway) insecureFrontend() metav1.Condition {
	message := "clients without a valid certificate are let in"
	for i, field := range g.insecure {
		separator := ", "
		if i == 0 {
			separator = ": "
		}
		message += separator + field + ".mode"
	}
	return metav1.Condition{
		Type: string(gatewayv1.GatewayConditionInsecureFrontendValidationMode), Status: metav1.ConditionTrue,
		Reason: string(gatewayv1.GatewayReasonConfigurationChanged), Message: message, ObservedGeneration: g.object.Generation,
	}
}
