package h2_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http" // a second opinion; tests only
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// handler makes a Handler of a function, and records the rest.
type handler struct {
	serve func(ex *exchange.Exchange)

	mu        sync.Mutex
	failures  []error // of Done, nil included
	malformed []string
}

func (h *handler) Serve(ex *exchange.Exchange) { h.serve(ex) }

func (h *handler) Done(ex *exchange.Exchange, err error) {
	if ex.Response.Body != nil {
		ex.Response.Body.Close()
	}
	if ex.In.Body != nil {
		ex.In.Body.Close()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures = append(h.failures, err)
}

func (h *handler) Malformed(_ *exchange.Conn, status int, reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.malformed = append(h.malformed, fmt.Sprint(status, " ", reason))
}

func (h *handler) reported() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.malformed)
}

func (h *handler) done() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.failures)
}

// front is a server for a test.
type front struct {
	t  *testing.T
	ln net.Listener

	mu    sync.Mutex
	conns []*h2.ServerConn
	group sync.WaitGroup
	rests atomic.Int32 // how often connections have rested
}

func serveH2(t *testing.T, h exchange.Handler, opts *h2.ServerOptions) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if opts == nil {
		opts = &h2.ServerOptions{}
	}
	opts.Poison = true
	f := &front{t: t, ln: ln}
	f.group.Add(1)
	go func() {
		defer f.group.Done()
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			s := h2.NewServerConn(nc, &exchange.Conn{ID: 1}, h, opts)
			f.mu.Lock()
			f.conns = append(f.conns, s)
			f.mu.Unlock()
			f.group.Add(1)
			go func() {
				defer f.group.Done()
				for s.Serve(); s.Resting() > 0; s.Serve() {
					f.rests.Add(1)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		f.each(func(s *h2.ServerConn) { _ = s.Close() })
		f.group.Wait()
	})
	return f
}

func (f *front) each(do func(*h2.ServerConn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.conns {
		do(s)
	}
}

// web is net/http's client, by prior knowledge.
func (f *front) web() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols}
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (f *front) url(path string) string { return "http://" + f.ln.Addr().String() + path }

// content is a body of given pieces, which are not all there at once.
type content struct {
	parts [][]byte
	steps bool // each piece must be waited for
	tail  func()
}

func (b *content) Next() ([]byte, error) {
	if len(b.parts) == 0 {
		if b.tail != nil {
			b.tail()
			b.tail = nil
		}
		return nil, io.EOF
	}
	p := b.parts[0]
	b.parts = b.parts[1:]
	return p, nil
}
func (b *content) Ready() bool { return !b.steps }
func (b *content) Close()      {}

// echo answers with what it was asked.
func echo(ex *exchange.Exchange) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s|%s|%s|%s|%d\n", ex.In.Method, ex.In.Scheme, ex.In.Authority, ex.In.Path, ex.In.Query, ex.In.Length)
	for _, f := range ex.In.Fields {
		fmt.Fprintf(&b, "%s=%s\n", f.Name, f.Value)
	}
	if ex.In.Body != nil {
		for {
			p, err := ex.In.Body.Next()
			b.Write(p)
			if err == io.EOF {
				break
			}
			if err != nil {
				ex.Answer(400, "content", "")
				return
			}
		}
	}
	for _, f := range ex.In.Trailers {
		fmt.Fprintf(&b, "\n%s=%s", f.Name, f.Value)
	}
	ex.Response.Status, ex.Response.Length = 200, int64(b.Len())
	ex.Response.Fields.Add("Content-Type", "text/plain")
	ex.Response.Body = &content{parts: [][]byte{b.Bytes()}}
}

