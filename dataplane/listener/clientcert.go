package listener

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// clientCertificates is what a listener asks of its clients. The nil value asks
// for nothing.
type clientCertificates struct {
	source *snapshot.ClientCertificates
	roots  *x509.CertPool
}

func newClientCertificates(source *snapshot.ClientCertificates) *clientCertificates {
	if source == nil {
		return nil
	}
	c := &clientCertificates{source: source, roots: x509.NewCertPool()}
	c.roots.AppendCertsFromPEM(source.Roots)
	return c
}

// ask makes handshakes ask for certificates and verify them. crypto/tls
// verifies the chain; VerifyConnection adds the names, also when a session is resumed.
func (c *clientCertificates) ask(config *tls.Config) {
	if c == nil {
		return
	}
	config.ClientCAs = c.roots
	switch c.source.Mode {
	case "Optional":
		config.ClientAuth = tls.VerifyClientCertIfGiven
	case "Unverified":
		config.ClientAuth = tls.RequestClientCert
		return
	default:
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) > 0 && !c.named(state.PeerCertificates[0]) {
			return errors.New("the client's certificate has none of the subject alternative names that are let in")
		}
		return nil
	}
}

// named reports whether a certificate has one of the names that are asked for.
func (c *clientCertificates) named(leaf *x509.Certificate) bool {
	for _, want := range c.source.Names {
		switch want.Type {
		case "DNS":
			for _, name := range leaf.DNSNames {
				if strings.EqualFold(name, want.Value) {
					return true
				}
			}
		case "URI":
			for _, uri := range leaf.URIs {
				if uri.String() == want.Value {
					return true
				}
			}
		case "SPIFFE":
			// X.509-SVID section 2: an SVID has exactly one URI.
			if len(leaf.URIs) == 1 && leaf.URIs[0].String() == want.Value {
				return true
			}
		}
	}
	return len(c.source.Names) == 0
}

// identify returns a client's certificates if they are good, and what backends
// are told of them.
func (c *clientCertificates) identify(state *tls.ConnectionState) (chain []*x509.Certificate, forwarded string) {
	if c == nil || len(state.PeerCertificates) == 0 {
		return nil, ""
	}
	if c.source.Mode == "Unverified" && !c.verifies(state.PeerCertificates) {
		return nil, ""
	}
	if c.source.Forward {
		forwarded = forwardedCert(state.PeerCertificates[0])
	}
	return state.PeerCertificates, forwarded
}

func (c *clientCertificates) verifies(chain []*x509.Certificate) bool {
	opts := x509.VerifyOptions{Roots: c.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err == nil && c.named(chain[0])
}

// forwardedCert is an element of X-Forwarded-Client-Cert: the certificate's
// SHA-256 hash, subject (RFC 2253), URIs and DNS names. Values are quoted where
// they would be misread, so that no name can pass for a field.
func forwardedCert(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	var b strings.Builder
	b.WriteString("Hash=" + hex.EncodeToString(sum[:]))
	b.WriteString(`;Subject=` + quoted(leaf.Subject.String(), true))
	for _, uri := range leaf.URIs {
		b.WriteString(";URI=" + quoted(uri.String(), false))
	}
	for _, name := range leaf.DNSNames {
		b.WriteString(";DNS=" + quoted(name, false))
	}
	return b.String()
}

// quoted quotes a value if it must be, or always, and takes out what no field
// value may have, RFC 9110 section 5.5.
func quoted(value string, always bool) string {
	if !always && !strings.ContainsAny(value, "\",;=\\ \t") {
		return clean(value)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean(value)) + `"`
}

func clean(value string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r > 0x7e {
			return '?'
		}
		return r
	}, value)
}
