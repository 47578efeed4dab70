package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ListenerPolicy says how a Gateway's listeners treat their clients.
// Listeners of a port without TLS read requests before it is known whose they
// are: of each timeout, the most generous of these listeners holds for all of them.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:storageversion
// +kubebuilder:resource:categories={headgate,gateway-api},shortName=lip
// +kubebuilder:metadata:labels="gateway.networking.k8s.io/policy=Direct"
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.spec.targetRefs[0].name`
// +kubebuilder:printcolumn:name="Kind",type=string,priority=1,JSONPath=`.spec.targetRefs[0].kind`
// +kubebuilder:printcolumn:name="Accepted",type=string,JSONPath=`.status.ancestors[0].conditions[?(@.type=="Accepted")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type ListenerPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +required
	Spec ListenerPolicySpec `json:"spec"`
	// +optional
	Status gatewayv1.PolicyStatus `json:"status,omitempty"`
}

// ListenerPolicyList is a list of ListenerPolicy objects.
// +kubebuilder:object:root=true
type ListenerPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ListenerPolicy `json:"items"`
}

// ListenerPolicySpec says how clients are treated.
// +kubebuilder:validation:XValidation:message="one of trustedProxies, proxyProtocol, connections, limits, timeouts, tls and http3 must be set",rule="has(self.trustedProxies) || has(self.proxyProtocol) || has(self.connections) || has(self.limits) || has(self.timeouts) || has(self.tls) || has(self.http3)"
type ListenerPolicySpec struct {
	// TargetRefs are what the policy attaches to.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:message="a target must be one of: Gateway (gateway.networking.k8s.io), ListenerSet (gateway.networking.k8s.io)",rule="self.all(t, (t.group == 'gateway.networking.k8s.io' && t.kind == 'Gateway') || (t.group == 'gateway.networking.k8s.io' && t.kind == 'ListenerSet'))"
	// +kubebuilder:validation:XValidation:message="targets must differ",rule="self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))"
	TargetRefs []TargetRef `json:"targetRefs"`
	// Enforced says that what this policy sets holds for everything below its
	// targets: no policy nearer to the request replaces it. Without it, the
	// nearer policy wins where both set the same.
	// +optional
	Enforced bool `json:"enforced,omitempty"`
	// TrustedProxies are networks (CIDR) whose X-Forwarded-For, X-Forwarded-Proto,
	// X-Forwarded-Host and Forwarded are believed. The default is none.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:message="must be a CIDR such as 10.0.0.0/8 or fd00::/8",rule="isCIDR(self)"
	TrustedProxies []string `json:"trustedProxies,omitempty"`
	// ProxyProtocol reads PROXY protocol headers (version 1 or 2) from connections
	// that load balancers in front make, and takes for the client whom they name.
	// It is read before it is known which listener a connection is for: all
	// listeners of a port must have the same, or no header is read there.
	// +optional
	ProxyProtocol *ListenerProxyProtocol `json:"proxyProtocol,omitempty"`
	// Connections bound how many connections clients have, and for how long.
	// +optional
	Connections *ClientConnections `json:"connections,omitempty"`
	// Limits bound what a client may send.
	// +optional
	Limits *ClientLimits `json:"limits,omitempty"`
	// Timeouts bound how long a client may take.
	// +optional
	Timeouts *ClientTimeouts `json:"timeouts,omitempty"`
	// TLS says how HTTPS listeners speak TLS, and which clients they let in.
	// An option of the listener itself (listeners[].tls.options) is nearer than
	// a policy that is not enforced.
	// +optional
	TLS *ListenerTLS `json:"tls,omitempty"`
	// HTTP3 lets HTTPS listeners speak HTTP/3 too, over UDP at the port of the
	// same number. Nothing need be in it: {} turns HTTP/3 on.
	// +optional
	HTTP3 *ListenerHTTP3 `json:"http3,omitempty"`
}

// ListenerHTTP3 says how listeners speak HTTP/3.
type ListenerHTTP3 struct {
	// EarlyData takes requests before the handshake is over, from clients that
	// resume a session (0-RTT). Somebody who has recorded them can send them again:
	// those with a method that is not safe wait, and the others reach backends with
	// Early-Data: 1, who may answer 425. It needs a listener that asks clients for
	// no certificates.
	// +optional
	EarlyData bool `json:"earlyData,omitempty"`
	// AltSvcMaxAge is how long clients that came over TCP may remember that there
	// is HTTP/3, which every response tells them in Alt-Svc. The default is 24h;
	// 0s tells them nothing.
	// +optional
	AltSvcMaxAge *gatewayv1.Duration `json:"altSvcMaxAge,omitempty"`
}

// ProxyProtocolMode says whether a connection from a trusted source must begin
// with a header.
// +kubebuilder:validation:Enum=Required;Optional
type ProxyProtocolMode string

