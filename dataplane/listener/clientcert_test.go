package listener

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// client issues a client's certificate.
func (a *authority) client(t *testing.T, name, uri string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(99), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, URIs: []*url.URL{u},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// visit connects, says hello and returns the answer; with TLS 1.3 a client
// learns only then whether its certificate was good.
func visit(t *testing.T, address string, config *tls.Config) (string, tls.ConnectionState, error) {
	t.Helper()
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return "", tls.ConnectionState{}, err
	}
	defer c.Close()
	got, err := caller{}.on(t, c).say("hello")
	return got, c.ConnectionState(), err
}

func TestClientCertificates(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	good, other, forged := a.client(t, "agent.example.com", "spiffe://td/agent"), a.client(t, "other.example.com", "spiffe://td/other"),
		stranger.client(t, "agent.example.com", "spiffe://td/agent")
	dns := []snapshot.SubjectAltName{{Type: "DNS", Value: "Agent.example.com"}}
	for _, tt := range []struct {
		name    string
		clients snapshot.ClientCertificates
		// who gets in: without a certificate, with a good one, with one of
		// another name, with one of another authority.
		none, good, other, forged bool
		// identified are those whose certificate is believed, of good and other.
		identified string
	}{
		{"required", snapshot.ClientCertificates{Mode: "Required"}, false, true, true, false, "good other"},
		{"optional", snapshot.ClientCertificates{Mode: "Optional"}, true, true, true, false, "good other"},
		{"unverified", snapshot.ClientCertificates{Mode: "Unverified"}, true, true, true, true, "good other"},
		{"unverified, by name", snapshot.ClientCertificates{Mode: "Unverified", Names: dns}, true, true, true, true, "good"},
		{"a mode of the future", snapshot.ClientCertificates{Mode: "?"}, false, true, true, false, "good other"},
		{"by DNS name", snapshot.ClientCertificates{Mode: "Required", Names: dns}, false, true, false, false, "good"},
		{"optional by DNS name", snapshot.ClientCertificates{Mode: "Optional", Names: dns}, true, true, false, false, "good"},
		{"by URI", snapshot.ClientCertificates{Mode: "Required", Names: []snapshot.SubjectAltName{
			{Type: "DNS", Value: "nobody"}, {Type: "URI", Value: "spiffe://td/agent"}}}, false, true, false, false, "good"},
		{"by SPIFFE ID", snapshot.ClientCertificates{Mode: "Required", Names: []snapshot.SubjectAltName{
			{Type: "SPIFFE", Value: "spiffe://td/agent"}}}, false, true, false, false, "good"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(tt.name+" "+tls.VersionName(version), func(t *testing.T) {
				s := newSet(t, withIdentity)
				l := &snapshot.Listener{Key: "l", TLS: a.issue(t, 1, "shop.example.com")}
				tt.clients.Roots, tt.clients.Forward = a.pem(), true
				l.TLS.Clients = &tt.clients
				if err := s.Apply([]*snapshot.Port{portOf("tcp/1", l)}); err != nil {
					t.Fatal(err)
				}
				address := addressOf(t, s, "tcp/1")
				for _, who := range []struct {
					name string
					cert *tls.Certificate
					in   bool
				}{{"none", nil, tt.none}, {"good", &good, tt.good}, {"other", &other, tt.other}, {"forged", &forged, tt.forged}} {
					config := &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
					if who.cert != nil {
						// Whatever authorities the server names.
						config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return who.cert, nil }
					}
					for _, again := range []bool{false, true} {
						got, state, err := visit(t, address, config)
						if (err == nil) != who.in {
							t.Fatalf("%s: in is %v (%v), want %v", who.name, err == nil, err, who.in)
						}
						if err != nil {
							break
						}
						if state.DidResume != again {
							t.Errorf("%s: resumed is %v, want %v", who.name, state.DidResume, again)
						}
						want := ""
						if strings.Contains(tt.identified, who.name) {
							want = who.name
						}
						if identified := strings.Contains(got, "DNS="); identified != (want != "") {
							t.Errorf("%s: the backend is told %q", who.name, got)
						}
					}
				}
			})
		}
	}
}

// withIdentity makes the codec answer with what backends are told of the client.
func withIdentity(opts *Options) {
	opts.Codecs[0].New = func(nc net.Conn, info *exchange.Conn, clients []*snapshot.Client) Session {
		if (info.TLS.ForwardedCert == "") != (len(info.TLS.PeerCertificates) == 0) {
			panic("what is forwarded is not what is known")
		}
		info.Port = info.TLS.ForwardedCert
		return newEcho(nc, info, clients)
	}
}

