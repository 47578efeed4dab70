package h2_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// frames reads frames until enough says so, and returns their short form.
func (p *guest) frames(enough func(http2.Frame) bool) (list []string) {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatal(err, list)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			list = append(list, fmt.Sprintf("DATA %d %d %v", f.StreamID, len(f.Data()), f.StreamEnded()))
		case *http2.HeadersFrame:
			list = append(list, fmt.Sprintf("HEADERS %d %v", f.StreamID, f.StreamEnded()))
		case *http2.RSTStreamFrame:
			list = append(list, fmt.Sprintf("RST %d %v", f.StreamID, f.ErrCode))
		case *http2.GoAwayFrame:
			list = append(list, fmt.Sprintf("GOAWAY %d %v %s", f.LastStreamID, f.ErrCode, f.DebugData()))
		case *http2.PingFrame:
			list = append(list, fmt.Sprintf("PING %v", f.IsAck()))
		}
		if enough(f) {
			return list
		}
	}
}

func ended(id uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.DataFrame:
			return f.StreamID == id && f.StreamEnded()
		case *http2.RSTStreamFrame:
			return f.StreamID == id
		case *http2.GoAwayFrame:
			return true
		}
		return false
	}
}

func sized(ex *exchange.Exchange) {
	var n int
	_, _ = fmt.Sscan(strings.TrimPrefix(ex.In.Path, "/"), &n)
	ex.Response.Status, ex.Response.Length = 200, int64(n)
	ex.Response.Body = &content{parts: [][]byte{make([]byte, n)}}
}

func path(p string) []string {
	return []string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", p}
}

// No more is sent than windows allow, and a stream that has none does not stop another.
func TestServerSendWindows(t *testing.T) {
	f := serveH2(t, &handler{serve: sized}, nil)
	p := f.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	p.request(1, true, path("/25")...)
	got := fmt.Sprint(p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }))
	p.request(3, true, path("/10")...)
	got += fmt.Sprint(p.frames(ended(3)))
	_ = p.WriteWindowUpdate(1, 5)
	got += fmt.Sprint(p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }))
	_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
	got += fmt.Sprint(p.frames(ended(1)))
	want := "[HEADERS 1 false DATA 1 10 false][HEADERS 3 false DATA 3 10 true][DATA 1 5 false][DATA 1 10 true]"
	if got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
}

// A stream that uses its window up leaves the connection's as it is, but for
// what was sent.
func TestServerKeepsConnectionWindow(t *testing.T) {
	f := serveH2(t, &handler{serve: sized}, nil)
	p := f.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	p.request(1, true, path("/60000")...)
	for i := range 10 {
		if i > 0 {
			_ = p.WriteWindowUpdate(1, 10)
		}
		p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok })
	}
	_ = p.WriteWindowUpdate(1, 60000-100)
	if got := p.frames(ended(1)); len(got) == 0 || got[len(got)-1] != "DATA 1 10748 true" {
		t.Errorf("%v", got)
	}
}

// The connection's window is shared in the order of priorities, turn by turn
// among equals.
func TestServerPriorities(t *testing.T) {
	gate := make(chan struct{})
	f := serveH2(t, &handler{serve: func(ex *exchange.Exchange) { <-gate; sized(ex) }}, nil)
	p := f.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	// The first uses the connection's window up.
	p.request(1, true, path("/65535")...)
	gate <- struct{}{}
	p.frames(ended(1))
	heads := 0
	for i, priority := range []string{"u=7", "", "", "u=1", "u=5"} {
		p.request(uint32(3+2*i), true, append(path("/20000"), "priority", priority)...)
		gate <- struct{}{}
		heads++
	}
	p.frames(func(f http2.Frame) bool {
		if _, ok := f.(*http2.HeadersFrame); ok {
			heads--
		}
		return heads == 0
	})
	_ = p.WriteRawFrame(0x10, 0, 0, []byte("\x00\x00\x00\x0bu=0")) // stream 11 goes first
	_ = p.WritePing(false, [8]byte{})
	p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.PingFrame); return ok })
	_ = p.WriteWindowUpdate(0, 1<<20)
	got := strings.Join(p.frames(ended(3)), ", ")
	want := func(one, other int) string {
		return fmt.Sprintf("DATA 11 16384 false, DATA 11 3616 true, DATA 9 16384 false, DATA 9 3616 true, "+
			"DATA %d 16384 false, DATA %d 16384 false, DATA %[1]d 3616 true, DATA %[2]d 3616 true, "+
			"DATA 3 16384 false, DATA 3 3616 true", one, other)
	}
	// Of equals, the one whose handler was done first begins.
	if got != want(5, 7) && got != want(7, 5) {
		t.Errorf("%s, want\n%s or 5 and 7 the other way", got, want(5, 7))
	}
}

