// Package v1alpha1 is Headgate's own API: the policies, Backend and
// GatewayParameters. All kinds are namespaced. Policies attach as GEP-713
// describes, by targetRefs to objects of their own namespace.
//
// What the field comments call the default holds wherever the field is left
// out, also where no API server fills defaults in.
//
// +kubebuilder:object:generate=true
// +groupName=headgate.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of all kinds in this package.
const GroupName = "headgate.dev"

// GroupVersion is the group and version of all kinds in this package.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// AddToScheme registers every kind of this package.
var AddToScheme = (&runtime.SchemeBuilder{addKnownTypes}).AddToScheme

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&AuthPolicy{}, &AuthPolicyList{},
		&Backend{}, &BackendList{},
		&BackendPolicy{}, &BackendPolicyList{},
		&GatewayParameters{}, &GatewayParametersList{},
		&ListenerPolicy{}, &ListenerPolicyList{},
		&RateLimitPolicy{}, &RateLimitPolicyList{},
		&TransformPolicy{}, &TransformPolicyList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
