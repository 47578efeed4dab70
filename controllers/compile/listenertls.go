package compile

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// tlsSetting is a stanza's value of a ListenerPolicy, or an option of a listener.
type tlsSetting func(*snapshot.TLS)

// tlsVersions are the protocol versions that may be the least one.
var tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// tlsCurves are the key exchange groups by the names that people write.
var tlsCurves = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768, "X25519": tls.X25519,
	"P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
}

const (
	wantVersion = "1.2 or 1.3"
	wantCurves  = "any of X25519MLKEM768, X25519, P-256, P-384, P-521"
)

// wantCiphers are the suites that may be listed.
var wantCiphers = func() string {
	var names []string
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			names = append(names, s.Name)
		}
	}
	return "any of " + strings.Join(names, ", ")
}()

// cipherSuite returns the number of a suite; problem says why it cannot be listed.
func cipherSuite(name string) (id uint16, problem string) {
	named := func(s *tls.CipherSuite) bool { return s.Name == name }
	if i := slices.IndexFunc(tls.CipherSuites(), named); i >= 0 {
		s := tls.CipherSuites()[i]
		if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			return 0, name + " is a suite of TLS 1.3, whose suites are always on"
		}
		return s.ID, ""
	}
	if slices.ContainsFunc(tls.InsecureCipherSuites(), named) {
		return 0, name + " is not secure"
	}
	return 0, fmt.Sprintf("%q is not a cipher suite that is known here", name)
}

// cipherSuites reads a list; fail is told of an entry, or of the list if at is -1.
func cipherSuites(names []string, fail func(at int, message, want string)) (ids []uint16) {
	aead := false
	for i, name := range names {
		id, problem := cipherSuite(name)
		if problem != "" {
			fail(i, problem, wantCiphers)
			continue
		}
		ids = append(ids, id)
		aead = aead || !strings.Contains(name, "_CBC_")
	}
	if !aead && len(ids) > 0 {
		fail(-1, "HTTP/2 forbids all of them (RFC 9113, appendix A)", "at least one suite with GCM or POLY1305")
	}
	return ids
}

// curves reads a list of key exchange groups.
func curves(names []string, fail func(at int, message, want string)) (ids []uint16) {
	for i, name := range names {
		id, ok := tlsCurves[name]
		if !ok {
			fail(i, fmt.Sprintf("%q is not a curve that is known here", name), wantCurves)
			continue
		}
		ids = append(ids, uint16(id))
	}
	return ids
}

// compileOptions reads listeners[].tls.options. What is not known is refused.
func (l *listener) compileOptions() {
	for _, key := range slices.Sorted(maps.Keys(l.spec.TLS.Options)) {
		value := strings.TrimSpace(string(l.spec.TLS.Options[key]))
		refuse := func(message, want string) {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, ".tls.options."+string(key), message, want)
		}
		switch set := tlsOption(key, value, refuse); {
		case set != nil:
			l.options = append(l.options, set)
		case key == "headgate.dev/session-resumption":
			if value != "on" && value != "off" {
				refuse(fmt.Sprintf("%q is neither on nor off", value), "on or off")
			}
			l.options = append(l.options, func(t *snapshot.TLS) { t.NoTickets = value == "off" })
		default:
			refuse("there is no such option", "headgate.dev/min-version, headgate.dev/ciphers, headgate.dev/curves or headgate.dev/session-resumption")
		}
	}
}

// tlsOption reads an option that holds for either side of TLS; nil for others.
func tlsOption(key gatewayv1.AnnotationKey, value string, refuse func(message, want string)) tlsSetting {
	value = strings.TrimSpace(value)
	inList := func(_ int, message, want string) { refuse(message, want) }
	switch key {
	case "headgate.dev/min-version":
		version, ok := tlsVersions[value]
		if !ok {
			refuse(fmt.Sprintf("%q is not a version that can be the least", value), wantVersion)
		}
		return func(t *snapshot.TLS) { t.MinVersion = version }
	case "headgate.dev/ciphers":
		ids := cipherSuites(splitList(value), inList)
		return func(t *snapshot.TLS) { t.CipherSuites = ids }
	case "headgate.dev/curves":
		ids := curves(splitList(value), inList)
		return func(t *snapshot.TLS) { t.Curves = ids }
	}
	return nil
}

// splitList splits at commas, colons and spaces. Of nothing it makes one empty
// entry: an empty list is a mistake.
func splitList(value string) []string {
	if list := strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(",: ", r) }); len(list) > 0 {
		return list
	}
	return []string{""}
}

