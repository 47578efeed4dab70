package compile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// world makes random objects out of a few names, so that they often refer to,
// contradict and replace each other.
type world struct {
	*rand.Rand
	generation int64
}

func (w *world) pick(names ...string) string { return names[w.IntN(len(names))] }

func (w *world) chance(percent int) bool { return w.IntN(100) < percent }

func (w *world) meta(kind string) metav1.ObjectMeta {
	w.generation++
	return metav1.ObjectMeta{
		Namespace: w.pick("x", "y"), Name: kind + w.pick("1", "2", "3"), Generation: w.generation,
		CreationTimestamp: metav1.NewTime(time.Unix(int64(w.IntN(3)), 0)),
	}
}

func (w *world) object() objects.Object {
	if w.chance(8) {
		return w.pod()
	}
	switch w.IntN(22) {
	case 0:
		return w.gateway()
	case 1:
		controller := gatewayv1.GatewayController(w.pick(ControllerName, ControllerName, "example.com/other"))
		return &gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: w.pick("c1", "c2")}, Spec: gatewayv1.GatewayClassSpec{ControllerName: controller}}
	case 2, 3:
		m := w.meta("s")
		s := &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}}
		if w.chance(20) {
			s.Spec.Ports[0].AppProtocol = new(w.pick("https", "kubernetes.io/h2c"))
		}
		if w.chance(50) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "alt", Port: 81})
		}
		if w.chance(20) {
			s.Spec.TrafficDistribution = new(w.pick("PreferSameZone", "PreferSameNode"))
		}
		if w.chance(10) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}
		return s
	case 4, 5, 6:
		return w.slice()
	case 7:
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.pick("x", "y"), Labels: map[string]string{"team": w.pick("red", "blue")}}}
	case 8:
		return w.policy()
	case 9:
		from := gatewayv1.Namespace(w.pick("x", "y"))
		return &gatewayv1.ReferenceGrant{ObjectMeta: w.meta("g"), Spec: gatewayv1.ReferenceGrantSpec{
			From: []gatewayv1.ReferenceGrantFrom{
				{Group: gatewayv1.GroupName, Kind: "HTTPRoute", Namespace: from}, {Group: gatewayxv1alpha1.GroupName, Kind: "XBackend", Namespace: from}},
			To: []gatewayv1.ReferenceGrantTo{{Kind: "Service"}, {Kind: "Secret"}},
		}}
	case 10:
		s := &corev1.Secret{ObjectMeta: w.meta("secret"), Data: map[string][]byte{}}
		s.Data[w.pick("alice", "tls.crt")] = []byte(w.pick("key-one", "key-two"))
		s.Data[w.pick("bob", "tls.key")] = []byte(w.pick("key-three", "key-four"))
		if w.chance(60) {
			s.Data = maps.Clone(keyPairData)
			s.Data["ca.crt"] = s.Data["tls.crt"]
		}
		return s
	case 11:
		ip, port := w.pick("10.0.0.1", "10.0.0.2", "nonsense"), int32(80)
		return &v1alpha1.Backend{ObjectMeta: w.meta("s"), Spec: v1alpha1.BackendSpec{Endpoints: []v1alpha1.BackendEndpoint{{IP: &ip, Port: &port}}}}
	case 14, 15:
		return w.listenerSet()
	case 17:
		return w.xBackend()
	case 16:
		return &objects.ServiceImport{ObjectMeta: w.meta("s"), Spec: objects.ServiceImportSpec{
			Ports: []objects.ServiceImportPort{{Name: w.pick("web", "alt"), Port: 80, Protocol: corev1.Protocol(w.pick("TCP", "TCP", "UDP"))}},
			Type:  w.pick("ClusterSetIP", "Headless"), IPs: []string{"10.96.0.7"}}}
	case 12, 13:
		// A Gateway's, where there is a cluster.
		name := types.NamespacedName{Namespace: w.pick("x", "y"), Name: "gw" + w.pick("1", "2", "3")}
		m := w.meta("")
		m.Namespace, m.Name = "system", ServiceName(name)
		s := &corev1.Service{ObjectMeta: m, Spec: corev1.ServiceSpec{Type: corev1.ServiceType(w.pick("ClusterIP", "LoadBalancer")), ClusterIP: "10.96.0.1"}}
		for _, port := range []int32{80, 81, 443} {
			if w.chance(80) {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: port, TargetPort: intstr.FromInt32(10000 + int32(w.IntN(3)))})
			}
		}
		return s
	}
	switch {
	case w.chance(30):
		return w.grpcRoute()
	case w.chance(40):
		return w.stream()
	}
	return w.route()
}

