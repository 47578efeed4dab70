package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// listener is one listener of a Gateway or ListenerSet.
type listener struct {
	parent       *parent
	spec         *gatewayv1.Listener
	key          string // "namespace/gateway/listener", or "ListenerSet/namespace/name/listener"
	field        string // "spec.listeners[1]"
	hostname     string // lower case, "" for all
	kinds        []gatewayv1.RouteGroupKind
	namespaces   namespaces // whose routes may attach
	certificates []*snapshot.Certificate
	clients      *snapshot.ClientCertificates // what the Gateway asks of clients
	options      []tlsSetting
	// bound is the port to bind, 0 if it is not known yet.
	bound uint16
	// http3 is nil unless the listener speaks HTTP/3, over UDP at boundUDP, which
	// is 0 if it is not known yet.
	http3    *snapshot.HTTP3
	boundUDP uint16

	accepted, resolved, conflicted, programmed verdict
	// overlapping says with which listeners the TLS configuration overlaps.
	overlapping string
}

// compileListener compiles the listener spec.listeners[i] of a parent.
func (b *frameBuilder) compileListener(p *parent, i int, spec *gatewayv1.Listener) *listener {
	l := &listener{parent: p, spec: spec, key: listenerKey(p.ref(), spec.Name), field: fmt.Sprintf("spec.listeners[%d]", i)}
	if spec.Port < 1 || spec.Port > 65535 {
		l.refuse(gatewayv1.ListenerReasonPortUnavailable, ".port", fmt.Sprintf("%d is no port", spec.Port), "1 to 65535")
	}
	if spec.Hostname != nil && *spec.Hostname != "" {
		l.hostname = strings.ToLower(string(*spec.Hostname))
		if !validHostname(l.hostname, true) {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".hostname", fmt.Sprintf("%q is no hostname", *spec.Hostname),
				`a DNS name such as "shop.example.com" or "*.example.com"`)
		}
	}
	l.compileKinds()
	l.compileNamespaces()
	switch spec.Protocol {
	case gatewayv1.HTTPProtocolType:
		if spec.TLS != nil {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls", "protocol HTTP has no TLS", "protocol HTTPS, or no tls")
		}
	case gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType:
		b.compileTLS(l)
	case gatewayv1.TCPProtocolType, gatewayv1.UDPProtocolType:
		if spec.TLS != nil {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls", fmt.Sprintf("protocol %s has no TLS", spec.Protocol), "protocol TLS, or no tls")
		}
		if l.hostname != "" {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".hostname", fmt.Sprintf("protocol %s has no hostnames", spec.Protocol), "no hostname")
		}
	default:
		l.refuse(gatewayv1.ListenerReasonUnsupportedProtocol, ".protocol", string(spec.Protocol)+" is not supported", "HTTP, HTTPS, TLS, TCP or UDP")
	}
	return l
}

// refuse makes the listener not accepted; field is relative to it.
func (l *listener) refuse(reason gatewayv1.ListenerConditionReason, field, message, want string) {
	l.parent.fail(&l.accepted, Finding{Field: l.field + field, Message: message, Want: want,
		Condition: string(gatewayv1.ListenerConditionAccepted), Reason: string(reason)})
}

// routeKinds are the kinds of routes that listeners take, by protocol.
var routeKinds = map[gatewayv1.ProtocolType][]gatewayv1.Kind{
	gatewayv1.HTTPProtocolType:  {"HTTPRoute", "GRPCRoute"},
	gatewayv1.HTTPSProtocolType: {"HTTPRoute", "GRPCRoute"},
	gatewayv1.TLSProtocolType:   {"TLSRoute"},
	gatewayv1.TCPProtocolType:   {"TCPRoute"},
	gatewayv1.UDPProtocolType:   {"UDPRoute"},
}

func joinOr(kinds []gatewayv1.Kind) string {
	text := ""
	for i, kind := range kinds {
		if i > 0 {
			text += " or "
		}
		text += string(kind)
	}
	return text
}

