package status

// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=backendtlspolicies/status;gatewayclasses/status;gateways/status;grpcroutes/status;httproutes/status;listenersets/status;tcproutes/status;tlsroutes/status;udproutes/status,verbs=patch
// +kubebuilder:rbac:groups=gateway.networking.x-k8s.io,resources=xbackends/status;xbackendtrafficpolicies/status,verbs=patch
// +kubebuilder:rbac:groups=headgate.dev,resources=authpolicies/status;backendpolicies/status;backends/status;listenerpolicies/status;ratelimitpolicies/status;transformpolicies/status,verbs=patch
