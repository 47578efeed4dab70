package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/compile"
)

const (
	namespace = "headgate-system"
	httpPort  = 80
	httpsPort = 443
)

// edge is the Gateway that all routes lead from.
var edge = types.NamespacedName{Namespace: "edge", Name: "web"}

func ptr[T any](v T) *T { return &v }

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func namespaceObject(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: meta("", name)}
}

func gatewayClass() *gatewayv1.GatewayClass {
	return &gatewayv1.GatewayClass{ObjectMeta: meta("", "headgate"), Spec: gatewayv1.GatewayClassSpec{ControllerName: compile.ControllerName}}
}

// gateway takes routes and ListenerSets of all namespaces.
func gateway() *gatewayv1.Gateway {
	g := &gatewayv1.Gateway{ObjectMeta: meta(edge.Namespace, edge.Name)}
	g.Spec.GatewayClassName = "headgate"
	g.Spec.Listeners = []gatewayv1.Listener{{Name: "http", Port: httpPort, Protocol: gatewayv1.HTTPProtocolType,
		AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{From: ptr(gatewayv1.NamespacesFromAll)}}}}
	g.Spec.AllowedListeners = &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: ptr(gatewayv1.NamespacesFromAll)}}
	return g
}

func listenerSet(namespace, name string) *gatewayv1.ListenerSet {
	s := &gatewayv1.ListenerSet{ObjectMeta: meta(namespace, name)}
	s.Spec.ParentRef = gatewayv1.ParentGatewayReference{Name: gatewayv1.ObjectName(edge.Name), Namespace: ptr(gatewayv1.Namespace(edge.Namespace))}
	s.Spec.Listeners = []gatewayv1.ListenerEntry{{
		Name: gatewayv1.SectionName(name), Hostname: ptr(gatewayv1.Hostname(hostname(namespace, name))),
		Port: httpsPort, Protocol: gatewayv1.HTTPSProtocolType,
		TLS: &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{Name: certificateName}}},
	}}
	return s
}

func hostname(namespace, name string) string { return name + "." + namespace + ".example.com" }

// httpRoute leads a hostname and path to a Service, and what is beside that
// path to one that is not there. Version says which edition of it this is.
func httpRoute(namespace, name, host, path, service string, version int) *gatewayv1.HTTPRoute {
	r := &gatewayv1.HTTPRoute{ObjectMeta: meta(namespace, name)}
	r.Spec.ParentRefs = []gatewayv1.ParentReference{{Name: gatewayv1.ObjectName(edge.Name), Namespace: ptr(gatewayv1.Namespace(edge.Namespace))}}
	r.Spec.Hostnames = []gatewayv1.Hostname{gatewayv1.Hostname(host)}
	r.Spec.Rules = []gatewayv1.HTTPRouteRule{{
		Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: ptr(gatewayv1.PathMatchPathPrefix), Value: ptr(path)}}},
		Filters: []gatewayv1.HTTPRouteFilter{{
			Type: gatewayv1.HTTPRouteFilterRequestHeaderModifier,
			RequestHeaderModifier: &gatewayv1.HTTPHeaderFilter{
				Set: []gatewayv1.HTTPHeader{{Name: "X-Route", Value: mark(namespace, name, version)}}},
		}, {
			Type: gatewayv1.HTTPRouteFilterResponseHeaderModifier,
			ResponseHeaderModifier: &gatewayv1.HTTPHeaderFilter{
				Set: []gatewayv1.HTTPHeader{{Name: "X-Seen", Value: "yes"}}},
		}},
		BackendRefs: []gatewayv1.HTTPBackendRef{backendRef(service)},
	}}
	return r
}

// mark is what a route's requests say, and so the echo's answers.
func mark(namespace, name string, version int) string {
	return fmt.Sprintf("%s/%s/%d", namespace, name, version)
}

func backendRef(service string) gatewayv1.HTTPBackendRef {
	return gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
		Name: gatewayv1.ObjectName(service), Port: ptr(gatewayv1.PortNumber(httpPort))}}}
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta(namespace, name), Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, // a cluster has 65,534 others at most
		Ports:     []corev1.ServicePort{{Name: "http", Port: httpPort}},
	}}
}

// slice has one endpoint of its Service.
func slice(namespace, service, name string, at net.Addr) *discoveryv1.EndpointSlice {
	address := at.(*net.TCPAddr).AddrPort()
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	s.Ports = []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(address.Port()))}}
	s.Endpoints = []discoveryv1.Endpoint{endpoint(address.Addr())}
	return s
}

// endpoint is one as Kubernetes writes it.
func endpoint(address netip.Addr) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses:  []string{address.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)},
		NodeName:   ptr("node-1"),
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: "pod-1"},
	}
}

const certificateName = "certificate"

// certificate is for all names of a namespace's ListenerSets.
func certificate(namespace string) (*corev1.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: namespace}, DNSNames: []string{hostname(namespace, "*")},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: meta(namespace, certificateName), Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		},
	}, nil
}
