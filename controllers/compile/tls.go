package compile

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/staple"
)

// resolveCertificates fills in the certificates of an HTTPS listener. One that
// does not resolve is left out and the others serve; with none, the listener
// stays in place and refuses handshakes, so that its hostnames do not fall to
// a less specific listener.
func (b *frameBuilder) resolveCertificates(l *listener) {
	field := l.field + ".tls.certificateRefs"
	if len(l.spec.TLS.CertificateRefs) == 0 {
		l.parent.fail(&l.resolved, Finding{
			Field: field, Message: "HTTPS needs a certificate", Want: "the name of a Secret of type kubernetes.io/tls",
			Condition: string(gatewayv1.ListenerConditionResolvedRefs), Reason: string(gatewayv1.ListenerReasonInvalidCertificateRef),
		})
	}
	for i := range l.spec.TLS.CertificateRefs {
		certificate, finding := b.certificate(l.parent.ref(), &l.spec.TLS.CertificateRefs[i])
		if finding != nil {
			finding.Field = fmt.Sprintf("%s[%d]%s", field, i, finding.Field)
			finding.Condition = string(gatewayv1.ListenerConditionResolvedRefs)
			l.parent.fail(&l.resolved, *finding)
		}
		if certificate != nil {
			l.certificates = append(l.certificates, certificate)
		}
	}
	if len(l.certificates) == 0 {
		l.programmed.fail(string(gatewayv1.ListenerReasonInvalid), "the listener has no certificate that it could serve")
	}
}

// certificate resolves one reference of a Gateway or ListenerSet. The finding's
// field is relative to it; there may be one beside a certificate that can be used
// all the same.
func (b *frameBuilder) certificate(from objects.Ref, ref *gatewayv1.SecretObjectReference) (*snapshot.Certificate, *Finding) {
	invalid := string(gatewayv1.ListenerReasonInvalidCertificateRef)
	if ref.Group != nil && *ref.Group != "" {
		return nil, &Finding{Field: ".group", Message: fmt.Sprintf("%q is not supported", *ref.Group), Want: `"" with kind Secret`, Reason: invalid}
	}
	if ref.Kind != nil && *ref.Kind != "Secret" {
		return nil, &Finding{Field: ".kind", Message: fmt.Sprintf("%s is not supported", *ref.Kind), Want: "Secret", Reason: invalid}
	}
	secretRef := objects.Ref{Kind: "Secret", Namespace: from.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		secretRef.Namespace = string(*ref.Namespace)
	}
	if !b.grants.allow(from, secretRef) {
		return nil, &Finding{
			Field: ".namespace", Message: fmt.Sprintf("no ReferenceGrant allows %s to refer to %s", from, secretRef),
			Want:   fmt.Sprintf("a ReferenceGrant in namespace %s from %ss of namespace %s to Secrets", secretRef.Namespace, from.Kind, from.Namespace),
			Reason: string(gatewayv1.ListenerReasonRefNotPermitted),
		}
	}
	b.frame.wanted[secretRef] = true
	secret := objects.Get[*corev1.Secret](b.set, secretRef.Namespace, secretRef.Name)
	if secret == nil {
		return nil, &Finding{Field: ".name", Message: fmt.Sprintf("there is no %s", secretRef), Want: "the name of a Secret of type kubernetes.io/tls", Reason: invalid}
	}
	pair, known := b.keyPairs[secretRef]
	if !known && b.prev != nil {
		pair = b.prev.keyPairs[secretRef]
	}
	if pair.secret != secret {
		pair = readKeyPair(secretRef, secret)
	}
	b.keyPairs[secretRef] = pair
	if pair.finding != nil {
		finding := *pair.finding
		return pair.certificate, &finding
	}
	return pair.certificate, nil
}

// expiries says when the listener's certificates expire. Status is not written
// when time passes: whoever reads it compares.
func (l *listener) expiries() string {
	var said []string
	for _, c := range l.certificates {
		said = append(said, fmt.Sprintf("certificate %s/%s expires at %s", c.Source.Namespace, c.Source.Name, c.NotAfter.UTC().Format(time.RFC3339)))
	}
	return strings.Join(said, ", ")
}

// clientCertificate is what a Gateway shows to backends, GEP-3155.
type clientCertificate struct {
	certificate *snapshot.Certificate
	// broken, if not "", says why there is none: backends with TLS cannot be
	// reached through the Gateway then, as it would not be known to them.
	broken string
}

