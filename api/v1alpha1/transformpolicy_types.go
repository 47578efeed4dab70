package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TransformPolicy changes header fields of requests and responses, and query
// parameters of requests, and compresses the content of responses.
//
// Values are templates: "${NAME}" stands for a value of the request, and
// "$$" for one dollar sign. The names are request.method, request.scheme,
// request.host, request.path, request.query, request.id,
// request.headers.NAME, request.query.NAME, client.ip, consumer.name,
// consumer.method, consumer.claims.NAME, route.kind, route.namespace,
// route.name, route.rule, and, in a response's header fields,
// response.status and response.headers.NAME. What a request does not have is
// empty.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=tfp
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`
// +kubebuilder:printcolumn:name="Kind",type=string,priority=1,JSONPath=`.spec.targetRefs[0].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type TransformPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec TransformPolicySpec `json:"spec"`
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// TransformPolicyList is a list of TransformPolicy objects.
// +kubebuilder:object:root=true
type TransformPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []TransformPolicy `json:"items"`
}

// TransformPolicySpec says what is changed.
// +kubebuilder:validation:XValidation:message="one of request and response must be set",rule="has(self.request) || has(self.response)"
type TransformPolicySpec struct {
	// TargetRefs are what the policy attaches to. Without any, it holds for the
	// rules of HTTPRoutes and GRPCRoutes that name it in an ExtensionRef filter.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Gateway (gateway.networking.k8s.io), ListenerSet (gateway.networking.k8s.io), HTTPRoute (gateway.networking.k8s.io), GRPCRoute (gateway.networking.k8s.io)",rule="self.all(t, (t.group == 'gateway.networking.k8s.io' && t.kind == 'Gateway') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'ListenerSet') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'HTTPRoute') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'GRPCRoute'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	TargetRefs []TargetRef `json:"targetRefs,omitempty"`
	// Enforced says that what this policy sets holds for everything below its
	// targets: no policy nearer to the request replaces it. Without it, the
	// nearer policy wins where both set the same.
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// Request is what is changed before a request goes to the backend.
	// +optional
	Request *RequestTransform `json:"request,omitempty"`
	// Response is what is changed before a response goes to the client, also
	// one that Headgate itself made.
	// +optional
	Response *ResponseTransform `json:"response,omitempty"`
}

// RequestTransform changes requests.
// +kubebuilder:validation:XValidation:message="one of headers and query must be set",rule="has(self.headers) || has(self.query)"
type RequestTransform struct {
	// +optional
	Headers *HeaderTransform `json:"headers,omitempty"`
	// +optional
	Query *QueryTransform `json:"query,omitempty"`
}

// ResponseTransform changes responses.
// +kubebuilder:validation:XValidation:message="one of headers and compression must be set",rule="has(self.headers) || has(self.compression)"
type ResponseTransform struct {
	// +optional
	Headers *HeaderTransform `json:"headers,omitempty"`
	// Compression encodes the content for clients that accept it. It is one
	// setting: the nearest policy that has it decides all of it.
	// +optional
	Compression *Compression `json:"compression,omitempty"`
}

// Compression says which content is encoded, and how. Left as it is, whatever
// stands here, is what is encoded already, what Cache-Control: no-transform
// forbids, parts (206), what has a digest field, and gRPC.
type Compression struct {
	// Disabled sends content as it is, where an outer policy compresses.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// Algorithms are the content codings that are offered. Of those that a client
	// gives the same weight in Accept-Encoding, the first is taken. By default
	// these are zstd, br and gzip.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	Algorithms []CompressionAlgorithm `json:"algorithms,omitempty"`
	// Level is how much CPU time is given for how small a result.
	// +optional
	// +kubebuilder:default=Balanced
	Level CompressionLevel `json:"level,omitempty"`
	// MinSize is the least content, in bytes, that is encoded. Content whose
	// length is not known beforehand always is. By default it is 1024.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1073741824
	MinSize *int64 `json:"minSize,omitempty"`
	// ContentTypes are the media types that are encoded: "type/subtype",
	// "type/*", "type/*+suffix" or "*/*". By default these are text/*,
	// application/json, application/*+json, application/javascript,
	// application/xml, application/*+xml, application/wasm,
	// application/x-ndjson, image/svg+xml, image/bmp, font/ttf and font/otf.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	ContentTypes []MediaRange `json:"contentTypes,omitempty"`
}