const (
	// ProxyProtocolRequired closes connections from trusted sources that do not
	// begin with a valid header.
	ProxyProtocolRequired ProxyProtocolMode = "Required"
	// ProxyProtocolOptional serves those that begin with none as they are; those
	// with a header that is not valid are closed.
	ProxyProtocolOptional ProxyProtocolMode = "Optional"
)

// ListenerProxyProtocol says from whom PROXY protocol headers are taken.
type ListenerProxyProtocol struct {
	// TrustedSources are networks (CIDR) whose connections begin with a header,
	// which is believed. From elsewhere no header is read: such connections are
	// served for who makes them.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=49
	// +kubebuilder:validation:items:XValidation:message="must be a CIDR such as 10.0.0.0/8 or fd00::/8",rule="isCIDR(self)"
	TrustedSources []string `json:"trustedSources"`
	// Mode says whether connections from there must have a header. Optional is
	// for while a load balancer is being changed: as long as it does not send
	// headers, its clients can. And it is for protocols in which the client
	// speaks first.
	// +optional
	// +kubebuilder:default=Required
	Mode ProxyProtocolMode `json:"mode,omitempty"`
}

// ListenerTLS says how listeners speak TLS.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:message="without sessionTickets there are no keys for them",rule="!has(self.sessionTicketKeysRef) || !has(self.sessionTickets) || self.sessionTickets"
type ListenerTLS struct {
	// MinVersion is the least version of TLS. The default is 1.2.
	// +optional
	// +kubebuilder:validation:Enum="1.2";"1.3"
	MinVersion *string `json:"minVersion,omitempty"`
	// CipherSuites are those for TLS 1.2, by their IANA names. The default is
	// those that are safe. Those of TLS 1.3 are all safe, and always on.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=64
	CipherSuites []string `json:"cipherSuites,omitempty"`
	// Curves are the key exchange groups. The default is all of them, the hybrid
	// post-quantum X25519MLKEM768 first.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	// +kubebuilder:validation:items:Enum=X25519MLKEM768;X25519;P-256;P-384;P-521
	Curves []string `json:"curves,omitempty"`
	// SessionTickets says whether clients may resume a session with a ticket.
	// The default is true.
	// +optional
	SessionTickets *bool `json:"sessionTickets,omitempty"`
	// SessionTicketKeysRef names a Secret with the keys of session tickets, so
	// that replicas understand each other's. Each entry is a key of 32 to 1024
	// random bytes, in the order of the entries' names: the first one encrypts,
	// the others are still understood. Without it, each replica has keys of its
	// own, which change every day.
	// +optional
	SessionTicketKeysRef *SecretRef `json:"sessionTicketKeysRef,omitempty"`
	// OCSPStapling asks the responders that certificates name for OCSP responses,
	// in the background, and sends these along with the certificates. It needs a
	// certificate's issuer in its chain. The default is false: only a response
	// that the Secret has as tls.ocsp-staple is sent.
	// +optional
	OCSPStapling *bool `json:"ocspStapling,omitempty"`
	// ClientCertificates asks clients for certificates, in place of what the
	// Gateway's spec.tls.frontend asks for.
	// +optional
	ClientCertificates *ClientCertificates `json:"clientCertificates,omitempty"`
}

// ClientCertificatesMode says whether a client must have a certificate.
// +kubebuilder:validation:Enum=Required;Optional
type ClientCertificatesMode string

const (
	// ClientCertificatesRequired lets in who has a good certificate.
	ClientCertificatesRequired ClientCertificatesMode = "Required"
	// ClientCertificatesOptional lets in also who has none; a bad one is refused.
	ClientCertificatesOptional ClientCertificatesMode = "Optional"
)

// ClientCertificates says which certificates of clients are good.
type ClientCertificates struct {
	// Mode says whether a client must have a certificate.
	// +optional
	// +kubebuilder:default=Required
	Mode ClientCertificatesMode `json:"mode,omitempty"`
	// CACertificateRefs name the authorities that sign clients' certificates. If
	// one of them cannot be read, no client is let in.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	CACertificateRefs []CACertificateRef `json:"caCertificateRefs"`
	// SubjectAltNames are names of which a certificate must have one. The
	// default is any.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	SubjectAltNames []SubjectAltName `json:"subjectAltNames,omitempty"`
	// Forward tells backends in X-Forwarded-Client-Cert who the client is: its
	// certificate's hash, subject, URIs and DNS names. A field of that name that
	// the client sent is dropped either way, unless it is a trusted proxy.
	// +optional
	Forward bool `json:"forward,omitempty"`
}