// compileListenerTLS sets the stanzas of spec.tls.
func compileListenerTLS(c *policyCompiler, t *v1alpha1.ListenerTLS) {
	set := func(name string, findings int, apply tlsSetting) {
		if len(c.findings) == findings {
			c.sets(name, apply)
		}
	}
	listed := func(field string) func(at int, message, want string) {
		return func(at int, message, want string) {
			if at >= 0 {
				c.invalid(fmt.Sprintf("%s[%d]", field, at), message, want)
			} else {
				c.invalid(field, message, want)
			}
		}
	}
	if t.MinVersion != nil {
		before := len(c.findings)
		version, ok := tlsVersions[*t.MinVersion]
		if !ok {
			c.invalid("spec.tls.minVersion", fmt.Sprintf("%q is not a version that can be the least", *t.MinVersion), wantVersion)
		}
		set("tls.minVersion", before, func(s *snapshot.TLS) { s.MinVersion = version })
	}
	if len(t.CipherSuites) > 0 {
		before := len(c.findings)
		if t.MinVersion != nil && *t.MinVersion == "1.3" {
			c.invalid("spec.tls.cipherSuites", "it is for TLS 1.2, which minVersion rules out", "no cipherSuites: those of TLS 1.3 are always on")
		}
		ids := cipherSuites(t.CipherSuites, listed("spec.tls.cipherSuites"))
		set("tls.cipherSuites", before, func(s *snapshot.TLS) { s.CipherSuites = ids })
	}
	if len(t.Curves) > 0 {
		before := len(c.findings)
		ids := curves(t.Curves, listed("spec.tls.curves"))
		set("tls.curves", before, func(s *snapshot.TLS) { s.Curves = ids })
	}
	if t.SessionTickets != nil {
		off := !*t.SessionTickets
		c.sets("tls.sessionTickets", tlsSetting(func(s *snapshot.TLS) { s.NoTickets = off }))
	}
	if t.SessionTicketKeysRef != nil {
		before := len(c.findings)
		if t.SessionTickets != nil && !*t.SessionTickets {
			c.invalid("spec.tls.sessionTicketKeysRef", "without sessionTickets there are no keys for them", "no sessionTicketKeysRef, or sessionTickets: true")
		}
		keys := ticketKeys(c, "spec.tls.sessionTicketKeysRef.name", t.SessionTicketKeysRef.Name)
		set("tls.sessionTicketKeysRef", before, func(s *snapshot.TLS) { s.TicketKeys = keys })
	}
	if t.OCSPStapling != nil {
		on := *t.OCSPStapling
		c.sets("tls.ocspStapling", tlsSetting(func(s *snapshot.TLS) { s.OCSPStapling = on }))
	}
	if t.ClientCertificates != nil {
		clients := compileClientCertificates(c, t.ClientCertificates)
		c.sets("tls.clientCertificates", tlsSetting(func(s *snapshot.TLS) { s.Clients = clients }))
	}
}

// ticketKeys reads the keys of session tickets from a Secret, in the order of its entries' names.
func ticketKeys(c *policyCompiler, field, name string) (keys []policy.Secret) {
	secret := c.secret(field, name)
	if secret == nil {
		return nil
	}
	keys, problems := readKeys(secret)
	for _, problem := range problems {
		c.unresolved(field, reasonInvalidRef, problem, wantKeys)
	}
	return keys
}

