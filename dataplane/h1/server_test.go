package h1_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http" // a second opinion; tests only
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
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
	return append([]string(nil), h.malformed...)
}

func (h *handler) done() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]error(nil), h.failures...)
}

func answering(text string) *handler {
	return &handler{serve: func(ex *exchange.Exchange) { ex.Answer(200, "test", text) }}
}

type client struct {
	*net.TCPConn
	r *bufio.Reader
	t *testing.T
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{conn.(*net.TCPConn), bufio.NewReader(conn), t}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// response reads a response, with its content unless that fails.
func (c *client) response(method string) (r *http.Response, content string, err error) {
	c.t.Helper()
	r, err = http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		return &http.Response{}, "", err
	}
	b, err := io.ReadAll(r.Body)
	return r, string(b), err
}

func (c *client) want(status int, content string) *http.Response {
	c.t.Helper()
	r, got, err := c.response("GET")
	if err != nil || r.StatusCode != status || got != content {
		c.t.Fatalf("got %d %q, %v; want %d %q", r.StatusCode, got, err, status, content)
	}
	return r
}

func (c *client) wantEnd() {
	c.t.Helper()
	if b, err := c.r.ReadByte(); err == nil || isTimeout(err) {
		c.t.Fatalf("got %q, %v; want the connection's end", b, err)
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

const get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

func TestRequestAsTheHandlerSeesIt(t *testing.T) {
	var got string
	h := &handler{serve: func(ex *exchange.Exchange) {
		in := &ex.In
		got = fmt.Sprintf("%s %s %s %q %q %q %v %d %s %v", in.Method, in.Scheme, in.Authority, in.Host, in.Path, in.Query,
			in.HasQuery, in.Length, in.Proto, in.Body != nil)
		if in.Fields.Find(exchange.KeyHost) >= 0 || in.Fields.Find(exchange.KeyContentLength) >= 0 {
			t.Error("Host or Content-Length among the fields")
		}
		if ex.Start.IsZero() || ex.Client == nil || ex.Conn == nil {
			t.Error("the exchange is not filled in")
		}
		ex.Answer(204, "test", "")
	}}
	c := dial(t, serve(t, h, nil).address())
	for request, want := range map[string]string{
		"GET /a/../b?c HTTP/1.1\r\nHost: Shop.Test.:8080\r\n\r\n":                                 `GET http Shop.Test.:8080 "shop.test" "/a/../b" "c" true 0 HTTP/1.1 false`,
		"POST http://a.test HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx":               `POST http a.test "a.test" "/" "" false 1 HTTP/1.1 true`,
		"PUT /? HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":        `PUT http [::1]:80 "[::1]" "/" "" true -1 HTTP/1.1 true`,
		"OPTIONS * HTTP/1.0\r\nConnection: keep-alive\r\nHost: a.test\r\n\r\n":                    `OPTIONS http a.test "a.test" "*" "" false 0 HTTP/1.0 false`,
		"GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n": `GET http a.test "a.test" "/" "" false -1 HTTP/1.1 true`,
	} {
		c.send(request)
		c.want(204, "")
		if got != want {
			t.Errorf("%q\ngot  %s\nwant %s", request, got, want)
		}
	}
}

func TestSlowHeadIsCutOffAsAWhole(t *testing.T) {
	h := answering("ok")
	c := dial(t, serve(t, h, &h1.ServerOptions{HeaderTimeout: 100 * time.Millisecond}).address())
	c.send("GET / HTTP/1.1\r\n")
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a byte now and then does not help
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = io.WriteString(c, "a")
			}
		}
	}()
	r := c.want(408, "header_timeout\n")
	if !r.Close {
		t.Error("no Connection: close")
	}
	c.wantEnd()
	eventually(t, "reported", func() bool { return len(h.reported()) == 1 && h.reported()[0] == "408 header_timeout" })
}

func TestIdleConnectionEndsSilently(t *testing.T) {
	h := answering("ok")
	c := dial(t, serve(t, h, &h1.ServerOptions{IdleTimeout: time.Second}).address()) // the request is sent by then
	c.send(get)
	c.want(200, "ok")
	c.wantEnd()
	if m := h.reported(); len(m) > 0 {
		t.Errorf("reported %v", m)
	}
}

func TestSlowContentIs408(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		_, err := ex.In.Body.Next()
		var client *exchange.ClientError
		if !errors.As(err, &client) {
			t.Errorf("got %v, want a ClientError", err)
			client = &exchange.ClientError{Status: 500}
		}
		ex.Answer(client.Status, client.Reason, client.Reason)
	}}
	c := dial(t, serve(t, h, &h1.ServerOptions{BodyTimeout: 50 * time.Millisecond}).address())
	c.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\n")
	if r := c.want(408, "content_timeout"); !r.Close {
		t.Error("no Connection: close")
	}
	c.wantEnd()
}

