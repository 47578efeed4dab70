package watch

// What a replica reads, everywhere. Secrets and ConfigMaps are listed and
// watched by their metadata, and got where something refers to them.
//
// +kubebuilder:rbac:groups="",resources=namespaces;services,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=configmaps;secrets,verbs=get;list;watch
// +kubebuilder:rbac:groups=certificates.k8s.io,resources=clustertrustbundles,verbs=list;watch
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=referencegrants,verbs=list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=backendtlspolicies;gatewayclasses;gateways;grpcroutes;httproutes;listenersets;tcproutes;tlsroutes;udproutes,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.networking.x-k8s.io,resources=xbackends;xbackendtrafficpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=multicluster.x-k8s.io,resources=serviceimports,verbs=list;watch
// +kubebuilder:rbac:groups=headgate.dev,resources=authpolicies;backendpolicies;backends;gatewayparameters;listenerpolicies;ratelimitpolicies;transformpolicies,verbs=get;list;watch

// Pods' metadata is listed and watched where policies ask for labels or weights, if
// --read-pods says that it may be. The chart grants that with readPods: true; it is
// no marker here, as most clusters do without.

// The version of the Gateway API stands on its CRDs; one of them tells.
//
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,resourceNames=gatewayclasses.gateway.networking.k8s.io,verbs=get

// The leader's lease. It is made by any name: an API server cannot restrict
// that by name. It goes with Headgate's Deployment, whose UID it names.
//
// +kubebuilder:rbac:namespace=headgate-system,groups=coordination.k8s.io,resources=leases,verbs=create
// +kubebuilder:rbac:namespace=headgate-system,groups=coordination.k8s.io,resources=leases,resourceNames=headgate,verbs=get;update