// Who never raises a window loses the stream, or the connection if it is its window.
func TestServerStalledWindows(t *testing.T) {
	for want, settings := range map[string]uint32{"RST 1 CANCEL": 0, "GOAWAY ENHANCE_YOUR_CALM stalled_windows": 1 << 20} {
		h := &handler{serve: sized}
		f := serveH2(t, h, &h2.ServerOptions{WriteTimeout: 200 * time.Millisecond})
		p := f.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: settings})
		p.request(1, true, path("/100000")...)
		p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.HeadersFrame); return ok })
		if got := p.outcome(want); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Who does not read at all loses the connection.
func TestServerSlowRead(t *testing.T) {
	h := &handler{serve: sized}
	f := serveH2(t, h, &h2.ServerOptions{WriteTimeout: 200 * time.Millisecond})
	p := f.greet(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = p.WriteWindowUpdate(0, 1<<30)
	p.request(1, true, path("/60000000")...)
	_ = f.ln.Close()
	f.group.Wait()
	if got := h.reported(); len(got) != 1 || got[0] != "0 slow_read" {
		t.Error(got)
	}
}

// Headers, frames and content that never end, and connections without a request.
func TestServerTimeouts(t *testing.T) {
	short := 400 * time.Millisecond
	h := &handler{serve: func(ex *exchange.Exchange) {
		_, err := ex.In.Body.Next()
		var client *exchange.ClientError
		if !errors.As(err, &client) {
			client = &exchange.ClientError{Status: 500}
		}
		ex.Answer(client.Status, "test", "")
	}}
	f := serveH2(t, h, &h2.ServerOptions{HeaderTimeout: short, IdleTimeout: 3 * short, BodyTimeout: short})
	for want, do := range map[string]func(p *guest){
		"GOAWAY ENHANCE_YOUR_CALM header_timeout": func(p *guest) { half(p, 1) },
		"GOAWAY ENHANCE_YOUR_CALM frame_timeout":  func(p *guest) { p.raw("\x00\x00\x08\x06") },
		"1 408":                                   func(p *guest) { p.request(1, false) },
		"closed":                                  func(p *guest) {},
	} {
		p := f.dial(t)
		greeted(do)(p)
		if got := p.outcome(want); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	// The messages of a gRPC call may pause as a tunnel's bytes may.
	f = serveH2(t, h, &h2.ServerOptions{BodyTimeout: time.Hour, TunnelTimeout: short})
	p := f.greet(t)
	p.request(1, false, with("content-type", "application/grpc")...)
	if got := p.outcome("1 408"); got != "1 408" {
		t.Errorf("a gRPC call that pauses: %s", got)
	}
}

// The windows that a client is given are given back as its content is read, and grow.
func TestServerReceiveWindows(t *testing.T) {
	f := serveH2(t, &handler{serve: echo}, &h2.ServerOptions{StreamWindow: 20000})
	p := f.greet(t)
	p.request(1, false)
	stream, conn := 20000, 0
	for conn == 0 {
		if f, err := p.ReadFrame(); err != nil {
			t.Fatal(err)
		} else if f, ok := f.(*http2.WindowUpdateFrame); ok && f.StreamID == 0 {
			conn = 65535 + int(f.Increment)
		}
	}
	largest := 0
	for sent := 0; sent < 2<<20; {
		n := min(stream, conn, 16384)
		if n > 0 {
			_ = p.WriteData(1, false, make([]byte, n))
			sent, stream, conn = sent+n, stream-n, conn-n
			continue
		}
		frame, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := frame.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				conn += int(f.Increment)
			} else {
				stream += int(f.Increment)
				largest = max(largest, stream)
			}
		case *http2.PingFrame:
			_ = p.WritePing(true, f.Data)
		}
	}
	if largest <= 20000 || largest > 1<<20 {
		t.Errorf("the window was at most %d", largest)
	}
}

// Padding counts for windows and is given back.
func TestServerPadding(t *testing.T) {
	f := serveH2(t, &handler{serve: echo}, nil)
	p := f.greet(t)
	p.request(1, false)
	got := 0
	for i := range 600 {
		_ = p.WriteDataPadded(1, i == 599, []byte("x"), make([]byte, 200))
		if i%300 == 299 {
			_ = p.WritePing(false, [8]byte{})
			p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.PingFrame); return ok || ended(1)(f) })
			got++
		}
	}
	if got != 2 {
		t.Error(got)
	}
}

