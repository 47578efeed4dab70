package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Reasons of failures to connect that are TLS's. But for tls_config, which is
// found before anything is connected to, they are counted by endpoint.
const (
	reasonTLSConfig = "tls_config"
	// reasonTLS: none of those below.
	reasonTLS = "tls_handshake"
	// reasonTLSAlert: the endpoint ended the handshake, and the error says by which alert.
	reasonTLSAlert       = "tls_alert"
	reasonTLSAuthority   = "tls_unknown_authority"
	reasonTLSName        = "tls_name_mismatch"
	reasonTLSExpired     = "tls_certificate_expired"
	reasonTLSCertificate = "tls_certificate_invalid"
)

var tlsReasons = [...]string{
	reasonTLS, reasonTLSAlert, reasonTLSAuthority, reasonTLSName, reasonTLSExpired, reasonTLSCertificate,
}

// tlsReason classifies the error of a handshake.
func tlsReason(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		names     *namesError
		invalid   x509.CertificateInvalidError
		verifying *tls.CertificateVerificationError
	)
	switch {
	case link.IsAlert(err):
		return reasonTLSAlert
	case errors.As(err, &authority):
		return reasonTLSAuthority
	case errors.As(err, &name), errors.As(err, &names):
		return reasonTLSName
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return reasonTLSExpired // or not yet valid
	case errors.As(err, &invalid), errors.As(err, &verifying):
		return reasonTLSCertificate
	}
	return reasonTLS
}

// tlsState is what an endpoint has gathered of TLS.
type tlsState struct {
	// own are the settings that were used last.
	own atomic.Pointer[ownSettings]
	// failures counts failed handshakes by reason.
	failures [len(tlsReasons)]atomic.Uint64
	// said is the reason that was logged last, nil after a success.
	said atomic.Pointer[string]
}

type ownSettings struct{ of, settings *tls.Config }

// settings returns the cluster's settings with sessions of the endpoint's own:
// others do not understand its tickets.
func (s *tlsState) settings(of *tls.Config) *tls.Config {
	if of == nil {
		return nil
	}
	if own := s.own.Load(); own != nil && own.of == of {
		return own.settings
	}
	own := &ownSettings{of, of.Clone()}
	own.settings.ClientSessionCache = tls.NewLRUClientSessionCache(1) // there is one server name
	s.own.Store(own)
	return own.settings
}

// tlsFailed counts a failure, if it is one of TLS, and logs it unless the last
// one had the same reason: nothing else tells what was wrong with a certificate.
func (ep *endpoint) tlsFailed(st *state, reason string, err error) {
	for i := range tlsReasons {
		if tlsReasons[i] != reason {
			continue
		}
		ep.tls.failures[i].Add(1)
		if said := ep.tls.said.Swap(&tlsReasons[i]); said == nil || *said != reason {
			ep.cluster.m.opts.Log.Info("TLS to the endpoint failed", "cluster", st.key, "endpoint", ep.address,
				"reason", reason, "cause", err.Error())
		}
	}
}

func (s *tlsState) succeeded() {
	if s.said.Load() != nil {
		s.said.Store(nil)
	}
}

func (s *tlsState) snapshot() map[string]uint64 {
	var all map[string]uint64
	for i := range s.failures {
		if n := s.failures[i].Load(); n > 0 {
			if all == nil {
				all = map[string]uint64{}
			}
			all[tlsReasons[i]] = n
		}
	}
	return all
}

// clientTLS makes the settings for TLS to a cluster. Each call makes a new
// value: connections are told apart by it. With an error they must not be used.
func clientTLS(cfg *snapshot.UpstreamTLS, protocol string) (*tls.Config, error) {
	if cfg == nil {
		return nil, nil
	}
	settings := &tls.Config{
		ServerName: cfg.ServerName,
		NextProtos: offers[protocol],
		MinVersion: max(cfg.MinVersion, tls.VersionTLS12),
	}
	switch {
	case cfg.Broken != "":
		return settings, errors.New(cfg.Broken)
	case cfg.ServerName == "":
		return settings, errors.New("no server name to verify endpoints by")
	}
	if len(cfg.CipherSuites) > 0 { // an empty list would be taken for none at all
		settings.CipherSuites = cfg.CipherSuites
	}
	for _, id := range cfg.Curves {
		settings.CurvePreferences = append(settings.CurvePreferences, tls.CurveID(id))
	}
	if len(cfg.Roots) > 0 {
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(cfg.Roots) {
			return settings, errors.New("no certificate can be read from the CA certificates")
		}
	}
	if len(cfg.Names) > 0 {
		// crypto/tls would verify the server name too, which is for SNI alone
		// then. It calls this for resumed sessions as well.
		settings.InsecureSkipVerify = true
		settings.VerifyConnection = (&namesVerifier{roots: settings.RootCAs, names: cfg.Names}).verify
	}
	if cfg.Certificate != nil {
		pair, err := tls.X509KeyPair(cfg.Certificate.Chain, cfg.Certificate.Key)
		if err != nil {
			return settings, fmt.Errorf("the certificate to show to endpoints cannot be used: %w", err)
		}
		// Whatever authorities the endpoint says that it knows: that it refuses
		// this certificate is told by an alert, that it got none often is not.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return settings, nil
}

// namesVerifier verifies that a certificate has one of some names, and all else
// that crypto/tls verifies.
type namesVerifier struct {
	roots *x509.CertPool // nil means the system's
	names []snapshot.SubjectAltName
}

func (v *namesVerifier) verify(state tls.ConnectionState) error {
	leaf := state.PeerCertificates[0]
	opts := x509.VerifyOptions{Roots: v.roots, Intermediates: x509.NewCertPool()} // for servers, by default
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	for _, name := range v.names {
		if hasName(leaf, name) {
			return nil
		}
	}
	return &namesError{leaf, v.names}
}

// hasName reports whether a certificate is for a name. A wildcard in the
// certificate stands for one label, RFC 6125 section 6.4.3; and so does one in
// the name that is asked for.
func hasName(leaf *x509.Certificate, name snapshot.SubjectAltName) bool {
	switch name.Type {
	case "DNS":
		suffix, wild := strings.CutPrefix(name.Value, "*.")
		if !wild {
			return leaf.VerifyHostname(name.Value) == nil
		}
		for _, dns := range leaf.DNSNames {
			if _, rest, _ := strings.Cut(dns, "."); strings.EqualFold(rest, suffix) {
				return true
			}
		}
	case "URI":
		for _, uri := range leaf.URIs {
			if uri.String() == name.Value {
				return true
			}
		}
	}
	return false
}

// namesError says that a certificate has none of the names asked for.
type namesError struct {
	leaf  *x509.Certificate
	names []snapshot.SubjectAltName
}

func (e *namesError) Error() string {
	has, want := append([]string(nil), e.leaf.DNSNames...), []string(nil)
	for _, uri := range e.leaf.URIs {
		has = append(has, uri.String())
	}
	for _, name := range e.names {
		want = append(want, name.Value)
	}
	return fmt.Sprintf("the certificate has the subject alternative names %q, and one of %q is asked for", has, want)
}

// What a snapshot's cluster may say in Protocol.
const (
	protocolHTTP1 = "http1"
	protocolHTTP2 = "h2c"
	protocolALPN  = "alpn"
	protocolTCP   = "tcp"
	protocolUDP   = "udp"
)

// offers are the protocols to choose from by ALPN. Where bytes are passed on,
// nobody here knows what they are.
var offers = map[string][]string{
	protocolHTTP1: {"http/1.1"},
	protocolHTTP2: {"h2"},
	protocolALPN:  {"h2", "http/1.1"},
}
