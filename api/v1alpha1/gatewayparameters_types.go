package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// GatewayParameters say what infrastructure a Gateway gets in a cluster: what its
// Service is like, and whether it has pods of its own. A GatewayClass names one
// in spec.parametersRef for all its Gateways, and a Gateway one of its own
// namespace in spec.infrastructure.parametersRef.
//
// What the Gateway's say holds in place of what its class's say, field by field
// of service and deployment; labels, annotations and other maps key by key.
// What does not go with the type, replicas or autoscaling that the Gateway's
// choose falls away from its class's.
//
// Where parameters are not valid, their GatewayClass or Gateway is not
// accepted, with reason InvalidParameters, and the infrastructure that is there
// stays as it is and serves.
// +kubebuilder:object:root=true
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=gwp
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.service.type`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GatewayParameters struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec GatewayParametersSpec `json:"spec"`
}

// GatewayParametersList is a list of GatewayParameters objects.
// +kubebuilder:object:root=true
type GatewayParametersList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GatewayParameters `json:"items"`
}

// GatewayMode says whose pods serve a Gateway.
// +kubebuilder:validation:Enum=Shared;Dedicated
type GatewayMode string

const (
	// GatewayModeShared: Headgate's own pods, together with other Gateways.
	GatewayModeShared GatewayMode = "Shared"
	// GatewayModeDedicated: pods of a Deployment that is the Gateway's alone.
	GatewayModeDedicated GatewayMode = "Dedicated"
)

// GatewayParametersSpec is what a Gateway's infrastructure is like.
// +kubebuilder:validation:XValidation:message="one of service, mode and deployment must be set",rule="has(self.service) || has(self.mode) || has(self.deployment)"
// +kubebuilder:validation:XValidation:message="a Gateway of mode Shared has no deployment",rule="!has(self.deployment) || !has(self.mode) || self.mode == 'Dedicated'"
type GatewayParametersSpec struct {
	// Service is the Gateway's Service in Headgate's namespace.
	// +optional
	Service *GatewayService `json:"service,omitempty"`
	// Mode says whose pods serve the Gateway: Shared, Headgate's own, or
	// Dedicated, those of a Deployment in Headgate's namespace that serve no
	// other. The default is Shared. From a folder there are no pods, and
	// Dedicated is refused.
	//
	// A change moves the traffic once the pods that it moves to are ready.
	// +optional
	Mode *GatewayMode `json:"mode,omitempty"`
	// Deployment is what the pods of mode Dedicated are like. What it does not
	// say is as with Headgate's own pods.
	// +optional
	Deployment *GatewayDeployment `json:"deployment,omitempty"`
}

// GatewayServiceType is the type of a Gateway's Service.
// +kubebuilder:validation:Enum=LoadBalancer;NodePort;ClusterIP
type GatewayServiceType string

// GatewayService says what a Gateway's Service is like. Fields are those of a
// Service of Kubernetes, where their names are the same. What is left out is
// whoever else's to set.
// +kubebuilder:validation:XValidation:message="loadBalancerClass needs type LoadBalancer",rule="!has(self.loadBalancerClass) || !has(self.type) || self.type == 'LoadBalancer'"
// +kubebuilder:validation:XValidation:message="loadBalancerSourceRanges needs type LoadBalancer",rule="!has(self.loadBalancerSourceRanges) || !has(self.type) || self.type == 'LoadBalancer'"
// +kubebuilder:validation:XValidation:message="allocateLoadBalancerNodePorts needs type LoadBalancer",rule="!has(self.allocateLoadBalancerNodePorts) || !has(self.type) || self.type == 'LoadBalancer'"
// +kubebuilder:validation:XValidation:message="externalTrafficPolicy needs type LoadBalancer or NodePort",rule="!has(self.externalTrafficPolicy) || !has(self.type) || self.type != 'ClusterIP'"
// +kubebuilder:validation:XValidation:message="nodePorts needs type LoadBalancer or NodePort",rule="!has(self.nodePorts) || !has(self.type) || self.type != 'ClusterIP'"
// +kubebuilder:validation:XValidation:message="two ipFamilies are no SingleStack",rule="!has(self.ipFamilies) || self.ipFamilies.size() < 2 || !has(self.ipFamilyPolicy) || self.ipFamilyPolicy != 'SingleStack'"
type GatewayService struct {
	// Type is the Service's. The default is Headgate's, as its flag
	// --service-type says; LoadBalancer, if it is not given.
	// +optional
	Type *GatewayServiceType `json:"type,omitempty"`
	// Labels go onto the Service, beside those of the Gateway's
	// spec.infrastructure, which hold in place of them.
	// +optional
	Labels Labels `json:"labels,omitempty"`
	// Annotations go onto the Service, beside those of the Gateway's
	// spec.infrastructure, which hold in place of them.
	// +optional
	Annotations Annotations `json:"annotations,omitempty"`
	// LoadBalancerClass names whose load balancer it is. A change gives the old
	// one back and asks for the new one: the Gateway's address changes.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`
	LoadBalancerClass *string `json:"loadBalancerClass,omitempty"`
	// LoadBalancerSourceRanges are the clients, as CIDRs, that the load balancer
	// lets through, where it can.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=43
	// +kubebuilder:validation:XValidation:message="each must be a CIDR, such as 192.0.2.0/24",rule="self.all(r, isCIDR(r))"
	LoadBalancerSourceRanges []string `json:"loadBalancerSourceRanges,omitempty"`
	// ExternalTrafficPolicy says whether nodes pass what comes from outside the
	// cluster to pods on any node (Cluster) or to their own only (Local), which
	// keeps the client's address. The default is Local.
	// +optional
	// +kubebuilder:validation:Enum=Cluster;Local
	ExternalTrafficPolicy *corev1.ServiceExternalTrafficPolicy `json:"externalTrafficPolicy,omitempty"`
	// InternalTrafficPolicy says the same of what comes from within the cluster.
	// +optional
	// +kubebuilder:validation:Enum=Cluster;Local
	InternalTrafficPolicy *corev1.ServiceInternalTrafficPolicy `json:"internalTrafficPolicy,omitempty"`
	// AllocateLoadBalancerNodePorts says whether a Service of type LoadBalancer
	// has node ports, which some load balancers do without.
	// +optional
	AllocateLoadBalancerNodePorts *bool `json:"allocateLoadBalancerNodePorts,omitempty"`
	// IPFamilyPolicy says whether the Service has addresses of one family or two.
	// +optional
	// +kubebuilder:validation:Enum=SingleStack;PreferDualStack;RequireDualStack
	IPFamilyPolicy *corev1.IPFamilyPolicy `json:"ipFamilyPolicy,omitempty"`
	// IPFamilies are the families, the first of which can never change: the
	// Service must be deleted for another.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=IPv4;IPv6
	IPFamilies []corev1.IPFamily `json:"ipFamilies,omitempty"`
	// NodePorts are the node ports of some of the listeners' ports. Those of
	// others the cluster chooses.
	// +optional
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:message="two ports of one protocol cannot have the same nodePort",rule="self.all(a, self.exists_one(b, a.nodePort == b.nodePort && a.protocol == b.protocol))"
	NodePorts []GatewayNodePort `json:"nodePorts,omitempty"`
	// TrafficDistribution says which endpoints the Service prefers, such as
	// PreferSameZone.
	// +optional
	// +kubebuilder:validation:Enum=PreferSameZone;PreferSameNode;PreferClose
	TrafficDistribution *string `json:"trafficDistribution,omitempty"`
}