func TestClientThatDoesNotReadIsCutOff(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		ex.Answer(200, "test", strings.Repeat("x", 64<<20))
	}}
	c := dial(t, serve(t, h, &h1.ServerOptions{WriteTimeout: 50 * time.Millisecond}).address())
	c.send(get)
	eventually(t, "given up", func() bool { return len(h.done()) == 1 })
	if err := h.done()[0]; !isTimeout(err) {
		t.Errorf("Done got %v, want a timeout", err)
	}
}

func TestContentBounds(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		for {
			if _, err := ex.In.Body.Next(); err == io.EOF {
				ex.Answer(200, "test", "")
				return
			} else if err != nil {
				var client *exchange.ClientError
				errors.As(err, &client)
				ex.Answer(client.Status, client.Reason, "")
				return
			}
		}
	}}
	f := serve(t, h, &h1.ServerOptions{MaxBody: 4})
	for request, status := range map[string]int{
		"Content-Length: 4\r\n\r\n1234":                                      200,
		"Content-Length: 5\r\n\r\n12345":                                     413,
		"Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n0\r\n\r\n":           200,
		"Transfer-Encoding: chunked\r\n\r\n2\r\n12\r\n3\r\n345\r\n0\r\n\r\n": 413,
	} {
		c := dial(t, f.address())
		c.send("POST / HTTP/1.1\r\nHost: a.test\r\n" + request)
		if r, _, err := c.response("POST"); err != nil || r.StatusCode != status {
			t.Errorf("%q: %d, %v; want %d", request, r.StatusCode, err, status)
		}
	}
}

func TestUnreadContentIsDrainedOrTheConnectionCloses(t *testing.T) {
	f := serve(t, answering("no"), nil)
	small := dial(t, f.address())
	small.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n")
	small.want(200, "no")
	small.send(strings.Repeat("x", 100000) + get)
	small.want(200, "no")

	big := dial(t, f.address())
	big.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n")
	if r := big.want(200, "no"); !r.Close {
		t.Error("no Connection: close, though there is far too much to drain")
	}
	// What is still on its way must not reset the connection at once.
	big.send(strings.Repeat("x", 10000))
	big.wantEnd()
}

func TestExpectationIsMetWhenTheContentIsPulled(t *testing.T) {
	var pull atomic.Bool
	h := &handler{serve: func(ex *exchange.Exchange) {
		if !ex.In.ExpectContinue || ex.In.Body.Ready() {
			t.Errorf("ExpectContinue %v, Ready %v", ex.In.ExpectContinue, ex.In.Body.Ready())
		}
		text := "refused"
		if pull.Load() {
			p, err := ex.In.Body.Next()
			if err != nil {
				t.Error(err)
			}
			text = ex.Arena.Bytes(p)
		}
		ex.Answer(200, "test", text)
	}}
	f := serve(t, h, nil)
	const head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n"

	c := dial(t, f.address())
	c.send(head)
	if r := c.want(200, "refused"); !r.Close {
		t.Error("the content may or may not come: the connection cannot be kept")
	}
	c.wantEnd()

	pull.Store(true)
	c = dial(t, f.address())
	for range 2 {
		c.send(head)
		if line, err := c.r.ReadString('\n'); line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = c.r.ReadString('\n')
		c.send("hi")
		c.want(200, "hi")
	}
}

func TestInform(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		if err := ex.Client.Inform(103, exchange.Fields{exchange.NewField("Link", "x")}); err != nil {
			t.Error(err)
		}
		if err := ex.Client.Inform(101, nil); err != nil {
			t.Error(err)
		}
		ex.Answer(200, "test", "ok")
	}}
	c := dial(t, serve(t, h, nil).address())
	c.send(get)
	c.want(103, "")
	c.want(200, "ok")
}

func TestDrain(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := &handler{serve: func(ex *exchange.Exchange) {
		if ex.In.Path == "/slow" {
			close(entered)
			<-leave
		}
		ex.Answer(200, "test", "ok")
	}}
	f := serve(t, h, nil)
	idle, fresh, busy := dial(t, f.address()), dial(t, f.address()), dial(t, f.address())
	idle.send(get)
	idle.want(200, "ok")
	busy.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	<-entered
	eventually(t, "three connections", func() bool {
		n := 0
		f.each(func(*h1.ServerConn) { n++ })
		return n == 3
	})
	for range 2 {
		f.each(func(s *h1.ServerConn) { s.Drain() })
	}
	idle.wantEnd()
	fresh.wantEnd()
	close(leave)
	if r := busy.want(200, "ok"); !r.Close {
		t.Error("the response in progress does not say Connection: close")
	}
	busy.wantEnd()
}

