package exchange

import (
	"crypto/x509"
	"net/netip"
	"sync"
)

// Conn is a downstream connection. Its fields are immutable once the first
// exchange began.
type Conn struct {
	ID uint64
	// Remote is the peer, Local the address that it connected to; behind a trusted
	// sender of the PROXY protocol, what that said they are.
	Remote, Local netip.AddrPort
	// ProxyTLVs are what that sender said beside the addresses, as a
	// proxyproto.TLVs; nil if there is none.
	ProxyTLVs []byte
	// TLS is nil unless TLS is terminated here.
	TLS *TLS
	// ServerName is what a client asked for whose TLS passes through unread; "" if
	// it named none.
	ServerName string
	// Port is the handler's: the live port that accepted the connection.
	Port any

	mu    sync.Mutex
	ended bool
	atEnd map[any]func()
}

// AtEnd has f called when the connection has ended, once, in place of what was
// given for the same key. It reports false if that has happened already: f is
// not called then. It may be called from any goroutine.
func (c *Conn) AtEnd(key any, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	if c.atEnd == nil {
		c.atEnd = map[any]func(){}
	}
	c.atEnd[key] = f
	return true
}

// End says that the connection has ended. Who accepted it calls this after its
// last exchange is done.
func (c *Conn) End() {
	c.mu.Lock()
	all := c.atEnd
	c.ended, c.atEnd = true, nil
	c.mu.Unlock()
	for _, f := range all {
		f()
	}
}

// TLS is what the handshake settled.
type TLS struct {
	ServerName  string
	ALPN        string
	Version     uint16
	CipherSuite uint16
	// PeerCertificates are the client's, leaf first, and none if they were not verified.
	PeerCertificates []*x509.Certificate
	// ForwardedCert is what X-Forwarded-Client-Cert tells backends of the
	// client, "" for nothing.
	ForwardedCert string
	// Listener is the key of the listener whose certificate was served, or "".
	Listener string
}
