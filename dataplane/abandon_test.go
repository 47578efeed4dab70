package dataplane_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
)

// TestClientGivesUp: when a client goes, its exchange ends at the upstream too,
// be it that the response is awaited or that its content pauses.
func TestClientGivesUp(t *testing.T) {
	arrived, gone := make(chan bool, 10), make(chan bool, 10)
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/paused" {
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
		}
		arrived <- true
		select {
		case <-r.Context().Done():
			gone <- true
		case <-time.After(30 * time.Second):
			gone <- false
		}
	}
	old := httptest.NewServer(http.HandlerFunc(h))
	t.Cleanup(old.Close)
	p := start(t, dataplane.Options{})
	port := plain()
	port.Listeners[0].TLS, port.Listeners[0].Protocol = selfSigned(t, 1, "h1.example.com", "h2.example.com"), "HTTPS"
	w := (&world{}).port(port).cluster("h1", old.Listener.Addr().String()).h2cCluster("h2", h2cBackend(t, h))
	w.host(gateway, "h1.example.com", to("/", "h1")).host(gateway, "h2.example.com", to("/", "h2")).apply(t, p)
	secure := address(t, p)
	clear := start(t, dataplane.Options{})
	w2 := (&world{}).port(plain()).cluster("h1", old.Listener.Addr().String()).h2cCluster("h2", h2cBackend(t, h))
	w2.host(gateway, "h1.example.com", to("/", "h1")).host(gateway, "h2.example.com", to("/", "h2")).apply(t, clear)

	// Each begins a request and returns how its client goes.
	type begin func(t *testing.T, host, path string) (leave func())
	raw := func(t *testing.T, nc *net.TCPConn, to io.ReadWriter, host, path string) func() {
		t.Cleanup(func() { nc.Close() })
		if _, err := fmt.Fprintf(to, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host); err != nil {
			t.Fatal(err)
		}
		return func() {
			// What pauses is paused once its first part is here.
			for got := ""; path == "/paused" && !strings.Contains(got, "some"); {
				b := make([]byte, 1000)
				n, err := to.Read(b)
				if got += string(b[:n]); err != nil {
					t.Fatalf("%q, %v", got, err)
				}
			}
			_ = nc.SetLinger(0)
			_ = nc.Close()
		}
	}
	clients := map[string]begin{
		"HTTP/1.1 resets": func(t *testing.T, host, path string) func() {
			nc, err := net.Dial("tcp", address(t, clear))
			if err != nil {
				t.Fatal(err)
			}
			return raw(t, nc.(*net.TCPConn), nc, host, path)
		},
		"HTTP/1.1 over TLS resets": func(t *testing.T, host, path string) func() {
			nc, err := tls.Dial("tcp", secure, &tls.Config{ServerName: host, InsecureSkipVerify: true})
			if err != nil {
				t.Fatal(err)
			}
			return raw(t, nc.NetConn().(*net.TCPConn), nc, host, path)
		},
	}
	for name, cut := range map[string]bool{"HTTP/2 resets the stream": false, "HTTP/2 loses the connection": true} {
		clients[name] = func(t *testing.T, host, path string) func() {
			c := client2(t)
			c.Timeout = 0
			tr := c.Transport.(*http.Transport)
			tr.TLSClientConfig = &tls.Config{ServerName: host, InsecureSkipVerify: true}
			conns := make(chan net.Conn, 1)
			tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := (&net.Dialer{}).DialContext(ctx, network, secure)
				if err == nil {
					conns <- nc
				}
				return nc, err
			}
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			req, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan bool)
			go func() {
				defer close(ended)
				if resp, err := c.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			return func() {
				if cut {
					(<-conns).Close()
				} else {
					cancel()
				}
				<-ended
			}
		}
	}
	for name, begin := range clients {
		for _, upstream := range []string{"h1", "h2"} {
			for _, path := range []string{"/silent", "/paused"} {
				t.Run(name+upstream+path, func(t *testing.T) {
					leave := begin(t, upstream+".example.com", path)
					<-arrived
					leave()
					if !<-gone {
						t.Error("the upstream is still at it")
					}
				})
			}
		}
	}
	for until := time.Now().Add(20 * time.Second); p.InFlight()+clear.InFlight() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d and %d are still in flight", p.InFlight(), clear.InFlight())
		}
	}
}
