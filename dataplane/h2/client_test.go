package h2_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// pieces is content that comes piece by piece. A nil piece is a pause: what
// follows is not ready until resume.
type pieces struct {
	list     [][]byte
	trailers exchange.Fields
	ex       *exchange.Exchange
	err      error // instead of io.EOF

	mu     sync.Mutex
	cond   *sync.Cond
	closed bool
	paused bool
	waits  bool // somebody is in Next
}

func body(ex *exchange.Exchange, list ...string) *pieces {
	b := &pieces{ex: ex}
	b.cond = sync.NewCond(&b.mu)
	for _, p := range list {
		b.list = append(b.list, []byte(p))
	}
	if len(list) > 0 && list[0] == "" {
		b.paused = true
	}
	return b
}

func (b *pieces) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.paused
}

func (b *pieces) resume() {
	b.mu.Lock()
	b.paused = false
	b.cond.Broadcast()
	b.mu.Unlock()
}

func (b *pieces) waiting() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waits && b.paused
}

func (b *pieces) Next() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		b.waits = true
		for b.paused && !b.closed {
			b.cond.Wait()
		}
		b.waits = false
		if b.closed {
			return nil, errors.New("closed")
		}
		if len(b.list) == 0 {
			if b.err != nil {
				return nil, b.err
			}
			b.ex.Out.Trailers = append(b.ex.Out.Trailers, b.trailers...)
			b.trailers = nil
			return nil, io.EOF
		}
		p := b.list[0]
		b.list = b.list[1:]
		b.paused = len(b.list) > 0 && len(b.list[0]) == 0
		if len(p) > 0 {
			return p, nil
		}
	}
}

func (b *pieces) Close() {
	b.mu.Lock()
	b.closed = true
	b.cond.Broadcast()
	b.mu.Unlock()
}

// informed keeps the interim responses that a client got.
type informed struct{ got []string }

func (c *informed) Inform(status int, fields exchange.Fields) error {
	c.got = append(c.got, fmt.Sprint(status, " ", fields.Value(exchange.KeyOther)))
	return nil
}

func request(method, path string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	refill(ex, method, path)
	return ex
}

func refill(ex *exchange.Exchange, method, path string) {
	client := ex.Client
	ex.Reset()
	if ex.Client = client; client == nil {
		ex.Client = &informed{}
	}
	ex.Out.Method, ex.Out.Scheme, ex.Out.Authority, ex.Out.Host = method, "http", "web.example", "web.example"
	ex.Out.Path, ex.Out.Proto = path, exchange.HTTP11
	ex.Out.Fields.Add("User-Agent", "test")
}

// readAll pulls the response's content to its end.
func readAll(ex *exchange.Exchange) (string, error) {
	var text strings.Builder
	for ex.Response.Body != nil {
		p, err := ex.Response.Body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return text.String(), err
		}
		text.Write(p)
	}
	return text.String(), nil
}

// open waits for a stream.
func open(t testing.TB, c *h2.ClientConn) *h2.ClientStream {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := c.Open(); s != nil {
			return s
		}
		if time.Now().After(end) {
			t.Fatal("no stream can be opened")
		}
	}
}

// do makes one exchange and wants it to succeed.
func do(t testing.TB, c *h2.ClientConn, ex *exchange.Exchange) string {
	t.Helper()
	s := open(t, c)
	defer s.Finish()
	if err := s.RoundTrip(ex); err != nil {
		t.Fatalf("%s %s: %v", ex.Out.Method, ex.Out.Path, err)
	}
	text, err := readAll(ex)
	if err != nil {
		t.Fatalf("%s %s: %v", ex.Out.Method, ex.Out.Path, err)
	}
	return text
}

// listen starts a real server.
func listen(t testing.TB, h http.HandlerFunc) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

func dial(t testing.TB, address string) *h2.ClientConn {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := h2.NewClientConn(nc, nil)
	c.Start(nil)
	return c
}

// serve starts a real server and returns a connection to it.
func serve(t testing.TB, h http.HandlerFunc) *h2.ClientConn {
	t.Helper()
	c := dial(t, listen(t, h))
	t.Cleanup(c.Close)
	return c
}

// TestClosedClientIsForgotten holds that nothing keeps a connection's memory
// when it has ended, in whichever order its stream and it do.
func TestClosedClientIsForgotten(t *testing.T) {
	address := listen(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	for name, use := range map[string]func(*h2.ClientConn){
		"closed when idle":  func(c *h2.ClientConn) { do(t, c, request("GET", "/")); c.Close() },
		"drained when idle": func(c *h2.ClientConn) { do(t, c, request("GET", "/")); c.Drain() },
		"closed in use": func(c *h2.ClientConn) {
			s := open(t, c)
			if err := s.RoundTrip(request("GET", "/slow")); err != nil {
				t.Error(err)
			}
			c.Close()
			s.Finish()
		},
	} {
		t.Run(name, func(t *testing.T) {
			kept := func() weak.Pointer[h2.ClientConn] {
				c := dial(t, address)
				use(c)
				return weak.Make(c)
			}()
			for end := time.Now().Add(20 * time.Second); kept.Value() != nil; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("something keeps it")
				}
				runtime.GC()
			}
		})
	}
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/headgate/headgate/dataplane/deadline.(*janitor).run"))
}

