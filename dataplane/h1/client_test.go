package h1_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http" // a second opinion; tests only
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
)

// scripted runs serve for each connection to an upstream.
func scripted(t *testing.T, serve func(c *net.TCPConn, r *bufio.Reader)) net.Addr {
	t.Helper()
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c.(*net.TCPConn), bufio.NewReader(c))
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr()
}

// head reads to the end of a request's head.
func head(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

func (p *proxy) failure(t *testing.T) error {
	t.Helper()
	eventually(t, "Done got an error", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.failures) > 0
	})
	return p.failures[0]
}

func (p *proxy) idleConns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

func TestResponseThatBreaksIsCutOff(t *testing.T) {
	for name, c := range map[string]struct{ response, reason string }{
		"chunk size":          {"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxx\r\n", "malformed_response"},
		"chunk size overflow": {"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nffffffffffffffff1\r\n", "malformed_response"},
		"bare LF":             {"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n2\nok\r\n0\r\n\r\n", "malformed_response"},
		"chunk's end":         {"Transfer-Encoding: chunked\r\n\r\n2\r\nokxx0\r\n\r\n", "malformed_response"},
		"trailer":             {"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 1\r\n\r\n", "malformed_response"},
		"truncated chunked":   {"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "closed"},
		"truncated length":    {"Content-Length: 10\r\n\r\nok", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
				head(r)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+c.response)
			})
			p, f := newProxy(t, addr, nil, nil)
			conn := dial(t, f.address())
			conn.send(get)
			r, got, err := conn.response("GET")
			if err == nil {
				t.Errorf("%d %q passed for a complete response", r.StatusCode, got)
			}
			conn.wantEnd()
			var up *exchange.UpstreamError
			if err := p.failure(t); !errors.As(err, &up) || up.Reason != c.reason || up.Stage != exchange.Receiving {
				t.Errorf("Done got %#v", err)
			}
		})
	}
}

func TestCutOffResponseUntilTheEndIsReset(t *testing.T) {
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxx\r\n")
	})
	_, f := newProxy(t, addr, nil, nil)
	conn := dial(t, f.address())
	conn.send("GET / HTTP/1.0\r\n\r\n")
	if all, err := io.ReadAll(conn.r); err == nil {
		t.Errorf("%q passed for a complete response", all)
	}
}

// The precise deadlines hold although the client of the exchange is still
// sending, and then the connection downstream is in order.
func TestDeadlines(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		if strings.Contains(head(r), "/partial") {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok")
		}
		<-release
	})
	p, f := newProxy(t, addr, nil, nil)
	var set func(ex *exchange.Exchange)
	p.alter = func(ex *exchange.Exchange) { set(ex) }
	const timeout = 50 * time.Millisecond
	for name, set1 := range map[string]func(ex *exchange.Exchange){
		"exchange": func(ex *exchange.Exchange) { ex.Deadline = ex.Start.Add(timeout) },
		"try": func(ex *exchange.Exchange) {
			ex.Deadline, ex.TryDeadline = ex.Start.Add(time.Hour), ex.Start.Add(timeout)
		},
	} {
		set = set1
		for what, request := range map[string]string{
			"GET":       get,
			"streaming": "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n12",
			"expecting": "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
		} {
			conn := dial(t, f.address())
			began := time.Now()
			conn.send(request)
			r, _, err := conn.response("GET")
			took := time.Since(began)
			if err != nil || r.StatusCode != 504 {
				t.Fatalf("%s, %s: %d, %v", name, what, r.StatusCode, err)
			}
			if took < timeout || took > timeout+15*time.Second { // a busy machine is not our fault
				t.Errorf("%s, %s: answered after %v", name, what, took)
			}
			if what == "streaming" { // the rest comes late, and the connection goes on
				conn.send("34" + get)
				if r, _, err := conn.response("GET"); err != nil || r.StatusCode != 504 {
					t.Errorf("%s: the next request: %d, %v", name, r.StatusCode, err)
				}
			}
		}
		for until := time.Now().Add(20 * time.Second); ; {
			conn := dial(t, f.address())
			conn.send("GET /partial HTTP/1.1\r\nHost: a.test\r\n\r\n")
			r, _, err := conn.response("GET")
			if r.StatusCode == 504 && time.Now().Before(until) {
				continue // on a busy machine not even the head was in time
			}
			if err == nil || isTimeout(err) {
				t.Errorf("%s: content that never comes: %d, %v", name, r.StatusCode, err)
			}
			break
		}
	}
}