func (w *world) xBackend() *gatewayxv1alpha1.XBackend {
	x := &gatewayxv1alpha1.XBackend{ObjectMeta: w.meta("s"), Spec: gatewayxv1alpha1.BackendSpec{
		Type: gatewayxv1alpha1.BackendTypeExternalHostname, Port: gatewayxv1alpha1.BackendPort{Port: 443},
		ExternalHostname: &gatewayxv1alpha1.ExternalHostnameBackend{Hostname: gatewayv1.PreciseHostname(w.pick("a.test", "b.cluster.local"))}}}
	if w.chance(50) {
		protocol := gatewayxv1alpha1.BackendProtocol(w.pick("HTTP", "HTTP2", "TCP"))
		x.Spec.Protocol = &protocol
	}
	if w.chance(70) {
		x.Spec.TLS = &gatewayxv1alpha1.BackendTLS{Mode: gatewayxv1alpha1.BackendTLSMode(w.pick("None", "ServerOnly", "ClientAndServer"))}
		if w.chance(60) {
			x.Spec.TLS.Validation = gatewayv1.BackendTLSPolicyValidation{Hostname: "a.test", CACertificateRefs: []gatewayv1.LocalObjectReference{
				{Kind: "Secret", Name: gatewayv1.ObjectName("secret" + w.pick("1", "2", "3"))}}}
		}
		if x.Spec.TLS.Mode == gatewayxv1alpha1.BackendTLSModeClientAndServer {
			namespace := gatewayv1.Namespace(w.pick("x", "y"))
			x.Spec.TLS.ClientCertificateRef = &gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName("secret" + w.pick("1", "2", "3")), Namespace: &namespace}
		}
	}
	return x
}

// stream has what an HTTPRoute of the same name might have.
func (w *world) stream() objects.Object {
	like := w.route()
	var refs []gatewayv1.BackendRef
	for _, rule := range like.Spec.Rules {
		for _, ref := range rule.BackendRefs {
			refs = append(refs, ref.BackendRef)
		}
	}
	switch w.IntN(3) {
	case 0:
		return &gatewayv1.TCPRoute{ObjectMeta: like.ObjectMeta, Spec: gatewayv1.TCPRouteSpec{
			CommonRouteSpec: like.Spec.CommonRouteSpec, Rules: []gatewayv1.TCPRouteRule{{BackendRefs: refs}}}}
	case 1:
		return &gatewayv1.UDPRoute{ObjectMeta: like.ObjectMeta, Spec: gatewayv1.UDPRouteSpec{
			CommonRouteSpec: like.Spec.CommonRouteSpec, Rules: []gatewayv1.UDPRouteRule{{BackendRefs: refs}}}}
	}
	return &gatewayv1.TLSRoute{ObjectMeta: like.ObjectMeta, Spec: gatewayv1.TLSRouteSpec{
		CommonRouteSpec: like.Spec.CommonRouteSpec, Hostnames: like.Spec.Hostnames, Rules: []gatewayv1.TLSRouteRule{{BackendRefs: refs}}}}
}

// grpcRoute has what an HTTPRoute of the same name might have.
func (w *world) grpcRoute() *gatewayv1.GRPCRoute {
	like := w.route()
	r := &gatewayv1.GRPCRoute{ObjectMeta: like.ObjectMeta}
	r.Spec.CommonRouteSpec, r.Spec.Hostnames = like.Spec.CommonRouteSpec, like.Spec.Hostnames
	for i := range like.Spec.Rules {
		from := &like.Spec.Rules[i]
		rule := gatewayv1.GRPCRouteRule{Name: from.Name}
		for range from.Matches {
			kind, service := gatewayv1.GRPCMethodMatchType(w.pick("Exact", "RegularExpression")), w.pick("a", "a.b", "a/b", "(")
			rule.Matches = append(rule.Matches, gatewayv1.GRPCRouteMatch{Method: &gatewayv1.GRPCMethodMatch{Type: &kind, Service: &service}})
		}
		for j := range from.BackendRefs {
			rule.BackendRefs = append(rule.BackendRefs, gatewayv1.GRPCBackendRef{BackendRef: from.BackendRefs[j].BackendRef})
		}
		r.Spec.Rules = append(r.Spec.Rules, rule)
	}
	return r
}

