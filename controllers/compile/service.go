package compile

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// resolveService finds the cluster of a port of a Service or ServiceImport.
func (c *resolver) resolveService(backend objects.Ref, ref *gatewayv1.BackendObjectReference, fail refuseRef) (clusterUse, *Finding) {
	object := c.set.Get(backend)
	if object == nil {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".name", fmt.Sprintf("there is no %s", backend), "the name of a "+backend.Kind)
	}
	if service, ok := object.(*corev1.Service); ok && service.Spec.Type == corev1.ServiceTypeExternalName {
		// BackendObjectReference.kind: they SHOULD NOT be supported. Who may make a
		// Service could have the Gateway reach whatever it can, also in namespaces
		// that no ReferenceGrant opens.
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".name", fmt.Sprintf("%s is of type ExternalName, which is not safe to forward to (CVE-2021-25740)", backend),
			fmt.Sprintf("an XBackend of group %s, with externalHostname %s", gatewayxv1alpha1.GroupName, strings.TrimSuffix(service.Spec.ExternalName, ".")))
	}
	ports := servicePorts(object)
	if ref.Port == nil {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".port", fmt.Sprintf("a %s needs a port", backend.Kind), wantPort(ports))
	}
	transport := corev1.ProtocolTCP
	if c.protocol == "udp" {
		transport = corev1.ProtocolUDP
	}
	port, ok := portNumbered(ports, *ref.Port, transport)
	if !ok {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".port", fmt.Sprintf("%s has no port %d", backend, *ref.Port), wantPort(ports))
	}
	if transportOf(port) != transport {
		return fail(gatewayv1.RouteReasonUnsupportedProtocol, ".port", fmt.Sprintf("port %d of %s has protocol %s", port.Port, backend, transportOf(port)),
			"a port with protocol "+string(transport))
	}
	var secure *snapshot.UpstreamTLS
	if transport == corev1.ProtocolTCP {
		secure = c.frame.backendTLS.of(backend, &port)
	}
	protocol := "http1"
	if p := port.AppProtocol; p != nil && c.protocol != "tcp" && c.protocol != "udp" {
		var want string
		if protocol, want = appProtocol(*p, secure != nil, c.protocol == "h2c"); want != "" {
			return fail(gatewayv1.RouteReasonUnsupportedProtocol, ".port", fmt.Sprintf("port %d of %s has appProtocol %s", port.Port, backend, *p), want)
		}
	}
	number := strconv.Itoa(int(port.Port))
	cluster := newCluster(backend.Kind+"/"+backend.Namespace+"/"+backend.Name+"/"+number,
		snapshot.Ref{Kind: backend.Kind, Namespace: backend.Namespace, Name: backend.Name, Section: number})
	cluster.Protocol, cluster.TLS, cluster.Balance.Locality = protocol, secure, localityOf(object)
	return c.withPolicies(clusterUse{cluster: cluster, backend: backend, port: port}, fail)
}

// appProtocol returns what to speak to a Service port by its appProtocol,
// GEP-1911 and KEP-3726, or else what would be right. Whether TLS is spoken is
// for a BackendTLSPolicy to say, and how endpoints are verified then; a name
// that stands for TLS needs one. WebSocket is HTTP/1.1 until a client asks for
// more, which no gRPC call does. The names grpc and http2 are nobody's standard and
// everybody's use.
func appProtocol(name string, secure, grpc bool) (protocol, want string) {
	switch name = strings.ToLower(name); name {
	case "ws", "kubernetes.io/ws", "wss", "kubernetes.io/wss":
		if grpc {
			return "", "a port that speaks HTTP/2, such as one with appProtocol kubernetes.io/h2c"
		}
	}
	switch name {
	case "", "http", "tcp", "ws", "kubernetes.io/ws":
		return "http1", ""
	case "kubernetes.io/h2c", "grpc", "http2":
		return "h2c", ""
	case "https", "wss", "kubernetes.io/wss":
		if secure {
			return "http1", ""
		}
		return "", "a BackendTLSPolicy for the port, which says how to verify the endpoints"
	}
	return "", "a port without appProtocol, or with http, https, kubernetes.io/h2c, kubernetes.io/ws or kubernetes.io/wss"
}

// servicePorts returns the ports of a Service or ServiceImport, none of anything else.
func servicePorts(object objects.Object) []corev1.ServicePort {
	switch o := object.(type) {
	case *corev1.Service:
		return o.Spec.Ports
	case *objects.ServiceImport:
		ports := make([]corev1.ServicePort, len(o.Spec.Ports))
		for i, p := range o.Spec.Ports {
			ports[i] = corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, AppProtocol: p.AppProtocol, Port: p.Port}
		}
		return ports
	}
	return nil
}

// portNumbered finds a port by number, the one of the transport if there are several.
func portNumbered(ports []corev1.ServicePort, number gatewayv1.PortNumber, transport corev1.Protocol) (found corev1.ServicePort, ok bool) {
	for _, p := range ports {
		if p.Port == number && (!ok || transportOf(p) == transport) {
			found, ok = p, true
		}
	}
	return found, ok
}

func transportOf(p corev1.ServicePort) corev1.Protocol { return cmp.Or(p.Protocol, corev1.ProtocolTCP) }

func wantPort(ports []corev1.ServicePort) string {
	var numbers []string
	for _, p := range ports {
		numbers = append(numbers, strconv.Itoa(int(p.Port)))
	}
	if len(numbers) == 0 {
		return "a port number"
	}
	return "one of its ports: " + strings.Join(numbers, ", ")
}