func TestSilentUpstreamTimesOut(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) { head(r); <-release })
	_, f := newProxy(t, addr, nil, &h1.ClientOptions{ReadTimeout: 50 * time.Millisecond})
	conn := dial(t, f.address())
	conn.send(get)
	conn.want(504, "")
}

func roundTrip(t *testing.T, c *h1.ClientConn, method string) error {
	t.Helper()
	ex := &exchange.Exchange{}
	ex.Out.Method, ex.Out.Authority, ex.Out.Path = method, "a.test", "/"
	err := c.RoundTrip(ex)
	if err == nil && ex.Response.Body != nil {
		for err == nil {
			_, err = ex.Response.Body.Next()
		}
		if err == io.EOF {
			err = nil
		}
	}
	return err
}

func TestReusedConnectionThatIsOfNoUse(t *testing.T) {
	for name, c := range map[string]struct {
		behind string // what the upstream does after its first answer
		reason string
	}{
		"closed":        {"close", "closed"},
		"unasked bytes": {"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", "unasked_bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			did := make(chan struct{})
			addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
				head(r)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				<-did // the first exchange is over
				if c.behind == "close" {
					_ = conn.CloseWrite()
				} else {
					_, _ = io.WriteString(conn, c.behind)
				}
				did <- struct{}{}
				if n, _ := io.Copy(io.Discard, r); n > 0 {
					t.Error("something was sent all the same")
				}
				close(did)
			})
			nc, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			conn := h1.NewClientConn(nc, nil)
			if err := roundTrip(t, conn, "GET"); err != nil {
				t.Fatal(err)
			}
			if !conn.Finish() {
				t.Fatal("not reusable")
			}
			did <- struct{}{}
			<-did
			ex := &exchange.Exchange{}
			ex.Out.Method, ex.Out.Authority, ex.Out.Path = "POST", "a.test", "/"
			ex.Out.Body, ex.Out.Length = untouchable{t}, -1
			// Loopback delivers before the peer's write returns.
			err = conn.RoundTrip(ex)
			var up *exchange.UpstreamError
			if !errors.As(err, &up) || up.Stage != exchange.Stale || up.Reason != c.reason || !up.Unsent {
				t.Errorf("got %#v", err)
			}
			if conn.Finish() {
				t.Error("reusable")
			}
			_ = conn.Close()
			<-did
		})
	}
}

// untouchable is content that must not be pulled.
type untouchable struct{ t *testing.T }

func (u untouchable) Next() ([]byte, error) { u.t.Error("Next was called"); return nil, io.EOF }
func (u untouchable) Ready() bool           { return true }
func (u untouchable) Close()                {}

func TestStages(t *testing.T) {
	for name, c := range map[string]struct {
		before, answer string
		stage          exchange.Stage
		reason         string
	}{
		"closed after reading, first use":  {"", "", exchange.Sending, "closed"},
		"closed after reading, second use": {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "", exchange.Stale, "closed"},
		"closed amid the head":             {"", "HTTP/1.1 2", exchange.Receiving, "malformed_response"},
		"malformed":                        {"", "HTTP/1.1 2\r\n", exchange.Receiving, "malformed_response"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
				if c.before != "" {
					head(r)
					_, _ = io.WriteString(conn, c.before)
				}
				head(r)
				_, _ = io.WriteString(conn, c.answer)
			})
			nc, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Fatal(err)
			}
			conn := h1.NewClientConn(nc, nil)
			defer conn.Close()
			if c.before != "" {
				if err := roundTrip(t, conn, "GET"); err != nil || !conn.Finish() {
					t.Fatal(err)
				}
			}
			err = roundTrip(t, conn, "GET")
			var up *exchange.UpstreamError
			if !errors.As(err, &up) || up.Stage != c.stage || up.Reason != c.reason || up.Unsent {
				t.Errorf("got %#v", err)
			}
			if conn.Finish() {
				t.Error("reusable")
			}
		})
	}
}