func (w *world) gateway() *gatewayv1.Gateway {
	g := &gatewayv1.Gateway{ObjectMeta: w.meta("gw"), Spec: gatewayv1.GatewaySpec{GatewayClassName: gatewayv1.ObjectName(w.pick("c1", "c1", "c2"))}}
	if w.chance(40) {
		// Often the same but for the hostname.
		from, h := gatewayv1.NamespacesFromAll, gatewayv1.Hostname(w.pick("a.test", "*.test"))
		g.Spec.GatewayClassName = "c1"
		g.Spec.Listeners = []gatewayv1.Listener{{Name: "l0", Port: 80, Protocol: "HTTP", Hostname: &h,
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: &from}}}}
		return g
	}
	if w.chance(40) {
		g.Spec.TLS = &gatewayv1.GatewayTLSConfig{Backend: &gatewayv1.GatewayBackendTLS{
			ClientCertificateRef: &gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName("secret" + w.pick("1", "2", "3"))}}}
	}
	if w.chance(80) {
		from := gatewayv1.FromNamespaces(w.pick("All", "All", "Same", "Selector", "None"))
		g.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{
			From: &from, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}}}}
	}
	if w.chance(20) {
		kind := gatewayv1.AddressType(w.pick("IPAddress", "Hostname", "example.com/other"))
		g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Type: &kind, Value: w.pick("", "192.0.2.1")})
	}
	if w.chance(40) {
		g.Spec.DefaultScope = gatewayv1.GatewayDefaultScopeAll
	}
	g.Spec.Listeners = w.listeners()
	return g
}

func (w *world) listenerSet() *gatewayv1.ListenerSet {
	namespace := gatewayv1.Namespace(w.pick("x", "y"))
	s := &gatewayv1.ListenerSet{ObjectMeta: w.meta("ls"), Spec: gatewayv1.ListenerSetSpec{
		ParentRef: gatewayv1.ParentGatewayReference{Name: gatewayv1.ObjectName("gw" + w.pick("1", "2", "3")), Namespace: &namespace}}}
	for _, l := range w.listeners() {
		s.Spec.Listeners = append(s.Spec.Listeners, gatewayv1.ListenerEntry(l))
	}
	return s
}

func (w *world) listeners() (list []gatewayv1.Listener) {
	from := gatewayv1.FromNamespaces(w.pick("All", "All", "Same", "Selector"))
	for i := range 1 + w.IntN(3) {
		l := gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: gatewayv1.PortNumber(80 + w.IntN(2)), Protocol: "HTTP",
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{
				From: &from, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "red"}}}},
		}
		if w.chance(70) {
			h := gatewayv1.Hostname(w.pick("a.test", "*.test", "b.a.test"))
			l.Hostname = &h
		}
		if w.chance(20) {
			l.AllowedRoutes.Kinds = []gatewayv1.RouteGroupKind{{Kind: gatewayv1.Kind(w.pick("HTTPRoute", "GRPCRoute"))}}
		}
		switch {
		case w.chance(15):
			l.Protocol = gatewayv1.ProtocolType(w.pick("TCP", "UDP"))
			if w.chance(80) {
				l.Hostname = nil
			}
		case w.chance(20):
			mode := gatewayv1.TLSModePassthrough
			l.Port, l.Protocol, l.TLS = 443, "TLS", &gatewayv1.ListenerTLSConfig{Mode: &mode}
		case w.chance(30):
			l.Port, l.Protocol = 443, "HTTPS"
			l.TLS = &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{
				{Name: gatewayv1.ObjectName("secret" + w.pick("1", "2", "3"))}}}
		}
		list = append(list, l)
	}
	return list
}

func (w *world) pod() objects.Object {
	m := w.meta("pod")
	m.UID = types.UID(w.pick("", "uid1", "uid2"))
	m.Labels = map[string]string{"version": w.pick("v1", "v2"), "other": w.pick("a", "b")}
	m.Annotations = map[string]string{WeightAnnotation: w.pick("2", "3", "none")}
	return &objects.Pod{ObjectMeta: m}
}