// compileKinds decides which kinds of routes may attach.
func (l *listener) compileKinds() {
	group := gatewayv1.Group(gatewayv1.GroupName)
	var supported []gatewayv1.RouteGroupKind
	for _, kind := range routeKinds[l.spec.Protocol] {
		supported = append(supported, gatewayv1.RouteGroupKind{Group: &group, Kind: kind})
	}
	l.kinds = []gatewayv1.RouteGroupKind{}
	if len(supported) == 0 {
		return
	}
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		l.kinds = supported
		return
	}
	for i, kind := range l.spec.AllowedRoutes.Kinds {
		at := slices.IndexFunc(supported, func(s gatewayv1.RouteGroupKind) bool { return s.Kind == kind.Kind })
		if at < 0 || kind.Group != nil && *kind.Group != group {
			l.parent.fail(&l.resolved, Finding{
				Field:   fmt.Sprintf("%s.allowedRoutes.kinds[%d]", l.field, i),
				Message: fmt.Sprintf("%s is not supported for protocol %s", kind.Kind, l.spec.Protocol), Want: joinOr(routeKinds[l.spec.Protocol]),
				Condition: string(gatewayv1.ListenerConditionResolvedRefs), Reason: string(gatewayv1.ListenerReasonInvalidRouteKinds),
			})
		} else if !l.takes(string(kind.Kind)) {
			l.kinds = append(l.kinds, supported[at])
		}
	}
}

// takes reports whether routes of a kind may attach.
func (l *listener) takes(kind string) bool {
	return slices.ContainsFunc(l.kinds, func(k gatewayv1.RouteGroupKind) bool { return string(k.Kind) == kind })
}

// compileNamespaces decides which namespaces' routes may attach.
func (l *listener) compileNamespaces() {
	l.namespaces.from = gatewayv1.NamespacesFromSame
	if l.spec.AllowedRoutes == nil || l.spec.AllowedRoutes.Namespaces == nil || l.spec.AllowedRoutes.Namespaces.From == nil {
		return
	}
	n := l.spec.AllowedRoutes.Namespaces
	l.namespaces = compileNamespaces(*n.From, n.Selector, func(field, message, want string) {
		l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".allowedRoutes.namespaces"+field, message, want)
	})
}

// namespaces are those whose objects may attach.
type namespaces struct {
	from     gatewayv1.FromNamespaces
	selector labels.Selector // of NamespacesFromSelector
}

func compileNamespaces(from gatewayv1.FromNamespaces, selector *metav1.LabelSelector, refuse func(field, message, want string)) namespaces {
	n := namespaces{from: from}
	switch from {
	case gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromNone:
	case gatewayv1.NamespacesFromSelector:
		// A selector that is not there selects nothing.
		s, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			refuse(".selector", err.Error(), "a label selector")
			s = labels.Nothing()
		}
		n.selector = s
	default:
		refuse(".from", fmt.Sprintf("%q is not supported", from), "All, Selector or Same")
	}
	return n
}

// compileTLS checks the TLS settings of an HTTPS or TLS listener.
func (b *frameBuilder) compileTLS(l *listener) {
	t := l.spec.TLS
	if t == nil {
		l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls", fmt.Sprintf("protocol %s needs it", l.spec.Protocol), "tls with certificateRefs")
		return
	}
	if l.passesThrough() {
		if len(t.CertificateRefs) > 0 {
			// "Ignored in this mode", ListenerTLSConfig.mode: that is told, and no more.
			l.parent.fail(nil, Finding{Field: l.field + ".tls.certificateRefs", Message: "mode Passthrough leaves TLS to the backends, so they are not used", Want: "none, or mode Terminate"})
		}
		if len(t.Options) > 0 {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls.options", "mode Passthrough leaves TLS to the backends", "no options, or mode Terminate")
		}
		return
	}
	if t.Mode != nil && *t.Mode != gatewayv1.TLSModeTerminate {
		l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls.mode", fmt.Sprintf("%q is not supported for protocol %s", *t.Mode, l.spec.Protocol), string(gatewayv1.TLSModeTerminate))
		return
	}
	l.compileOptions()
	b.compileFrontend(l)
	b.resolveCertificates(l)
}

