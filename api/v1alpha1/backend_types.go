package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Backend is what requests can be routed to and is not a Service: addresses,
// DNS names and Unix sockets, wherever they are. A backendRef names it with group
// headgate.dev and kind Backend, and without a port.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=bke
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Backend struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec BackendSpec `json:"spec"`
	// +optional
	Status BackendStatus `json:"status,omitempty"`
}

// BackendList is a list of Backend objects.
// +kubebuilder:object:root=true
type BackendList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Backend `json:"items"`
}

// BackendSpec says where the endpoints are.
type BackendSpec struct {
	// Endpoints share the requests by weight.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=128
	Endpoints []BackendEndpoint `json:"endpoints"`
}

// BackendEndpoint is an address, a DNS name that stands for addresses, or a Unix
// socket.
// +kubebuilder:validation:XValidation:message="exactly one of ip, hostname, srv and unix must be set",rule="(has(self.ip) ? 1 : 0) + (has(self.hostname) ? 1 : 0) + (has(self.srv) ? 1 : 0) + (has(self.unix) ? 1 : 0) == 1"
// +kubebuilder:validation:XValidation:message="port must be set with ip and hostname, and not with srv and unix",rule="has(self.port) == (has(self.ip) || has(self.hostname))"
// +kubebuilder:validation:XValidation:message="SRV records have their own weights",rule="!has(self.srv) || !has(self.weight)"
type BackendEndpoint struct {
	// IP is an IPv4 or IPv6 address. In a cluster it must not be one of the pod
	// itself (loopback) or of its link.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:message="must be an IP address; use hostname for a DNS name",rule="isIP(self)"
	IP *string `json:"ip,omitempty"`
	// Hostname is a DNS name. It is resolved again when its TTL is over; each
	// of its addresses is an endpoint. In a cluster it is fully qualified, and not
	// a name of the cluster's own: what is there is a Service.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*$`
	Hostname *string `json:"hostname,omitempty"`
	// SRV is a DNS name with SRV records (RFC 2782), such as
	// _http._tcp.example.com. They say hosts and ports, weights, and priorities
	// among the endpoints of the same priority here.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?(\.[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)*$`
	SRV *string `json:"srv,omitempty"`
	// Unix is the path of a Unix socket. It is for where Headgate serves a folder:
	// in a cluster there is none to connect to, and it is refused.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=107
	// +kubebuilder:validation:Pattern=`^/[^\x00]*$`
	Unix *string `json:"unix,omitempty"`
	// Port is the TCP port of an ip or hostname.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port *int32 `json:"port,omitempty"`
	// Weight is the endpoint's share relative to the others'. The default is 1.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Weight *int32 `json:"weight,omitempty"`
	// Priority is 0 for the endpoints that are used first, which is the default.
	// Those of a higher number are backups: they take what those of lower numbers
	// cannot, see BackendPolicy's balance.minHealthyPercent.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=127
	Priority *int32 `json:"priority,omitempty"`
	// Zone is where the endpoint is, for BackendPolicy's balance.locality.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Zone *string `json:"zone,omitempty"`
	// Labels are for BackendPolicy's balance.subset: requests choose by them.
	// +optional
	// +kubebuilder:validation:MaxProperties=8
	// +kubebuilder:validation:XValidation:message="a label's name must be one as Kubernetes has them, of up to 317 characters",rule="self.all(name, size(name) <= 317 && name.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))"
	Labels map[string]LabelValue `json:"labels,omitempty"`
}

// BackendStatus is what became of a Backend.
type BackendStatus struct {
	// Conditions: Accepted.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
