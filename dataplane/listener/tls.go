package listener

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/staple"
)

// table is what connections to a port need to know of its listeners. It is immutable.
type table struct {
	tls     bool
	clients []*snapshot.Client // of all listeners; nil elements for defaults
	aging   *snapshot.Client   // of these, by agingOf
	// earlyData says that one of the listeners takes requests before the
	// handshake is over.
	earlyData bool
	names     route.Hosts[*terminator]
	byKey     map[string]*terminator
}

// terminator is a listener's TLS.
type terminator struct {
	listener string
	source   *snapshot.TLS
	client   *snapshot.Client
	// raw says that what is decrypted is passed on unread: nothing is negotiated
	// by ALPN, as nobody here speaks anything.
	raw bool
	// earlyData says that requests are taken before the handshake is over.
	earlyData bool
	usable    []usable
	clients   *clientCertificates // nil if clients are not asked for any
	config    *tls.Config         // nil if no certificate of it can be used
	failed    error               // what of source could not be used
}

// usable is a certificate that was parsed.
type usable struct {
	source snapshot.Ref
	pair   tls.Certificate
	staple *staple.Staple // nil for none
}

// update makes cfg what new connections meet.
func (p *port) update(cfg *snapshot.Port) error {
	var errs []error
	old := p.table.Load()
	t := &table{byKey: map[string]*terminator{}}
	pairs := keyPairs{}
	var certificates []observe.Certificate
	for _, l := range cfg.Listeners {
		if p.quic && l.HTTP3 == nil {
			// Its names are not another's, though nobody takes them here.
			if _, taken := t.names.Get(l.Hostname); !taken {
				t.names = t.names.With(l.Hostname, &terminator{listener: l.Key})
			}
			continue
		}
		t.clients = append(t.clients, l.Client)
		if l.TLS == nil {
			continue
		}
		t.tls = true
		var before *terminator
		if old != nil {
			before = old.byKey[l.Key]
		}
		now, err := p.terminator(l, before, pairs)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Key, err))
		}
		t.byKey[l.Key] = now
		t.earlyData = t.earlyData || now.earlyData
		certificates = append(certificates, now.expiries()...)
		if _, taken := t.names.Get(l.Hostname); !taken {
			t.names = t.names.With(l.Hostname, now)
		}
	}
	t.aging = agingOf(t.clients...)
	trusted, err := newTrustedSources(cfg.ProxyProtocol)
	errs = append(errs, err, p.admission.update(cfg.Connections))
	p.trusted.Store(trusted)
	p.table.Store(t)
	if !p.quic { // they are the TCP port's too
		p.metrics.SetCertificates(certificates)
	}
	return errors.Join(errs...)
}

// terminator makes a listener's TLS. Certificates that did not change are not
// parsed again. If none of those that are given can be read, those from before
// stay. If none are given, compile has withdrawn them (the Secret is gone, or
// its ReferenceGrant is; the listener's status says so), and handshakes fail.
func (p *port) terminator(l *snapshot.Listener, before *terminator, pairs keyPairs) (*terminator, error) {
	t := &terminator{listener: l.Key, source: l.TLS, client: l.Client, raw: l.Protocol == "TLS"}
	// Who shows a certificate is known when the handshake is over.
	t.earlyData = p.quic && l.HTTP3 != nil && l.HTTP3.EarlyData && l.TLS.Clients == nil
	if before != nil && before.config != nil && before.raw == t.raw && before.earlyData == t.earlyData && before.failed == nil && reflect.DeepEqual(before.source, l.TLS) {
		t.usable, t.config, t.clients = before.usable, before.config, before.clients
		return t, nil
	}
	var errs []error
	for _, c := range l.TLS.Certificates {
		pair, err := pairs.parse(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %s %s/%s: %w", c.Source.Kind, c.Source.Namespace, c.Source.Name, err))
			continue
		}
		t.usable = append(t.usable, usable{c.Source, pair, p.staple(l, c, &pair)})
	}
	switch {
	case len(t.usable) > 0:
	case len(l.TLS.Certificates) > 0 && before != nil && before.config != nil:
		t.usable = before.usable
		errs = append(errs, errors.New("the certificates from before are still served"))
	case len(l.TLS.Certificates) > 0:
		errs = append(errs, errors.New("none of its certificates can be used, so its handshakes fail"))
	}
	if len(t.usable) > 0 {
		t.clients = newClientCertificates(l.TLS.Clients)
		t.config = p.config(t)
	}
	t.failed = errors.Join(errs...)
	return t, t.failed
}

// keyPairs are certificates that were parsed, by chain and key: thousands of
// listeners may have the same one.
type keyPairs map[[2]string]tls.Certificate

func (k keyPairs) parse(c *snapshot.Certificate) (tls.Certificate, error) {
	key := [2]string{string(c.Chain), string(c.Key)}
	if pair, ok := k[key]; ok {
		return pair, nil
	}
	pair, err := tls.X509KeyPair(c.Chain, c.Key)
	if err == nil {
		k[key] = pair
	}
	return pair, err
}