// resolveClientCertificate compiles spec.tls.backend.
func (b *frameBuilder) resolveClientCertificate(g *gateway) {
	t := g.object.Spec.TLS
	if t == nil || t.Backend == nil || t.Backend.ClientCertificateRef == nil {
		return
	}
	certificate, finding := b.certificate(g.ref(), t.Backend.ClientCertificateRef)
	g.client = &clientCertificate{certificate: certificate}
	if certificate != nil {
		return // clients send no OCSP response, so what is wrong with that is nothing to them
	}
	finding.Field = "spec.tls.backend.clientCertificateRef" + finding.Field
	finding.Condition = string(gatewayv1.GatewayConditionResolvedRefs)
	if finding.Reason == string(gatewayv1.ListenerReasonRefNotPermitted) {
		finding.Reason = string(gatewayv1.GatewayReasonRefNotPermitted)
	} else {
		finding.Reason = string(gatewayv1.GatewayReasonInvalidClientCertificateRef)
	}
	g.fail(&g.resolved, *finding)
	g.client.broken = fmt.Sprintf("%s: %s", g.ref(), finding)
}

// reachesPlainly reports whether all backends are reached as they are.
func (l *listener) reachesPlainly() bool { return l.parent.gateway.client == nil && !l.passesThrough() }

// reaches returns the use of a cluster with TLS through a listener: one of its
// own where the endpoints see the Gateway's certificate, or get the TLS that
// the client speaks.
func (l *listener) reaches(use clusterUse) clusterUse {
	if use.cluster.TLS == nil {
		return use
	}
	cluster, secure, g := *use.cluster, *use.cluster.TLS, l.parent.gateway
	switch {
	case l.passesThrough():
		cluster.TLS = nil
		cluster.Key += "/passthrough"
	case use.backend.Kind == "XBackend":
		// Its own mode says whether it is shown a certificate, and which one.
		return use
	case g.client != nil:
		secure.Certificate = g.client.certificate
		secure.Broken = cmp.Or(secure.Broken, g.client.broken)
		cluster.TLS = &secure
		cluster.Key += "@Gateway/" + g.object.Namespace + "/" + g.object.Name
	}
	use.cluster = &cluster
	return use
}

// keyPair is what a Secret holds: a certificate, or what is wrong with it, or
// both if the certificate can be used all the same.
type keyPair struct {
	secret      *corev1.Secret
	certificate *snapshot.Certificate
	finding     *Finding
}

// stapleEntry is where a Secret has an OCSP response, DER-encoded.
const stapleEntry = "tls.ocsp-staple"

func readKeyPair(ref objects.Ref, secret *corev1.Secret) keyPair {
	fail := func(message, want string) keyPair {
		return keyPair{secret: secret, finding: &Finding{Field: ".name", Message: message, Want: want,
			Reason: string(gatewayv1.ListenerReasonInvalidCertificateRef)}}
	}
	chain, key := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	for _, entry := range []struct {
		name string
		data []byte
	}{{corev1.TLSCertKey, chain}, {corev1.TLSPrivateKeyKey, key}} {
		if len(entry.data) == 0 {
			return fail(fmt.Sprintf("%s has no data %q", ref, entry.name), "a Secret with tls.crt and tls.key, PEM-encoded")
		}
	}
	read, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fail(fmt.Sprintf("%s holds no usable certificate and key: %v", ref, err),
			"a Secret whose tls.crt is a PEM certificate chain, leaf first, and whose tls.key is the leaf's private key")
	}
	pair := keyPair{secret: secret, certificate: &snapshot.Certificate{
		Source: snapshot.Ref{Kind: "Secret", Namespace: ref.Namespace, Name: ref.Name}, Chain: chain, Key: key, NotAfter: read.Leaf.NotAfter,
	}}
	if response := secret.Data[stapleEntry]; len(response) > 0 {
		if err := staple.Check(response, &read); err != nil {
			pair.finding = fail(fmt.Sprintf("%s of %s is no OCSP response that could be sent with the certificate: %v", stapleEntry, ref, err),
				"a DER-encoded response that the certificate's issuer has signed, and the issuer second in tls.crt; or no "+stapleEntry).finding
		} else {
			pair.certificate.OCSPStaple = response
		}
	}
	return pair
}
