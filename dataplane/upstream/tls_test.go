package upstream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// pki is an authority of its own.
type pki struct {
	t    testing.TB
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	// roots is the root in PEM.
	roots []byte
	last  int64
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{t: t}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	var der []byte
	der, p.key = p.sign(template, template, nil)
	p.root, _ = x509.ParseCertificate(der)
	p.roots = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return p
}

func (p *pki) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	p.last++
	template.SerialNumber = big.NewInt(p.last)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		p.t.Fatal(err)
	}
	return der, key
}

// leaf makes a certificate for servers, unless edit says otherwise. Names with
// a scheme are URIs.
func (p *pki) leaf(edit func(*x509.Certificate), names ...string) tls.Certificate {
	p.t.Helper()
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if uri, err := url.Parse(name); err == nil && uri.Scheme != "" {
			template.URIs = append(template.URIs, uri)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	if edit != nil {
		edit(template)
	}
	der, key := p.sign(template, p.root, p.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// inSnapshot is the certificate as a snapshot has it.
func inSnapshot(t testing.TB, c tls.Certificate) *snapshot.Certificate {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Certificate{
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
}

func tlsBackend(t testing.TB, settings *tls.Config) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, tls.NewListener(l, settings), ok)
}

func dnsName(name string) snapshot.SubjectAltName {
	return snapshot.SubjectAltName{Type: "DNS", Value: name}
}
func uriName(name string) snapshot.SubjectAltName {
	return snapshot.SubjectAltName{Type: "URI", Value: name}
}

// logged gathers log lines.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, args)
	}, funcr.Options{})
}

