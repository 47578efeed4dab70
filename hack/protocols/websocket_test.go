package protocols

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// maxMessage is the longest message that is sent.
const maxMessage = 16 << 20

// chat is the upstream of the tests of WebSocket, a server of HTTP/1.1.
type chat struct {
	t       *testing.T
	tunnels atomic.Int64
	// ends has for each tunnel, by the name that its client gives it, a channel
	// of what its end at the server looks like.
	ends sync.Map
}

// end is the end of a tunnel as its server sees it.
type end struct {
	err    error // what reading ended with
	stream *stream
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ended, ok := c.ends.Load(r.Header.Get("X-Tunnel"))
	if !ok {
		http.Error(w, "whose tunnel is this?", 500)
		return
	}
	tap := &tapped{ResponseWriter: w}
	err := c.serve(tap, r)
	ended.(chan end) <- end{err, tap.stream}
}

// serve does what the path says.
func (c *chat) serve(w *tapped, r *http.Request) error {
	ctx, query := context.Background(), r.URL.Query()
	switch r.URL.Path {
	case "/refuse":
		http.Error(w, "not you", http.StatusForbidden)
		return nil
	case "/bytes", "/first": // a tunnel of bytes; at /first the server ends its direction first
		s, ok := accept(c.t, w, r)
		if !ok {
			return nil
		}
		defer s.Close()
		if r.URL.Path == "/first" {
			_, _ = io.WriteString(s, "from the server")
			_ = s.CloseWrite()
			_, err := io.Copy(io.Discard, s)
			return err
		}
		_, err := io.Copy(s, s)
		_, _ = io.WriteString(s, "after the end")
		return err
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, Subprotocols: []string{"v1.chat"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		c.t.Error(err)
		return err
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxMessage)
	switch r.URL.Path {
	case "/close":
		code, _ := strconv.Atoi(query.Get("code"))
		return ws.Close(websocket.StatusCode(code), query.Get("reason"))
	case "/cut":
		_, _, _ = ws.Read(ctx)
		return ws.CloseNow()
	case "/ping": // pings its client, whose messages it does not expect
		reading := ws.CloseRead(ctx)
		for range 3 {
			if err := ws.Ping(reading); err != nil {
				return err
			}
		}
		err := ws.Write(ctx, websocket.MessageText, []byte("three pongs"))
		<-reading.Done()
		return err
	case "/flood": // sends more than anybody buffers
		for i := range 64 {
			if err := ws.Write(ctx, websocket.MessageBinary, bytes.Repeat([]byte{byte(i)}, 1<<20)); err != nil {
				return err
			}
		}
	}
	for { // echoes messages, in fragments if they are long
		kind, message, err := ws.Reader(ctx)
		if err != nil {
			return err
		}
		out, err := ws.Writer(ctx, kind)
		if err == nil {
			_, err = io.Copy(out, message)
		}
		if err == nil {
			err = out.Close()
		}
		if err != nil {
			return err
		}
	}
}

// tunnel is a client's end, with what will tell of the other one.
type tunnel struct {
	*websocket.Conn
	resp   *http.Response
	stream *stream
	ended  chan end
}

// dial opens a tunnel, which ends with the test.
func (c *chat) dial(t *testing.T, ctx context.Context, w way, path string, opts websocket.DialOptions) (*tunnel, error) {
	name := strconv.FormatInt(c.tunnels.Add(1), 10)
	tun := &tunnel{ended: make(chan end, 1)}
	c.ends.Store(name, tun.ended)
	opts.HTTPHeader = http.Header{"X-Tunnel": {name}}
	opts.HTTPClient = &http.Client{Transport: catch{w.transport, tun}}
	var err error
	if tun.Conn, tun.resp, err = websocket.Dial(ctx, w.url+path, &opts); err == nil {
		tun.SetReadLimit(maxMessage)
		t.Cleanup(func() { _ = tun.CloseNow() })
	}
	return tun, err
}

// catch remembers the stream that a handshake opened.
type catch struct {
	http.RoundTripper
	tun *tunnel
}

func (c catch) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(req)
	if err == nil {
		c.tun.stream, _ = resp.Body.(*stream)
	}
	return resp, err
}

