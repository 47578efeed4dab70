package dataplane_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// atSocket makes a Unix socket the only endpoint of a cluster.
func (w *world) atSocket(key, path string) *world {
	w.cluster(key)
	w.snap.Endpoints = w.snap.Endpoints.With(key, &snapshot.Endpoints{Endpoints: []snapshot.Endpoint{{Address: "unix:" + path}}})
	return w
}

func listenUnix(t testing.TB) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

// TestUnixSocketOfHTTP has requests with content and large responses.
func TestUnixSocketOfHTTP(t *testing.T) {
	l, path := listenUnix(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	p := start(t, dataplane.Options{})
	(&world{}).port(plain()).atSocket("a", path).host(gateway, "*", to("/", "a")).apply(t, p)
	for _, text := range []string{"", "hello", strings.Repeat("0123456789abcdef", 1<<16)} {
		resp, err := client(t).Post("http://"+address(t, p), "text/plain", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if resp.Body.Close(); err != nil || resp.StatusCode != 200 || string(got) != text {
			t.Errorf("sent %d bytes, got %d and %d bytes, %v", len(text), resp.StatusCode, len(got), err)
		}
	}
	if got := p.Clusters()[0].Endpoints[0]; got.Address != "unix:"+path || got.Requests != 3 {
		t.Errorf("%+v", got)
	}
}

// TestUnixSocketOfTCP passes connections on to a Unix socket, unread.
func TestUnixSocketOfTCP(t *testing.T) {
	l, path := listenUnix(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
				_, _ = io.WriteString(c, "bye")
			}()
		}
	}()
	p := start(t, dataplane.Options{})
	(&world{}).port(tcpPort(target("", "a"))).atSocket("a", path).apply(t, p)
	for _, text := range []string{"", "hello", strings.Repeat("0123456789abcdef", 1<<16)} {
		if got, err := talk(t, dial(t, address(t, p)), text); err != nil || got != text+"bye" {
			t.Errorf("sent %d bytes, got %d, %v", len(text), len(got), err)
		}
	}
	awaitQuiet(t, p)
}
