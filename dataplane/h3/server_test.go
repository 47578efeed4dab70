package h3_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http" // a second opinion; tests only
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h3"
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
	t    testing.TB
	addr *net.UDPAddr
	stop func() // accepts no more

	mu    sync.Mutex
	conns []*h3.ServerConn
	group sync.WaitGroup
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"}, DNSNames: []string{"a.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func serveH3(t testing.TB, h exchange.Handler, opts *h3.ServerOptions) *front {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if opts == nil {
		opts = &h3.ServerOptions{}
	}
	opts.Poison = true
	tr := &quic.Transport{Conn: socket}
	ln, err := tr.ListenEarly(&tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h3"}}, opts.QUIC())
	if err != nil {
		t.Fatal(err)
	}
	f := &front{t: t, addr: socket.LocalAddr().(*net.UDPAddr), stop: func() { _ = ln.Close() }}
	f.group.Go(func() {
		for {
			qc, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			s := h3.NewServerConn(qc, &exchange.Conn{ID: 1, TLS: &exchange.TLS{}}, h, opts)
			f.mu.Lock()
			f.conns = append(f.conns, s)
			f.mu.Unlock()
			f.group.Go(s.Serve)
		}
	})
	t.Cleanup(func() {
		f.stop()
		f.each(func(s *h3.ServerConn) { _ = s.Close() })
		f.group.Wait()
		_ = tr.Close()
		_ = socket.Close()
	})
	return f
}

func (f *front) each(do func(*h3.ServerConn)) {
	f.mu.Lock()
	conns := slices.Clone(f.conns)
	f.mu.Unlock()
	for _, s := range conns {
		do(s)
	}
}

func clientTLS() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: "a.test", NextProtos: []string{"h3"}}
}

// dialQUIC makes a client's connection.
func (f *front) dialQUIC(conf *tls.Config) *quic.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	qc, err := quic.DialAddr(ctx, f.addr.String(), conf, &quic.Config{})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = qc.CloseWithError(0x100, "") })
	return qc
}

// web is quic-go's client.
func (f *front) web() *http.Client {
	tr := &http3.Transport{TLSClientConfig: clientTLS()}
	tr.Dial = func(ctx context.Context, _ string, conf *tls.Config, qconf *quic.Config) (*quic.Conn, error) {
		return quic.DialAddr(ctx, f.addr.String(), conf, qconf)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	f.t.Cleanup(func() { cancel(); _ = tr.Close() })
	return &http.Client{Transport: bounded{tr, ctx}}
}

// bounded ends requests with a context's.
type bounded struct {
	http.RoundTripper
	ctx context.Context
}

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	context.AfterFunc(b.ctx, cancel)
	return b.RoundTripper.RoundTrip(req.WithContext(ctx))
}

func (f *front) url(path string) string { return "https://a.test" + path }

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
	f := serveH3(t, h, nil)
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
		if err != nil || res.StatusCode != 200 || res.ProtoMajor != 3 || res.Header.Get("Date") == "" {
			t.Fatal(size, res, err)
		}
		length := size
		if size <= 0 {
			length = 0
		}
		head := fmt.Sprintf("POST https|a.test|/a/b|c=d|%d\n", length)
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

// A request without content has none, though the end of its stream may come apart.
func TestServerGet(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		if ex.In.Body != nil || ex.In.Length != 0 {
			ex.Answer(400, "content", "")
			return
		}
		echo(ex)
	}}
	f := serveH3(t, h, nil)
	c := f.web()
	for range 20 {
		res, err := c.Get(f.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != 200 {
			t.Fatal(res.StatusCode)
		}
	}
}

// Many at once, with content both ways.
func TestServerConcurrently(t *testing.T) {
	f := serveH3(t, &handler{serve: echo}, nil)
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
	f := serveH3(t, h, nil)
	var interims []string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			interims = append(interims, fmt.Sprint(code, header.Get("Link")))
			return nil
		},
	})
	req, _ := http.NewRequestWithContext(ctx, "POST", f.url("/"), io.MultiReader(strings.NewReader("content")))
	req.Trailer = http.Header{"Checksum": {"7"}}
	res, err := f.web().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasSuffix(string(got), "content\nchecksum=7") || res.Trailer.Get("Grpc-Status") != "0" || len(res.Trailer) != 1 {
		t.Errorf("%q %v %v", got, res.Trailer, err)
	}
	if !slices.Equal(interims, []string{"103</a>"}) {
		t.Error(interims)
	}
}

