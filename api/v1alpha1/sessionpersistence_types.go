package v1alpha1

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// SessionPersistence keeps a client's requests at the endpoint that has
// answered the first one, by a token that the client is given and sends back.
// Beside the Gateway API's own fields it has idleTimeout, strict and the
// attributes of the cookie.
// +kubebuilder:validation:XValidation:message="absoluteTimeout must be set when lifetimeType is Permanent",rule="!has(self.cookieConfig) || !has(self.cookieConfig.lifetimeType) || self.cookieConfig.lifetimeType != 'Permanent' || has(self.absoluteTimeout)"
// +kubebuilder:validation:XValidation:message="cookieConfig can only be set with type Cookie",rule="!has(self.cookieConfig) || !has(self.type) || self.type == 'Cookie'"
type SessionPersistence struct {
	// SessionName is the name of the cookie or of the header field. It must not be
	// one that the application uses. The default is a name of its own for each
	// rule, "headgate-session-" and eight digits, of a header field
	// "Headgate-Session".
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$`
	SessionName *string `json:"sessionName,omitempty"`
	// Type says whether the token is in a Cookie, the default, or in a Header,
	// which the client has to send back by itself.
	// +optional
	Type *gatewayv1.SessionPersistenceType `json:"type,omitempty"`
	// AbsoluteTimeout is how long a session lasts, from 1s on. The default is for
	// ever.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be 1s or more",rule="duration(self) >= duration('1s')"
	AbsoluteTimeout *gatewayv1.Duration `json:"absoluteTimeout,omitempty"`
	// IdleTimeout is how long a session lasts without a request, to within a
	// tenth, from 1s on. The default is for ever.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be 1s or more",rule="duration(self) >= duration('1s')"
	IdleTimeout *gatewayv1.Duration `json:"idleTimeout,omitempty"`
	// CookieConfig is what the cookie is like.
	// +optional
	CookieConfig *SessionCookieConfig `json:"cookieConfig,omitempty"`
	// Strict answers 503 to requests of a session whose endpoint is gone, out of
	// use, or cannot be connected to. Without it they go on with another one.
	// +optional
	Strict bool `json:"strict,omitempty"`
}

// SessionCookieConfig is what a session's cookie is like, RFC 6265 section 4.1.
// +kubebuilder:validation:XValidation:message="with sameSite None, browsers take secure cookies only",rule="!has(self.sameSite) || self.sameSite != 'None' || !has(self.secure) || self.secure"
type SessionCookieConfig struct {
	// LifetimeType says whether the cookie ends with the browser's session
	// (Session, the default) or with absoluteTimeout (Permanent).
	// +optional
	LifetimeType *gatewayv1.CookieLifetimeType `json:"lifetimeType,omitempty"`
	// Path is the part of the host that the cookie is for. The default is the path
	// of the route's match where the policy is at a route or a rule, and the
	// client's choice where it is at a backend.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[!-:<-~]*$`
	Path *string `json:"path,omitempty"`
	// Domain makes the cookie one of all hosts below it. The default is the host of
	// the request alone.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$`
	Domain *string `json:"domain,omitempty"`
	// Secure keeps the cookie from connections in plaintext. The default is
	// whether the client's connection is encrypted.
	// +optional
	Secure *bool `json:"secure,omitempty"`
	// HTTPOnly keeps the cookie from scripts. The default is true.
	// +optional
	HTTPOnly *bool `json:"httpOnly,omitempty"`
	// SameSite says for which requests from other sites the cookie is sent. The
	// default is Strict: for none.
	// +optional
	SameSite *SameSite `json:"sameSite,omitempty"`
}

// SameSite is an attribute of a cookie, RFC 6265bis section 5.6.7.
// +kubebuilder:validation:Enum=Strict;Lax;None
type SameSite string