// An upstream that answers while the client is still sending.
func TestEarlyResponse(t *testing.T) {
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\n")
		time.Sleep(20 * time.Millisecond)
		_, _ = io.WriteString(conn, "long")
		_, _ = io.Copy(io.Discard, r)
	})
	p, f := newProxy(t, addr, nil, nil)
	conn := dial(t, f.address())
	conn.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 1000))
	conn.want(413, "long")
	conn.send(strings.Repeat("x", 99000) + get)
	conn.want(413, "long")
	if n := p.idleConns(); n > 1 {
		t.Errorf("%d connections were kept, though one was in the middle of a request", n)
	}
}

// An upstream that answers and closes without reading the content: the write
// fails, the answer counts all the same.
func TestResponseBehindAFailedWrite(t *testing.T) {
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		_ = conn.CloseWrite()
		time.Sleep(50 * time.Millisecond)
	})
	_, f := newProxy(t, addr, nil, nil)
	conn := dial(t, f.address())
	conn.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
	for range 20 {
		if _, err := io.WriteString(conn, "400\r\n"+strings.Repeat("x", 1024)+"\r\n"); err != nil {
			break
		}
	}
	conn.want(401, "no")
}

func TestStreamingBothWays(t *testing.T) {
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for { // echo chunks as they are
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if _, err := io.WriteString(conn, line); err != nil {
				return
			}
		}
	})
	p, f := newProxy(t, addr, nil, nil)
	conn := dial(t, f.address())
	conn.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n")
	r, err := http.ReadResponse(conn.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		conn.send("5\r\nhello\r\n")
		got := make([]byte, 5)
		if _, err := io.ReadFull(r.Body, got); err != nil || string(got) != "hello" {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	conn.send("0\r\nX-End: 1\r\n\r\n")
	if rest, err := io.ReadAll(r.Body); err != nil || len(rest) > 0 || r.Trailer.Get("X-End") != "1" {
		t.Errorf("got %q, %v, %v", rest, err, r.Trailer)
	}
	eventually(t, "the upstream's connection is kept", func() bool { return p.idleConns() == 1 })
}

func TestClientsBadContentIsTheClientsError(t *testing.T) {
	got := make(chan string, 1)
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		all, _ := io.ReadAll(r)
		got <- string(all)
	})
	_, f := newProxy(t, addr, nil, nil)
	conn := dial(t, f.address())
	conn.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
	time.Sleep(20 * time.Millisecond) // so that it is on its way upstream
	conn.send("-1\r\n")
	if r := conn.want(400, ""); !r.Close {
		t.Error("no Connection: close")
	}
	conn.wantEnd()
	if saw := <-got; strings.HasSuffix(saw, "0\r\n\r\n") || strings.Contains(saw, "-1") {
		t.Errorf("the upstream saw %q", saw)
	}
}

