package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// AuthPolicy lets only requests with a valid credential through. With both
// apiKey and jwt, a request needs one valid credential, of either. With
// external, an authorization server must let it pass, too.
//
// A policy that cannot be compiled fails closed: what it guards answers 500.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=authp
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Inherited"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`
// +kubebuilder:printcolumn:name="Kind",type=string,priority=1,JSONPath=`.spec.targetRefs[0].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AuthPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec AuthPolicySpec `json:"spec"`
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// AuthPolicyList is a list of AuthPolicy objects.
// +kubebuilder:object:root=true
type AuthPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AuthPolicy `json:"items"`
}

// AuthPolicySpec says which credentials are valid.
// +kubebuilder:validation:XValidation:message="one of apiKey, jwt, external, allowAnonymous and consumerHeader must be set",rule="has(self.apiKey) || has(self.jwt) || has(self.external) || has(self.allowAnonymous) || has(self.consumerHeader)"
type AuthPolicySpec struct {
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
	// APIKey accepts keys that Secrets list.
	// +optional
	APIKey *APIKeyAuth `json:"apiKey,omitempty"`
	// JWT accepts signed tokens, RFC 7519.
	// +optional
	JWT *JWTAuth `json:"jwt,omitempty"`
	// External asks an authorization server about every request that has passed
	// apiKey and jwt, as HTTPRoute's ExternalAuth filter does.
	// +optional
	External *ExternalAuth `json:"external,omitempty"`
	// AllowAnonymous lets a request through, as nobody, that presents no
	// credential at all. A credential that is presented and not valid is still
	// refused. The default is false.
	// +optional
	AllowAnonymous *bool `json:"allowAnonymous,omitempty"`
	// ConsumerHeader is a request header field that tells the backend the
	// consumer's name. A field of this name that the client sent is always
	// removed. The default is to tell nothing.
	// +optional
	ConsumerHeader *gatewayv1.HeaderName `json:"consumerHeader,omitempty"`
}

// ExternalAuth asks an authorization server, GEP-1494. Unless the server says
// yes, the request goes no further: the client gets the server's denial, or 503
// if there is no answer.
// +kubebuilder:validation:XValidation:message="protocol and backendRef must be set, unless disabled is",rule="(has(self.disabled) && self.disabled) || (has(self.protocol) && has(self.backendRef))"
// +kubebuilder:validation:XValidation:message="disabled excludes all else",rule="!has(self.disabled) || !self.disabled || !(has(self.protocol) || has(self.backendRef) || has(self.grpc) || has(self.http) || has(self.forwardBody) || has(self.timeout) || has(self.failOpen))"
// +kubebuilder:validation:XValidation:message="grpc is for protocol GRPC",rule="!has(self.grpc) || (has(self.protocol) && self.protocol == 'GRPC')"
// +kubebuilder:validation:XValidation:message="http is for protocol HTTP",rule="!has(self.http) || (has(self.protocol) && self.protocol == 'HTTP')"
type ExternalAuth struct {
	// Disabled asks nobody, where an outer policy does.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
	// Protocol is GRPC for a server of Envoy's ext_authz protocol
	// (envoy.service.auth.v3.Authorization), or HTTP for one that is sent a request
	// like the client's, and answers 200 if it may pass.
	// +optional
	// +kubebuilder:validation:Enum=HTTP;GRPC
	Protocol gatewayv1.HTTPRouteExternalAuthProtocol `json:"protocol,omitempty"`
	// BackendRef is the authorization server: a Service or a Backend. In another
	// namespace it needs a ReferenceGrant from kind AuthPolicy.
	// +optional
	BackendRef *gatewayv1.BackendObjectReference `json:"backendRef,omitempty"`
	// GRPC is what a server of protocol GRPC is told.
	// +optional
	GRPC *gatewayv1.GRPCAuthConfig `json:"grpc,omitempty"`
	// HTTP is what a server of protocol HTTP is told, and the backend of its answer.
	// +optional
	HTTP *gatewayv1.HTTPAuthConfig `json:"http,omitempty"`
	// ForwardBody tells the server the request's content, up to maxSize bytes; a
	// request with more is answered 413. The default is to tell none.
	// +optional
	ForwardBody *gatewayv1.ForwardBodyConfig `json:"forwardBody,omitempty"`
	// Timeout bounds how long an answer is waited for. The default is 5s, at
	// least 10ms and at most 1m.
	// +optional
	Timeout *gatewayv1.Duration `json:"timeout,omitempty"`
	// FailOpen lets requests pass while the server cannot be reached, is late, or
	// fails (5xx, a gRPC error). The default is false: they are answered 503.
	// +optional
	FailOpen bool `json:"failOpen,omitempty"`
}

