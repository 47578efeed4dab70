package compile

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// xBackend is an XBackend of the Gateway API: a host outside the cluster, and
// how it is spoken to.
type xBackend struct {
	report
	object *gatewayxv1alpha1.XBackend
	// tls is nil if no TLS is spoken.
	tls *snapshot.UpstreamTLS
	// validation is what spec.tls.validation compiles to, nil if there is none.
	validation         *backendTLSPolicy
	accepted, resolved verdict
}

func (b *frameBuilder) compileXBackends() {
	for _, object := range objects.All[*gatewayxv1alpha1.XBackend](b.set) {
		x := &xBackend{object: object, report: report{object: objects.RefOf(object)}}
		var before *xBackend
		if b.prev != nil {
			before = b.prev.xBackends[x.report.object]
		}
		x.compileHost(b.frame)
		b.compileBackendTLS(x, before)
		b.frame.xBackends[x.report.object] = x
	}
}

// invalid makes the XBackend not accepted.
func (x *xBackend) invalid(field, message, want string) {
	x.fail(&x.accepted, Finding{Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid)})
}

func (x *xBackend) compileHost(f *frame) {
	spec := &x.object.Spec
	if spec.Type != gatewayxv1alpha1.BackendTypeExternalHostname {
		x.invalid("spec.type", fmt.Sprintf("%q is not supported", spec.Type), string(gatewayxv1alpha1.BackendTypeExternalHostname))
	}
	if spec.Port.Port < 1 || spec.Port.Port > 65535 {
		x.invalid("spec.port.port", fmt.Sprintf("%d is no port", spec.Port.Port), "1 to 65535")
	}
	const field = "spec.externalHostname.hostname"
	switch host := x.host(); {
	case !validHostname(host, false):
		x.invalid(field, fmt.Sprintf("%q is no DNS name", host), `a fully qualified DNS name such as "api.example.com"`)
	case f.inCluster(host):
		// What is in the cluster is for Services and ReferenceGrants.
		x.invalid(field, host+" is a name of the cluster", "a name outside of it; what is in the cluster is a Service")
	}
	if p := spec.Protocol; p != nil && xProtocols[*p].name == "" {
		x.invalid("spec.protocol", fmt.Sprintf("%q is not supported", *p), "HTTP, HTTP11, HTTP2, H2C, GRPC, MCP or TCP")
	}
}

// host is the name of the host, lower case, "" if there is none.
func (x *xBackend) host() string {
	if h := x.object.Spec.ExternalHostname; h != nil {
		return strings.ToLower(string(h.Hostname))
	}
	return ""
}

// compileBackendTLS compiles spec.tls. Where nothing says how endpoints are
// verified, it is by their hostname and the system's authorities. What before,
// which may be nil, has read and is still the same is taken over.
func (b *frameBuilder) compileBackendTLS(x, before *xBackend) {
	t := x.object.Spec.TLS
	if t == nil {
		return
	}
	none := equal(t.Validation, gatewayv1.BackendTLSPolicyValidation{})
	switch t.Mode {
	case gatewayxv1alpha1.BackendTLSModeNone:
		if !none {
			x.invalid("spec.tls.validation", "mode None speaks no TLS, so there is nothing to verify", "no validation, or mode ServerOnly or ClientAndServer")
		}
		if t.ClientCertificateRef != nil {
			x.invalid("spec.tls.clientCertificateRef", "mode None speaks no TLS", "no clientCertificateRef, or mode ClientAndServer")
		}
		return
	case gatewayxv1alpha1.BackendTLSModeServerOnly, gatewayxv1alpha1.BackendTLSModeClientAndServer:
	default:
		x.invalid("spec.tls.mode", fmt.Sprintf("%q is not supported", t.Mode), "None, ServerOnly or ClientAndServer")
		return
	}
	if p := x.object.Spec.Protocol; p != nil && *p == gatewayxv1alpha1.BackendProtocolH2C {
		x.invalid("spec.protocol", "H2C is HTTP/2 without TLS", "HTTP2, or no tls")
	}
	if none {
		x.tls = &snapshot.UpstreamTLS{ServerName: x.host()}
	} else {
		if before != nil && before.object == x.object && before.validation != nil && before.validation.readsTheSame(b.set) {
			x.validation = before.validation
		} else {
			x.validation = compileValidation(b.set, x.report.object, t.Validation)
		}
		for _, ref := range x.validation.wanted {
			b.frame.want(ref)
		}
		x.findings = append(x.findings, x.validation.findings...)
		x.accepted.add(x.validation.accepted)
		x.resolved = x.validation.resolved
		secure := *x.validation.tls
		x.tls = &secure
	}
	b.compileClientCertificate(x)
}

// compileClientCertificate compiles spec.tls.clientCertificateRef. Without the
// certificate the host would not know who asks, so nothing is sent to it.
func (b *frameBuilder) compileClientCertificate(x *xBackend) {
	const field = "spec.tls.clientCertificateRef"
	ref, wanted := x.object.Spec.TLS.ClientCertificateRef, x.object.Spec.TLS.Mode == gatewayxv1alpha1.BackendTLSModeClientAndServer
	switch {
	case ref == nil && wanted:
		x.invalid(field, "there is none", "the Secret with the certificate that the host is shown, or mode ServerOnly")
	case ref != nil && !wanted:
		x.invalid(field, "mode ServerOnly shows none", "no clientCertificateRef, or mode ClientAndServer")
	case ref != nil:
		certificate, finding := b.certificate(x.report.object, ref)
		if x.tls.Certificate = certificate; certificate != nil {
			return // clients send no OCSP response, so what is wrong with that is nothing to them
		}
		finding.Field = field + finding.Field
		finding.Condition = string(gatewayv1.BackendTLSPolicyConditionResolvedRefs)
		if finding.Reason != string(gatewayv1.ListenerReasonRefNotPermitted) {
			finding.Reason = string(gatewayv1.GatewayReasonInvalidClientCertificateRef)
		}
		x.fail(&x.resolved, *finding)
		x.accepted.fail(finding.Reason, finding.String())
	}
}

