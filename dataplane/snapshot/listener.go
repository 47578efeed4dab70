package snapshot

import (
	"time"

	"github.com/headgate/headgate/dataplane/policy"
)

// Port is one socket and the listeners that share it.
type Port struct {
	// Key is stable across snapshots: "protocol/number", such as "tcp/80".
	// Where a listener speaks HTTP/3, the listeners of the port of TCP are also
	// those of one of UDP, whose number may differ.
	Key string `json:"key"`
	// Number is the port to bind.
	Number uint16 `json:"number"`
	// Transport is "tcp" or "udp".
	Transport string `json:"transport"`
	// ProxyProtocol, if not nil, is read from connections before all else: it is
	// not known yet which listener they are for.
	ProxyProtocol *ProxyProtocol `json:"proxyProtocol,omitempty"`
	// Connections, if not nil, bounds how many there are: before it is known which
	// listener they are for.
	Connections *ConnectionLimits `json:"connections,omitempty"`
	// Listeners are sorted by Key. At most one of them takes a request: the one
	// whose Hostname matches most specifically (listener isolation, GEP-957).
	Listeners []*Listener `json:"listeners"`
}

// ConnectionLimits bound a port's connections: QUIC's where it is of UDP for
// HTTP/3, and flows where its datagrams are passed on. Zero values mean no bound.
type ConnectionLimits struct {
	// Max is how many may be open at a time.
	Max int `json:"max,omitempty"`
	// MaxPerClient is how many a client may have open at a time, by its address
	// behind the PROXY protocol; of IPv6 by its /64.
	MaxPerClient int `json:"maxPerClient,omitempty"`
	// RatePerClient is how often a client may open one.
	RatePerClient *ConnectionRate `json:"ratePerClient,omitempty"`
	// Exempt are CIDRs of proxies, whose connections are many clients': they are
	// not bounded per client. Sorted.
	Exempt []string `json:"exempt,omitempty"`
}

// ConnectionRate is a token bucket: Connections may be opened in the time of Per,
// and Burst at once after a pause; all above 0.
type ConnectionRate struct {
	Connections int           `json:"connections"`
	Per         time.Duration `json:"per"`
	Burst       int           `json:"burst"`
}

// ProxyProtocol says who may say for whom a connection is made.
type ProxyProtocol struct {
	// TrustedSources are CIDRs. Connections from elsewhere are served as they are.
	TrustedSources []string `json:"trustedSources"`
	// Optional lets connections from there do without a header.
	Optional bool `json:"optional,omitempty"`
}

// Listener is one listener of a Gateway.
type Listener struct {
	// Key is "namespace/gateway/listener".
	Key    string `json:"key"`
	Source Ref    `json:"source"`
	// Port is the port that the Gateway declares: what clients see.
	Port uint16 `json:"port"`
	// Protocol is "HTTP", "HTTPS", "TLS", "TCP" or "UDP".
	Protocol string `json:"protocol"`
	// Hostname is exact, "*.suffix", or "" for all; lower case.
	Hostname string `json:"hostname,omitempty"`
	// TLS is nil for plaintext, and where TLS passes through (Protocol "TLS").
	TLS *TLS `json:"tls,omitempty"`
	// Targets are where the connections of a TLS or TCP listener, or the flows
	// of a UDP listener, go; the one whose Hostname matches most specifically.
	Targets []*Target `json:"targets,omitempty"`
	// Client is nil for defaults.
	Client *Client `json:"client,omitempty"`
	// HTTP3 is nil unless the listener (of HTTPS) speaks HTTP/3 too.
	HTTP3 *HTTP3 `json:"http3,omitempty"`
}

// HTTP3 says how a listener speaks HTTP/3.
type HTTP3 struct {
	// EarlyData takes requests with safe methods before the handshake is over,
	// from clients that resume a session (0-RTT, RFC 8470). It has no effect where
	// clients are asked for certificates.
	EarlyData bool `json:"earlyData,omitempty"`
	// AltSvcMaxAge is how long clients that came over TCP may remember that there
	// is HTTP/3, RFC 7838 section 3.1; 0 means that they are not told.
	AltSvcMaxAge time.Duration `json:"altSvcMaxAge,omitempty"`
}

// Target is what a TLSRoute, TCPRoute or UDPRoute says of a listener.
type Target struct {
	Source Ref `json:"source"`
	// Hostname is the server name: exact, "*.suffix", or "" for all. TCP and UDP
	// know none.
	Hostname string `json:"hostname,omitempty"`
	// Backends share the connections or flows by weight. They have neither
	// filters nor mirrors.
	Backends []Backend `json:"backends"`
	// Filters are what policies do to connections and flows, in the order in which these
	// meet them: such as need no request. Those that act on responses act on the
	// tunnel that a connection is; flows have none.
	Filters []policy.Config `json:"filters,omitempty"`
}