func (l *logged) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// TestTLSVerification has certificates of all kinds, and settings that they
// fit or not. None that does not gets a request.
func TestTLSVerification(t *testing.T) {
	ours, theirs := newPKI(t), newPKI(t)
	good := ours.leaf(nil, "web.internal", "*.apps.internal", "spiffe://shop.example/ns/shop/sa/web")
	expired := ours.leaf(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}, "web.internal", "spiffe://shop.example/web")
	early := ours.leaf(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	}, "web.internal")
	forClients := ours.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "web.internal")
	foreign := theirs.leaf(nil, "web.internal")
	only12 := &tls.Config{MaxVersion: tls.VersionTLS12}

	name := snapshot.UpstreamTLS{ServerName: "web.internal", Roots: ours.roots}
	names := func(all ...snapshot.SubjectAltName) snapshot.UpstreamTLS {
		return snapshot.UpstreamTLS{ServerName: "sni.internal", Roots: ours.roots, Names: all}
	}
	with := func(s snapshot.UpstreamTLS, edit func(*snapshot.UpstreamTLS)) snapshot.UpstreamTLS {
		edit(&s)
		return s
	}
	for _, tc := range []struct {
		what     string
		cert     tls.Certificate
		server   *tls.Config
		settings snapshot.UpstreamTLS
		reason   string // "" if it works
	}{
		{what: "the name", cert: good, settings: name},
		{what: "a name that a wildcard covers", cert: good, settings: with(name, func(s *snapshot.UpstreamTLS) { s.ServerName = "cart.apps.internal" })},
		{what: "another name", cert: good, settings: with(name, func(s *snapshot.UpstreamTLS) { s.ServerName = "other.internal" }), reason: "tls_name_mismatch"},
		{what: "expired", cert: expired, settings: name, reason: "tls_certificate_expired"},
		{what: "not yet valid", cert: early, settings: name, reason: "tls_certificate_expired"},
		{what: "for clients", cert: forClients, settings: name, reason: "tls_certificate_invalid"},
		{what: "another authority", cert: foreign, settings: name, reason: "tls_unknown_authority"},
		{what: "the system's authorities", cert: good, settings: with(name, func(s *snapshot.UpstreamTLS) { s.Roots = nil }), reason: "tls_unknown_authority"},
		{what: "two authorities", cert: good, settings: with(name, func(s *snapshot.UpstreamTLS) { s.Roots = append(append([]byte(nil), theirs.roots...), ours.roots...) })},

		{what: "a DNS name", cert: good, settings: names(dnsName("web.internal"))},
		{what: "a DNS name that a wildcard covers", cert: good, settings: names(dnsName("cart.apps.internal"))},
		{what: "a wildcard", cert: good, settings: names(dnsName("*.internal"))},
		{what: "a wildcard for a wildcard", cert: good, settings: names(dnsName("*.apps.internal"))},
		{what: "a wildcard of one label", cert: ours.leaf(nil, "a.b.internal"), settings: names(dnsName("*.internal")), reason: "tls_name_mismatch"},
		{what: "a URI", cert: good, settings: names(uriName("spiffe://shop.example/ns/shop/sa/web"))},
		{what: "one of several", cert: good, settings: names(dnsName("no.internal"), uriName("spiffe://shop.example/ns/shop/sa/web"))},
		{what: "none of several", cert: good, settings: names(dnsName("no.internal"), uriName("spiffe://shop.example/ns/shop/sa/web2")), reason: "tls_name_mismatch"},
		{what: "a URI that goes on", cert: good, settings: names(uriName("spiffe://shop.example/ns/shop/sa/we")), reason: "tls_name_mismatch"},
		{what: "the name for SNI is not enough", cert: ours.leaf(nil, "sni.internal"), settings: names(dnsName("web.internal")), reason: "tls_name_mismatch"},
		{what: "a good name, and expired", cert: expired, settings: names(uriName("spiffe://shop.example/web")), reason: "tls_certificate_expired"},
		{what: "a good name of another authority", cert: foreign, settings: names(dnsName("web.internal")), reason: "tls_unknown_authority"},
		{what: "a good name, for clients", cert: forClients, settings: names(dnsName("web.internal")), reason: "tls_certificate_invalid"},

		{what: "too old a version", cert: good, server: only12, settings: with(name, func(s *snapshot.UpstreamTLS) { s.MinVersion = tls.VersionTLS13 }), reason: "tls_alert"},
		{what: "no suite in common", cert: good, server: &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}},
			settings: with(name, func(s *snapshot.UpstreamTLS) {
				s.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
			}), reason: "tls_alert"},
		{what: "no curve in common", cert: good, server: &tls.Config{CurvePreferences: []tls.CurveID{tls.CurveP521}},
			settings: with(name, func(s *snapshot.UpstreamTLS) { s.Curves = []uint16{uint16(tls.X25519)} }), reason: "tls_alert"},
		{what: "settings that are broken", cert: good, settings: with(name, func(s *snapshot.UpstreamTLS) { s.Broken = "there is no ConfigMap" }), reason: "tls_config"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			server := &tls.Config{}
			if tc.server != nil {
				server = tc.server.Clone()
			}
			server.Certificates = []tls.Certificate{tc.cert}
			b := tlsBackend(t, server)
			x := cfg()
			x.TLS = &tc.settings
			var log logged
			c := newManagerFor(t, Options{Log: log.logger()}).NewCluster(x, endpoints(b.addr))
			if tc.reason == "" {
				send(t, c, "GET", "")
				return
			}
			const tries = 3
			for range tries {
				if up := fail(t, c, newExchange("GET", "")); up.Reason != tc.reason {
					t.Fatalf("%v, want %s", up, tc.reason)
				}
			}
			if b.requests.Load() != 0 {
				t.Error("a request arrived")
			}
			if tc.reason == "tls_config" {
				if b.conns.Load() != 0 {
					t.Error("it was connected to")
				}
				return
			}
			if s := stateOf(t, c, b.addr); s.TLSFailures[tc.reason] != tries || len(s.TLSFailures) != 1 {
				t.Errorf("%v", s.TLSFailures)
			}
			if n := log.count(tc.reason); n != 1 {
				t.Errorf("logged %d times, want once: %q", n, log.lines)
			}
		})
	}
}

