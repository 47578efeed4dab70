package dataplane_test

import (
	"context"
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
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// selfSigned is a certificate for the names, with its serial number.
func selfSigned(t testing.TB, serial int64, names ...string) *snapshot.TLS {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &snapshot.TLS{Certificates: []*snapshot.Certificate{{
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}}}
}

func TestTLS(t *testing.T) {
	p := start(t, dataplane.Options{})
	w := &world{}
	secure := func(serial int64) *snapshot.Port {
		return &snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
			{Key: "one", Port: 443, Protocol: "HTTPS", Hostname: "one.example.com", TLS: selfSigned(t, serial, "one.example.com")},
			{Key: "two", Port: 443, Protocol: "HTTPS", Hostname: "*.example.com", TLS: selfSigned(t, serial+1, "*.example.com")},
		}}
	}
	w.port(secure(1)).cluster("a", backend(t, "a")).cluster("b", backend(t, "b")).
		host("one", "one.example.com", to("/", "a")).host("two", "*.example.com", to("/", "b")).apply(t, p)
	addr := address(t, p)

	// https returns a client that asks for sni whatever the URL says.
	https := func(sni string) *http.Client {
		c := client(t)
		tr := c.Transport.(*http.Transport)
		tr.TLSClientConfig = &tls.Config{ServerName: sni, InsecureSkipVerify: true}
		tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
		return c
	}
	one := https("one.example.com")
	for _, tt := range []struct {
		c          *http.Client
		host, want string
		status     int
	}{
		{one, "one.example.com", "a GET /x ", 200},
		{one, "ONE.example.com.", "a GET /x ", 200},
		{https("two.example.com"), "two.example.com", "b GET /x ", 200},
		{https("two.example.com"), "three.example.com", "b GET /x ", 200},
		{https("two.example.com"), "one.example.com", "", 421},
		{https("one.example.com"), "two.example.com", "", 421},
		{https("one.example.com"), "example.org", "", 404},
	} {
		resp, body := get(t, tt.c, "https://gateway/x", func(r *http.Request) { r.Host = tt.host })
		if resp.StatusCode != tt.status || tt.want != "" && body != tt.want {
			t.Errorf("%s over %s: %d %q", tt.host, resp.TLS.ServerName, resp.StatusCode, body)
		}
	}

	// New certificates: connections stay, new ones get them.
	w.port(secure(11)).apply(t, p)
	serial := func(c *http.Client) int64 {
		resp, _ := get(t, c, "https://gateway/x", func(r *http.Request) { r.Host = "one.example.com" })
		if resp.StatusCode != 200 {
			t.Errorf("%d", resp.StatusCode)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	if before, after := serial(one), serial(https("one.example.com")); before != 1 || after != 11 {
		t.Errorf("certificates %d and %d", before, after)
	}

	// TLS goes: who is still connected by it does not get what is plaintext now.
	w.port(&snapshot.Port{Key: "tcp/0", Transport: "tcp", Listeners: []*snapshot.Listener{
		{Key: "plain", Port: 80, Protocol: "HTTP"},
	}}).host("plain", "*", to("/", "a")).apply(t, p)
	if resp, _ := get(t, one, "https://gateway/x", func(r *http.Request) { r.Host = "one.example.com" }); resp.StatusCode != 421 {
		t.Errorf("over TLS from before: %d", resp.StatusCode)
	}
	if resp, body := get(t, client(t), "http://"+addr+"/x"); resp.StatusCode != 200 {
		t.Errorf("plaintext: %d %q", resp.StatusCode, body)
	}
}

// TestMirrorOverTheWire sends content to a backend and to a mirror that never answers.
func TestMirrorOverTheWire(t *testing.T) {
	got := make(chan string, 100)
	free := make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.Path + " " + string(body) + " " + r.Header.Get("X-Request-ID")
		<-free
	}))
	defer s.Close()
	defer sync.OnceFunc(func() { close(free) })()

	p := start(t, dataplane.Options{})
	w := &world{}
	route := to("/", "a")
	route.Rule.Mirrors = []snapshot.Mirror{{Cluster: "m", Numerator: 1, Denominator: 1}}
	w.port(plain()).cluster("a", backend(t, "a")).cluster("m", s.Listener.Addr().String()).host(gateway, "*", route).apply(t, p)
	c, url := client(t), "http://"+address(t, p)
	for _, body := range []io.Reader{strings.NewReader("known length"), io.MultiReader(strings.NewReader("unknown length"))} {
		req, err := http.NewRequest("POST", url+"/m", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Request-ID", "id")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		select {
		case copied := <-got:
			if want := strings.TrimPrefix(string(text), "a ") + " id"; copied != want {
				t.Errorf("the mirror got %q, want %q", copied, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no copy of %q", text)
		}
	}
}