// compileValidation compiles an XBackend's validation, which is the same as a BackendTLSPolicy's.
func compileValidation(set *objects.Set, of objects.Ref, v gatewayv1.BackendTLSPolicyValidation) *backendTLSPolicy {
	p := &backendTLSPolicy{field: "spec.tls.validation", report: report{object: of}, object: &gatewayv1.BackendTLSPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: of.Namespace, Name: of.Name}, Spec: gatewayv1.BackendTLSPolicySpec{Validation: v}}}
	p.compile(set)
	return p
}

// wants reports whether the XBackend refers to a Secret or ConfigMap.
func (x *xBackend) wants(ref objects.Ref) bool {
	if x.validation != nil && slices.Contains(x.validation.wanted, ref) {
		return true
	}
	t := x.object.Spec.TLS
	return t != nil && t.ClientCertificateRef != nil && ref.Kind == "Secret" && ref.Name == string(t.ClientCertificateRef.Name) &&
		ref.Namespace == string(valueOr(t.ClientCertificateRef.Namespace, gatewayv1.Namespace(x.object.Namespace)))
}

// xProtocols are what a snapshot's cluster has for an XBackend's protocol, and
// whether gRPC calls can be sent in it. The transport of MCP is HTTP.
var xProtocols = map[gatewayxv1alpha1.BackendProtocol]struct {
	name string
	grpc bool
}{
	gatewayxv1alpha1.BackendProtocolHTTP:   {"alpn", true},
	gatewayxv1alpha1.BackendProtocolHTTP2:  {"h2c", true},
	gatewayxv1alpha1.BackendProtocolH2C:    {"h2c", true},
	gatewayxv1alpha1.BackendProtocolGRPC:   {"h2c", true},
	gatewayxv1alpha1.BackendProtocolHTTP11: {"http1", false},
	gatewayxv1alpha1.BackendProtocolMCP:    {"alpn", false},
	gatewayxv1alpha1.BackendProtocolTCP:    {"tcp", false},
}

// resolveXBackend finds the cluster of an XBackend.
func (c *resolver) resolveXBackend(ref objects.Ref, from *gatewayv1.BackendObjectReference, fail refuseRef) (clusterUse, *Finding) {
	x := c.frame.xBackends[ref]
	if x == nil {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".name", fmt.Sprintf("there is no %s", ref), "the name of an XBackend")
	}
	spec := &x.object.Spec
	if from.Port != nil && int32(*from.Port) != int32(spec.Port.Port) {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".port", fmt.Sprintf("%s has no port %d", ref, *from.Port), fmt.Sprintf("%d, or no port", spec.Port.Port))
	}
	if !x.accepted.ok() {
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".name", fmt.Sprintf("%s is not accepted: %s", ref, x.accepted.message), "an XBackend that is Accepted")
	}
	cluster := newCluster("XBackend/"+ref.Namespace+"/"+ref.Name, snapshot.Ref{Kind: "XBackend", Namespace: ref.Namespace, Name: ref.Name})
	cluster.TLS = x.tls
	if spec.Protocol != nil {
		p := xProtocols[*spec.Protocol]
		if want := c.speaks(p.name, p.grpc); want != "" {
			return fail(gatewayv1.RouteReasonUnsupportedProtocol, ".name", fmt.Sprintf("%s has protocol %s", ref, *spec.Protocol), want)
		}
		if cluster.Protocol = p.name; p.name == "alpn" && x.tls == nil {
			cluster.Protocol = "http1" // nothing is negotiated without TLS
		}
	}
	if c.protocol == "udp" && x.tls != nil {
		return fail(gatewayv1.RouteReasonUnsupportedProtocol, ".name", ref.String()+" is spoken to in TLS, and datagrams are passed on unread", "an XBackend without tls")
	}
	return c.withPolicies(clusterUse{cluster: cluster, backend: ref}, fail)
}

// speaks returns what would be right if what is to be sent cannot be sent in a
// protocol. Connections can be, whatever it is: they are passed on unread.
func (c *resolver) speaks(protocol string, grpc bool) (want string) {
	switch {
	case c.protocol == "udp":
		return "no protocol: all are over TCP"
	case c.protocol == "tcp":
		return ""
	case protocol == "tcp":
		return "HTTP, HTTP11, HTTP2, H2C or GRPC"
	case c.protocol == "h2c" && !grpc:
		return "HTTP, HTTP2, H2C or GRPC"
	}
	return ""
}

// status returns the XBackend's status. Its ancestors are the Gateways that send
// requests to it.
func (x *xBackend) status(gateways []objects.Ref) (*Status, []Finding) {
	value, generation := gatewayxv1alpha1.BackendStatus{}, x.object.Generation
	plain := ""
	if x.tls == nil {
		plain = "It is spoken to without TLS, so anybody on the way may read and change what is sent."
	}
	for _, gateway := range gateways {
		value.Ancestors = append(value.Ancestors, gatewayxv1alpha1.BackendAncestorStatus{
			ControllerName: ControllerName, AncestorRef: ancestorOf(gateway),
			Conditions: []metav1.Condition{
				newCondition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonAccepted), plain, x.accepted, generation),
				newCondition(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), string(gatewayv1.BackendTLSPolicyReasonResolvedRefs), "", x.resolved, generation),
			},
		})
	}
	return &Status{Object: x.report.object, Generation: generation, Value: value}, x.sorted()
}