func (w *world) slice() *discoveryv1.EndpointSlice {
	m := w.meta("e")
	m.Labels = map[string]string{}
	if w.chance(80) {
		m.Labels[discoveryv1.LabelServiceName] = "s" + w.pick("1", "2", "3")
	}
	if w.chance(40) {
		m.Labels["multicluster.kubernetes.io/service-name"] = "s" + w.pick("1", "2", "3")
	}
	s := &discoveryv1.EndpointSlice{ObjectMeta: m, AddressType: discoveryv1.AddressTypeIPv4}
	for i, name := range []string{"web", "alt"} {
		port := int32(8080 + i)
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port})
	}
	for range w.IntN(3) {
		ready := w.chance(80)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.0.0.%d", w.IntN(5))}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "pod" + w.pick("1", "2", "3"), UID: types.UID(w.pick("", "uid1", "uid2"))},
			Zone:      new(w.pick("a", "b")), Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: w.pick("a", "b")}}}})
	}
	return s
}

func (w *world) policy() objects.Object {
	targets := func(kinds ...string) (refs []v1alpha1.TargetRef) {
		for range 1 + w.IntN(2) {
			kind := w.pick(kinds...)
			name := map[string]string{"Gateway": "gw", "ListenerSet": "ls", "HTTPRoute": "r", "GRPCRoute": "r", "TCPRoute": "r", "UDPRoute": "r", "Service": "s", "ServiceImport": "s", "Backend": "s", "XBackend": "s"}[kind] + w.pick("1", "2", "3")
			ref := v1alpha1.TargetRef{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{
				Group: gatewayv1.Group(objects.GroupOf(kind)), Kind: gatewayv1.Kind(kind), Name: gatewayv1.ObjectName(name)}}
			if w.chance(30) {
				section := gatewayv1.SectionName(w.pick("l0", "l1", "web", "rule0"))
				ref.SectionName = &section
			}
			refs = append(refs, ref)
		}
		return refs
	}
	switch w.IntN(7) {
	case 6:
		p := &v1alpha1.RateLimitPolicy{ObjectMeta: w.meta("rlp"), Spec: v1alpha1.RateLimitPolicySpec{
			TargetRefs: targets("Gateway", "ListenerSet", "HTTPRoute", "TCPRoute", "UDPRoute"), Enforced: w.chance(20),
			Concurrency: []v1alpha1.ConcurrencyLimit{{Name: w.pick("a", "b"), Requests: 1 + int32(w.IntN(2))}},
		}}
		if w.chance(50) {
			p.Spec.Bandwidth = []v1alpha1.BandwidthLimit{{Name: "a", BytesPerSecond: resource.MustParse(w.pick("1Ki", "1Mi")),
				Key: []v1alpha1.RateLimitKey{{Type: v1alpha1.RateLimitKeyType(w.pick("ClientIP", "Consumer", "Request"))}}}}
		}
		return p
	case 4, 5:
		p := &gatewayv1.BackendTLSPolicy{ObjectMeta: w.meta("tls"), Spec: gatewayv1.BackendTLSPolicySpec{TargetRefs: targets("Service", "ServiceImport", "Backend", "XBackend")}}
		p.Spec.Validation.Hostname = gatewayv1.PreciseHostname(w.pick("a.test", "b.test", "*.nonsense"))
		if w.chance(60) {
			p.Spec.Validation.CACertificateRefs = []gatewayv1.LocalObjectReference{{Kind: "Secret", Name: gatewayv1.ObjectName("secret" + w.pick("1", "2", "3"))}}
		} else {
			system := gatewayv1.WellKnownCACertificatesSystem
			p.Spec.Validation.WellKnownCACertificates = &system
		}
		return p
	case 3:
		return &v1alpha1.AuthPolicy{ObjectMeta: w.meta("ap"), Spec: v1alpha1.AuthPolicySpec{
			TargetRefs: targets("Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute"), Enforced: w.chance(20),
			APIKey: &v1alpha1.APIKeyAuth{SecretRefs: []v1alpha1.SecretRef{{Name: "secret" + w.pick("1", "2", "3")}}},
		}}
	case 0:
		if w.chance(50) {
			p := &v1alpha1.BackendPolicy{ObjectMeta: w.meta("bp"), Spec: v1alpha1.BackendPolicySpec{
				TargetRefs: targets("Service", "HTTPRoute", "GRPCRoute"), Balance: &v1alpha1.Balance{PodWeights: new(w.chance(50))},
			}}
			if w.chance(70) {
				p.Spec.Balance.Subset = &v1alpha1.Subset{Selectors: []v1alpha1.SubsetSelector{{Header: "X", Label: w.pick("version", "other")}}}
			}
			if w.chance(30) {
				p.Spec.Pool = &v1alpha1.ConnectionPool{MinIdle: new(int32(2))}
			} else if w.chance(30) {
				p.Spec.ProxyProtocol = &v1alpha1.BackendProxyProtocol{Version: "V2"}
			}
			if w.chance(30) {
				p.Spec.TargetRefs = targets("HTTPRoute", "GRPCRoute")
				p.Spec.Split = &v1alpha1.Split{HashOn: v1alpha1.HashKeys{{Type: v1alpha1.HashKeyType(w.pick("ClientIP", "Consumer"))}}}
			}
			return p
		}
		return &v1alpha1.BackendPolicy{ObjectMeta: w.meta("bp"), Spec: v1alpha1.BackendPolicySpec{
			TargetRefs: targets("Service", "HTTPRoute", "GRPCRoute"), Enforced: w.chance(20),
			Balance:  &v1alpha1.Balance{Algorithm: v1alpha1.BalanceAlgorithm(w.pick("IPHash", "LeastRequest", "Maglev")), Locality: v1alpha1.Locality(w.pick("", "Any", "OnlySameZone"))},
			Protocol: (*v1alpha1.BackendProtocol)(new(w.pick("HTTP1", "HTTP2", "Auto", "nonsense"))),
		}}
	case 1:
		return &v1alpha1.ListenerPolicy{ObjectMeta: w.meta("lp"), Spec: v1alpha1.ListenerPolicySpec{
			TargetRefs: targets("Gateway", "ListenerSet"), TrustedProxies: []string{w.pick("10.0.0.0/8", "fd00::/8", "nonsense")},
		}}
	}
	return &v1alpha1.TransformPolicy{ObjectMeta: w.meta("tp"), Spec: v1alpha1.TransformPolicySpec{
		TargetRefs: targets("Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute"), Enforced: w.chance(20),
		Response: &v1alpha1.ResponseTransform{Headers: &v1alpha1.HeaderTransform{Remove: []gatewayv1.HeaderName{gatewayv1.HeaderName(w.pick("A", "B", "Host"))}}},
	}}
}