// A response that comes before the request is complete ends the request.
func TestServerEarlyResponse(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) { ex.Answer(403, "early", "no") }}
	f := serveH3(t, h, nil)
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
	f := serveH3(t, h, nil)
	c := f.web()
	for path, want := range map[string]string{"HEAD /": "200 5 ", "GET /": "200 5 12345", "GET /204": "204 ", "GET /304": "304 "} {
		method, path, _ := strings.Cut(path, " ")
		req, _ := http.NewRequest(method, f.url(path), nil)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		got := fmt.Sprintf("%d %d %s", res.StatusCode, res.ContentLength, body)
		if res.StatusCode != 200 { // what the client makes of a length without content is its own business
			got = fmt.Sprintf("%d %s", res.StatusCode, body)
		}
		if got != want {
			t.Errorf("%s %s: %q, want %q", method, path, got, want)
		}
	}
}

// A response that is not as long as it says is cut off, so that nobody takes a part for all.
func TestServerContentDiffers(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		ex.Response.Status, ex.Response.Length = 200, 5
		ex.Response.Body = &content{parts: [][]byte{[]byte(ex.In.Path[1:])}}
	}}
	f := serveH3(t, h, nil)
	c := f.web()
	for _, path := range []string{"/123", "/1234567"} {
		res, err := c.Get(f.url(path))
		if err == nil {
			if _, err = io.ReadAll(res.Body); err == nil {
				t.Errorf("%s came whole", path)
			}
		}
	}
}

// Draining lets requests finish, and tells the client to go elsewhere.
func TestServerDrain(t *testing.T) {
	began, release := make(chan struct{}, 10), make(chan struct{})
	h := &handler{serve: func(ex *exchange.Exchange) {
		began <- struct{}{}
		<-release
		ex.Answer(200, "test", "done")
	}}
	f := serveH3(t, h, nil)
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
	f.each(func(s *h3.ServerConn) { s.Drain(); s.Drain() })
	close(release)
	if got := <-answer; got != "done" {
		t.Error(got)
	}
	f.stop()
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
	f := serveH3(t, h, nil)
	ctx, cancel := context.WithCancel(context.Background())
	pr, pw := io.Pipe()
	defer pw.Close()
	req, _ := http.NewRequestWithContext(ctx, "POST", f.url("/"), pr)
	go func() { <-began; cancel() }()
	if _, err := f.web().Do(req); err == nil {
		t.Error("it was not cancelled")
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}

// waiting is content that does not come until it is closed.
type waiting struct {
	closed chan struct{}
	once   sync.Once
}

func (b *waiting) Next() ([]byte, error) { <-b.closed; return nil, errors.New("closed") }
func (b *waiting) Ready() bool           { return false }
func (b *waiting) Close()                { b.once.Do(func() { close(b.closed) }) }

// A client that gives up a response that is awaited ends the waiting, be it for
// the head or for content.
func TestServerCancelResponse(t *testing.T) {
	began := make(chan struct{}, 1)
	h := &handler{serve: func(ex *exchange.Exchange) {
		body := &waiting{closed: make(chan struct{})}
		if ex.In.Path == "/head" {
			ex.Await(body)
			began <- struct{}{}
			_, _ = body.Next()
			ex.Await(nil)
			ex.Answer(499, "test", "")
			return
		}
		ex.Response.Status, ex.Response.Length, ex.Response.Body = 200, -1, body
		began <- struct{}{}
	}}
	f := serveH3(t, h, nil)
	for i, path := range []string{"/head", "/content"} {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-began; cancel() }()
		req, _ := http.NewRequestWithContext(ctx, "GET", f.url(path), nil)
		if res, err := f.web().Do(req); err == nil {
			if _, err := io.ReadAll(res.Body); err == nil {
				t.Error("it was not cancelled")
			}
			_ = res.Body.Close()
		}
		await(t, func() bool { return len(h.done()) == i+1 })
		if err := h.done()[i]; err == nil {
			t.Error("no error")
		}
	}
}

// await waits until a condition holds.
func await(t testing.TB, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("it did not come to that")
		}
	}
}
