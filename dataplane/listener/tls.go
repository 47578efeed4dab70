package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// table is what connections to a port need to know of its listeners. It is immutable.
type table struct {
	tls     bool
	clients []*snapshot.Client // of all listeners; nil elements for defaults
	names   route.Hosts[*terminator]
	byKey   map[string]*terminator
}

// terminator is a listener's TLS.
type terminator struct {
	listener string
	source   *snapshot.TLS
	client   *snapshot.Client
	config   *tls.Config // nil if no certificate of it can be used
}

// update makes cfg what new connections meet.
func (p *port) update(cfg *snapshot.Port) error {
	var errs []error
	old := p.table.Load()
	t := &table{byKey: map[string]*terminator{}}
	for _, l := range cfg.Listeners {
		t.clients = append(t.clients, l.Client)
		if l.TLS == nil {
			continue
		}
		t.tls = true
		var before *terminator
		if old != nil {
			before = old.byKey[l.Key]
		}
		now, err := p.terminator(l, before)
		if err != nil {
			errs = append(errs, fmt.Errorf("listener %s: %w", l.Key, err))
		}
		t.byKey[l.Key] = now
		if _, taken := t.names.Get(l.Hostname); !taken {
			t.names = t.names.With(l.Hostname, now)
		}
	}
	p.table.Store(t)
	return errors.Join(errs...)
}

// terminator makes a listener's TLS. Certificates that did not change are not
// parsed again. If none of those that are given can be read, those from before
// stay. If none are given, compile has withdrawn them (the Secret is gone, or
// its ReferenceGrant is; the listener's status says so), and handshakes fail.
func (p *port) terminator(l *snapshot.Listener, before *terminator) (*terminator, error) {
	t := &terminator{listener: l.Key, source: l.TLS, client: l.Client}
	if before != nil && before.config != nil && reflect.DeepEqual(before.source, l.TLS) {
		t.config = before.config
		return t, nil
	}
	var errs []error
	var usable []tls.Certificate
	for _, c := range l.TLS.Certificates {
		pair, err := tls.X509KeyPair(c.Chain, c.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("certificate %s %s/%s: %w", c.Source.Kind, c.Source.Namespace, c.Source.Name, err))
			continue
		}
		usable = append(usable, pair)
	}
	switch {
	case len(usable) > 0:
		t.config = &tls.Config{Certificates: usable, NextProtos: p.outer.NextProtos, MinVersion: tls.VersionTLS12}
	case len(l.TLS.Certificates) > 0 && before != nil && before.config != nil:
		t.config, t.source = before.config, before.source
		errs = append(errs, errors.New("the certificates from before are still served"))
	case len(l.TLS.Certificates) > 0:
		errs = append(errs, errors.New("none of its certificates can be used, so its handshakes fail"))
	}
	return t, errors.Join(errs...)
}

// newOuter is the port's one tls.Config, which asks for each handshake anew.
// It also holds the keys of session tickets, so that they outlive certificates.
func (p *port) newOuter() *tls.Config {
	outer := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, c := range p.set.opts.Codecs {
		outer.NextProtos = append(outer.NextProtos, c.ALPN)
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
		return t.config, nil
	}
	return outer
}

// pickedKey carries a **terminator through a handshake.
type pickedKey struct{}

// handshake terminates TLS and says whose it is.
func (p *port) handshake(nc *net.TCPConn, info *exchange.Conn) (*tls.Conn, *terminator, error) {
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
	info.TLS = &exchange.TLS{
		ServerName:       strings.ToLower(state.ServerName),
		ALPN:             state.NegotiatedProtocol,
		Version:          state.Version,
		CipherSuite:      state.CipherSuite,
		PeerCertificates: state.PeerCertificates,
		Listener:         picked.listener,
	}
	return secure, picked, nil
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