func TestServerEcho(t *testing.T) {
	h := &handler{serve: echo}
	f := serveH2(t, h, nil)
	c := f.web()
	for _, size := range []int{-1, 0, 1, 1000, 100_000, 3 << 20} {
		var body io.Reader
		if size >= 0 {
			body = strings.NewReader(strings.Repeat("x", size))
		}
		req, _ := http.NewRequest("POST", f.url("/a/b?c=d"), body)
		req.Header.Set("Cookie", "a=1; b=2")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(size, err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || res.ProtoMajor != 2 || res.Header.Get("Date") == "" {
			t.Fatal(size, res, err)
		}
		head := fmt.Sprintf("POST http|%s|/a/b|c=d|%d\n", f.ln.Addr(), max(size, 0))
		if !bytes.HasPrefix(got, []byte(head)) || !bytes.Contains(got, []byte("\ncookie=a=1; b=2\n")) {
			t.Errorf("%d: %.300q", size, got)
		}
		if n := bytes.Count(got, []byte("x")); n < size || n > size+3 {
			t.Errorf("%d: %d bytes came back", size, n)
		}
	}
	if got := h.reported(); len(got) > 0 {
		t.Error(got)
	}
	for _, err := range h.done() {
		if err != nil {
			t.Error(err)
		}
	}
}

// Many at once, with content both ways.
func TestServerConcurrently(t *testing.T) {
	f := serveH2(t, &handler{serve: echo}, nil)
	c := f.web()
	var group sync.WaitGroup
	for i := range 60 {
		group.Go(func() {
			for j := range 10 {
				body := strings.Repeat(fmt.Sprint(i%10), i*j*50)
				res, err := c.Post(f.url("/"), "text/plain", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(res.Body)
				if err != nil || !strings.HasSuffix(string(got), body) {
					t.Errorf("%d %d: %.100q %v", i, j, got, err)
				}
			}
		})
	}
	group.Wait()
}

func TestServerTrailersAndInterim(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		_ = ex.Client.Inform(103, exchange.Fields{exchange.NewField("Link", "</a>")})
		echo(ex)
		ex.Response.Length = -1
		parts := ex.Response.Body.(*content).parts
		ex.Response.Body = &content{parts: parts, steps: true, tail: func() {
			ex.Response.Trailers.Add("Grpc-Status", "0")
			ex.Response.Trailers.Add("Content-Length", "1")
		}}
	}}
	f := serveH2(t, h, nil)
	req, _ := http.NewRequest("POST", f.url("/"), io.MultiReader(strings.NewReader("content")))
	req.Trailer = http.Header{"Checksum": {"7"}}
	res, err := f.web().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasSuffix(string(got), "content\nchecksum=7") || res.Trailer.Get("Grpc-Status") != "0" || len(res.Trailer) != 1 {
		t.Errorf("%q %v %v", got, res.Trailer, err)
	}
}

// A response that comes before the request is complete ends the request.
func TestServerEarlyResponse(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) { ex.Answer(403, "early", "no") }}
	f := serveH2(t, h, nil)
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = pw.Write(make([]byte, 1<<20)) }()
	res, err := f.web().Post(f.url("/"), "text/plain", pr)
	if err != nil || res.StatusCode != 403 {
		t.Fatal(res, err)
	}
	if got, err := io.ReadAll(res.Body); string(got) != "no" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

func TestServerBodiless(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		ex.Response.Status, ex.Response.Length = 200, 5
		switch ex.In.Path {
		case "/204":
			ex.Response.Status = 204
		case "/304":
			ex.Response.Status = 304
		}
		ex.Response.Body = &content{parts: [][]byte{[]byte("12345")}}
	}}
	f := serveH2(t, h, nil)
	c := f.web()
	for path, want := range map[string]string{"HEAD /": "200 5 ", "GET /": "200 5 12345", "GET /204": "204 0 ", "GET /304": "304 5 "} {
		method, path, _ := strings.Cut(path, " ")
		req, _ := http.NewRequest(method, f.url(path), nil)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if got := fmt.Sprintf("%d %d %s", res.StatusCode, res.ContentLength, body); got != want {
			t.Errorf("%s %s: %q, want %q", method, path, got, want)
		}
	}
}

func TestServerExpectContinue(t *testing.T) {
	f := serveH2(t, &handler{serve: echo}, nil)
	req, _ := http.NewRequest("POST", f.url("/"), strings.NewReader("content"))
	req.Header.Set("Expect", "100-continue")
	c := f.web()
	c.Transport.(*http.Transport).ExpectContinueTimeout = 18 * time.Second
	began := time.Now()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(res.Body)
	if !strings.HasSuffix(string(got), "content") || time.Since(began) > 17*time.Second {
		t.Errorf("%q after %v", got, time.Since(began))
	}
}

// Draining lets streams finish, and tells the client to go elsewhere.
func TestServerDrain(t *testing.T) {
	began, release := make(chan struct{}, 10), make(chan struct{})
	h := &handler{serve: func(ex *exchange.Exchange) {
		began <- struct{}{}
		<-release
		ex.Answer(200, "test", "done")
	}}
	f := serveH2(t, h, nil)
	c := f.web()
	answer := make(chan string, 1)
	go func() {
		res, err := c.Get(f.url("/"))
		if err != nil {
			answer <- err.Error()
			return
		}
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	<-began
	f.each(func(s *h2.ServerConn) { s.Drain(); s.Drain() })
	close(release)
	if got := <-answer; got != "done" {
		t.Error(got)
	}
	_ = f.ln.Close()
	f.group.Wait() // the connection ends by itself
}

func TestServerCancel(t *testing.T) {
	began, failed := make(chan struct{}), make(chan error, 1)
	h := &handler{serve: func(ex *exchange.Exchange) {
		close(began)
		_, err := ex.In.Body.Next()
		failed <- err
		ex.Answer(400, "test", "")
	}}
	f := serveH2(t, h, nil)
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	defer pw.Close()
	req, _ := http.NewRequestWithContext(ctx, "POST", f.url("/"), pr)
	go func() {
		<-began
		cancel()
	}()
	if _, err := f.web().Do(req); err == nil {
		t.Error("it was not cancelled")
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}