// passesThrough reports whether TLS is left to the backends.
func (l *listener) passesThrough() bool {
	t := l.spec.TLS
	return l.spec.Protocol == gatewayv1.TLSProtocolType && t != nil && t.Mode != nil && *t.Mode == gatewayv1.TLSModePassthrough
}

// terminates reports whether TLS ends here.
func (l *listener) terminates() bool {
	return l.spec.Protocol == gatewayv1.HTTPSProtocolType || l.spec.Protocol == gatewayv1.TLSProtocolType && !l.passesThrough()
}

// transport is what the listener's port is of: "tcp" or "udp".
func (l *listener) transport() string {
	if l.spec.Protocol == gatewayv1.UDPProtocolType {
		return "udp"
	}
	return "tcp"
}

// family is what the listeners of a port have in common: those of HTTPS and TLS
// are told apart by server name.
func (l *listener) family() gatewayv1.ProtocolType {
	if l.spec.Protocol == gatewayv1.HTTPSProtocolType {
		return gatewayv1.TLSProtocolType
	}
	return l.spec.Protocol
}

// allow reports whether objects of a namespace may attach to one in namespace own.
func (n *namespaces) allow(set *objects.Set, own, namespace string) bool {
	switch n.from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == own
	case gatewayv1.NamespacesFromSelector:
		// Kubernetes gives every namespace this label; a folder need not spell it out.
		have := labels.Set{corev1.LabelMetadataName: namespace}
		if object := objects.Get[*corev1.Namespace](set, "", namespace); object != nil {
			have = labels.Merge(object.Labels, have)
		}
		return n.selector.Matches(have)
	}
	return false
}

// claim is what must differ between the listeners of one port.
type claim struct {
	portClaim
	hostname string
}

// portClaim is a port of one transport; those of TCP and UDP are different ones.
type portClaim struct {
	transport string
	port      int32
}

func (l *listener) claim() claim {
	return claim{portClaim{l.transport(), int32(l.spec.Port)}, l.hostname}
}

// taken is what listeners have claimed.
type taken struct {
	protocols map[portClaim]gatewayv1.ProtocolType
	claims    map[claim]bool
}

// markConflicts finds the listeners that are not distinct: first of the Gateway
// itself, then of its ListenerSets, ListenerSetSpec.listeners.
func (g *gateway) markConflicts() {
	t := &taken{map[portClaim]gatewayv1.ProtocolType{}, map[claim]bool{}}
	g.parent.markConflicts(t)
	for _, set := range g.sets {
		set.markConflicts(t)
	}
}

// markConflicts finds the listeners of one parent that are not distinct from
// those that claimed before, or from each other. Of the latter none is served,
// GatewaySpec.listeners: there must be no winner.
func (p *parent) markConflicts(t *taken) {
	protocols := map[portClaim]map[gatewayv1.ProtocolType]bool{}
	claims := map[claim]int{}
	for _, l := range p.listeners {
		// Whose the other listener is may be none of this one's business.
		protocol, known := t.protocols[l.claim().portClaim]
		switch {
		case !l.accepted.ok():
		case known && protocol != l.family():
			l.conflict(gatewayv1.ListenerReasonProtocolConflict, gatewayv1.ListenerReasonProtocolConflict, ".protocol",
				fmt.Sprintf("a listener that takes precedence has another protocol on port %d", l.spec.Port), "one protocol per port")
		case t.claims[l.claim()]:
			l.conflict(gatewayv1.ListenerReasonHostnameConflict, gatewayv1.ListenerReasonHostnameConflict, ".hostname",
				fmt.Sprintf("a listener that takes precedence has the same hostname on port %d", l.spec.Port), "a different hostname or port")
		}
	}
	for _, l := range p.listeners {
		// What is not accepted anyway stands in nobody's way.
		if l.accepted.ok() {
			port := l.claim().portClaim
			if protocols[port] == nil {
				protocols[port] = map[gatewayv1.ProtocolType]bool{}
			}
			protocols[port][l.family()] = true
			claims[l.claim()]++
		}
	}
	for _, l := range p.listeners {
		switch {
		case !l.accepted.ok():
		case len(protocols[l.claim().portClaim]) > 1:
			l.conflict(gatewayv1.ListenerReasonProtocolConflict, gatewayv1.ListenerReasonProtocolConflict, ".protocol",
				fmt.Sprintf("other listeners of the %s have another protocol on port %d", p.ref().Kind, l.spec.Port), "one protocol per port")
		case claims[l.claim()] > 1:
			l.conflict(gatewayv1.ListenerReasonHostnameConflict, gatewayv1.ListenerReasonHostnameConflict, ".hostname",
				fmt.Sprintf("another listener of the %s has the same hostname on port %d", p.ref().Kind, l.spec.Port), "a different hostname or port")
		default:
			t.protocols[l.claim().portClaim], t.claims[l.claim()] = l.family(), true
		}
	}
}