// APIKeyAuth accepts API keys.
type APIKeyAuth struct {
	// SecretRefs are Secrets in the policy's namespace. Each entry of their
	// data is one key: the entry's name is the consumer, its value the key.
	// White space around the key is not part of it. A consumer may have
	// several keys, one in each Secret; no two consumers may share one.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	SecretRefs []SecretRef `json:"secretRefs"`
	// From are the places to look at, in order; the first that holds a
	// credential is taken. The default is the header X-API-Key.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	From []CredentialSource `json:"from,omitempty"`
	// Forward leaves the key in the request that goes to the backend. The
	// default is false: it is removed.
	// +optional
	Forward bool `json:"forward,omitempty"`
}

// JWTAuth accepts JSON Web Tokens in the compact serialization of a JWS.
type JWTAuth struct {
	// Issuers are whose tokens are accepted, chosen by the token's "iss".
	// +required
	// +listType=map
	// +listMapKey=issuer
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Issuers []JWTIssuer `json:"issuers"`
	// From are the places to look at, in order; the first that holds a
	// credential is taken. The default is the header Authorization with the
	// prefix Bearer.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	From []CredentialSource `json:"from,omitempty"`
	// Forward leaves the token in the request that goes to the backend. The
	// default is true.
	// +optional
	Forward *bool `json:"forward,omitempty"`
	// ClockSkew is how far the issuers' clocks may differ from ours when "exp",
	// "nbf" and "iat" are compared. The default is 30s, at most 10m.
	// +optional
	ClockSkew *gatewayv1.Duration `json:"clockSkew,omitempty"`
}

// JWTIssuer is whose tokens are accepted, and on what terms.
// +kubebuilder:validation:XValidation:message="HS256, HS384 and HS512 need a shared secret: jwks must be inline or a secretRef",rule="!has(self.algorithms) || !self.algorithms.exists(a, a.startsWith('HS')) || !has(self.jwks.remote)"
type JWTIssuer struct {
	// Issuer is what the token's "iss" must be, exactly.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Issuer string `json:"issuer"`
	// Audiences: the token's "aud" must name one of them. Without them a token
	// that names an audience is refused, as RFC 7519 section 4.1.3 says, since
	// it is meant for somebody else.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	Audiences []string `json:"audiences,omitempty"`
	// JWKS are the issuer's keys.
	// +required
	JWKS JWKS `json:"jwks"`
	// Algorithms are the signature algorithms accepted, RFC 7518 section 3.1.
	// The default is all asymmetric ones of this list. "none" never is.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=13
	Algorithms []JWTAlgorithm `json:"algorithms,omitempty"`
	// ClaimsToHeaders tell the backend claims as request header fields. Fields
	// of these names that the client sent are always removed.
	// +optional
	// +listType=map
	// +listMapKey=header
	// +kubebuilder:validation:MaxItems=32
	ClaimsToHeaders []ClaimToHeader `json:"claimsToHeaders,omitempty"`
	// ConsumerClaim is the claim that names the consumer. The default is
	// "sub". A token without it is refused.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	ConsumerClaim *string `json:"consumerClaim,omitempty"`
}

// JWTAlgorithm is a signature algorithm of RFC 7518 or RFC 8037.
// +kubebuilder:validation:Enum=RS256;RS384;RS512;PS256;PS384;PS512;ES256;ES384;ES512;EdDSA;HS256;HS384;HS512
type JWTAlgorithm string

// JWKS is where a JSON Web Key Set is, RFC 7517. Exactly one field is set.
// +kubebuilder:validation:XValidation:message="exactly one of inline, secretRef and remote must be set",rule="[has(self.inline), has(self.secretRef), has(self.remote)].filter(x, x).size() == 1"
type JWKS struct {
	// Inline is the key set itself, as JSON.
	// +optional
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=65536
	Inline *string `json:"inline,omitempty"`
	// SecretRef is the entry of a Secret that is the key set, as JSON.
	// +optional
	SecretRef *SecretKeyRef `json:"secretRef,omitempty"`
	// Remote is where the issuer publishes the key set.
	// +optional
	Remote *RemoteJWKS `json:"remote,omitempty"`
}

// RemoteJWKS is a key set that is fetched in the background, kept, and fetched
// again. The last good keys stay in use while fetching fails.
type RemoteJWKS struct {
	// URL of the key set, https or http.
	// +required
	// +kubebuilder:validation:MinLength=8
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	URL string `json:"url"`
	// CacheDuration is after how long the key set is fetched again; a token
	// with an unknown key identifier makes it be fetched at once, at most
	// once in ten seconds. The default is 5m, at least 10s.
	// +optional
	CacheDuration *gatewayv1.Duration `json:"cacheDuration,omitempty"`
}

// ClaimToHeader copies a claim to a request header field.
type ClaimToHeader struct {
	// Claim is the claim's name; dots descend into objects.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Claim string `json:"claim"`
	// Header is the field's name.
	// +required
	Header gatewayv1.HeaderName `json:"header"`
}
