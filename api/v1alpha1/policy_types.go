package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TargetRef names what a policy attaches to, in the policy's own namespace,
// and with sectionName a part of it: a Gateway's listener, a route's rule
// or a Service's port, each by its name.
type TargetRef = gatewayv1.LocalPolicyTargetReferenceWithSectionName

// RefusedAnnotation marks an AuthPolicy or BackendTLSPolicy that is there and cannot be
// read, so that what it was meant to guard is not served unguarded; its value says why. Where
// there is no API server that would refuse the object, who reads it sets it, on
// as much of the object as can be read: its name and targetRefs at the least.
const RefusedAnnotation = GroupName + "/refused"

// Policy is what all policy kinds have in common.
// +kubebuilder:object:generate=false
type Policy interface {
	metav1.Object
	runtime.Object
	// Targets are the spec's targetRefs, of kinds that routes can name as filters none perhaps.
	Targets() []TargetRef
	// IsEnforced reports whether no policy nearer to the request may replace
	// what this one sets.
	IsEnforced() bool
	// PolicyStatus is the object's status, by ancestor.
	PolicyStatus() *gatewayv1.PolicyStatus
}

// Targets implements Policy.
func (p *AuthPolicy) Targets() []TargetRef      { return p.Spec.TargetRefs }
func (p *BackendPolicy) Targets() []TargetRef   { return p.Spec.TargetRefs }
func (p *ListenerPolicy) Targets() []TargetRef  { return p.Spec.TargetRefs }
func (p *RateLimitPolicy) Targets() []TargetRef { return p.Spec.TargetRefs }
func (p *TransformPolicy) Targets() []TargetRef { return p.Spec.TargetRefs }

// IsEnforced implements Policy.
func (p *AuthPolicy) IsEnforced() bool      { return p.Spec.Enforced }
func (p *BackendPolicy) IsEnforced() bool   { return p.Spec.Enforced }
func (p *ListenerPolicy) IsEnforced() bool  { return p.Spec.Enforced }
func (p *RateLimitPolicy) IsEnforced() bool { return p.Spec.Enforced }
func (p *TransformPolicy) IsEnforced() bool { return p.Spec.Enforced }

// PolicyStatus implements Policy.
func (p *AuthPolicy) PolicyStatus() *gatewayv1.PolicyStatus      { return &p.Status }
func (p *BackendPolicy) PolicyStatus() *gatewayv1.PolicyStatus   { return &p.Status }
func (p *ListenerPolicy) PolicyStatus() *gatewayv1.PolicyStatus  { return &p.Status }
func (p *RateLimitPolicy) PolicyStatus() *gatewayv1.PolicyStatus { return &p.Status }
func (p *TransformPolicy) PolicyStatus() *gatewayv1.PolicyStatus { return &p.Status }

// SecretKeyRef names one entry of a Secret in the policy's own namespace.
type SecretKeyRef struct {
	// Name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Key of the entry in the Secret's data.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// SecretRef names a Secret in the policy's own namespace.
type SecretRef struct {
	// Name of the Secret.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// CredentialSource is one place of a request where a credential may be.
// Exactly one of header, query and cookie is set.
// +kubebuilder:validation:XValidation:message="exactly one of header, query and cookie must be set",rule="[has(self.header), has(self.query), has(self.cookie)].filter(x, x).size() == 1"
// +kubebuilder:validation:XValidation:message="prefix is for header only",rule="!has(self.prefix) || has(self.header)"
type CredentialSource struct {
	// Header is a header field's name.
	// +optional
	Header *gatewayv1.HeaderName `json:"header,omitempty"`
	// Prefix is what the header's value begins with before the credential,
	// such as "Bearer"; it is compared in any case, and spaces follow it. A
	// value without it holds no credential.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$`
	Prefix *string `json:"prefix,omitempty"`
	// Query is a query parameter's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Query *string `json:"query,omitempty"`
	// Cookie is a cookie's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$`
	Cookie *string `json:"cookie,omitempty"`
}
