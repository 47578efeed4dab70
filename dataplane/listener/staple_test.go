package listener

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"golang.org/x/crypto/ocsp"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// withIssuer is a certificate for shop.example.com that has its issuer in the chain.
func (a *authority) withIssuer(t *testing.T, serial int64, edit func(*x509.Certificate)) *snapshot.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"shop.example.com"}, OCSPServer: []string{"http://ocsp.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.Certificate{
		Source: snapshot.Ref{Kind: "Secret", Namespace: "shop", Name: "cert"},
		Chain:  append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.pem()...),
		Key:    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

func (a *authority) response(t *testing.T, serial int64) []byte {
	t.Helper()
	der, err := ocsp.CreateResponse(a.cert, a.cert, ocsp.Response{
		Status: ocsp.Good, SerialNumber: big.NewInt(serial), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
	}, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func secured(l *snapshot.TLS) *snapshot.Port {
	return portOf("tcp/0", &snapshot.Listener{Key: "a", Protocol: "HTTPS", TLS: l})
}

// shake makes a handshake and returns what the client learns.
func (a *authority) shake(t *testing.T, s *Set) tls.ConnectionState {
	t.Helper()
	c, err := a.dial(t, addressOf(t, s, "tcp/0"), "shop.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return c.Conn.(*tls.Conn).ConnectionState()
}

func TestOCSPStapling(t *testing.T) {
	a := newAuthority(t)
	fetched := a.response(t, 1)
	asked := make(chan string, 16)
	s := newSet(t, func(o *Options) {
		o.OCSP = func(_ context.Context, url string, request []byte) ([]byte, error) {
			r, err := ocsp.ParseRequest(request)
			if err != nil {
				return nil, err
			}
			asked <- url
			if r.SerialNumber.Int64() != 1 {
				return nil, errors.New("it is down")
			}
			return fetched, nil
		}
	})
	apply := func(port *snapshot.Port) {
		t.Helper()
		if err := s.Apply([]*snapshot.Port{port}); err != nil {
			t.Fatal(err)
		}
	}
	one := a.withIssuer(t, 1, nil)
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{one}}))
	if got := a.shake(t, s).OCSPResponse; got != nil || len(asked) > 0 {
		t.Errorf("nobody asked for stapling: %x", got)
	}
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{one}, OCSPStapling: true}))
	eventually := func(want []byte) {
		t.Helper()
		until := time.Now().Add(20 * time.Second)
		for !bytes.Equal(a.shake(t, s).OCSPResponse, want) {
			if time.Now().After(until) {
				t.Fatal("the response is not sent")
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	eventually(fetched)
	if url := <-asked; url != "http://ocsp.example" {
		t.Errorf("asked %s", url)
	}
	// Another change asks nobody again.
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{one}, OCSPStapling: true, NoTickets: true}))
	if got := a.shake(t, s).OCSPResponse; !bytes.Equal(got, fetched) || len(asked) > 0 {
		t.Errorf("%x", got)
	}
	// Handshakes go on where no response can be had.
	two := a.withIssuer(t, 2, nil)
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{two}, OCSPStapling: true}))
	<-asked
	if state := a.shake(t, s); state.OCSPResponse != nil || state.PeerCertificates[0].SerialNumber.Int64() != 2 {
		t.Errorf("%x", state.OCSPResponse)
	}
	// What comes with the certificate needs nobody to be asked.
	given := *two
	given.OCSPStaple = a.response(t, 2)
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{&given}}))
	if got := a.shake(t, s).OCSPResponse; !bytes.Equal(got, given.OCSPStaple) || len(asked) > 0 {
		t.Errorf("%x", got)
	}
	broken := given
	broken.OCSPStaple = a.response(t, 1)
	apply(secured(&snapshot.TLS{Certificates: []*snapshot.Certificate{&broken}}))
	if got := a.shake(t, s).OCSPResponse; got != nil {
		t.Errorf("another certificate's response is sent: %x", got)
	}
}

// TestMustStaple: of two certificates, the one that clients would refuse stands back.
func TestMustStaple(t *testing.T) {
	a := newAuthority(t)
	s := newSet(t)
	demanding := a.withIssuer(t, 1, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte("\x30\x03\x02\x01\x05")}}
	})
	plain := a.withIssuer(t, 2, nil)
	plain.OCSPStaple = a.response(t, 2)
	stapled := *demanding
	stapled.OCSPStaple = a.response(t, 1)
	for _, tc := range []struct {
		what         string
		certificates []*snapshot.Certificate
		serial       int64
		stapled      bool
	}{
		{"without a response, another is taken", []*snapshot.Certificate{demanding, plain}, 2, true},
		{"with one, the first is", []*snapshot.Certificate{&stapled, plain}, 1, true},
		{"alone, it is served all the same", []*snapshot.Certificate{demanding}, 1, false},
	} {
		if err := s.Apply([]*snapshot.Port{secured(&snapshot.TLS{Certificates: tc.certificates})}); err != nil {
			t.Fatal(err)
		}
		state := a.shake(t, s)
		if got := state.PeerCertificates[0].SerialNumber.Int64(); got != tc.serial || (state.OCSPResponse != nil) != tc.stapled {
			t.Errorf("%s: certificate %d, response %x", tc.what, got, state.OCSPResponse)
		}
	}
}

func TestExpiryIsLogged(t *testing.T) {
	a := newAuthority(t)
	var mu sync.Mutex
	var lines []string
	s := newSet(t, func(o *Options) {
		o.Log = funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, args)
		}, funcr.Options{})
	})
	logged := func(part string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range lines {
			if strings.Contains(l, part) && strings.Contains(l, `"shop/cert"`) {
				n++
			}
		}
		return n
	}
	valid := func(serial int64, from, to time.Duration) *snapshot.Certificate {
		return a.withIssuer(t, serial, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) })
	}
	const day = 24 * time.Hour
	certificates := []*snapshot.Certificate{valid(1, -day, 15*day), valid(2, -day, 13*day), valid(3, -2*day, -day), valid(4, day, 100*day)}
	for _, notickets := range []bool{false, true} {
		if err := s.Apply([]*snapshot.Port{secured(&snapshot.TLS{Certificates: certificates, NoTickets: notickets})}); err != nil {
			t.Fatal(err)
		}
	}
	for _, part := range []string{"expires soon", "has expired", "not valid yet"} {
		if n := logged(part); n != 1 {
			t.Errorf("%q was logged %d times, want once: %q", part, n, lines)
		}
	}
	s.repeatExpiries()
	if n := logged("has expired"); n != 2 {
		t.Errorf("after a while it was logged %d times, want twice", n)
	}
}