// compileClientCertificates compiles which clients get in; nobody does if the
// policy is wrong.
func compileClientCertificates(c *policyCompiler, spec *v1alpha1.ClientCertificates) *snapshot.ClientCertificates {
	const field = "spec.tls.clientCertificates"
	before := len(c.findings)
	clients := &snapshot.ClientCertificates{Mode: "Required", Forward: spec.Forward}
	switch spec.Mode {
	case "", v1alpha1.ClientCertificatesRequired:
	case v1alpha1.ClientCertificatesOptional:
		clients.Mode = "Optional"
	default:
		c.invalid(field+".mode", fmt.Sprintf("%q is not a mode", spec.Mode), "Required or Optional")
	}
	if len(spec.CACertificateRefs) == 0 {
		c.invalid(field+".caCertificateRefs", "there are none", "the ConfigMaps or Secrets with the authorities that sign clients")
	}
	for i := range spec.CACertificateRefs {
		ref := objects.Ref{Kind: spec.CACertificateRefs[i].Kind, Namespace: c.ref.Namespace, Name: spec.CACertificateRefs[i].Name}
		at := fmt.Sprintf("%s.caCertificateRefs[%d]", field, i)
		if ref.Kind == "" {
			ref.Kind = "ConfigMap"
		}
		if ref.Kind != "ConfigMap" && ref.Kind != "Secret" {
			c.invalid(at+".kind", ref.Kind+" is not supported", "ConfigMap or Secret")
			continue
		}
		c.wanted = append(c.wanted, ref)
		roots, problem := readAuthorities(c.set, ref)
		if problem != "" {
			reason := reasonInvalidRef
			if c.set.Get(ref) == nil {
				reason = reasonRefNotFound
			}
			c.unresolved(at+".name", reason, problem, wantAuthorities)
			continue
		}
		clients.Roots = append(clients.Roots, roots...)
	}
	for i, name := range spec.SubjectAltNames {
		at := fmt.Sprintf("%s.subjectAltNames[%d]", field, i)
		switch {
		case name.Type != "DNS" && name.Type != "URI" && name.Type != "SPIFFE":
			c.invalid(at+".type", fmt.Sprintf("%q is not supported", name.Type), "DNS, URI or SPIFFE")
		case name.Value == "":
			c.invalid(at+".value", "it is empty", "the name as the certificate has it")
		case name.Type == "SPIFFE" && !strings.HasPrefix(name.Value, "spiffe://"):
			c.invalid(at+".value", fmt.Sprintf("%q is no SPIFFE ID", name.Value), "spiffe://TRUST-DOMAIN/PATH")
		}
		clients.Names = append(clients.Names, snapshot.SubjectAltName{Type: string(name.Type), Value: name.Value})
	}
	if len(c.findings) > before {
		// What guards fails closed: without roots no certificate is good.
		return &snapshot.ClientCertificates{Mode: "Required"}
	}
	return clients
}

const wantAuthorities = "a ConfigMap or Secret whose ca.crt holds PEM certificates"

// authorityRef returns what a reference to certificates of authorities names, from
// the namespace where it looks: a ConfigMap, a Secret, or a ClusterTrustBundle
// (GEP-5075), which is in none; false if it names another kind.
func authorityRef(group gatewayv1.Group, kind gatewayv1.Kind, namespace string, name gatewayv1.ObjectName) (objects.Ref, bool) {
	to := objects.Ref{Kind: string(kind), Namespace: namespace, Name: string(name)}
	switch {
	case group == "" && (kind == "ConfigMap" || kind == "Secret"):
		return to, true
	case group == certificatesv1.GroupName && kind == "ClusterTrustBundle":
		to.Namespace = ""
		return to, true
	}
	return to, false
}

const wantAuthorityOrBundle = wantAuthorities + ", or a ClusterTrustBundle"

const wantAuthorityKind = `kind ConfigMap or Secret with group "", or kind ClusterTrustBundle with group ` + certificatesv1.GroupName

// readAuthorities returns the PEM certificates of a ConfigMap's or Secret's
// ca.crt, or of a ClusterTrustBundle, and nothing else that may be in it; problem
// says what is wrong.
func readAuthorities(set *objects.Set, ref objects.Ref) (roots []byte, problem string) {
	entry := "ca.crt"
	var rest []byte
	switch o := set.Get(ref).(type) {
	case *corev1.ConfigMap:
		if rest = []byte(o.Data[entry]); len(rest) == 0 {
			rest = o.BinaryData[entry]
		}
	case *corev1.Secret:
		rest = o.Data[entry]
	case *certificatesv1.ClusterTrustBundle:
		entry, rest = "trustBundle", []byte(o.Spec.TrustBundle)
	default:
		return nil, fmt.Sprintf("there is no %s", ref)
	}
	if len(rest) == 0 {
		return nil, fmt.Sprintf("%s has no data %q", ref, entry)
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Sprintf("%s of %s holds a certificate that cannot be read: %v", entry, ref, err)
		}
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(roots) == 0 {
		return nil, fmt.Sprintf("%s of %s holds no PEM certificate", entry, ref)
	}
	return roots, ""
}

// tls implements policyIndex. An option of the listener itself is nearer than
// any policy.
func (x *policies) tls(l *listener, t *snapshot.TLS) {
	winners := x.effective(listenerPolicies, l.places()...)
	apply := func(enforced bool) {
		for _, w := range winners {
			if set, ok := w.stanza.value.(tlsSetting); ok && w.policy.object.IsEnforced() == enforced {
				set(t)
			}
		}
	}
	apply(false)
	for _, set := range l.options {
		set(t)
	}
	apply(true)
}
