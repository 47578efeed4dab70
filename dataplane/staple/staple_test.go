package staple

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ocsp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority issues certificates and says whether they are good.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
	last int64
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

var start = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.last++
	template.SerialNumber = big.NewInt(a.last)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = start.Add(-24*time.Hour), start.Add(365*24*time.Hour)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// pair is a certificate for a server, with its issuer.
func (a *authority) pair(urls ...string) *tls.Certificate {
	cert, key := a.issue(&x509.Certificate{DNSNames: []string{"shop.example.com"}, OCSPServer: urls})
	return &tls.Certificate{Certificate: [][]byte{cert.Raw, a.cert.Raw}, PrivateKey: key, Leaf: cert}
}

// say is a response about a certificate, good for a day unless edit says otherwise.
func (a *authority) say(pair *tls.Certificate, at time.Time, edit ...func(*ocsp.Response)) []byte {
	a.t.Helper()
	r := ocsp.Response{Status: ocsp.Good, SerialNumber: pair.Leaf.SerialNumber, ThisUpdate: at, NextUpdate: at.Add(24 * time.Hour)}
	for _, e := range edit {
		e(&r)
	}
	der, err := ocsp.CreateResponse(a.cert, a.cert, r, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func TestVerify(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	pair := a.pair()
	if pair.Leaf.SerialNumber.Int64() != 2 {
		t.Fatal(pair.Leaf.SerialNumber)
	}
	twin, _ := other.issue(&x509.Certificate{}) // has the same serial number
	by := func(edit func(*x509.Certificate)) []byte {
		template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}}
		edit(template)
		signer, key := a.issue(template)
		der, err := ocsp.CreateResponse(a.cert, signer, ocsp.Response{
			Status: ocsp.Good, SerialNumber: pair.Leaf.SerialNumber, ThisUpdate: start, NextUpdate: start.Add(time.Hour), Certificate: signer,
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := a.say(pair, start)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for _, tc := range []struct {
		what string
		der  []byte
		want string // part of the error, "" if it is fine
	}{
		{"good", good, ""},
		{"by who may", by(func(*x509.Certificate) {}), ""},
		{"without an end", a.say(pair, start, func(r *ocsp.Response) { r.NextUpdate = time.Time{} }), ""},
		{"a clock that is ahead", a.say(pair, start.Add(4*time.Minute)), ""},
		{"nothing", nil, "asn1"},
		{"nonsense", []byte("nonsense"), "asn1"},
		{"another signature", flipped, "signature"},
		{"another authority", other.say(&tls.Certificate{Leaf: twin}, start), "signature"},
		{"another certificate", a.say(a.pair(), start), "no response matching"},
		{"by who may not", by(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "not for signing"},
		{"by who might once", by(func(c *x509.Certificate) { c.NotBefore, c.NotAfter = start.Add(-2*time.Hour), start.Add(-time.Hour) }), "not valid now"},
		{"revoked", a.say(pair, start, func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, start }), "revoked"},
		{"unknown", a.say(pair, start, func(r *ocsp.Response) { r.Status = ocsp.Unknown }), "does not know"},
		{"too late", a.say(pair, start.Add(-25*time.Hour)), "was valid until"},
		{"too late, without an end", a.say(pair, start.Add(-2*time.Hour), func(r *ocsp.Response) { r.NextUpdate = time.Time{} }), "was valid until"},
		{"too early", a.say(pair, start.Add(time.Hour)), "is valid from"},
		{"try later", ocsp.TryLaterErrorResponse, "try later"},
	} {
		_, err := verify(tc.der, pair.Leaf, a.cert, start)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.what, err, tc.want)
		}
	}
	if err := Check(a.say(pair, start.Add(-1000*time.Hour)), pair); err != nil {
		t.Errorf("a response that was good at its time: %v", err)
	}
	if err := Check(flipped, pair); err == nil {
		t.Error("a bad signature passes")
	}
}

func TestRequired(t *testing.T) {
	a := newAuthority(t)
	for value, want := range map[string]bool{"\x30\x03\x02\x01\x05": true, "\x30\x06\x02\x01\x11\x02\x01\x05": true, "\x30\x03\x02\x01\x11": false, "nonsense": false} {
		cert, _ := a.issue(&x509.Certificate{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte(value)}}})
		if got := Required(cert); got != want {
			t.Errorf("%x: %v", value, got)
		}
	}
	if Required(a.cert) {
		t.Error("without the extension")
	}
}

// clock moves by hand. What waits for it does until release is called.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	waits chan wait
}

type wait struct {
	d       time.Duration
	release func()
}