func TestWithoutRootsNobodyIsLetIn(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	l := &snapshot.Listener{Key: "l", TLS: a.issue(t, 1, "shop.example.com")}
	l.TLS.Clients = &snapshot.ClientCertificates{Mode: "Required"}
	if err := s.Apply([]*snapshot.Port{portOf("tcp/1", l)}); err != nil {
		t.Fatal(err)
	}
	good := a.client(t, "agent", "spiffe://td/agent")
	_, _, err := visit(t, addressOf(t, s, "tcp/1"), &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com",
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &good, nil }})
	if err == nil {
		t.Error("a client was let in")
	}
}

// A session of a listener that asks clients for nothing, or for less, opens
// no other listener.
func TestSessionsStayWithTheirListener(t *testing.T) {
	a, b, s := newAuthority(t), newAuthority(t), newSet(t)
	cert := func(roots []byte, names ...snapshot.SubjectAltName) *snapshot.TLS {
		c := a.issue(t, 1, "shop.example.com", "admin.example.com")
		c.Clients = &snapshot.ClientCertificates{Mode: "Optional", Roots: roots, Names: names}
		return c
	}
	shop := &snapshot.Listener{Key: "shop", Hostname: "shop.example.com", TLS: cert(a.pem())}
	admin := &snapshot.Listener{Key: "admin", Hostname: "admin.example.com", TLS: cert(b.pem())}
	apply := func(listeners ...*snapshot.Listener) {
		t.Helper()
		if err := s.Apply([]*snapshot.Port{portOf("tcp/1", listeners...)}); err != nil {
			t.Fatal(err)
		}
	}
	apply(admin, shop)
	address := addressOf(t, s, "tcp/1")
	good := a.client(t, "agent", "spiffe://td/agent")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &oneSession{}
		to := func(name string) *tls.Config {
			return &tls.Config{RootCAs: a.roots, ServerName: name, MaxVersion: version, ClientSessionCache: cache,
				Certificates: []tls.Certificate{good}}
		}
		if _, _, err := visit(t, address, to("shop.example.com")); err != nil {
			t.Fatal(err)
		}
		if _, state, err := visit(t, address, to("shop.example.com")); err != nil || !state.DidResume {
			t.Errorf("the session was not resumed at its own listener: %v", err)
		}
		if _, state, err := visit(t, address, to("admin.example.com")); err == nil && state.DidResume {
			t.Error("the session was resumed at another listener")
		}
	}
	cache := &oneSession{}
	config := &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com", ClientSessionCache: cache, Certificates: []tls.Certificate{good}}
	if _, _, err := visit(t, address, config); err != nil {
		t.Fatal(err)
	}
	shop = &snapshot.Listener{Key: "shop", Hostname: "shop.example.com", TLS: cert(a.pem(), snapshot.SubjectAltName{Type: "DNS", Value: "else"})}
	apply(admin, shop)
	if _, _, err := visit(t, address, config); err == nil {
		t.Error("a session outlived the names that were let in")
	}
}

// With keys in common, what one replica began another one resumes; old keys
// are understood until they are taken out.
func TestSharedTicketKeys(t *testing.T) {
	a := newAuthority(t)
	cert := a.issue(t, 1, "shop.example.com").Certificates
	first, second := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	serve := func(s *Set, keys ...policy.Secret) string {
		t.Helper()
		l := &snapshot.Listener{Key: "l", TLS: &snapshot.TLS{Certificates: cert, TicketKeys: keys}}
		if err := s.Apply([]*snapshot.Port{portOf("tcp/1", l)}); err != nil {
			t.Fatal(err)
		}
		return addressOf(t, s, "tcp/1")
	}
	one, other := newSet(t), newSet(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &oneSession{}
		resumes := func(address string, want bool) {
			t.Helper()
			_, state, err := visit(t, address, &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com", MaxVersion: version, ClientSessionCache: cache})
			if err != nil || state.DidResume != want {
				t.Errorf("%s: resumed is %v, want %v; %v", tls.VersionName(version), state.DidResume, want, err)
			}
		}
		resumes(serve(one, first), false)
		resumes(serve(other, first), true)
		resumes(serve(other, second, first), true)
		resumes(serve(one, second), true) // the session was wrapped again with the first key
		resumes(serve(one, first), false)
		resumes(serve(other), false)
	}
}

// oneSession offers its session to every server.
type oneSession struct{ session *tls.ClientSessionState }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool) { return c.session, c.session != nil }
func (c *oneSession) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.session = s
	}
}

