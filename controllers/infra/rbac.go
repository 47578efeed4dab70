package infra

// The Gateways' Services are in Headgate's own namespace, and so is the right
// to write them.
//
// +kubebuilder:rbac:namespace=headgate-system,groups="",resources=services,verbs=create;delete;update
