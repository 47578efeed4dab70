package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/proxyproto"
)

// With the PROXY protocol, a connection to an endpoint begins with a header that
// says whose it is. So it carries the exchanges of that one client's connection
// and no others, and is not kept when the client's connection has ended.
// Connections that are nobody's, such as health checks, say that they are
// Headgate's own.

// proxyVersions are the versions of the header, by what a snapshot's cluster
// says in ProxyProtocol.
var proxyVersions = map[string]int{"V1": 1, "V2": 2}

// poolFor returns the pool whose connections may carry what a client's
// connection brings.
func (ep *endpoint) poolFor(st *state, from *exchange.Conn) *pool {
	if st.proxyProtocol == 0 || from == nil {
		return &ep.shared
	}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	p := ep.bound[from]
	if p == nil {
		p = &pool{ep: ep}
		if !from.AtEnd(ep, func() { ep.unbind(from) }) {
			p.gone = true
			return p
		}
		if ep.bound == nil {
			ep.bound = map[*exchange.Conn]*pool{}
		}
		ep.bound[from] = p
	}
	return p
}

// unbind is called when a client's connection has ended.
func (ep *endpoint) unbind(from *exchange.Conn) {
	ep.mu.Lock()
	p := ep.bound[from]
	if p == nil {
		ep.mu.Unlock()
		return
	}
	delete(ep.bound, from)
	p.gone = true
	idle, muxes := p.takeIdle(len(p.idle)), p.muxes
	p.muxes = nil
	for _, k := range muxes {
		k.leave()
	}
	ep.mu.Unlock()
	for _, k := range idle {
		k.discard()
	}
	for _, k := range muxes {
		k.client.Drain()
	}
}

// forgetUnused forgets the pools of clients that have not come back for so long
// that nothing of theirs is left. ep.mu is held.
func (ep *endpoint) forgetUnused() {
	for from, p := range ep.bound {
		if len(p.idle)+len(p.muxes)+len(p.waiters)+p.dialing == 0 {
			p.gone = true // who has just got it keeps nothing in it
			delete(ep.bound, from)
		}
	}
}

// introduce sends the header: the first that an endpoint gets, before TLS.
func introduce(ctx context.Context, nc net.Conn, version int, from *exchange.Conn) error {
	deadline, _ := ctx.Deadline()
	_ = nc.SetWriteDeadline(deadline)
	if _, err := nc.Write(appendHeader(nil, version, from)); err != nil {
		return err
	}
	return nc.SetWriteDeadline(time.Time{})
}

// appendHeader appends the header of a client's connection: its ends, what is
// known of its TLS, and what a trusted proxy in front has said beside.
func appendHeader(b []byte, version int, from *exchange.Conn) []byte {
	h := proxyproto.Header{Version: version, Local: from == nil}
	if from == nil {
		return h.Append(b)
	}
	h.Source, h.Destination = from.Remote, from.Local
	if version == 1 {
		return h.Append(b) // it has no room for more
	}
	ours := tlvsOf(from)
	h.TLVs = ours
	for kind, value := range proxyproto.TLVs(from.ProxyTLVs).All() {
		// What was seen here is nearer than what was said.
		if _, seen := ours.Get(kind); !seen && !(from.TLS != nil && isTLS(kind)) {
			h.TLVs = h.TLVs.With(kind, value)
		}
	}
	return h.Append(b)
}

// isTLS reports whether a TLV is about the TLS of the connection that carries it.
func isTLS(kind byte) bool {
	return kind == proxyproto.ALPN || kind == proxyproto.Authority || kind == proxyproto.SSL
}

// tlvsOf returns what is known here of a client's TLS.
func tlvsOf(from *exchange.Conn) (tlvs proxyproto.TLVs) {
	t := from.TLS
	if t == nil {
		if from.ServerName != "" {
			tlvs = tlvs.With(proxyproto.Authority, []byte(from.ServerName))
		}
		return tlvs
	}
	if t.ALPN != "" {
		tlvs = tlvs.With(proxyproto.ALPN, []byte(t.ALPN))
	}
	if t.ServerName != "" {
		tlvs = tlvs.With(proxyproto.Authority, []byte(t.ServerName))
	}
	ssl := proxyproto.SSLInfo{Version: tlsVersions[t.Version], Cipher: tls.CipherSuiteName(t.CipherSuite)}
	if len(t.PeerCertificates) > 0 {
		ssl.Certificate, ssl.Verified = true, true
		ssl.CommonName = t.PeerCertificates[0].Subject.CommonName
	}
	return tlvs.With(proxyproto.SSL, ssl.Append(nil))
}

// tlsVersions are the names that OpenSSL has for versions, which is what
// receivers expect.
var tlsVersions = map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}