// config is what handshakes of a listener go by.
func (p *port) config(t *terminator) *tls.Config {
	config := &tls.Config{
		NextProtos: p.outer.NextProtos, MinVersion: max(t.source.MinVersion, tls.VersionTLS12),
		CipherSuites: t.source.CipherSuites, SessionTicketsDisabled: t.source.NoTickets,
	}
	if t.raw {
		config.NextProtos = nil
	}
	if len(config.CipherSuites) == 0 {
		config.CipherSuites = nil // an empty list would be taken for none at all
	}
	for _, c := range t.usable {
		// Of several for a name, the handshake takes the first whose key the client can verify.
		config.Certificates = append(config.Certificates, c.pair)
	}
	t.withStaples(config)
	for _, id := range t.source.Curves {
		config.CurvePreferences = append(config.CurvePreferences, tls.CurveID(id))
	}
	t.clients.ask(config)
	// A session is resumed where it began: with the same listener, and with
	// what it asks of clients now. Tickets of other listeners lead to a full handshake.
	mark, keys := t.mark(), p.outer
	if len(t.source.TicketKeys) > 0 {
		keys = &tls.Config{}
		shared := make([][32]byte, len(t.source.TicketKeys))
		for i, key := range t.source.TicketKeys {
			copy(shared[i][:], key)
		}
		keys.SetSessionTicketKeys(shared)
	}
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, mark)
		session.EarlyData = session.EarlyData && t.earlyData
		return keys.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(identity []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := keys.DecryptTicket(identity, state)
		isMark := func(e []byte) bool { return bytes.Equal(e, mark) }
		if session == nil || err != nil || !slices.ContainsFunc(session.Extra, isMark) {
			return nil, err
		}
		// A resumed session is wrapped again. What else is there is QUIC's.
		session.Extra = slices.DeleteFunc(session.Extra, isMark)
		session.EarlyData = session.EarlyData && t.earlyData
		return session, nil
	}
	return config
}

// mark identifies a listener with what it asks of clients.
func (t *terminator) mark() []byte {
	hash := sha256.New()
	fmt.Fprintf(hash, "%q", t.listener)
	if c := t.source.Clients; c != nil {
		fmt.Fprintf(hash, "%q %q %q", c.Mode, c.Roots, c.Names)
	}
	return hash.Sum(nil)
}

// expiries are the certificates' ends, for metrics.
func (t *terminator) expiries() (all []observe.Certificate) {
	for i, c := range t.usable {
		if slices.ContainsFunc(t.usable[:i], func(other usable) bool { return other.source == c.source }) {
			continue // given twice
		}
		one := observe.Certificate{Listener: t.listener, Name: c.source.Namespace + "/" + c.source.Name, NotAfter: c.pair.Leaf.NotAfter}
		if c.staple != nil {
			one.StapleUntil = c.staple.Until
		}
		all = append(all, one)
	}
	return all
}

// newOuter is the port's one tls.Config, which asks for each handshake anew.
// It also holds the keys of session tickets, so that they outlive certificates.
func (p *port) newOuter() *tls.Config {
	outer := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, c := range p.set.opts.Codecs {
		outer.NextProtos = append(outer.NextProtos, c.ALPN)
	}
	if p.quic {
		outer.NextProtos = []string{p.set.opts.QUIC.ALPN}
	}
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// The most specific listener takes the connection or nobody does: with
		// another's certificate it would also get the other's requests.
		t, ok := p.table.Load().names.Best(strings.ToLower(strings.TrimSuffix(hello.ServerName, ".")))
		if !ok || t.config == nil {
			return nil, fmt.Errorf("no listener has a certificate for server name %q", hello.ServerName)
		}
		if picked, ok := hello.Context().Value(pickedKey{}).(**terminator); ok {
			*picked = t
		}
		if a, ok := hello.Context().Value(attemptKey{}).(*attempt); ok {
			a.picked = t
		}
		return t.config, nil
	}
	return outer
}

// pickedKey carries a **terminator through a handshake.
type pickedKey struct{}

// handshake terminates TLS and says whose it is.
func (p *port) handshake(nc net.Conn, info *exchange.Conn) (*tls.Conn, *terminator, error) {
	picked := new(terminator)
	secure := tls.Server(nc, p.outer)
	_ = nc.SetDeadline(time.Now().Add(p.set.opts.HandshakeTimeout))
	err := secure.HandshakeContext(context.WithValue(context.Background(), pickedKey{}, &picked))
	if err != nil {
		answerPlaintext(nc, err)
		return nil, nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	state := secure.ConnectionState()
	info.TLS = picked.settled(&state)
	return secure, picked, nil
}

// settled is what a handshake settled.
func (t *terminator) settled(state *tls.ConnectionState) *exchange.TLS {
	s := &exchange.TLS{
		ServerName:  strings.ToLower(state.ServerName),
		ALPN:        state.NegotiatedProtocol,
		Version:     state.Version,
		CipherSuite: state.CipherSuite,
		Listener:    t.listener,
	}
	s.PeerCertificates, s.ForwardedCert = t.clients.identify(state)
	return s
}

// answerPlaintext tells who speaks HTTP where TLS is spoken.
func answerPlaintext(nc net.Conn, err error) {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || header.Conn == nil {
		return
	}
	switch string(header.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH":
		const text = "This port speaks HTTPS.\n"
		_, _ = fmt.Fprintf(nc, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"+
			"Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
}