func (l *listener) conflict(reason, acceptedReason gatewayv1.ListenerConditionReason, field, message, want string) {
	f := Finding{Field: l.field + field, Message: message, Want: want,
		Condition: string(gatewayv1.ListenerConditionConflicted), Reason: string(reason)}
	l.parent.fail(&l.conflicted, f)
	l.accepted.fail(string(acceptedReason), f.String())
}

// status is the listener's with the number of its routes.
func (l *listener) status(attached int32) gatewayv1.ListenerStatus {
	generation := l.parent.generation
	// Conflicted is the one condition here for which False is fine.
	conflicted := newCondition(string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.ListenerReasonNoConflicts), "", l.conflicted, generation)
	conflicted.Status = metav1.ConditionFalse
	if !l.conflicted.ok() {
		conflicted.Status = metav1.ConditionTrue
	}
	conditions := []metav1.Condition{
		newCondition(string(gatewayv1.ListenerConditionAccepted), string(gatewayv1.ListenerReasonAccepted), "", l.accepted, generation),
		newCondition(string(gatewayv1.ListenerConditionProgrammed), string(gatewayv1.ListenerReasonProgrammed), "", l.programmed, generation),
		newCondition(string(gatewayv1.ListenerConditionResolvedRefs), string(gatewayv1.ListenerReasonResolvedRefs), l.expiries(), l.resolved, generation),
		conflicted,
	}
	if l.overlapping != "" {
		conditions = append(conditions, metav1.Condition{
			Type: string(gatewayv1.ListenerConditionOverlappingTLSConfig), Status: metav1.ConditionTrue,
			Reason: string(gatewayv1.ListenerReasonOverlappingHostnames), Message: "the hostname overlaps with that of listener " + l.overlapping,
			ObservedGeneration: generation,
		})
	}
	return gatewayv1.ListenerStatus{Name: l.spec.Name, SupportedKinds: l.kinds, AttachedRoutes: attached, Conditions: conditions}
}

// sockets are the ports to bind with the listeners that share them.
type sockets map[socketKey]*socket

type socketKey struct {
	transport string
	number    uint16
}

type socket struct {
	protocol  gatewayv1.ProtocolType
	listeners []*listener
}

// bind gives a Gateway's listeners their sockets. Gateways come oldest first:
// a listener that cannot be told apart from one that is already there is not accepted.
func (s sockets) bind(g *gateway) {
	if !g.refused.ok() {
		return
	}
	for l := range g.all() {
		if !l.accepted.ok() || l.bound == 0 {
			continue
		}
		key := socketKey{l.transport(), l.bound}
		shared := s[key]
		if shared == nil {
			shared = &socket{protocol: l.family()}
			s[key] = shared
		}
		if shared.protocol != l.family() {
			l.conflict(gatewayv1.ListenerReasonProtocolConflict, gatewayv1.ListenerReasonPortUnavailable, ".port",
				fmt.Sprintf("port %d is taken by listener %s, which is older, with protocol %s", l.spec.Port, shared.listeners[0].key, shared.protocol),
				"another port, or the same protocol")
			continue
		}
		if i := slices.IndexFunc(shared.listeners, func(other *listener) bool { return other.hostname == l.hostname }); i >= 0 {
			l.conflict(gatewayv1.ListenerReasonHostnameConflict, gatewayv1.ListenerReasonPortUnavailable, ".hostname",
				fmt.Sprintf("listener %s, which is older, has the same hostname on port %d", shared.listeners[i].key, l.spec.Port),
				"a different hostname or port")
			continue
		}
		shared.listeners = append(shared.listeners, l)
	}
}

