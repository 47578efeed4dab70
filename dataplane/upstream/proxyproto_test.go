package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/proxyproto"
)

func TestHeader(t *testing.T) {
	local, err := proxyproto.Parse(appendHeader(nil, 2, nil))
	if err != nil || !local.Local {
		t.Errorf("of nobody: %+v, %v", local, err)
	}
	from := &exchange.Conn{
		Remote: netip.MustParseAddrPort("203.0.113.7:4000"), Local: netip.MustParseAddrPort("192.0.2.1:443"),
		TLS: &exchange.TLS{
			ServerName: "shop.example.com", ALPN: "h2", Version: tls.VersionTLS12, CipherSuite: tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "agent"}}},
		},
		ProxyTLVs: proxyproto.TLVs(nil).With(proxyproto.ALPN, []byte("told")).With(proxyproto.SSL, (&proxyproto.SSLInfo{}).Append(nil)).With(0xe5, []byte("x")),
	}
	h, err := proxyproto.Parse(appendHeader(nil, 2, from))
	if err != nil || h.Source != from.Remote || h.Destination != from.Local {
		t.Fatalf("%+v, %v", h, err)
	}
	want := map[byte]string{proxyproto.ALPN: "h2", proxyproto.Authority: "shop.example.com", 0xe5: "x"}
	for kind, value := range h.TLVs.All() {
		if kind == proxyproto.SSL {
			ssl, _ := proxyproto.ParseSSL(value)
			if ssl != (proxyproto.SSLInfo{Version: "TLSv1.2", Cipher: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Certificate: true, Verified: true, CommonName: "agent"}) {
				t.Errorf("%+v", ssl)
			}
		} else if want[kind] != string(value) {
			t.Errorf("TLV %#x is %q, want %q", kind, value, want[kind])
		}
		delete(want, kind)
	}
	if len(want) > 0 {
		t.Errorf("missing: %q", want)
	}
	if got := string(appendHeader(nil, 1, from)); got != "PROXY TCP4 203.0.113.7 192.0.2.1 4000 443\r\n" {
		t.Errorf("%q", got)
	}
}

// headed wants a header from every connection.
type headed struct{ net.Listener }

func (l headed) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if _, _, err := proxyproto.Read(c.(*net.TCPConn)); err != nil {
		c.Close() // what is asked on it fails
	}
	return c, nil
}

// What of a client is not used any more is forgotten, also where nobody says
// that its connection has ended; and what comes after the end is not kept.
func TestBoundConnectionsGo(t *testing.T) {
	var now clock
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := serveOn(t, headed{l}, ok)
	x := cfg()
	x.ProxyProtocol, x.Pool.IdleTimeout = "V1", 10*time.Second
	m := newManagerFor(t, Options{Now: now.now, SweepInterval: time.Hour})
	c := m.NewCluster(x, endpoints(b.addr))
	from := &exchange.Conn{Remote: netip.MustParseAddrPort("203.0.113.7:4000"), Local: netip.MustParseAddrPort("192.0.2.1:443")}
	ask := func() {
		t.Helper()
		ex := newExchange("GET", "")
		ex.Conn = from
		lease, err := c.RoundTrip(ex)
		if err != nil {
			t.Fatal(err)
		}
		if got := finish(t, ex, lease); got != "ok" {
			t.Errorf("%q", got)
		}
	}
	want := func(connections, bound int) {
		t.Helper()
		ep := c.state.Load().members[0].ep
		ep.mu.Lock()
		defer ep.mu.Unlock()
		if ep.total != connections || ep.idle != connections || len(ep.bound) != bound {
			t.Errorf("%d connections, %d idle, of %d clients; want %d of %d", ep.total, ep.idle, len(ep.bound), connections, bound)
		}
	}
	ask()
	ask()
	want(1, 1)
	now.advance(time.Minute)
	m.sweep()
	want(0, 0)
	ask()
	want(1, 1)
	from.End()
	want(0, 0)
	ask()
	want(0, 0)
}