// TestTLSNamesResumed: a session is resumed only with what is verified of the
// first certificate.
func TestTLSNamesResumed(t *testing.T) {
	ours := newPKI(t)
	var resumed atomic.Int64
	serve := func() *backend {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return serveOn(t, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{ours.leaf(nil, "web.internal")}}),
			func(n int64, r *http.Request, c net.Conn) bool {
				if c.(*tls.Conn).ConnectionState().DidResume {
					resumed.Add(1)
				}
				ok(n, r, c)
				return false // every request has a connection of its own
			})
	}
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "sni.internal", Roots: ours.roots, Names: []snapshot.SubjectAltName{dnsName("web.internal")}}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(serve().addr, serve().addr))
	for range 6 {
		send(t, c, "GET", "")
	}
	if resumed.Load() != 4 {
		t.Errorf("%d sessions were resumed, want 4: two of each of the two endpoints", resumed.Load())
	}
	y := cfg()
	y.TLS = &snapshot.UpstreamTLS{ServerName: "sni.internal", Roots: ours.roots, Names: []snapshot.SubjectAltName{dnsName("cart.internal")}}
	c.Update(y)
	if up := fail(t, c, newExchange("GET", "")); up.Reason != "tls_name_mismatch" {
		t.Errorf("%v", up)
	}
}

// TestTLSClientCertificate has an endpoint that asks who is there.
func TestTLSClientCertificate(t *testing.T) {
	ours, theirs := newPKI(t), newPKI(t)
	known := x509.NewCertPool()
	known.AddCert(ours.root)
	client := func(p *pki, name string) *snapshot.Certificate {
		return inSnapshot(t, p.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, name))
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			var seen atomic.Pointer[string]
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			b := serveOn(t, tls.NewListener(l, &tls.Config{
				Certificates: []tls.Certificate{ours.leaf(nil, "web.internal")}, MinVersion: version, MaxVersion: version,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known,
			}), func(n int64, r *http.Request, c net.Conn) bool {
				seen.Store(&c.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0])
				return ok(n, r, c)
			})
			settings := func(certificate *snapshot.Certificate) *snapshot.Cluster {
				x := cfg()
				x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: ours.roots, Certificate: certificate}
				return x
			}
			gate := client(ours, "gate.internal")
			c := newManagerFor(t, Options{}).NewCluster(settings(gate), endpoints(b.addr))
			send(t, c, "GET", "")
			send(t, c, "POST", "content")
			if b.conns.Load() != 1 || *seen.Load() != "gate.internal" {
				t.Errorf("%d connections of %s", b.conns.Load(), *seen.Load())
			}
			// The same again is no change.
			again := *gate
			c.Update(settings(&again))
			send(t, c, "GET", "")
			if b.conns.Load() != 1 {
				t.Errorf("%d connections", b.conns.Load())
			}
			// A new certificate is for new connections, and those from before end.
			c.Update(settings(client(ours, "next.internal")))
			send(t, c, "GET", "")
			if b.conns.Load() != 2 || *seen.Load() != "next.internal" {
				t.Errorf("%d connections, the last one of %s", b.conns.Load(), *seen.Load())
			}
			eventually(t, "the connection from before is closed", func() bool { return b.openConns() == 1 })

			for what, certificate := range map[string]*snapshot.Certificate{"none": nil, "a stranger's": client(theirs, "gate.internal")} {
				before := b.requests.Load()
				c.Update(settings(certificate))
				up := fail(t, c, newExchange("GET", ""))
				// TLS 1.3 tells when the handshake is over for us: the alert comes as the
				// answer, unless the end of the connection outruns it.
				if up.Reason != "tls_alert" && (version == tls.VersionTLS12 || up.Reason != "reset" && up.Reason != "closed") {
					t.Errorf("%s: %v", what, up)
				}
				if b.requests.Load() != before {
					t.Errorf("%s: a request arrived", what)
				}
			}
			unusable := settings(&snapshot.Certificate{Chain: gate.Chain, Key: client(ours, "x.internal").Key})
			c.Update(unusable)
			if up := fail(t, c, newExchange("GET", "")); up.Reason != "tls_config" {
				t.Errorf("%v", up)
			}
		})
	}
}