func TestContinueIsRelayed(t *testing.T) {
	for _, answer := range []string{"100", "417", "late"} {
		addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
			if h := head(r); !strings.Contains(h, "Expect: 100-continue\r\n") {
				t.Errorf("got %q", h)
			}
			switch answer {
			case "417":
				_, _ = io.WriteString(conn, "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
				return
			case "100":
				_, _ = io.WriteString(conn, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			content := make([]byte, 2)
			_, _ = io.ReadFull(r, content)
			time.Sleep(60 * time.Millisecond) // longer than the wait for 100
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"+string(content))
		})
		patience := 20 * time.Second
		if answer == "late" {
			patience = 50 * time.Millisecond
		}
		_, f := newProxy(t, addr, nil, &h1.ClientOptions{ContinueTimeout: patience})
		conn := dial(t, f.address())
		conn.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
		if answer == "417" {
			if !conn.want(417, "").Close {
				t.Error("kept, though the content may still come")
			}
			conn.wantEnd()
			continue
		}
		conn.want(100, "")
		conn.send("hi")
		conn.want(200, "hi")
	}
}

func TestTunnel(t *testing.T) {
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		head(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nX-A: 1\r\n\r\nearly")
		_, _ = io.Copy(conn, r)
		_, _ = io.WriteString(conn, "bye")
	})
	for name, hidden := range map[string]bool{"sockets": false, "others": true} {
		t.Run(name, func(t *testing.T) {
			p, f := newProxy(t, addr, nil, nil)
			if hidden {
				f.hide.Store(true)
				p.dial = func() (net.Conn, error) {
					conn, err := net.Dial("tcp", addr.String())
					return other{conn}, err
				}
			}
			const deadline = 2 * time.Second
			p.alter = func(ex *exchange.Exchange) { ex.Deadline = ex.Start.Add(deadline) }
			conn := dial(t, f.address())
			conn.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
			r, err := http.ReadResponse(conn.r, nil)
			if err != nil || r.StatusCode != 101 || r.Header.Get("Upgrade") != "echo" || r.Header.Get("X-A") != "1" {
				t.Fatalf("got %+v, %v", r, err)
			}
			expect := func(want string) {
				t.Helper()
				got := make([]byte, len(want))
				if _, err := io.ReadFull(conn.r, got); err != nil || string(got) != want {
					t.Fatalf("got %q, %v; want %q", got, err, want)
				}
			}
			expect("early")
			f.each(func(s *h1.ServerConn) { s.Drain() }) // tunnels outlive it
			time.Sleep(deadline + 50*time.Millisecond)   // and the exchange's deadline
			for range 3 {
				conn.send("x")
				expect("x")
			}
			big := strings.Repeat("0123456789", 50000)
			sent := make(chan error, 1)
			go func() {
				_, err := io.WriteString(conn, big)
				sent <- err
			}()
			expect(big)
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			_ = conn.CloseWrite()
			expect("bye")
			conn.wantEnd()
		})
	}
}

func TestLargeContentBothWays(t *testing.T) {
	const size = 8 << 20
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			length := ""
			if req.ContentLength >= 0 {
				length = "Content-Length: 8388608"
			} else {
				length = "Transfer-Encoding: chunked"
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+length+"\r\n\r\n")
			if req.ContentLength >= 0 {
				_, _ = io.Copy(conn, req.Body)
				continue
			}
			w := &http.Response{StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, Body: req.Body, ContentLength: -1, TransferEncoding: []string{"chunked"}}
			var b strings.Builder
			_ = w.Write(&b)
			_, content, _ := strings.Cut(b.String(), "\r\n\r\n")
			_, _ = io.WriteString(conn, content)
		}
	})
	_, f := newProxy(t, addr, &h1.ServerOptions{Poison: true}, &h1.ClientOptions{Poison: true})
	content := strings.Repeat("0123456789abcdef", size/16)
	for _, chunked := range []bool{false, true} {
		conn := dial(t, f.address())
		req, _ := http.NewRequest("POST", "http://a.test/", io.NopCloser(strings.NewReader(content)))
		if !chunked {
			req.ContentLength = size
		}
		go func() { _ = req.Write(conn) }()
		r, got, err := conn.response("POST")
		if err != nil || r.StatusCode != 200 || got != content {
			t.Fatalf("chunked %v: %d, %v, %d bytes", chunked, r.StatusCode, err, len(got))
		}
	}
}

func TestWaitIsWhatTheUpstreamTook(t *testing.T) {
	const pause = 250 * time.Millisecond
	addr := scripted(t, func(conn *net.TCPConn, r *bufio.Reader) {
		for head(r) != "" {
			time.Sleep(pause)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			time.Sleep(pause)
			_, _ = io.WriteString(conn, "ok")
		}
	})
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	conn := h1.NewClientConn(nc, nil)
	defer conn.Close()
	ex := &exchange.Exchange{}
	ex.Out.Method, ex.Out.Authority, ex.Out.Path = "GET", "a.test", "/"
	began := time.Now()
	if err := conn.RoundTrip(ex); err != nil {
		t.Fatal(err)
	}
	if _, err := ex.Response.Body.Next(); err != nil {
		t.Fatal(err)
	}
	// On a busy machine some of the time is over before we wait. It is both pauses all the same.
	if w := ex.Upstream.Wait; w < pause*3/2 || w > time.Since(began) {
		t.Errorf("Wait is %v", w)
	}
	conn.Finish()
}