// TLS terminates TLS.
type TLS struct {
	// Certificates are chosen from by server name. With none (none resolved),
	// handshakes are refused: the listener's hostnames do not fall to another one.
	Certificates []*Certificate `json:"certificates"`
	// MinVersion is a protocol version as crypto/tls has it; 0 means TLS 1.2.
	MinVersion uint16 `json:"minVersion,omitempty"`
	// CipherSuites are those for TLS 1.2, by IANA's numbers; empty means Go's
	// choice. TLS 1.3 has suites of its own, all of which are good.
	CipherSuites []uint16 `json:"cipherSuites,omitempty"`
	// Curves are the key exchange groups, by IANA's numbers; empty means Go's choice.
	Curves []uint16 `json:"curves,omitempty"`
	// NoTickets makes every handshake a full one.
	NoTickets bool `json:"noTickets,omitempty"`
	// TicketKeys are 32 bytes each, for session tickets that other replicas
	// understand; the first one encrypts. With none, the port has keys of its
	// own, which change every day.
	TicketKeys []policy.Secret `json:"ticketKeys,omitempty"`
	// OCSPStapling asks the certificates' responders for OCSP responses, which
	// handshakes then carry.
	OCSPStapling bool `json:"ocspStapling,omitempty"`
	// Clients, if not nil, asks clients for certificates.
	Clients *ClientCertificates `json:"clients,omitempty"`
}

// ClientCertificates says which certificates of clients are good.
type ClientCertificates struct {
	// Mode is "Required", "Optional" (none, or a good one) or "Unverified": a
	// client without a good one gets in too, as if it had shown none.
	Mode string `json:"mode"`
	// Roots are PEM certificates. Nothing is signed by none: a client's
	// certificate is never good then.
	Roots []byte `json:"-"`
	// Names are subject alternative names of which the certificate must have
	// one; empty means any.
	Names []SubjectAltName `json:"names,omitempty"`
	// Forward tells backends who the client is, in X-Forwarded-Client-Cert.
	Forward bool `json:"forward,omitempty"`
}

// SubjectAltName is a name in a certificate, compared as a whole.
type SubjectAltName struct {
	// Type is "DNS", "URI", or "SPIFFE": the certificate's only URI, as an
	// X.509-SVID has it.
	Type  string `json:"type"`
	Value string `json:"value"`
}

// Certificate is a chain with its key, PEM-encoded.
type Certificate struct {
	Source Ref           `json:"source"`
	Chain  []byte        `json:"-"`
	Key    policy.Secret `json:"key"`
	// NotAfter is when it expires, for people: handshakes look at the chain.
	NotAfter time.Time `json:"notAfter,omitzero"`
	// OCSPStaple is an OCSP response, DER-encoded, which handshakes carry while it
	// is valid; empty for none.
	OCSPStaple []byte `json:"-"`
}

// Client is how a listener treats its clients. Zero values mean the defaults.
// Listeners that read no requests go by IdleTimeout and MaxConnectionAge alone.
type Client struct {
	// TrustedProxies are CIDRs whose X-Forwarded-* and Forwarded are believed.
	TrustedProxies []string `json:"trustedProxies,omitempty"`
	// HeaderBytes and Headers bound a request's header section: its size in
	// bytes with the request line, and its number of fields. More is answered 431.
	HeaderBytes int `json:"headerBytes,omitempty"`
	Headers     int `json:"headers,omitempty"`
	// BodyBytes bounds a request's content, in bytes; more is answered 413. 0 means no bound.
	BodyBytes int64 `json:"bodyBytes,omitempty"`
	// HeaderTimeout is from a request's first byte to the end of its header section (408).
	HeaderTimeout time.Duration `json:"headerTimeout,omitempty"`
	// IdleTimeout is between two requests of a connection, and before the first;
	// at listeners of TCP, TLS and UDP, the time in which nothing moves.
	IdleTimeout time.Duration `json:"idleTimeout,omitempty"`
	// BodyTimeout is how long a client may be silent while its content is
	// awaited, or take nothing of a response.
	BodyTimeout time.Duration `json:"bodyTimeout,omitempty"`
	// MaxConnectionAge is after how long a connection is told to end, give or
	// take a tenth, and MaxConnectionAgeGrace how long it has then before it is
	// cut off; without, what is in progress goes on to its end. Connections that
	// are passed on unread cannot be told: they are cut off when both are over.
	MaxConnectionAge      time.Duration `json:"maxConnectionAge,omitempty"`
	MaxConnectionAgeGrace time.Duration `json:"maxConnectionAgeGrace,omitempty"`
	// MaxRequestsPerConnection is with how many requests a connection ends.
	MaxRequestsPerConnection int `json:"maxRequestsPerConnection,omitempty"`
}
