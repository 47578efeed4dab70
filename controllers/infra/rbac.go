package infra

// The Gateways' Services are in Headgate's own namespace, and their aliases in
// those of the Gateways.
//
// +kubebuilder:rbac:groups="",resources=services,verbs=create;delete;update

// The Secret with the key of session persistence. An API server cannot restrict
// by name what is made.
//
// +kubebuilder:rbac:namespace=headgate-system,groups="",resources=secrets,verbs=create
