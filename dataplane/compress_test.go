package dataplane_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/compress"
)

// TestCompression has clients and upstreams of both versions.
func TestCompression(t *testing.T) {
	page := strings.Repeat("<p>hello</p>\n", 10_000)
	next := make(chan bool)
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/page":
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Length", fmt.Sprint(len(page)))
			io.WriteString(w, page)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range 3 {
				fmt.Fprintf(w, "data: %d\n", i)
				w.(http.Flusher).Flush()
				select {
				case <-next:
				case <-r.Context().Done():
					return
				}
			}
		case "/trailers":
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, page)
			w.Header().Set("X-Sum", "7")
		case "/broken":
			io.WriteString(w, page)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	old := httptest.NewServer(http.HandlerFunc(h))
	t.Cleanup(old.Close)
	p := start(t, dataplane.Options{})
	config := &compress.Config{Algorithms: []string{"zstd", "br", "gzip"}, Level: "Fast", MinSize: 100, ContentTypes: []string{"text/*"}}
	w := (&world{}).port(plain()).cluster("h1", old.Listener.Addr().String()).h2cCluster("h2", h2cBackend(t, h))
	h1, h2 := to("/", "h1"), to("/", "h2")
	h1.Rule.Filters, h2.Rule.Filters = []policy.Config{config}, []policy.Config{config}
	w.host(gateway, "h1.example.com", h1).host(gateway, "h2.example.com", h2).apply(t, p)
	url := "http://" + address(t, p)

	for _, version := range []int{1, 2} {
		tr := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(version == 1)
		tr.Protocols.SetUnencryptedHTTP2(version == 2)
		t.Cleanup(tr.CloseIdleConnections)
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		for _, upstream := range []string{"h1", "h2"} {
			do := func(t *testing.T, method, path, accept string) (*http.Response, error) {
				t.Helper()
				req, _ := http.NewRequest(method, url+path, nil)
				req.Host = upstream + ".example.com"
				req.Header.Set("Accept-Encoding", accept)
				resp, err := c.Do(req)
				if err == nil {
					t.Cleanup(func() { resp.Body.Close() })
				}
				return resp, err
			}
			ask := func(t *testing.T, method, path, accept string) *http.Response {
				t.Helper()
				resp, err := do(t, method, path, accept)
				if err != nil {
					t.Fatal(err)
				}
				return resp
			}
			for _, coding := range []string{"gzip", "br", "zstd"} {
				t.Run(fmt.Sprintf("%d to %s by %s", version, upstream, coding), func(t *testing.T) {
					for _, path := range []string{"/page", "/trailers"} {
						resp := ask(t, "GET", path, coding)
						text, err := io.ReadAll(decoded(t, resp))
						if err != nil || string(text) != page || resp.Header.Get("Content-Encoding") != coding || resp.ContentLength >= 0 ||
							resp.Header.Get("Vary") != "Accept-Encoding" || path == "/page" && resp.Header.Get("ETag") != `W/"1"` {
							t.Errorf("%s: %d bytes, %v, %v", path, len(text), err, resp.Header)
						}
						if path == "/trailers" && resp.Trailer.Get("X-Sum") != "7" {
							t.Errorf("trailers %v", resp.Trailer)
						}
					}
					head := ask(t, "HEAD", "/page", coding)
					if head.Header.Get("Content-Encoding") != coding || head.Header.Get("Content-Length") != "" || head.Header.Get("ETag") != `W/"1"` {
						t.Errorf("HEAD: %v", head.Header)
					}
					resp := ask(t, "GET", "/events", coding)
					events := bufio.NewReader(decoded(t, resp))
					for i := range 3 {
						if line, err := events.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
							t.Fatalf("%q, %v", line, err)
						}
						next <- true // and nothing more came before
					}
					if _, err := events.ReadByte(); err != io.EOF {
						t.Error(err)
					}
					// The upstream may be cut off before Headgate has passed on the head.
					broken, err := do(t, "GET", "/broken", coding)
					if err == nil {
						_, err = io.Copy(io.Discard, broken.Body)
					}
					if err == nil {
						t.Error("what was cut off looks whole")
					}
				})
			}
			resp := ask(t, "GET", "/page", "identity")
			if text, err := io.ReadAll(resp.Body); string(text) != page || err != nil || resp.ContentLength != int64(len(page)) ||
				resp.Header.Get("ETag") != `"1"` || resp.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("as it is: %v, %v", resp.Header, err)
			}
		}
	}
}

func decoded(t *testing.T, resp *http.Response) io.Reader {
	t.Helper()
	switch resp.Header.Get("Content-Encoding") {
	case "br":
		return brotli.NewReader(resp.Body)
	case "gzip":
		r, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r
	case "zstd":
		r, err := zstd.NewReader(resp.Body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	return resp.Body
}