// An announced end is the next response's, however long that takes to be asked for.
func TestAnnounce(t *testing.T) {
	f := serve(t, answering("ok"), &h1.ServerOptions{RestAfter: time.Millisecond})
	idle, fresh := dial(t, f.address()), dial(t, f.address())
	before := f.rests.Load()
	idle.send(get)
	if r := idle.want(200, "ok"); r.Close {
		t.Error("the end of the connection is announced too early")
	}
	eventually(t, "both connections rest", func() bool { return f.rests.Load() >= before+2 })
	for range 2 {
		f.each(func(s *h1.ServerConn) { s.Announce() })
	}
	for _, c := range []*client{idle, fresh} {
		c.send(get)
		if r := c.want(200, "ok"); !r.Close {
			t.Error("the response does not say Connection: close")
		}
		c.wantEnd()
	}
	drained := dial(t, f.address())
	drained.send(get)
	drained.want(200, "ok")
	f.each(func(s *h1.ServerConn) { s.Announce(); s.Drain() })
	drained.wantEnd()
}

// A request that comes just as the connection is drained is answered, or the
// connection ends without a byte; never is a response cut off.
func TestDrainRace(t *testing.T) {
	f := serve(t, answering("ok"), nil)
	for range 200 {
		c := dial(t, f.address())
		c.send(get)
		c.want(200, "ok")
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			f.each(func(s *h1.ServerConn) { s.Drain() })
		}()
		_, err := io.WriteString(c, get)
		<-drained // or it would find the next connection
		if err != nil {
			continue
		}
		r, text, err := c.response("GET")
		switch {
		case err == nil && r.StatusCode == 200 && text == "ok":
		case r.StatusCode == 0 && !isTimeout(err):
		default:
			t.Fatalf("got %d %q, %v", r.StatusCode, text, err)
		}
		_ = c.Close()
	}
}

// A connection whose client says nothing rests, and goes on when it does, but
// not for longer than it may be idle.
func TestRest(t *testing.T) {
	for name, hide := range map[string]bool{"plain socket": false, "other": true} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, answering("ok"), &h1.ServerOptions{RestAfter: time.Millisecond, IdleTimeout: 3 * time.Second})
			f.hide.Store(hide)
			c := dial(t, f.address())
			for range 2 {
				c.send(get)
				c.want(200, "ok")
				before := f.rests.Load()
				eventually(t, "the connection rests", func() bool { return f.rests.Load() > before })
			}
			c.wantEnd()
			c = dial(t, f.address())
			c.send(get)
			c.want(200, "ok")
			before := f.rests.Load()
			eventually(t, "the connection rests", func() bool { return f.rests.Load() > before })
			f.each(func(s *h1.ServerConn) { s.Drain() })
			c.wantEnd()
		})
	}
}

func TestMaxRequests(t *testing.T) {
	c := dial(t, serve(t, answering("ok"), &h1.ServerOptions{MaxRequests: 2}).address())
	c.send(get + get + get)
	if c.want(200, "ok").Close || !c.want(200, "ok").Close {
		t.Error("want Connection: close with the second response")
	}
	c.wantEnd()
}

func TestOptionsOfTheServer(t *testing.T) {
	h := answering("ok")
	c := dial(t, serve(t, h, &h1.ServerOptions{RefuseUnderscores: true}).address())
	c.send("GET / HTTP/1.1\r\nHost: a.test\r\nX_A: 1\r\n\r\n")
	c.want(400, "field_underscore\n")

	tunnel := newPipeTunnel()
	h = &handler{serve: func(ex *exchange.Exchange) {
		if ex.In.Method != "CONNECT" || ex.In.Authority != "b.test:443" || ex.In.Path != "" {
			t.Errorf("%+v", ex.In)
		}
		ex.Response.Status, ex.Response.Tunnel = 200, tunnel
	}}
	c = dial(t, serve(t, h, &h1.ServerOptions{AllowConnect: true}).address())
	c.send("CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\nearly")
	if r, _ := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"}); r == nil || r.StatusCode != 200 || len(r.Header) != 0 {
		t.Fatalf("got %+v", r)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(tunnel.far, got); err != nil || string(got) != "early" {
		t.Fatalf("the tunnel got %q, %v", got, err)
	}
	_, _ = io.WriteString(tunnel.far, "hello")
	_ = tunnel.far.Close()
	if rest, _ := io.ReadAll(c.r); string(rest) != "hello" {
		t.Errorf("the client got %q", rest)
	}
}

// pipeTunnel is a tunnel of another make than ours.
type pipeTunnel struct {
	net.Conn
	far net.Conn
}

func newPipeTunnel() *pipeTunnel {
	near, far := net.Pipe()
	return &pipeTunnel{near, far}
}

func (p *pipeTunnel) CloseWrite() error { return p.Conn.Close() }