func TestClientRoundTrip(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("server: %v", err)
		}
		w.Header().Set("X-Got", fmt.Sprintf("%s %s %s %d %s %s", r.Method, r.Host, r.URL.RequestURI(), r.ContentLength, r.Proto, r.Header.Get("Te")))
		w.Header().Set("X-Trailer", r.Trailer.Get("X-Sum"))
		if r.URL.Path == "/204" {
			w.WriteHeader(204)
			return
		}
		w.Header().Set("Trailer", "X-After")
		w.Write(bytes.ToUpper(content))
		w.Write([]byte("."))
		w.Header().Set("X-After", "done")
	})
	large := strings.Repeat("x", 300_000)
	for _, tt := range []struct {
		name, method, target string
		length               int64
		pieces               []string
		trailers             exchange.Fields
		got, text            string
	}{
		{"get", "GET", "/a?b=c", 0, nil, nil, "GET web.example /a?b=c 0 HTTP/2.0 trailers", "."},
		{"head", "HEAD", "/a", 0, nil, nil, "HEAD web.example /a 0 HTTP/2.0 trailers", ""},
		{"no content", "GET", "/204", 0, nil, nil, "GET web.example /204 0 HTTP/2.0 trailers", ""},
		{"post without content", "POST", "/a", 0, nil, nil, "POST web.example /a 0 HTTP/2.0 trailers", "."},
		{"content that is there", "POST", "/a", 3, []string{"abc"}, nil, "POST web.example /a 3 HTTP/2.0 trailers", "ABC."},
		{"content of unknown length", "PUT", "/", -1, []string{"abc", "def"}, nil, "PUT web.example / -1 HTTP/2.0 trailers", "ABCDEF."},
		{"content that comes later", "PUT", "/", -1, []string{"", "abc", "", "def"}, nil, "PUT web.example / -1 HTTP/2.0 trailers", "ABCDEF."},
		{"more than the windows", "PUT", "/", 300_000, []string{large}, nil, "PUT web.example / 300000 HTTP/2.0 trailers", strings.ToUpper(large) + "."},
		{"trailers", "PUT", "/", -1, []string{"abc"}, exchange.Fields{exchange.NewField("X-Sum", "6")}, "PUT web.example / -1 HTTP/2.0 trailers", "ABC."},
		{"bytes that must be escaped", "GET", "/a b#c", 0, nil, nil, "GET web.example /a%20b%23c 0 HTTP/2.0 trailers", "."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path, query, has := strings.Cut(tt.target, "?")
			ex := request(tt.method, path)
			ex.Out.Query, ex.Out.HasQuery = query, has
			if tt.pieces != nil {
				b := body(ex, tt.pieces...)
				b.trailers = tt.trailers
				ex.Out.Body, ex.Out.Length = b, tt.length
				if len(tt.trailers) > 0 {
					ex.Out.Fields.Add("Trailer", "X-Sum")
				}
				if tt.pieces[0] == "" {
					go func() {
						for range tt.pieces {
							time.Sleep(2 * time.Millisecond)
							b.resume()
						}
					}()
				}
			}
			text := do(t, c, ex)
			if text != tt.text {
				t.Errorf("content: got %d bytes, want %d", len(text), len(tt.text))
			}
			if got, _ := ex.Response.Fields.Get("X-Got"); got != tt.got {
				t.Errorf("got %q, want %q", got, tt.got)
			}
			if got, _ := ex.Response.Trailers.Get("X-After"); got != "done" && tt.text != "" {
				t.Errorf("trailers %v", ex.Response.Trailers)
			}
			if got, _ := ex.Response.Fields.Get("X-Trailer"); len(tt.trailers) > 0 && got != "6" {
				t.Errorf("the server saw trailer %q", got)
			}
		})
	}
}

// TestClientShared makes many exchanges at a time on one connection.
func TestClientShared(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			ex := &exchange.Exchange{}
			for j := range 50 {
				refill(ex, "POST", "/")
				want := strings.Repeat(string(rune('a'+i%26)), j*j*40)
				if want != "" {
					ex.Out.Body, ex.Out.Length = body(ex, want), int64(len(want))
				}
				s := open(t, c)
				if err := s.RoundTrip(ex); err != nil {
					t.Errorf("%v", err)
					s.Finish()
					return
				}
				if got, err := readAll(ex); got != want || err != nil {
					t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
				}
				s.Finish()
			}
		})
	}
	wg.Wait()
	if l := c.Load(); l.Open != 0 || !l.Usable {
		t.Errorf("%+v", l)
	}
}