func (w *world) route() *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: w.meta("r")}
	for range 1 + w.IntN(2) {
		namespace := gatewayv1.Namespace(w.pick("x", "y"))
		p := gatewayv1.ParentReference{Name: gatewayv1.ObjectName("gw" + w.pick("1", "2", "3")), Namespace: &namespace}
		if w.chance(30) {
			kind := gatewayv1.Kind("ListenerSet")
			p.Kind, p.Name = &kind, gatewayv1.ObjectName("ls"+w.pick("1", "2", "3"))
		}
		if w.chance(30) {
			section := gatewayv1.SectionName(w.pick("l0", "l1"))
			p.SectionName = &section
		}
		r.Spec.ParentRefs = append(r.Spec.ParentRefs, p)
	}
	if w.chance(20) {
		r.Spec.UseDefaultGateways = gatewayv1.GatewayDefaultScopeAll
		if w.chance(50) {
			r.Spec.ParentRefs = nil
		}
	}
	for range w.IntN(3) {
		r.Spec.Hostnames = append(r.Spec.Hostnames, gatewayv1.Hostname(w.pick("a.test", "b.test", "*.test", "*.a.test")))
	}
	for range w.IntN(4) {
		var rule gatewayv1.HTTPRouteRule
		if name := gatewayv1.SectionName(fmt.Sprintf("rule%d", len(r.Spec.Rules))); w.chance(30) {
			rule.Name = &name
		}
		for range w.IntN(3) {
			kind := gatewayv1.PathMatchType(w.pick("Exact", "PathPrefix", "RegularExpression"))
			value := w.pick("/", "/a", "/a/b", "/(")
			rule.Matches = append(rule.Matches, gatewayv1.HTTPRouteMatch{Path: &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}})
		}
		for range w.IntN(3) {
			port := gatewayv1.PortNumber(80 + w.IntN(2))
			ref := gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName("s" + w.pick("1", "2", "3")), Port: &port}
			if w.chance(15) {
				group, kind := gatewayv1.Group(v1alpha1.GroupName), gatewayv1.Kind("Backend")
				ref.Group, ref.Kind, ref.Port = &group, &kind, nil
			} else if w.chance(15) {
				group, kind := gatewayv1.Group(objects.MulticlusterGroup), gatewayv1.Kind("ServiceImport")
				ref.Group, ref.Kind = &group, &kind
			} else if w.chance(15) {
				group, kind := gatewayv1.Group(gatewayxv1alpha1.GroupName), gatewayv1.Kind("XBackend")
				ref.Group, ref.Kind, ref.Port = &group, &kind, nil
			}
			if w.chance(30) {
				namespace := gatewayv1.Namespace(w.pick("x", "y"))
				ref.Namespace = &namespace
			}
			if w.chance(20) {
				rule.Filters = append(rule.Filters, gatewayv1.HTTPRouteFilter{
					Type: gatewayv1.HTTPRouteFilterRequestMirror, RequestMirror: &gatewayv1.HTTPRequestMirrorFilter{BackendRef: ref}})
			} else {
				rule.BackendRefs = append(rule.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: ref}})
			}
		}
		r.Spec.Rules = append(r.Spec.Rules, rule)
	}
	return r
}