func TestTLSSettings(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	var l *snapshot.Listener
	apply := func(edit func(*snapshot.TLS)) {
		t.Helper()
		l = &snapshot.Listener{Key: "l", TLS: a.issue(t, 1, "shop.example.com")}
		edit(l.TLS)
		if err := s.Apply([]*snapshot.Port{portOf("tcp/1", l)}); err != nil {
			t.Fatal(err)
		}
	}
	client := func(edit func(*tls.Config)) (tls.ConnectionState, error) {
		config := &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com"}
		edit(config)
		_, state, err := visit(t, addressOf(t, s, "tcp/1"), config)
		return state, err
	}

	apply(func(c *snapshot.TLS) { c.MinVersion = tls.VersionTLS13 })
	if _, err := client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err == nil {
		t.Error("TLS 1.2 was accepted below the least version")
	}
	if state, err := client(func(*tls.Config) {}); err != nil || state.Version != tls.VersionTLS13 {
		t.Errorf("TLS 1.3: version %x, %v", state.Version, err)
	}
	apply(func(*snapshot.TLS) {})
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if _, err := client(func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version }); err == nil {
			t.Errorf("%s was accepted", tls.VersionName(version))
		}
	}
	if state, err := client(func(*tls.Config) {}); err != nil || state.CurveID != tls.X25519MLKEM768 {
		t.Errorf("the default key exchange is %v, %v", state.CurveID, err)
	}
	const chacha = tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
	apply(func(c *snapshot.TLS) { c.CipherSuites = []uint16{chacha} })
	if state, err := client(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }); err != nil || state.CipherSuite != chacha {
		t.Errorf("cipher suite %x, %v", state.CipherSuite, err)
	}
	if _, err := client(func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	}); err == nil {
		t.Error("a cipher suite that is not listed was accepted")
	}
	apply(func(c *snapshot.TLS) { c.Curves = []uint16{uint16(tls.CurveP384)} })
	if state, err := client(func(*tls.Config) {}); err != nil || state.CurveID != tls.CurveP384 {
		t.Errorf("curve %v, %v", state.CurveID, err)
	}
	if _, err := client(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }); err == nil {
		t.Error("a curve that is not listed was accepted")
	}
	for _, off := range []bool{false, true} {
		apply(func(c *snapshot.TLS) { c.NoTickets = off })
		cache := tls.NewLRUClientSessionCache(1)
		for range 2 {
			state, err := client(func(c *tls.Config) { c.ClientSessionCache = cache })
			if err != nil || off && state.DidResume {
				t.Errorf("tickets off is %v: resumed %v, %v", off, state.DidResume, err)
			}
		}
	}
}

// With an RSA and an ECDSA certificate for a name, the client gets the one that
// it can verify, whichever stands first.
func TestRSAAndECDSA(t *testing.T) {
	a, s := newAuthority(t), newSet(t)
	ec := a.issue(t, 1, "shop.example.com").Certificates[0]
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rs := a.issueFor(t, 2, key, "shop.example.com")
	for _, order := range [][]*snapshot.Certificate{{ec, rs}, {rs, ec}} {
		if err := s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", TLS: &snapshot.TLS{Certificates: order}})}); err != nil {
			t.Fatal(err)
		}
		for suite, serial := range map[uint16]int64{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: 2, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: 1} {
			_, state, err := visit(t, addressOf(t, s, "tcp/1"), &tls.Config{RootCAs: a.roots, ServerName: "shop.example.com",
				MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{suite}})
			if err != nil || state.PeerCertificates[0].SerialNumber.Int64() != serial {
				t.Errorf("%s: want certificate %d, %v", tls.CipherSuiteName(suite), serial, err)
			}
		}
	}
}

func (a *authority) issueFor(t *testing.T, serial int64, key crypto.Signer, names ...string) *snapshot.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: names, NotAfter: time.Now().Add(time.Hour),
	}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Certificate{
		Source: snapshot.Ref{Kind: "Secret", Namespace: "shop", Name: "cert"},
		Chain:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

func TestForwardedCert(t *testing.T) {
	uri, _ := url.Parse("spiffe://td/a,b;c")
	leaf := &x509.Certificate{Raw: []byte("x"), Subject: pkix.Name{CommonName: `eve",Hash="0`, Organization: []string{"a\r\nb: ü"}},
		URIs: []*url.URL{uri}, DNSNames: []string{"a.example.com", `b;Subject="root"`}}
	const want = `Hash=2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881;` +
		`Subject="CN=eve\\\",Hash=\\\"0,O=a??b: ?";URI="spiffe://td/a,b;c";DNS=a.example.com;DNS="b;Subject=\"root\""`
	if got := forwardedCert(leaf); strings.ReplaceAll(got, `\\,`, ",") != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
