package infra

// The Gateways' Services are in Headgate's own namespace, and their aliases in
// those of the Gateways.
//
// +kubebuilder:rbac:groups="",resources=services,verbs=create;delete;update