// TestIncremental changes a random world step by step, and holds every step
// against a compile of the same objects from nothing. The delta must name all
// that differs, and nothing else.
func TestIncremental(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &world{Rand: rand.New(rand.NewPCG(seed, 0))}
			opts := Options{}
			if seed%2 == 1 {
				opts.Namespace = "system"
			}
			set := objects.NewSet()
			all := map[objects.Ref]objects.Object{}
			var result *Result
			for step := range 60 {
				var changed []objects.Ref
				for range 1 + w.IntN(4) {
					obj := w.object()
					ref := objects.RefOf(obj)
					if _, there := all[ref]; there && w.chance(30) {
						delete(all, ref)
						set.Delete(ref)
					} else {
						all[ref] = obj
						set.Put(obj)
					}
					changed = append(changed, ref)
				}
				prev := result
				result = Compile(prev, set, changed, opts)
				what := fmt.Sprintf("step %d, %v", step, changed)
				checkDelta(t, what, prev, result)
				if step%3 != 0 {
					continue
				}
				fresh := objects.NewSet()
				refs := make([]objects.Ref, 0, len(all))
				for ref := range all {
					refs = append(refs, ref)
				}
				slices.SortFunc(refs, objects.Ref.Compare)
				w.Shuffle(len(refs), func(i, j int) { refs[i], refs[j] = refs[j], refs[i] })
				for _, ref := range refs {
					fresh.Put(all[ref])
				}
				sameResult(t, what, Compile(nil, fresh, nil, opts), result)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// checkDelta compares what a result says to have changed with what did.
func checkDelta(t *testing.T, what string, prev, next *Result) {
	t.Helper()
	if prev == nil {
		prev = &Result{Snapshot: &snapshot.Snapshot{}}
	}
	for _, table := range []struct {
		name         string
		said, differ []string
	}{
		{"hosts", next.Delta.Hosts, differ(prev.Snapshot.Hosts, next.Snapshot.Hosts)},
		{"clusters", next.Delta.Clusters, differ(prev.Snapshot.Clusters, next.Snapshot.Clusters)},
		{"endpoints", next.Delta.Endpoints, differ(prev.Snapshot.Endpoints, next.Snapshot.Endpoints)},
	} {
		if !slices.Equal(table.said, table.differ) {
			t.Fatalf("%s: the delta's %s are %q, and %q differ", what, table.name, table.said, table.differ)
		}
	}
	if said, is := next.Delta.Ports, !equal(prev.Snapshot.Ports, next.Snapshot.Ports); said != is && prev.tables.frame != nil {
		t.Fatalf("%s: the delta says %v of the ports, and it is %v", what, said, is)
	}
	var changed []string
	for _, ref := range next.ChangedStatuses {
		changed = append(changed, ref.String())
	}
	slices.Sort(changed)
	if is := differ(byObject(prev.Statuses()), byObject(next.Statuses())); !slices.Equal(changed, is) {
		t.Fatalf("%s: the result says that the statuses of %q changed, and those of %q did", what, changed, is)
	}
	changed = nil
	for _, ref := range next.ChangedFindings {
		changed = append(changed, ref.String())
	}
	slices.Sort(changed)
	if is := differ(prev.findings, next.findings); !slices.Equal(changed, is) {
		t.Fatalf("%s: the result says that the findings of %q changed, and those of %q did", what, changed, is)
	}
}

func byObject(statuses []*Status) (table snapshot.Table[*Status]) {
	for _, s := range statuses {
		table = table.With(s.Object.String(), s)
	}
	return table
}

// differ returns the keys under which two tables differ, sorted.
func differ[V any](a, b snapshot.Table[V]) []string {
	x, y := entries(a), entries(b)
	var keys []string
	for key := range x {
		if other, ok := y[key]; !ok || !equal(x[key], other) {
			keys = append(keys, key)
		}
	}
	for key := range y {
		if _, ok := x[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}
