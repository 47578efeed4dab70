package infra

// The Gateways' Services are in Headgate's own namespace, and their aliases in
// those of the Gateways.
//
// +kubebuilder:rbac:groups="",resources=services,verbs=create;delete;update

// The Secret with the key of session persistence. An API server cannot restrict
// by name what is made.
//
// +kubebuilder:rbac:namespace=headgate-system,groups="",resources=secrets,verbs=create

// What a Gateway of mode Dedicated has beside them is in Headgate's namespace
// only. The leader gets its own Deployment, which its Lease goes with.
//
// +kubebuilder:rbac:namespace=headgate-system,groups=apps,resources=deployments,verbs=create;delete;get;list;update;watch
// +kubebuilder:rbac:namespace=headgate-system,groups=autoscaling,resources=horizontalpodautoscalers,verbs=create;delete;list;update;watch
// +kubebuilder:rbac:namespace=headgate-system,groups=policy,resources=poddisruptionbudgets,verbs=create;delete;list;update;watch