// TestTLSOffers looks at what endpoints are offered by ALPN, and that a stream
// of bytes offers nothing.
func TestTLSOffers(t *testing.T) {
	ours := newPKI(t)
	offered := make(chan []string, 1)
	b := tlsBackend(t, &tls.Config{
		Certificates: []tls.Certificate{ours.leaf(nil, "web.internal")},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			offered <- hello.SupportedProtos
			return nil, nil
		},
	})
	for protocol, want := range map[string]string{"http1": "http/1.1", "h2c": "h2", "alpn": "h2 http/1.1", "tcp": ""} {
		x := cfg()
		x.Protocol = protocol
		x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: ours.roots}
		c := newManagerFor(t, Options{}).NewCluster(x, endpoints(b.addr))
		nc, release, err := c.Connect(&exchange.Conn{Remote: netip.MustParseAddrPort("192.0.2.1:1")})
		if got := strings.Join(<-offered, " "); got != want {
			t.Errorf("%s offers %q, want %q", protocol, got, want)
		}
		if protocol == "h2c" {
			if err == nil {
				t.Error("an endpoint that does not speak HTTP/2 was taken for one that does")
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if protocol == "tcp" {
			if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Error(err)
			}
			answer := make([]byte, 15)
			if _, err := io.ReadFull(nc, answer); err != nil || string(answer) != "HTTP/1.1 200 OK" {
				t.Errorf("%q, %v", answer, err)
			}
		}
		nc.Close()
		release()
	}
}

// TestTLSEjection: one endpoint with a wrong certificate is stayed away from,
// said so, and taken again when it has a right one.
func TestTLSEjection(t *testing.T) {
	var now clock
	ours := newPKI(t)
	wrong, right := ours.leaf(nil, "other.internal"), ours.leaf(nil, "web.internal")
	var current atomic.Pointer[tls.Certificate]
	current.Store(&wrong)
	a := tlsBackend(t, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }})
	b := tlsBackend(t, &tls.Config{Certificates: []tls.Certificate{right}})
	var log logged
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: ours.roots}
	c := newManagerFor(t, Options{Log: log.logger(), Now: now.now}).NewCluster(x, endpoints(a.addr, b.addr))
	for range 4 {
		send(t, c, "GET", "")
	}
	if s := stateOf(t, c, a.addr); s.State != "ejected" || s.TLSFailures["tls_name_mismatch"] != 1 {
		t.Errorf("%+v", s)
	}
	if log.count(`"tls_name_mismatch"`) != 1 || log.count("other.internal") == 0 {
		t.Errorf("%q", log.lines)
	}
	current.Store(&right)
	now.advance(time.Minute)
	eventually(t, "it is back", func() bool {
		send(t, c, "GET", "")
		return stateOf(t, c, a.addr).State == "ready"
	})
	if a.requests.Load() == 0 {
		t.Error("it got no request")
	}
}

// TestTLSDeadlineWhileWriting has an endpoint that reads nothing after the
// handshake: neither what is written, for 30 s, nor the goodbye, for 5 s, outlasts the deadline.
func TestTLSDeadlineWhileWriting(t *testing.T) {
	ours := newPKI(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan struct{})
	defer func() { <-ended }()
	over := make(chan struct{})
	defer close(over)
	go func() {
		defer close(ended)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{ours.leaf(nil, "web.internal")}}).Handshake()
		<-over
	}()
	x := cfg()
	x.TLS = &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: ours.roots}
	c := newManagerFor(t, Options{}).NewCluster(x, endpoints(netip.MustParseAddrPort(l.Addr().String())))
	ex := newExchange("PUT", strings.Repeat("x", 64<<20)) // more than the kernel takes
	ex.Deadline = time.Now().Add(500 * time.Millisecond)
	if up := fail(t, c, ex); up.Reason != "timeout" {
		t.Errorf("%v", up)
	}
	if late := time.Since(ex.Deadline); late > 20*time.Second {
		t.Errorf("it ends %v after its deadline", late)
	}
}
