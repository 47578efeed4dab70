package objects

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// MulticlusterGroup is the API group of the Multi-Cluster Services API, KEP-1645.
const MulticlusterGroup = "multicluster.x-k8s.io"

// labelImportName is the label by which an EndpointSlice belongs to a ServiceImport, KEP-1645.
const labelImportName = "multicluster.kubernetes.io/service-name"

// ServiceImport is multicluster.x-k8s.io/v1beta1's: a Service that other
// clusters export, GEP-1748. It is read and never written, so its status is left out.
type ServiceImport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              ServiceImportSpec `json:"spec,omitempty"`
}

// ServiceImportSpec says how an imported Service is reached. What is for
// kube-proxy is here so that a folder may have it.
type ServiceImportSpec struct {
	Ports []ServiceImportPort `json:"ports"`
	// IPs are the addresses of a ServiceImport of type ClusterSetIP, one of each family.
	IPs []string `json:"ips,omitempty"`
	// Type is "ClusterSetIP" or "Headless".
	Type                  string                               `json:"type"`
	IPFamilies            []corev1.IPFamily                    `json:"ipFamilies,omitempty"`
	SessionAffinity       corev1.ServiceAffinity               `json:"sessionAffinity,omitempty"`
	SessionAffinityConfig *corev1.SessionAffinityConfig        `json:"sessionAffinityConfig,omitempty"`
	InternalTrafficPolicy *corev1.ServiceInternalTrafficPolicy `json:"internalTrafficPolicy,omitempty"`
	TrafficDistribution   *string                              `json:"trafficDistribution,omitempty"`
}

// ServiceImportPort is a port, whose name EndpointSlices repeat.
type ServiceImportPort struct {
	Name        string          `json:"name,omitempty"`
	Protocol    corev1.Protocol `json:"protocol,omitempty"` // "" is TCP
	AppProtocol *string         `json:"appProtocol,omitempty"`
	Port        int32           `json:"port"`
}

// DeepCopyObject implements runtime.Object.
func (s *ServiceImport) DeepCopyObject() runtime.Object {
	out := *s
	s.DeepCopyInto(&out.ObjectMeta)
	spec := &out.Spec
	spec.Ports, spec.IPs, spec.IPFamilies = slices.Clone(spec.Ports), slices.Clone(spec.IPs), slices.Clone(spec.IPFamilies)
	for i := range spec.Ports {
		spec.Ports[i].AppProtocol = cloned(spec.Ports[i].AppProtocol)
	}
	spec.SessionAffinityConfig = spec.SessionAffinityConfig.DeepCopy()
	spec.InternalTrafficPolicy, spec.TrafficDistribution = cloned(spec.InternalTrafficPolicy), cloned(spec.TrafficDistribution)
	return &out
}

func cloned[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// ServiceImportList is a list of them.
type ServiceImportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceImport `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *ServiceImportList) DeepCopyObject() runtime.Object {
	out := &ServiceImportList{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy(), Items: make([]ServiceImport, len(l.Items))}
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*ServiceImport)
	}
	return out
}

// ServiceImportV1alpha1 is v1alpha1's, which has the same fields.
type ServiceImportV1alpha1 ServiceImport

// DeepCopyObject implements runtime.Object.
func (s *ServiceImportV1alpha1) DeepCopyObject() runtime.Object {
	return (*ServiceImportV1alpha1)((*ServiceImport)(s).DeepCopyObject().(*ServiceImport))
}

// ServiceImportV1alpha1List is a list of them.
type ServiceImportV1alpha1List struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ServiceImportV1alpha1 `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (l *ServiceImportV1alpha1List) DeepCopyObject() runtime.Object {
	out := &ServiceImportV1alpha1List{TypeMeta: l.TypeMeta, ListMeta: *l.ListMeta.DeepCopy(), Items: make([]ServiceImportV1alpha1, len(l.Items))}
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopyObject().(*ServiceImportV1alpha1)
	}
	return out
}

// addServiceImports makes a scheme know both versions.
func addServiceImports(s *runtime.Scheme) {
	v1beta1 := schema.GroupVersion{Group: MulticlusterGroup, Version: "v1beta1"}
	s.AddKnownTypes(v1beta1, &ServiceImport{}, &ServiceImportList{})
	metav1.AddToGroupVersion(s, v1beta1)
	v1alpha1 := schema.GroupVersion{Group: MulticlusterGroup, Version: "v1alpha1"}
	s.AddKnownTypeWithName(v1alpha1.WithKind("ServiceImport"), &ServiceImportV1alpha1{})
	s.AddKnownTypeWithName(v1alpha1.WithKind("ServiceImportList"), &ServiceImportV1alpha1List{})
	metav1.AddToGroupVersion(s, v1alpha1)
}