// GatewayNodePort is the node port of a listener's port.
type GatewayNodePort struct {
	// Port is the listener's.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Protocol is that of the transport: UDP for a listener of protocol UDP, and
	// for HTTP/3.
	// +optional
	// +kubebuilder:default=TCP
	// +kubebuilder:validation:Enum=TCP;UDP
	Protocol corev1.Protocol `json:"protocol,omitempty"`
	// NodePort is the port on every node, within the cluster's range.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	NodePort int32 `json:"nodePort"`
}

// GatewayDeployment says what the pods of a Gateway of mode Dedicated are like.
// Fields are those of a Deployment of Kubernetes and of its pods, where their
// names are the same.
// +kubebuilder:validation:XValidation:message="replicas and autoscaling are in each other's way",rule="!has(self.replicas) || !has(self.autoscaling)"
type GatewayDeployment struct {
	// Replicas is the number of pods. The default is 2, without autoscaling. From
	// 2 on, a PodDisruptionBudget lets one go at a time.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`
	// Autoscaling has a HorizontalPodAutoscaler set the number of pods.
	// +optional
	Autoscaling *GatewayAutoscaling `json:"autoscaling,omitempty"`
	// Resources are what a pod asks for and may use.
	// +optional
	Resources *GatewayResources `json:"resources,omitempty"`
	// PodLabels go onto the pods. Those by which pods are selected stay.
	// +optional
	PodLabels Labels `json:"podLabels,omitempty"`
	// PodAnnotations go onto the pods.
	// +optional
	PodAnnotations Annotations `json:"podAnnotations,omitempty"`
	// NodeSelector are labels of the nodes that the pods may run on.
	// +optional
	NodeSelector Labels `json:"nodeSelector,omitempty"`
	// Tolerations are taints of nodes that the pods may run on all the same.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// Affinity says near what the pods are to run, or far from what.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// TopologySpreadConstraints say over what the pods are spread. One without
	// labelSelector is about the Gateway's own pods. By default they are spread
	// over zones and nodes, as Headgate's own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`
	// PriorityClassName says how important the pods are.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName *string `json:"priorityClassName,omitempty"`
}

// GatewayAutoscaling bounds the number of pods, and says what it follows.
// +kubebuilder:validation:XValidation:message="minReplicas must not be more than maxReplicas",rule="!has(self.minReplicas) || self.minReplicas <= self.maxReplicas"
type GatewayAutoscaling struct {
	// MinReplicas is the least number of pods. The default is 2, or maxReplicas
	// if that is less.
	// +optional
	// +kubebuilder:validation:Minimum=1
	MinReplicas *int32 `json:"minReplicas,omitempty"`
	// MaxReplicas is the greatest number of pods.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxReplicas int32 `json:"maxReplicas"`
	// TargetCPUUtilizationPercentage is what share of the CPU that they ask for
	// the pods are to use on average. The default is 70.
	// +optional
	// +kubebuilder:validation:Minimum=1
	TargetCPUUtilizationPercentage *int32 `json:"targetCPUUtilizationPercentage,omitempty"`
}

// GatewayResources are what a pod asks for and may use.
type GatewayResources struct {
	// Requests are what a pod asks for.
	// +optional
	Requests corev1.ResourceList `json:"requests,omitempty"`
	// Limits are what a pod may use.
	// +optional
	Limits corev1.ResourceList `json:"limits,omitempty"`
}

// Labels are labels of Kubernetes.
// +kubebuilder:validation:MaxProperties=16
// +kubebuilder:validation:XValidation:message="a key must be a name of at most 63 characters, after an optional DNS name and a slash",rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))"
type Labels map[string]gatewayv1.LabelValue

// Annotations are annotations of Kubernetes.
// +kubebuilder:validation:MaxProperties=32
// +kubebuilder:validation:XValidation:message="a key must be a name of at most 63 characters, after an optional DNS name and a slash",rule="self.all(k, k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))"
type Annotations map[string]string
