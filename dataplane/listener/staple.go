package listener

import (
	"crypto/tls"
	"slices"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/staple"
)

// staple returns what keeps the OCSP response of a listener's certificate, nil
// if it is to have none. What goes wrong is logged, and stops nothing.
func (p *port) staple(l *snapshot.Listener, c *snapshot.Certificate, pair *tls.Certificate) *staple.Staple {
	s, err := p.set.staples.For(pair, c.OCSPStaple, l.TLS.OCSPStapling)
	if err != nil {
		p.set.opts.Log.Info("A certificate is served without an OCSP response", "listener", l.Key,
			"certificate", c.Source.Namespace+"/"+c.Source.Name, "cause", err.Error())
	}
	if s == nil && staple.Required(pair.Leaf) {
		p.set.opts.Log.Info("A certificate demands an OCSP response and is served without: clients may refuse it", "listener", l.Key,
			"certificate", c.Source.Namespace+"/"+c.Source.Name)
	}
	return s
}

// withStaples makes handshakes send the OCSP responses that there are then. The
// certificate is chosen as crypto/tls would; but one that demands a response
// and has none stands back.
func (t *terminator) withStaples(config *tls.Config) {
	all := t.usable
	if !slices.ContainsFunc(all, func(u usable) bool { return u.staple != nil }) {
		return
	}
	config.Certificates = nil
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		var second *tls.Certificate
		for i := range all {
			pair, whole := all[i].stapled()
			switch {
			case hello.SupportsCertificate(pair) != nil:
			case whole:
				return pair, nil
			case second == nil:
				second = pair
			}
		}
		if second == nil {
			second, _ = all[0].stapled() // the client will say what is wrong with it
		}
		return second, nil
	}
}

// stapled returns the certificate with its OCSP response, and reports whether
// it has all that it demands.
func (u *usable) stapled() (pair *tls.Certificate, whole bool) {
	response := u.staple.Response()
	if response == nil {
		return &u.pair, !staple.Required(u.pair.Leaf)
	}
	with := u.pair
	with.OCSPStaple = response
	return &with, true
}

// eachCertificate calls f for every certificate that is served. s.mu is held.
func (s *Set) eachCertificate(f func(listener string, u *usable)) {
	for _, p := range s.ports {
		if t := p.table.Load(); t != nil {
			for key, of := range t.byKey {
				for i := range of.usable {
					f(key, &of.usable[i])
				}
			}
		}
	}
}

// retainStaples ends those of certificates that are not served any more.
func (s *Set) retainStaples() {
	used := map[*staple.Staple]bool{}
	s.eachCertificate(func(_ string, u *usable) { used[u.staple] = true })
	s.staples.Retain(func(one *staple.Staple) bool { return used[one] })
}

const (
	// expiryNotice is how long before its end a certificate is first spoken of in the log.
	expiryNotice = 14 * 24 * time.Hour
	// expiryRepeat is how often that is said again.
	expiryRepeat = 12 * time.Hour
)

// noteExpiries logs the certificates that are not valid now or not for long
// any more, each once in expiryRepeat. s.mu is held.
func (s *Set) noteExpiries() {
	now := time.Now()
	s.eachCertificate(func(listener string, u *usable) {
		leaf, said := u.pair.Leaf, ""
		switch {
		case now.Before(leaf.NotBefore):
			said = "A certificate is served that is not valid yet"
		case now.After(leaf.NotAfter):
			said = "A certificate is served that has expired"
		case now.Add(expiryNotice).After(leaf.NotAfter):
			said = "A certificate expires soon"
		}
		key := said + "\n" + listener + "\n" + string(leaf.Signature)
		if said == "" || s.expiriesSaid[key] {
			return
		}
		s.expiriesSaid[key] = true
		s.opts.Log.Info(said, "listener", listener, "certificate", u.source.Namespace+"/"+u.source.Name,
			"notBefore", leaf.NotBefore.UTC().Format(time.RFC3339), "notAfter", leaf.NotAfter.UTC().Format(time.RFC3339))
	})
	if s.expiries == nil {
		s.expiries = time.AfterFunc(expiryRepeat, s.repeatExpiries)
	}
}

func (s *Set) repeatExpiries() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		clear(s.expiriesSaid)
		s.expiries = nil
		s.noteExpiries()
	}
}