// CACertificateRef names a ConfigMap or Secret in the policy's namespace, whose
// ca.crt holds PEM certificates.
type CACertificateRef struct {
	// Kind is the object's.
	// +optional
	// +kubebuilder:default=ConfigMap
	// +kubebuilder:validation:Enum=ConfigMap;Secret
	Kind string `json:"kind,omitempty"`
	// Name is the object's.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// SubjectAltNameType is the type of a subject alternative name.
// +kubebuilder:validation:Enum=DNS;URI;SPIFFE
type SubjectAltNameType string

// SubjectAltName is a name in a certificate, compared as a whole.
// +kubebuilder:validation:XValidation:message="a SPIFFE ID begins with spiffe://",rule="self.type != 'SPIFFE' || self.value.startsWith('spiffe://')"
type SubjectAltName struct {
	// Type is DNS, URI, or SPIFFE: the ID of a certificate that has no other URI.
	// +required
	Type SubjectAltNameType `json:"type"`
	// Value is the name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Value string `json:"value"`
}

// ClientConnections bound how many connections clients have, and for how long.
// Connections are counted by each Headgate process for itself, and before it is
// known which listener they are for: of listeners that share a port, the least of
// max, maxPerClient and ratePerClient holds for the port. A connection above a
// bound is closed at once, before TLS. For UDP the flows are counted, and for
// HTTP/3 the connections apart from those over TCP.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:message="maxAgeGrace is what follows maxAge",rule="!has(self.maxAgeGrace) || has(self.maxAge)"
type ClientConnections struct {
	// Max is how many connections may be open at a time.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	Max *int32 `json:"max,omitempty"`
	// MaxPerClient is how many connections a client may have open at a time. A
	// client is an address, behind proxyProtocol the one that its header names,
	// and of IPv6 a /64. Connections of trustedProxies are many clients', and are
	// not bounded per client.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MaxPerClient *int32 `json:"maxPerClient,omitempty"`
	// RatePerClient is how often a client may open a connection.
	// +optional
	RatePerClient *ConnectionRate `json:"ratePerClient,omitempty"`
	// MaxAge is after how long a client is told to use another connection, give or
	// take a tenth, from 1s to 720h: by Connection: close on its next response, or
	// GOAWAY. What is in progress goes on to its end. Of listeners of a port
	// without TLS, the least holds for all. Connections that are passed on unread
	// are closed. The default is no bound.
	// +optional
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// MaxAgeGrace is for how long after maxAge what is in progress may go on,
	// before the connection is cut off, from 1s to 24h. The default is no bound.
	// +optional
	MaxAgeGrace *gatewayv1.Duration `json:"maxAgeGrace,omitempty"`
	// MaxRequests is with how many requests a connection ends, as by maxAge.
	// The default is no bound.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
}

// ConnectionRate is a token bucket for each client.
type ConnectionRate struct {
	// Connections is how many connections are let in in the time of per.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Connections int32 `json:"connections"`
	// Per is the time in which so many are let in, from 1ms to 24h.
	// +required
	Per gatewayv1.Duration `json:"per"`
	// Burst is how many may come at once after a pause. The default is connections.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	Burst *int32 `json:"burst,omitempty"`
}

// ClientLimits bound what a client may send.
type ClientLimits struct {
	// HeaderBytes is the size in bytes of a request's header section with the
	// request line; more is answered 431. The default is 65536.
	// +optional
	// +kubebuilder:validation:Minimum=1024
	// +kubebuilder:validation:Maximum=1048576
	HeaderBytes *int32 `json:"headerBytes,omitempty"`
	// Headers is how many header fields a request may have; more is answered
	// 431. The default is 128.
	// +optional
	// +kubebuilder:validation:Minimum=8
	// +kubebuilder:validation:Maximum=1024
	Headers *int32 `json:"headers,omitempty"`
	// BodyBytes is the size in bytes of a request's content; more is answered
	// 413. The default is no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	BodyBytes *int64 `json:"bodyBytes,omitempty"`
}

// ClientTimeouts bound how long a client may take; each is from 1ms to 1h, and
// idle to 24h.
type ClientTimeouts struct {
	// Header bounds the time from a request's first byte to the end of its
	// header section; then 408. The default is 10s.
	// +optional
	Header *gatewayv1.Duration `json:"header,omitempty"`
	// Idle bounds the time between two requests of a connection, and before
	// the first; the default is 75s. For connections that are passed on unread it
	// is the time without a byte either way, by default 1h, and for UDP the time
	// without a datagram after which a flow is over, by default 60s.
	// +optional
	Idle *gatewayv1.Duration `json:"idle,omitempty"`
	// Body bounds the time that the client may be silent while its content is
	// awaited, or take nothing of a response. The default is 30s.
	// +optional
	Body *gatewayv1.Duration `json:"body,omitempty"`
}
