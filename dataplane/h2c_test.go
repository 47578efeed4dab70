package dataplane_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

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
		c := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 5 * time.Second}, Timeout: 10 * time.Second}
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