// ports returns the snapshot's ports.
func (s sockets) ports(policies policyIndex) []*snapshot.Port {
	ports := make([]*snapshot.Port, 0, len(s))
	add := func(transport string, number uint16, listeners []*snapshot.Listener) *snapshot.Port {
		port := &snapshot.Port{Key: fmt.Sprintf("%s/%d", transport, number), Number: number, Transport: transport, Listeners: listeners}
		ports = append(ports, port)
		return port
	}
	over := s.settleHTTP3(policies)
	for key, shared := range s {
		var listeners []*snapshot.Listener
		for _, l := range shared.listeners {
			listeners = append(listeners, l.compiled(policies))
		}
		// Gateways share no sockets where there are other pods.
		if shared.listeners[0].parent.gateway.elsewhere {
			continue
		}
		slices.SortFunc(listeners, func(x, y *snapshot.Listener) int { return cmp.Compare(x.Key, y.Key) })
		port := add(key.transport, key.number, listeners)
		port.Connections = policies.connections(shared.listeners)
		if key.transport == "tcp" {
			port.ProxyProtocol = policies.proxyProtocol(shared.listeners)
		}
		for number, speaks := range over {
			if speaks == shared {
				// All of them, so that over UDP too none takes another's hosts.
				add("udp", number, listeners).Connections = port.Connections
			}
		}
	}
	slices.SortFunc(ports, func(x, y *snapshot.Port) int { return cmp.Compare(x.Key, y.Key) })
	return ports
}

func (l *listener) compiled(policies policyIndex) *snapshot.Listener {
	source := l.parent.ref()
	c := &snapshot.Listener{
		Key:    l.key,
		Source: snapshot.Ref{Kind: source.Kind, Namespace: source.Namespace, Name: source.Name, Section: string(l.spec.Name)},
		Port:   uint16(l.spec.Port), Protocol: string(l.spec.Protocol), Hostname: l.hostname,
		Client: policies.client(l),
	}
	if l.terminates() {
		c.TLS = &snapshot.TLS{Certificates: l.certificates, Clients: l.clients}
		policies.tls(l, c.TLS)
	}
	if l.http3 != nil && l.boundUDP != 0 {
		c.HTTP3 = l.http3
		if c.TLS.Clients != nil && c.HTTP3.EarlyData {
			c.HTTP3 = &snapshot.HTTP3{AltSvcMaxAge: c.HTTP3.AltSvcMaxAge}
			policies.refuseHTTP3(l, ".earlyData", fmt.Sprintf("listener %s asks clients for certificates, which early data comes before", l.key),
				"no earlyData, or no certificates of clients")
		}
	}
	return c
}

// serves reports whether the listener is in the snapshot.
func (l *listener) serves() bool {
	return l.parent.gateway.refused.ok() && !l.parent.gateway.elsewhere && l.accepted.ok() && l.bound != 0
}

// markOverlaps notes which listeners of one socket have TLS settings and
// hostnames that overlap, as ListenerConditionOverlappingTLSConfig asks.
func markOverlaps(shared []*listener) {
	for _, l := range shared {
		var with []string
		for _, other := range shared {
			if l != other && l.terminates() &&
				(coversHostname(l.hostname, other.hostname) || coversHostname(other.hostname, l.hostname)) {
				with = append(with, other.key)
			}
		}
		slices.Sort(with)
		l.overlapping = strings.Join(with, ", ")
	}
}