func newClock() *clock { return &clock{at: start, waits: make(chan wait, 16)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	over := make(chan time.Time, 1)
	c.waits <- wait{d, func() {
		c.mu.Lock()
		c.at = c.at.Add(d)
		c.mu.Unlock()
		over <- time.Time{}
	}}
	return over
}

// next waits until the refresher waits, and checks for how long.
func (c *clock) next(t *testing.T, want time.Duration) wait {
	t.Helper()
	select {
	case w := <-c.waits:
		if w.d > want || w.d < want*9/10-time.Second {
			t.Fatalf("it waits for %v, want %v or up to a tenth less", w.d, want)
		}
		return w
	case <-time.After(20 * time.Second):
		t.Fatal("it does not wait")
		return wait{}
	}
}

func TestKeeper(t *testing.T) {
	a := newAuthority(t)
	clock := newClock()
	var mu sync.Mutex
	var asked []string
	var answer func() ([]byte, error)
	k := NewKeeper(Options{Now: clock.now, After: clock.after, Fetch: func(_ context.Context, url string, request []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, url)
		if _, err := ocsp.ParseRequest(request); err != nil {
			t.Error(err)
		}
		if url == "http://down.example" {
			return nil, errors.New("it is down")
		}
		return answer()
	}})
	defer k.Close()
	says := func(f func() ([]byte, error)) {
		mu.Lock()
		defer mu.Unlock()
		answer = f
	}

	pair := a.pair("ldap://no.example", "http://down.example", "http://ocsp.example")
	first := a.say(pair, start)
	says(func() ([]byte, error) { return first, nil })
	s, err := k.For(pair, nil, true)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	if again, _ := k.For(pair, nil, true); again != s {
		t.Error("the same again is another")
	}
	w := clock.next(t, 12*time.Hour)
	if got := s.Response(); !bytes.Equal(got, first) || !s.Until().Equal(start.Add(24*time.Hour)) {
		t.Errorf("%x until %v", got, s.Until())
	}
	if want := "http://down.example http://ocsp.example"; strings.Join(asked, " ") != want {
		t.Errorf("asked %v", asked)
	}

	// What fails is tried again, and the response holds to its end.
	says(func() ([]byte, error) { return nil, errors.New("it is down too") })
	w.release()
	for _, d := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		clock.next(t, d).release()
	}
	w = clock.next(t, 8*time.Minute)
	if !bytes.Equal(s.Response(), first) {
		t.Error("it is gone before its end")
	}
	clock.mu.Lock()
	clock.at = start.Add(24 * time.Hour)
	clock.mu.Unlock()
	if s.Response() != nil {
		t.Error("it is sent after its end")
	}

	// It comes back.
	second := a.say(pair, clock.now().Add(w.d)) // issued when it is asked for
	says(func() ([]byte, error) { return second, nil })
	w.release()
	w = clock.next(t, 12*time.Hour)
	if !bytes.Equal(s.Response(), second) {
		t.Error("the new one is not sent")
	}
	// A revoked certificate is not said to be good.
	revoked := a.say(pair, clock.now(), func(r *ocsp.Response) { r.Status, r.RevokedAt = ocsp.Revoked, start })
	says(func() ([]byte, error) { return revoked, nil })
	w.release()
	w = clock.next(t, time.Minute)
	if s.Response() != nil {
		t.Error("a response from before says that it is good")
	}
	// What nobody uses is not asked about any more.
	k.Retain(func(*Staple) bool { return false })
	before := len(asked)
	w.release()
	k.busy.Wait()
	if len(asked) != before {
		t.Error("it was asked again")
	}
	if other, _ := k.For(pair, nil, true); other == s {
		t.Error("what was stopped is used again")
	}
}

func TestGiven(t *testing.T) {
	a := newAuthority(t)
	clock := newClock()
	k := NewKeeper(Options{Now: clock.now, After: clock.after})
	defer k.Close()
	pair := a.pair("http://ocsp.example")
	given := a.say(pair, start)
	s, err := k.For(pair, given, true) // there is nobody to fetch
	if err != nil || !bytes.Equal(s.Response(), given) {
		t.Errorf("%v", err)
	}
	if s, err := k.For(pair, nil, true); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	for what, bad := range map[string][]byte{"nonsense": []byte("x"), "late": a.say(pair, start.Add(-48*time.Hour))} {
		s, err := k.For(pair, bad, false)
		if err == nil || s.Response() != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	alone := &tls.Certificate{Certificate: pair.Certificate[:1], Leaf: pair.Leaf}
	if s, err := k.For(alone, given, false); err == nil || s.Response() != nil {
		t.Errorf("without its issuer: %v", err)
	}
	stranger := &tls.Certificate{Certificate: [][]byte{pair.Certificate[0], newAuthority(t).cert.Raw}, Leaf: pair.Leaf}
	if s, err := k.For(stranger, given, false); err == nil || s.Response() != nil {
		t.Errorf("with another issuer: %v", err)
	}
	fetching := NewKeeper(Options{Fetch: func(context.Context, string, []byte) ([]byte, error) { return nil, nil }})
	defer fetching.Close()
	if _, err := fetching.For(a.pair(), nil, true); err == nil || !strings.Contains(err.Error(), "responder") {
		t.Errorf("without a responder: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	a := newAuthority(f)
	pair := a.pair()
	f.Add(a.say(pair, start))
	f.Add(ocsp.TryLaterErrorResponse)
	f.Fuzz(func(t *testing.T, der []byte) {
		until, err := verify(der, pair.Leaf, a.cert, start)
		if err == nil && !until.After(start) {
			t.Errorf("valid until %v", until)
		}
	})
}
