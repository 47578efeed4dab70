package objects

import (
	"reflect"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayv1beta1 "sigs.k8s.io/gateway-api/apis/v1beta1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
)

// Kind is a kind of object that Headgate reads.
type Kind struct {
	// Name is the kind, unique among these without its group.
	Name string
	// Group is the API group, "" for Kubernetes' core.
	Group string
	// Object is an empty object of the kind in the version that Headgate reads. It is shared: copy it.
	Object Object
	// ClusterScoped says that objects have no namespace.
	ClusterScoped bool
	// Referenced says that only objects in compile's Result.Wanted matter, so
	// that nobody keeps a whole cluster's Secrets in memory.
	Referenced bool
	// Optional says that Headgate works where the API server lacks the kind, as
	// with an older Gateway API: there are none of it until the server has it.
	Optional bool
	// Older is an empty object of a version that is read where the API server
	// lacks Object's; nil if there is none. Its fields are the same.
	Older Object
	// Metadata says that nothing but metadata is read, and only from when compile's
	// Result.ReadsPods asks for it: most clusters never need it, and it takes a
	// permission that not all give.
	Metadata bool
	// Backend says that routes may name objects of the kind in backendRefs.
	Backend bool
}

// Kinds is every kind that Headgate reads. Watches, manifests, check and the
// Set itself go by this list.
var Kinds = []Kind{
	{Name: "GatewayClass", Group: gatewayv1.GroupName, Object: &gatewayv1.GatewayClass{}, ClusterScoped: true},
	{Name: "Gateway", Group: gatewayv1.GroupName, Object: &gatewayv1.Gateway{}},
	{Name: "ListenerSet", Group: gatewayv1.GroupName, Object: &gatewayv1.ListenerSet{}, Optional: true},
	{Name: "HTTPRoute", Group: gatewayv1.GroupName, Object: &gatewayv1.HTTPRoute{}},
	{Name: "GRPCRoute", Group: gatewayv1.GroupName, Object: &gatewayv1.GRPCRoute{}},
	{Name: "TLSRoute", Group: gatewayv1.GroupName, Object: &gatewayv1.TLSRoute{}, Optional: true},
	{Name: "TCPRoute", Group: gatewayv1.GroupName, Object: &gatewayv1.TCPRoute{}, Optional: true},
	{Name: "UDPRoute", Group: gatewayv1.GroupName, Object: &gatewayv1.UDPRoute{}, Optional: true},
	{Name: "BackendTLSPolicy", Group: gatewayv1.GroupName, Object: &gatewayv1.BackendTLSPolicy{}, Optional: true},
	{Name: "ReferenceGrant", Group: gatewayv1.GroupName, Object: &gatewayv1.ReferenceGrant{}},
	{Name: "XBackend", Group: gatewayxv1alpha1.GroupName, Object: &gatewayxv1alpha1.XBackend{}, Optional: true, Backend: true},
	{Name: "XBackendTrafficPolicy", Group: gatewayxv1alpha1.GroupName, Object: &gatewayxv1alpha1.XBackendTrafficPolicy{}, Optional: true},
	{Name: "Backend", Group: v1alpha1.GroupName, Object: &v1alpha1.Backend{}, Backend: true},
	{Name: "GatewayParameters", Group: v1alpha1.GroupName, Object: &v1alpha1.GatewayParameters{}},
	{Name: "AuthPolicy", Group: v1alpha1.GroupName, Object: &v1alpha1.AuthPolicy{}},
	{Name: "RateLimitPolicy", Group: v1alpha1.GroupName, Object: &v1alpha1.RateLimitPolicy{}},
	{Name: "TransformPolicy", Group: v1alpha1.GroupName, Object: &v1alpha1.TransformPolicy{}},
	{Name: "BackendPolicy", Group: v1alpha1.GroupName, Object: &v1alpha1.BackendPolicy{}},
	{Name: "ListenerPolicy", Group: v1alpha1.GroupName, Object: &v1alpha1.ListenerPolicy{}},
	{Name: "Namespace", Object: &corev1.Namespace{}, ClusterScoped: true},
	{Name: "Service", Object: &corev1.Service{}, Backend: true},
	{Name: "ServiceImport", Group: MulticlusterGroup, Object: &ServiceImport{}, Older: &ServiceImportV1alpha1{}, Optional: true, Backend: true},
	{Name: "EndpointSlice", Group: discoveryv1.GroupName, Object: &discoveryv1.EndpointSlice{}},
	{Name: "Pod", Object: &corev1.Pod{}, Metadata: true},
	{Name: "Secret", Object: &corev1.Secret{}, Referenced: true},
	{Name: "ConfigMap", Object: &corev1.ConfigMap{}, Referenced: true},
	{Name: "ClusterTrustBundle", Group: certificatesv1.GroupName, Object: &certificatesv1.ClusterTrustBundle{}, Older: &certificatesv1beta1.ClusterTrustBundle{},
		ClusterScoped: true, Optional: true},
}

// kindOf is the kind's name by the Go type of its objects.
var kindOf = func() map[reflect.Type]string {
	m := map[reflect.Type]string{}
	for _, k := range Kinds {
		m[reflect.TypeOf(canonical(k.Object))] = k.Name
	}
	return m
}()

// KindOf returns the entry of Kinds for a group and kind.
func KindOf(gk schema.GroupKind) (Kind, bool) {
	for _, k := range Kinds {
		if k.Group == gk.Group && k.Name == gk.Kind {
			return k, true
		}
	}
	return Kind{}, false
}

// IsReferenced reports whether only those objects of a kind matter that others
// refer to, see Kind.Referenced.
func IsReferenced(kind string) bool {
	for _, k := range Kinds {
		if k.Name == kind {
			return k.Referenced
		}
	}
	return false
}

// GroupOf returns the API group of a kind in Kinds, "" for Kubernetes' core.
func GroupOf(kind string) string {
	for _, k := range Kinds {
		if k.Name == kind {
			return k.Group
		}
	}
	return ""
}

// Scheme returns a new scheme with every version of every kind in Kinds that
// Set.Put takes.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(discoveryv1.AddToScheme(s))
	utilruntime.Must(certificatesv1.AddToScheme(s))
	utilruntime.Must(certificatesv1beta1.AddToScheme(s))
	utilruntime.Must(gatewayv1.Install(s))
	utilruntime.Must(gatewayv1beta1.Install(s))
	utilruntime.Must(gatewayxv1alpha1.Install(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	addServiceImports(s)
	return s
}

// canonical turns an object of another served version into the one of Kinds,
// and one of which metadata alone is read into that. The versions of a kind have
// the same fields.
func canonical(obj Object) Object {
	switch o := obj.(type) {
	case *gatewayv1beta1.ReferenceGrant:
		return (*gatewayv1.ReferenceGrant)(o)
	case *gatewayv1beta1.HTTPRoute:
		return (*gatewayv1.HTTPRoute)(o)
	case *gatewayv1beta1.Gateway:
		return (*gatewayv1.Gateway)(o)
	case *gatewayv1beta1.GatewayClass:
		return (*gatewayv1.GatewayClass)(o)
	case *corev1.Pod:
		return &Pod{ObjectMeta: o.ObjectMeta}
	case *ServiceImportV1alpha1:
		return (*ServiceImport)(o)
	case *certificatesv1beta1.ClusterTrustBundle:
		return &certificatesv1.ClusterTrustBundle{TypeMeta: o.TypeMeta, ObjectMeta: o.ObjectMeta, Spec: certificatesv1.ClusterTrustBundleSpec(o.Spec)}
	}
	return obj
}