// open is dial for tunnels that must open.
func (c *chat) open(t *testing.T, ctx context.Context, w way, path string, opts websocket.DialOptions) *tunnel {
	t.Helper()
	tun, err := c.dial(t, ctx, w, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	return tun
}

// other waits for the tunnel's other end.
func (tun *tunnel) other(t *testing.T, ctx context.Context) end {
	t.Helper()
	select {
	case e := <-tun.ended:
		return e
	case <-ctx.Done():
		t.Fatal("the server does not see the tunnel's end")
		return end{}
	}
}

// finish closes a tunnel and holds what each end received to what the other sent.
func (tun *tunnel) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	if err := tun.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	other := tun.other(t, ctx)
	if websocket.CloseStatus(other.err) != websocket.StatusNormalClosure {
		t.Errorf("at the server: %v", other.err)
	}
	tun.compare(t, other)
}

func (tun *tunnel) compare(t *testing.T, other end) {
	t.Helper()
	if got, want := other.stream.received.String(), tun.stream.sent.String(); got != want {
		t.Errorf("the server received %s; the client sent %s", got, want)
	}
	if got, want := tun.stream.received.String(), other.stream.sent.String(); got != want {
		t.Errorf("the client received %s; the server sent %s", got, want)
	}
}

// echo sends a message and wants it back.
func (tun *tunnel) echo(ctx context.Context, kind websocket.MessageType, message []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- tun.Write(ctx, kind, message) }()
	gotKind, got, err := tun.Read(ctx)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if gotKind != kind || !bytes.Equal(got, message) {
		return fmt.Errorf("%d bytes of %v, want %d of %v", len(got), gotKind, len(message), kind)
	}
	return nil
}

// chatRoutes sends everything to the upstream, but what is below /far: that
// makes a second way through Headgate, over HTTP/2.
func chatRoutes(h *headgate, up int) string {
	return backend("chat", up) + fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: default}