// CompressionAlgorithm is a content coding.
// +kubebuilder:validation:Enum=zstd;br;gzip
type CompressionAlgorithm string

// CompressionLevel is an effort.
// +kubebuilder:validation:Enum=Fast;Balanced;Best
type CompressionLevel string

// The levels.
const (
	CompressionFast     CompressionLevel = "Fast"
	CompressionBalanced CompressionLevel = "Balanced"
	CompressionBest     CompressionLevel = "Best"
)

// MediaRange names media types.
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:Pattern=`^(\*/\*|[A-Za-z0-9!#$&^_.+-]+/(\*|(\*\+)?[A-Za-z0-9!#$&^_.+-]+))$`
type MediaRange string

// HeaderTransform changes header fields: first it renames, then it removes,
// sets and adds. Fields that frame the message or belong to one connection
// (Connection, Content-Length, Host, TE, Trailer, Transfer-Encoding, Upgrade,
// …) are refused.
// +kubebuilder:validation:XValidation:message="one of rename, remove, set and add must be set",rule="has(self.rename) || has(self.remove) || has(self.set) || has(self.add)"
type HeaderTransform struct {
	// Rename gives all fields of one name another; those that had the other
	// name before are removed if there is one to be renamed.
	// +optional
	// +listType=map
	// +listMapKey=from
	// +kubebuilder:validation:MaxItems=32
	Rename []HeaderRename `json:"rename,omitempty"`
	// Remove removes all fields of these names.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Remove []gatewayv1.HeaderName `json:"remove,omitempty"`
	// Set replaces all fields of the name by one.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Set []HeaderValue `json:"set,omitempty"`
	// Add adds one field to those of the name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Add []HeaderValue `json:"add,omitempty"`
}

// HeaderValue is a header field.
type HeaderValue struct {
	// Name of the field.
	// +required
	Name gatewayv1.HeaderName `json:"name"`
	// Value is a template.
	// +required
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
}

// HeaderRename gives header fields another name.
type HeaderRename struct {
	// From is the name that fields have.
	// +required
	From gatewayv1.HeaderName `json:"from"`
	// To is the name that they get.
	// +required
	To gatewayv1.HeaderName `json:"to"`
}

// QueryTransform changes query parameters: first it renames, then it removes,
// sets and adds. Names and values are given as they are meant; Headgate
// percent-encodes them.
// +kubebuilder:validation:XValidation:message="one of rename, remove, set and add must be set",rule="has(self.rename) || has(self.remove) || has(self.set) || has(self.add)"
type QueryTransform struct {
	// Rename gives all parameters of one name another; those that had the other
	// name before are removed if there is one to be renamed.
	// +optional
	// +listType=map
	// +listMapKey=from
	// +kubebuilder:validation:MaxItems=32
	Rename []QueryRename `json:"rename,omitempty"`
	// Remove removes all parameters of these names.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	Remove []QueryName `json:"remove,omitempty"`
	// Set replaces all parameters of the name by one.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Set []QueryValue `json:"set,omitempty"`
	// Add adds one parameter to those of the name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=32
	Add []QueryValue `json:"add,omitempty"`
}

// QueryName is a query parameter's name, not percent-encoded.
// +kubebuilder:validation:MinLength=1
// +kubebuilder:validation:MaxLength=256
type QueryName string

// QueryValue is a query parameter.
type QueryValue struct {
	// Name of the parameter.
	// +required
	Name QueryName `json:"name"`
	// Value is a template.
	// +required
	// +kubebuilder:validation:MaxLength=4096
	Value string `json:"value"`
}

// QueryRename gives query parameters another name.
type QueryRename struct {
	// From is the name that parameters have.
	// +required
	From QueryName `json:"from"`
	// To is the name that they get.
	// +required
	To QueryName `json:"to"`
}