// One too many is refused and can be sent again elsewhere.
func TestServerMaxStreams(t *testing.T) {
	release := make(chan struct{})
	f := serveH2(t, &handler{serve: func(ex *exchange.Exchange) { <-release; ex.Answer(200, "test", "x") }}, &h2.ServerOptions{MaxStreams: 3})
	p := f.greet(t)
	for i := range 4 {
		p.request(uint32(2*i+1), true)
	}
	got := p.frames(ended(7))
	if got[len(got)-1] != "RST 7 REFUSED_STREAM" {
		t.Error(got)
	}
	close(release)
	for range 3 {
		p.frames(func(f http2.Frame) bool { d, ok := f.(*http2.DataFrame); return ok && d.StreamEnded() })
	}
	p.request(9, true)
	p.frames(ended(9))
}

// Two steps: what the client sent before it knew is served, what comes later is not.
func TestServerGoAway(t *testing.T) {
	f := serveH2(t, &handler{serve: func(ex *exchange.Exchange) { ex.Answer(200, "test", "x") }}, nil)
	p := f.greet(t)
	p.request(1, true)
	got := fmt.Sprint(p.frames(ended(1)))
	f.each(func(s *h2.ServerConn) { s.Drain() })
	var ping [8]byte
	got += fmt.Sprint(p.frames(func(f http2.Frame) bool {
		if g, ok := f.(*http2.PingFrame); ok && !g.IsAck() {
			ping = g.Data
			return true
		}
		return false
	}))
	p.request(3, true)
	got += fmt.Sprint(p.frames(ended(3)))
	_ = p.WritePing(true, ping)
	got += fmt.Sprint(p.frames(func(f http2.Frame) bool { _, ok := f.(*http2.GoAwayFrame); return ok }))
	want := "[HEADERS 1 false DATA 1 1 true][GOAWAY 2147483647 NO_ERROR  PING false][HEADERS 3 false DATA 3 1 true][GOAWAY 3 NO_ERROR ]"
	if got != want {
		t.Errorf("%s, want\n%s", got, want)
	}
	_ = f.ln.Close()
	f.group.Wait()
}

// loop is a tunnel that sends back what it gets.
type loop struct {
	*io.PipeReader
	*io.PipeWriter
}

func (l loop) Close() error      { _ = l.PipeReader.Close(); return l.PipeWriter.Close() }
func (l loop) CloseWrite() error { return l.PipeWriter.Close() }

func TestServerWebSocket(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		key, _ := ex.In.Fields.Get("Sec-WebSocket-Key")
		if ex.In.Method != "GET" || ex.In.Upgrade != "websocket" || len(key) != 24 || ex.In.Body != nil {
			t.Errorf("%+v", ex.In)
		}
		if ex.In.Path == "/refused" {
			ex.Answer(200, "test", "not a tunnel")
			return
		}
		r, w := io.Pipe()
		ex.Response.Status, ex.Response.Tunnel = 101, loop{r, w}
		ex.Response.Fields.Add("Upgrade", "websocket")
		accept := webSocketAccept(key)
		if ex.In.Path == "/wrong" {
			accept = "x"
		}
		ex.Response.Fields.Add("Sec-WebSocket-Accept", accept)
	}}
	f := serveH2(t, h, nil)
	open := func(p string) []string {
		return []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.test", ":path", p}
	}
	for path, want := range map[string]string{"/refused": "1 502", "/wrong": "1 502", "/": "1 200"} {
		p := f.greet(t)
		p.request(1, false, open(path)...)
		if got := p.outcome(""); got != want {
			t.Errorf("%s: %s", path, got)
		}
		if path != "/" {
			continue
		}
		sent, got := bytes.Repeat([]byte("abc"), 5000), []byte(nil)
		_ = p.WriteData(1, false, sent)
		_ = p.WriteData(1, true, nil)
		for {
			frame, err := p.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := frame.(*http2.DataFrame); ok {
				got = append(got, d.Data()...)
				if d.StreamEnded() {
					break
				}
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back", len(got))
		}
		// A client that is gone ends the tunnel.
		p.request(3, false, open("/")...)
		p.outcome("")
		_ = p.nc.Close()
	}
}

// webSocketAccept is RFC 6455 section 4.2.2.
func webSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