spec: {ports: [{name: h2c, port: 80, appProtocol: kubernetes.io/h2c}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far, namespace: default, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
ports: [{name: h2c, port: %d, protocol: TCP}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: chat, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{group: headgate.dev, kind: Backend, name: chat}]
  - matches: [{path: {type: PathPrefix, value: /far}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: far, port: 80}]
`, h.plain)
}

// startChat starts the upstream and Headgate before it.
func startChat(t *testing.T, flags ...string) (*chat, *headgate) {
	program(t, "HEADGATE")
	c := &chat{t: t}
	up := httptest.NewServer(c)
	t.Cleanup(up.Close)
	h := start(t, "", flags...)
	h.apply(t, chatRoutes(h, portOf(up.Listener.Addr())))
	awaitThat(t, "the routes", func() bool {
		resp, err := http.Get(fmt.Sprintf("http://localhost:%d/far", h.plain))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 500 // which the upstream says to strangers
	})
	return c, h
}

// TestWebSocket holds tunnels to RFC 6455: what a client's library and a
// server's say to each other arrives as it was said.
func TestWebSocket(t *testing.T) {
	c, h := startChat(t)
	for _, w := range h.ways() {
		for _, far := range []bool{false, true} {
			name := w.name + " to H1"
			if far {
				name, w.url = w.name+" to H2 to H1", w.url+"/far"
			}
			t.Run(name, func(t *testing.T) {
				for _, test := range []struct {
					name string
					run  func(*testing.T, context.Context, *chat, way)
				}{
					{"messages", testMessages}, {"16 MiB", testLargeMessages}, {"fragments", testFragments}, {"pings", testPings},
					{"client closes", testClientCloses}, {"server closes", testServerCloses}, {"ends without a word", testCut},
					{"half-close", testHalfClose}, {"subprotocol", testSubprotocol}, {"compression", testCompression},
					{"frames against the rules", testBrokenFrames}, {"refused", testRefused}, {"many at a time", testManyTunnels},
				} {
					t.Run(test.name, func(t *testing.T) {
						ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
						defer cancel()
						test.run(t, ctx, c, w)
					})
				}
			})
		}
	}
}

func testMessages(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
	for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
		// The length is in 7, 16 or 64 bits, RFC 6455 section 5.2.
		for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
			message := bytes.Repeat([]byte("é"), n/2+1)[:n/2*2]
			if kind == websocket.MessageBinary {
				message = make([]byte, n)
				_, _ = rand.Read(message)
			}
			if err := tun.echo(ctx, kind, message); err != nil {
				t.Fatalf("%v of %d bytes: %v", kind, n, err)
			}
		}
	}
	tun.finish(t, ctx)
}

func testLargeMessages(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
	message := make([]byte, maxMessage)
	_, _ = rand.Read(message)
	if err := tun.echo(ctx, websocket.MessageBinary, message); err != nil {
		t.Fatal(err)
	}
	for i := range message {
		message[i] = 'a' + message[i]%26
	}
	if err := tun.echo(ctx, websocket.MessageText, message); err != nil {
		t.Fatal(err)
	}
	tun.finish(t, ctx)
}

// Control frames may come between the frames of a message, section 5.4.
func testFragments(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
	got := make(chan error, 1)
	var want bytes.Buffer
	out, err := tun.Writer(ctx, websocket.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, message, err := tun.Read(ctx)
		if err == nil && !bytes.Equal(message, want.Bytes()) {
			err = fmt.Errorf("%d bytes, want %d", len(message), want.Len())
		}
		got <- err
	}()
	for _, n := range []int{1, 0, 100, 5000, 70_000, 1} {
		fragment := bytes.Repeat([]byte{'a' + byte(n%26)}, n)
		want.Write(fragment)
		if _, err := out.Write(fragment); err != nil {
			t.Fatal(err)
		}
		if err := tun.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(out.Close(), <-got); err != nil {
		t.Fatal(err)
	}
	tun.finish(t, ctx)
}

func testPings(t *testing.T, ctx context.Context, c *chat, w way) {
	var pings atomic.Int64
	tun := c.open(t, ctx, w, "/ping", websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
		pings.Add(1)
		return true
	}})
	if _, message, err := tun.Read(ctx); err != nil || string(message) != "three pongs" || pings.Load() != 3 {
		t.Errorf("%q, %v after %d pings", message, err, pings.Load())
	}
	reading := tun.CloseRead(ctx)
	for range 3 {
		if err := tun.Ping(reading); err != nil {
			t.Fatal(err)
		}
	}
	_ = tun.Close(websocket.StatusNormalClosure, "")
	tun.other(t, ctx)
}

// closeCodes may be sent, section 7.4.
var closeCodes = []websocket.StatusCode{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999}

func testClientCloses(t *testing.T, ctx context.Context, c *chat, w way) {
	for _, code := range closeCodes {
		tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
		reason := strings.Repeat("r", int(code%124))
		if err := tun.Close(code, reason); err != nil {
			t.Errorf("%d: %v", code, err)
		}
		other := tun.other(t, ctx)
		var said websocket.CloseError
		if !errors.As(other.err, &said) || said.Code != code || said.Reason != reason {
			t.Errorf("%d: the server got %v", code, other.err)
		}
		tun.compare(t, other)
	}
}

func testServerCloses(t *testing.T, ctx context.Context, c *chat, w way) {
	for _, code := range closeCodes {
		tun := c.open(t, ctx, w, fmt.Sprintf("/close?code=%d&reason=so", code), websocket.DialOptions{})
		_, _, err := tun.Read(ctx)
		var said websocket.CloseError
		if !errors.As(err, &said) || said.Code != code || said.Reason != "so" {
			t.Errorf("%d: the client got %v", code, err)
		}
		other := tun.other(t, ctx)
		if other.err != nil {
			t.Errorf("%d: the server got %v", code, other.err)
		}
		tun.compare(t, other)
	}
}

// An end that goes away without closing is gone for the other end too.
func testCut(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
	if err := tun.echo(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	tun.stream.cut()
	if other := tun.other(t, ctx); other.err == nil || websocket.CloseStatus(other.err) != -1 {
		t.Errorf("the client was cut off; the server got %v", other.err)
	}

	tun = c.open(t, ctx, w, "/cut", websocket.DialOptions{})
	if err := tun.Write(ctx, websocket.MessageText, []byte("now")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tun.Read(ctx); err == nil || websocket.CloseStatus(err) != -1 || ctx.Err() != nil {
		t.Errorf("the server was cut off; the client got %v", err)
	}
}

// Either end may say that it is done, and still hear the other out.
func testHalfClose(t *testing.T, ctx context.Context, c *chat, w way) {
	message := make([]byte, 1<<20)
	_, _ = rand.Read(message)
	tun := c.open(t, ctx, w, "/bytes", websocket.DialOptions{})
	sent := make(chan error, 1)
	go func() {
		_, err := tun.stream.Write(message)
		sent <- errors.Join(err, tun.stream.CloseWrite())
	}()
	got, err := io.ReadAll(tun.stream)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	if string(got) != string(message)+"after the end" {
		t.Errorf("the client got %d bytes", len(got))
	}
	tun.compare(t, tun.other(t, ctx))

	tun = c.open(t, ctx, w, "/first", websocket.DialOptions{})
	if got, err := io.ReadAll(tun.stream); err != nil || string(got) != "from the server" {
		t.Fatalf("%q %v", got, err)
	}
	if _, err := tun.stream.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := tun.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	tun.compare(t, tun.other(t, ctx))
}

func testSubprotocol(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{Subprotocols: []string{"v2.chat", "v1.chat"}})
	if got := tun.Subprotocol(); got != "v1.chat" {
		t.Errorf("%q", got)
	}
	tun.finish(t, ctx)
	tun = c.open(t, ctx, w, "/echo", websocket.DialOptions{Subprotocols: []string{"v3.chat"}})
	if got := tun.Subprotocol(); got != "" {
		t.Errorf("%q", got)
	}
	tun.finish(t, ctx)
}

// The ends agree on permessage-deflate, RFC 7692, which uses a bit that RFC 6455 reserves.
func testCompression(t *testing.T, ctx context.Context, c *chat, w way) {
	tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	if got := tun.resp.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
		t.Errorf("extensions: %q", got)
	}
	for i := range 5 {
		if err := tun.echo(ctx, websocket.MessageText, bytes.Repeat([]byte("again and again "), 1000*i)); err != nil {
			t.Fatal(err)
		}
	}
	tun.stream.sent.mu.Lock()
	n := tun.stream.sent.n
	tun.stream.sent.mu.Unlock()
	if n > 10_000 {
		t.Errorf("%d bytes were sent: it was not compressed", n)
	}
	tun.finish(t, ctx)
}

// What the server finds wrong with a frame, it tells the client itself.
func testBrokenFrames(t *testing.T, ctx context.Context, c *chat, w way) {
	for name, frame := range map[string]string{
		"reserved bit": "\xb1\x82\x00\x00\x00\x00hi", "unknown opcode": "\x83\x80\x00\x00\x00\x00",
		"nothing to continue": "\x80\x80\x00\x00\x00\x00", "fragmented ping": "\x09\x80\x00\x00\x00\x00",
	} {
		tun := c.open(t, ctx, w, "/echo", websocket.DialOptions{})
		if _, err := io.WriteString(tun.stream, frame); err != nil {
			t.Fatal(err)
		}
		_, _, err := tun.Read(ctx)
		if websocket.CloseStatus(err) != websocket.StatusProtocolError {
			t.Errorf("%s: the client got %v", name, err)
		}
		_ = tun.CloseNow()
		tun.other(t, ctx)
	}
}

func testRefused(t *testing.T, ctx context.Context, c *chat, w way) {
	tun, err := c.dial(t, ctx, w, "/refuse", websocket.DialOptions{})
	if err == nil || tun.resp == nil || tun.resp.StatusCode != 403 {
		t.Fatalf("%v %v", tun.resp, err)
	}
	if text, err := io.ReadAll(tun.resp.Body); string(text) != "not you\n" || err != nil {
		t.Errorf("%q %v", text, err)
	}
}

// Tunnels do not wait for one whose client does not read.
func testManyTunnels(t *testing.T, ctx context.Context, c *chat, w way) {
	stalled := c.open(t, ctx, w, "/flood", websocket.DialOptions{})
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			tun, err := c.dial(t, ctx, w, "/echo", websocket.DialOptions{})
			for j := 0; j < 10 && err == nil; j++ {
				err = tun.echo(ctx, websocket.MessageBinary, bytes.Repeat([]byte{byte(i)}, 10_000*j))
			}
			if err != nil {
				t.Error(err)
				return
			}
			tun.finish(t, ctx)
		})
	}
	group.Wait()
	for i := range 64 {
		if _, message, err := stalled.Read(ctx); err != nil || len(message) != 1<<20 || message[0] != byte(i) {
			t.Fatalf("message %d: %d bytes, %v", i, len(message), err)
		}
	}
	stalled.finish(t, ctx)
}

// TestWebSocketOutlivesConfiguration changes all of the configuration under open tunnels.
func TestWebSocketOutlivesConfiguration(t *testing.T) {
	c, h := startChat(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var open []*tunnel
	for _, w := range h.ways() {
		open = append(open, c.open(t, ctx, w, "/echo", websocket.DialOptions{}), c.open(t, ctx, w, "/far/echo", websocket.DialOptions{}))
	}
	h.apply(t, "")
	for _, w := range h.ways() {
		awaitThat(t, "the routes to go", func() bool {
			tun, err := c.dial(t, ctx, w, "/echo", websocket.DialOptions{})
			if err == nil {
				_ = tun.CloseNow()
			}
			return err != nil && tun.resp != nil && tun.resp.StatusCode == 404
		})
	}
	for i, tun := range open {
		if err := tun.echo(ctx, websocket.MessageText, bytes.Repeat([]byte("still there"), 1000)); err != nil {
			t.Errorf("tunnel %d: %v", i, err)
			continue
		}
		tun.finish(t, ctx)
	}
}

// TestWebSocketDrains has SIGTERM come while tunnels are open: they go on until
// their ends close them, or the time for it is over.
func TestWebSocketDrains(t *testing.T) {
	const bound = 3 * time.Second
	for _, closes := range []bool{true, false} {
		timeout := time.Minute
		if !closes {
			timeout = bound
		}
		c, h := startChat(t, "--shutdown-timeout", timeout.String())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var open []*tunnel
		for _, w := range h.ways() {
			open = append(open, c.open(t, ctx, w, "/echo", websocket.DialOptions{}), c.open(t, ctx, w, "/far/echo", websocket.DialOptions{}))
		}
		began := time.Now()
		if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		awaitThat(t, "the end of listening", func() bool {
			resp, err := http.Get(fmt.Sprintf("http://localhost:%d/", h.plain))
			if err == nil {
				resp.Body.Close()
			}
			return err != nil
		})
		for i, tun := range open {
			if err := tun.echo(ctx, websocket.MessageText, []byte("still there")); err != nil && (closes || time.Since(began) < bound) {
				t.Errorf("tunnel %d: %v", i, err)
			}
			if closes {
				tun.finish(t, ctx)
			}
		}
		select {
		case <-h.ended:
		case <-ctx.Done():
			t.Fatal("headgate does not end")
		}
		if took := time.Since(began); !closes && took < bound {
			t.Errorf("it ended after %v with tunnels open, want %v", took, bound)
		}
		for i, tun := range open {
			if !closes {
				if _, _, err := tun.Read(ctx); err == nil || ctx.Err() != nil {
					t.Errorf("tunnel %d was not cut off: %v", i, err)
				}
			}
		}
	}
}
