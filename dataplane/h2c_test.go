package dataplane_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// h2cBackend is a server that speaks HTTP/2 by prior knowledge alone.
func h2cBackend(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetUnencryptedHTTP2(true)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

// h2cCluster is cluster for endpoints that speak HTTP/2 by prior knowledge.
func (w *world) h2cCluster(key string, addresses ...string) *world {
	w.cluster(key, addresses...)
	w.snap.Clusters = w.snap.Clusters.With(key, &snapshot.Cluster{Key: key, Protocol: "h2c"})
	return w
}

// TestH2CUpstream has clients that speak HTTP/1.1 and an upstream that speaks HTTP/2.
func TestH2CUpstream(t *testing.T) {
	slow := make(chan struct{})
	address2 := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/trailers":
			content, _ := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "X-Sum")
			fmt.Fprintf(w, "%s %s", content, r.Trailer.Get("X-Client"))
			w.Header().Set("X-Sum", "7")
		case "/hints":
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(103)
			w.WriteHeader(200)
		case "/early":
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(413)
			io.WriteString(w, "large")
		case "/echo":
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			buf := make([]byte, 1024)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				w.(http.Flusher).Flush()
				if err != nil {
					return
				}
			}
		case "/slow":
			<-slow
		case "/reset":
			panic(http.ErrAbortHandler)
		default:
			fmt.Fprintf(w, "%s %s %s %s", r.Proto, r.Host, r.Header.Get("X-Forwarded-Proto"), r.Header.Get("Connection"))
		}
	})
	defer close(slow)
	p := start(t, dataplane.Options{})
	cluster := "Service/shop/grpc/80"
	timed := to("/slow", cluster)
	timed.Rule.RequestTimeout = 50 * time.Millisecond
	w := (&world{}).port(plain()).host(gateway, "*", timed, to("/", cluster)).h2cCluster(cluster, address2)
	w.apply(t, p)
	url := "http://" + address(t, p)
	c := client(t)

	if resp, text := get(t, c, url+"/plain"); resp.StatusCode != 200 || !strings.HasPrefix(text, "HTTP/2.0 127.0.0.1:") || !strings.HasSuffix(text, " http ") {
		t.Errorf("%d %q", resp.StatusCode, text)
	}

	t.Run("trailers", func(t *testing.T) {
		req, _ := http.NewRequest("POST", url+"/trailers", io.MultiReader(strings.NewReader("con"), strings.NewReader("tent")))
		req.Trailer = http.Header{"X-Client": {"yes"}}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "content yes" || resp.Trailer.Get("X-Sum") != "7" {
			t.Errorf("%q, trailers %v", text, resp.Trailer)
		}
	})
	t.Run("expect", func(t *testing.T) {
		c := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second}, Timeout: 20 * time.Second}
		defer c.CloseIdleConnections()
		req, _ := http.NewRequest("POST", url+"/trailers", strings.NewReader("content"))
		req.Header.Set("Expect", "100-continue")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(text) != "content " {
			t.Errorf("%q", text)
		}
	})
	t.Run("early response", func(t *testing.T) {
		resp, err := c.Post(url+"/early", "", strings.NewReader(strings.Repeat("x", 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 413 || string(text) != "large" || err != nil {
			t.Errorf("%d %q %v", resp.StatusCode, text, err)
		}
	})
	t.Run("both directions at a time", func(t *testing.T) {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", url+"/echo", pr)
		answers := make(chan *http.Response, 1)
		go func() {
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
			}
			answers <- resp
		}()
		io.WriteString(pw, "ping 0")
		resp := <-answers
		if resp == nil {
			return
		}
		defer resp.Body.Close()
		buf := make([]byte, 100)
		for i := range 10 {
			want := fmt.Sprintf("ping %d", i)
			if i > 0 {
				io.WriteString(pw, want)
			}
			if n, err := io.ReadAtLeast(resp.Body, buf, len(want)); err != nil || string(buf[:n]) != want {
				t.Fatalf("%q %v, want %q", buf[:n], err, want)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q %v", rest, err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		if resp, _ := get(t, c, url+"/slow"); resp.StatusCode != 504 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("reset", func(t *testing.T) {
		if resp, _ := get(t, c, url+"/reset"); resp.StatusCode != 502 {
			t.Errorf("%d", resp.StatusCode)
		}
	})
	t.Run("many at a time", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 25 {
					resp, err := c.Post(url+"/trailers", "", strings.NewReader(strings.Repeat("x", 3000)))
					if err != nil {
						t.Error(err)
						return
					}
					text, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 200 || len(text) != 3001 || err != nil {
						t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(text), err)
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestH2CBothSides has HTTP/2 on both sides, as gRPC does.
func TestH2CBothSides(t *testing.T) {
	backend := h2cBackend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Te") != "trailers" {
			t.Errorf("te: %q", r.Header.Get("Te"))
		}
		w.Header().Set("Content-Type", "application/grpc")
		switch r.URL.Path {
		case "/only-trailers":
			w.Header().Set("Grpc-Status", "5")
			return
		case "/bidi":
			w.Header().Set("Trailer", "Grpc-Status")
			w.(http.Flusher).Flush()
			buf := make([]byte, 1024)
			for {
				n, err := r.Body.Read(buf)
				w.Write(buf[:n])
				w.(http.Flusher).Flush()
				if err != nil {
					break
				}
			}
			w.Header().Set("Grpc-Status", "0")
		}
	})
	p := start(t, dataplane.Options{})
	cluster := "Service/shop/grpc/80"
	w := (&world{}).port(plain()).host(gateway, "*", to("/", cluster)).h2cCluster(cluster, backend)
	w.apply(t, p)
	url := "http://" + address(t, p)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 20 * time.Second}

	resp, err := c.Post(url+"/only-trailers", "application/grpc", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); len(text) > 0 || err != nil || resp.Header.Get("Grpc-Status") != "5" || resp.ProtoMajor != 2 {
		t.Errorf("%q %v %v", text, err, resp.Header)
	}
	resp.Body.Close()

	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			pr, pw := io.Pipe()
			req, _ := http.NewRequest("POST", url+"/bidi", pr)
			req.Header.Set("Te", "trailers")
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			buf := make([]byte, 100)
			for i := range 20 {
				want := fmt.Sprintf("message %d", i)
				io.WriteString(pw, want)
				if n, err := io.ReadAtLeast(resp.Body, buf, len(want)); err != nil || string(buf[:n]) != want {
					t.Errorf("%q %v, want %q", buf[:n], err, want)
					return
				}
			}
			pw.Close()
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil || resp.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("%q %v %v", rest, err, resp.Trailer)
			}
		})
	}
	wg.Wait()
}