func TestResponsesOfAHandlerAreFramedByTheCodec(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		set    func(r *exchange.Response)
		want   string
	}{
		"its own framing is dropped": {"GET", func(r *exchange.Response) {
			r.Status = 200
			r.Fields = append(r.Fields, exchange.NewField("Content-Length", "999"), exchange.NewField("transfer-encoding", "gzip"),
				exchange.NewField("Connection", "x"), exchange.NewField("A", "b"))
		}, "HTTP/1.1 200 OK\r\nA: b\r\nDate\r\nContent-Length: 0\r\n\r\n"},
		"a line break is no line": {"GET", func(r *exchange.Response) {
			r.Status = 200
			r.Fields.Add("A", "b\r\nSet-Cookie: evil")
		}, "HTTP/1.1 200 OK\r\nA: b  Set-Cookie: evil\r\nDate\r\nContent-Length: 0\r\n\r\n"},
		"nor in the reason": {"GET", func(r *exchange.Response) {
			r.Status, r.Reason = 200, "O\nK"
		}, "HTTP/1.1 200 O K\r\nDate\r\nContent-Length: 0\r\n\r\n"},
		"no status": {"GET", func(r *exchange.Response) {}, "HTTP/1.1 500 Internal Server Error\r\nDate\r\nContent-Length: 0\r\n\r\n"},
		"its own date": {"GET", func(r *exchange.Response) {
			r.Status = 200
			r.Fields.Add("Date", "now")
		}, "HTTP/1.1 200 OK\r\nDate\r\nContent-Length: 0\r\n\r\n"},
		"HEAD": {"HEAD", func(r *exchange.Response) { r.Status, r.Length = 200, 7 },
			"HTTP/1.1 200 OK\r\nDate\r\nContent-Length: 7\r\n\r\n"},
		"304 of unknown length": {"GET", func(r *exchange.Response) { r.Status = 304 }, "HTTP/1.1 304 Not Modified\r\nDate\r\n\r\n"},
		"pieces": {"GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, &pieces{parts: []string{"ab", "", "c"}}
			r.Trailers.Add("X-Sum", "1")
			r.Trailers.Add("Content-Length", "1")
		}, "HTTP/1.1 200 OK\r\nDate\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-Sum: 1\r\n\r\n"},
		"large pieces": {"GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, &pieces{parts: []string{strings.Repeat("a", 20000), strings.Repeat("b", 5000)}}
		}, "HTTP/1.1 200 OK\r\nDate\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n" + strings.Repeat("a", 20000) + "\r\n1388\r\n" + strings.Repeat("b", 5000) + "\r\n0\r\n\r\n"},
		"content shorter than its length": {"GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 5, &pieces{parts: []string{"ab"}}
		}, "cut"},
		"content longer than its length": {"GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, 1, &pieces{parts: []string{"ab"}}
		}, "cut"},
		"content that fails": {"GET", func(r *exchange.Response) {
			r.Status, r.Length, r.Body = 200, -1, &pieces{parts: []string{"ab"}, err: errors.New("gone")}
		}, "cut"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &handler{serve: func(ex *exchange.Exchange) { c.set(&ex.Response) }}
			conn := dial(t, serve(t, h, nil).address())
			conn.send(c.method + " / HTTP/1.1\r\nHost: a.test\r\n\r\n")
			if c.want == "cut" {
				if r, got, err := conn.response(c.method); err == nil && r.StatusCode == 200 {
					t.Fatalf("got %q as if it was all", got)
				}
				conn.wantEnd()
				eventually(t, "Done got an error", func() bool { return len(h.done()) == 1 && h.done()[0] != nil })
				return
			}
			_ = conn.CloseWrite() // so that the connection ends with the response
			got, err := io.ReadAll(conn.r)
			if err != nil {
				t.Fatal(err)
			}
			if dateless(got) != c.want {
				t.Errorf("got  %q\nwant %q", dateless(got), c.want)
			}
		})
	}
}

func dateless(b []byte) string {
	s := string(b)
	at := strings.Index(s, "\r\nDate: ")
	if at < 0 {
		return s
	}
	end := strings.Index(s[at+2:], "\r\n")
	if end < 0 {
		return s[:at]
	}
	return s[:at] + "\r\nDate" + s[at+2+end:]
}

// pieces is content in given pieces, after which the network is waited for.
type pieces struct {
	parts []string
	err   error
}

func (p *pieces) Next() ([]byte, error) {
	if len(p.parts) == 0 {
		if p.err != nil {
			return nil, p.err
		}
		return nil, io.EOF
	}
	part := p.parts[0]
	p.parts = p.parts[1:]
	return []byte(part), nil
}

func (p *pieces) Ready() bool { return len(p.parts)%2 == 0 }
func (p *pieces) Close()      {}
