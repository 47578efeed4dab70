package dataplane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// secureCluster is a cluster with TLS.
func (w *world) secureCluster(key, protocol, address string, secure *snapshot.UpstreamTLS) *world {
	w.snap.Clusters = w.snap.Clusters.With(key, &snapshot.Cluster{Key: key, Protocol: protocol, TLS: secure})
	w.delta.Clusters = append(w.delta.Clusters, key)
	return w.endpoints(key, address)
}

// TestUpstreamTLS sends all that can be sent to endpoints that speak TLS and
// want to know who is there.
func TestUpstreamTLS(t *testing.T) {
	server, us := selfSigned(t, 1, "web.internal"), selfSigned(t, 2, "gate.internal")
	known := x509.NewCertPool()
	known.AppendCertsFromPEM(us.Certificates[0].Chain)
	settings := &tls.Config{
		Certificates: []tls.Certificate{pair(t, server)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: known,
	}
	var requests atomic.Int64
	mirrored := make(chan string, 2)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		switch r.URL.Path {
		case "/ws":
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer c.CloseNow()
			for {
				kind, data, err := c.Read(r.Context())
				if err != nil || c.Write(r.Context(), kind, append([]byte("echo "), data...)) != nil {
					return
				}
			}
		case "/mirrored":
			if r.ProtoMajor == 2 {
				body, _ := io.ReadAll(r.Body)
				mirrored <- string(body)
				return
			}
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", r.Proto, r.Method, body, r.TLS.ServerName, r.TLS.PeerCertificates[0].DNSNames[0])
	}))
	s.EnableHTTP2 = true
	s.TLS = settings
	s.StartTLS()
	defer s.Close()
	addr := s.Listener.Addr().String()

	good := &snapshot.UpstreamTLS{ServerName: "web.internal", Roots: server.Certificates[0].Chain, Certificate: us.Certificates[0]}
	wrong := *good
	wrong.ServerName = "other.internal"
	broken := *good
	broken.Broken = "there is nothing to verify it by"
	p := start(t, dataplane.Options{})
	w := &world{}
	mirror := to("/mirrored", "h1")
	mirror.Rule.Mirrors = []snapshot.Mirror{{Cluster: "h2", Numerator: 1, Denominator: 1}}
	w.port(plain()).
		secureCluster("h1", "http1", addr, good).secureCluster("h2", "h2c", addr, good).secureCluster("alpn", "alpn", addr, good).
		secureCluster("wrong", "http1", addr, &wrong).secureCluster("broken", "http1", addr, &broken).
		host(gateway, "*", to("/h1", "h1"), to("/h2", "h2"), to("/alpn", "alpn"), to("/ws", "h1"), mirror, to("/wrong", "wrong"), to("/broken", "broken")).
		apply(t, p)
	url := "http://" + address(t, p)
	c := client(t)
	send := func(path string) (*http.Response, string) {
		t.Helper()
		resp, err := c.Post(url+path, "text/plain", strings.NewReader("content"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for path, want := range map[string]string{"/h1": "HTTP/1.1", "/h2": "HTTP/2.0", "/alpn": "HTTP/2.0", "/mirrored": "HTTP/1.1"} {
		for range 2 {
			if resp, body := send(path); resp.StatusCode != 200 || body != want+" POST content web.internal gate.internal" {
				t.Errorf("%s: %d %q", path, resp.StatusCode, body)
			}
		}
	}
	for range 2 {
		select {
		case got := <-mirrored:
			if got != "content" {
				t.Errorf("the mirror got %q", got)
			}
		case <-time.After(20 * time.Second):
			t.Error("the mirror did not get both")
		}
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+address(t, p)+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	for _, text := range []string{"one", strings.Repeat("x", 30_000)} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := ws.Read(ctx); err != nil || string(got) != "echo "+text {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	ws.Close(websocket.StatusNormalClosure, "")

	before := requests.Load()
	for _, path := range []string{"/wrong", "/broken"} {
		if resp, body := send(path); resp.StatusCode != 502 {
			t.Errorf("%s: %d %q", path, resp.StatusCode, body)
		}
	}
	if requests.Load() != before {
		t.Error("a request arrived where it must not")
	}
}

// TestTCPToTLS passes connections on to an endpoint that speaks TLS, with their
// ends one by one, and to none whose certificate is not accepted.
func TestTCPToTLS(t *testing.T) {
	server := selfSigned(t, 1, "db.internal")
	addr := echo(t, "db", &tls.Config{Certificates: []tls.Certificate{pair(t, server)}})
	good := &snapshot.UpstreamTLS{ServerName: "db.internal", Roots: server.Certificates[0].Chain}
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(tcpPort(target("", "db"))).secureCluster("db", "tcp", addr, good).apply(t, p)
	for _, what := range []string{"", "hello", strings.Repeat("0123456789abcdef", 1<<16)} {
		if got, err := talk(t, dial(t, address(t, p)), what); err != nil || got != "db\n"+what+"bye" {
			t.Fatalf("sent %d bytes, got %d: %.20q…, %v", len(what), len(got), got, err)
		}
	}
	wrong := *good
	wrong.ServerName = "other.internal"
	w.secureCluster("db", "tcp", addr, &wrong).apply(t, p)
	if c, err := net.Dial("tcp", address(t, p)); err == nil { // else it was reset before the dialer looked
		if got, _ := talk(t, c, "hello"); got != "" {
			t.Errorf("got %q", got)
		}
	}
	awaitQuiet(t, p)
}