// TestH2CWebSocket carries a WebSocket through two proxies: HTTP/1.1 to the
// first, HTTP/2 between them, HTTP/1.1 to the service.
func TestH2CWebSocket(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(1 << 20)
		for {
			kind, message, err := ws.Read(r.Context())
			if err != nil {
				return
			}
			if ws.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	cluster := "Service/shop/web/80"
	second := start(t, dataplane.Options{})
	(&world{}).port(plain()).host(gateway, "*", to("/", cluster)).cluster(cluster, s.Listener.Addr().String()).apply(t, second)
	first := start(t, dataplane.Options{})
	(&world{}).port(plain()).host(gateway, "*", to("/", cluster)).h2cCluster(cluster, address(t, second)).apply(t, first)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			ws, _, err := websocket.Dial(ctx, "ws://"+address(t, first)+"/chat", nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer ws.CloseNow()
			ws.SetReadLimit(1 << 20)
			for _, n := range []int{1, 100, 10_000, 300_000} {
				message := strings.Repeat("m", n)
				if err := ws.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
					t.Error(err)
					return
				}
				if _, got, err := ws.Read(ctx); string(got) != message || err != nil {
					t.Errorf("%d bytes, %v; want %d", len(got), err, n)
					return
				}
			}
			if err := ws.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
