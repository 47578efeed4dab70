package h2_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/headgate/headgate/dataplane/exchange"
)

// TestClientSendWindows sends no more than the peer allows.
func TestClientSendWindows(t *testing.T) {
	p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	ex := request("PUT", "/")
	ex.Out.Body, ex.Out.Length = body(ex, strings.Repeat("x", 100)), 100
	k := start(t, c, ex)
	id := p.want(http2.FrameHeaders).StreamID
	expect := func(n int) {
		t.Helper()
		if d := p.want(http2.FrameData); len(d.payload) != n {
			t.Errorf("%d bytes came, want %d", len(d.payload), n)
		}
	}
	expect(10)
	p.f.WriteWindowUpdate(id, 5)
	expect(5)
	p.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}) // 10 less than nothing
	p.f.WriteWindowUpdate(id, 7)
	p.f.WriteWindowUpdate(id, 4)
	expect(1)
	p.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3})
	expect(3)
	p.f.WriteWindowUpdate(id, 1000)
	d := p.want(http2.FrameData)
	if len(d.payload) != 81 || d.Flags&http2.FlagDataEndStream == 0 {
		t.Errorf("%v", d)
	}
	p.headers(id, true, ":status: 200")
	k.succeeds(t)
	works(t, p, c)
}

// TestClientConnectionWindow shares what the connection allows among streams.
func TestClientConnectionWindow(t *testing.T) {
	p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	const size = 100_000
	var calls []*call
	for range 4 {
		ex := request("PUT", "/")
		ex.Out.Body, ex.Out.Length = body(ex, strings.Repeat("x", size)), size
		calls = append(calls, start(t, c, ex))
	}
	sum, heads, ends, window := 0, 0, 0, 65535
	for sum < 4*size || ends < 4 {
		switch f := (<-p.frames).(type) {
		case error:
			t.Fatal(f)
		case *got:
			switch f.Type {
			case http2.FrameHeaders:
				heads++
			case http2.FrameData:
				sum += len(f.payload)
				if f.Flags&http2.FlagDataEndStream != 0 {
					ends++
					p.headers(f.StreamID, true, ":status: 200")
				}
				if sum > window {
					t.Fatalf("%d bytes came, %d are allowed", sum, window)
				}
				if sum == window {
					window += 33_333
					p.f.WriteWindowUpdate(0, 33_333)
				}
			}
		}
	}
	for _, k := range calls {
		k.succeeds(t)
	}
}

// TestClientSlowStream has one exchange that nobody pulls beside others.
func TestClientSlowStream(t *testing.T) {
	p, c := newPeer(t, nil)
	slow := start(t, c, request("GET", "/slow"))
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 200")
	for range 4 {
		p.f.WriteData(id, false, bytes.Repeat([]byte("s"), 16384)) // all that its window takes
	}
	if err := slow.wait(t); err != nil {
		t.Fatal(err)
	}
	// Many times the connection's window.
	const frames = 1024
	fast := start(t, c, request("GET", "/fast"))
	fid := p.want(http2.FrameHeaders).StreamID
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p.headers(fid, false, ":status: 200")
		conn, stream := 4<<20-65536, 65536
		data := bytes.Repeat([]byte("f"), 16384)
		for sent := 0; sent < frames; {
			if conn >= len(data) && stream >= len(data) {
				p.f.WriteData(fid, sent == frames-1, data)
				conn, stream = conn-len(data), stream-len(data)
				sent++
				continue
			}
			f, ok := (<-p.frames).(*got)
			if !ok {
				return
			}
			if f.Type == http2.FrameWindowUpdate {
				n := int(f.payload[0])<<24 | int(f.payload[1])<<16 | int(f.payload[2])<<8 | int(f.payload[3])
				if f.StreamID == 0 {
					conn += n
				} else if f.StreamID == fid {
					stream += n
				} else {
					t.Errorf("a window for stream %d, which nobody pulls", f.StreamID)
				}
			}
		}
	}()
	if text := fast.succeeds(t); len(text) != frames*16384 {
		t.Errorf("%d bytes", len(text))
	}
	<-sent
	p.f.WriteData(id, true, nil)
	if text, err := readAll(slow.ex); len(text) != 65536 || err != nil {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	slow.s.Finish()
}

// TestClientPadding gives back the windows that padding took.
func TestClientPadding(t *testing.T) {
	p, c := newPeer(t, nil)
	k := start(t, c, request("GET", "/"))
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 200")
	for range 1000 { // ten times the stream's window
		p.f.WriteDataPadded(id, false, []byte("x"), make([]byte, 255))
		time.Sleep(10 * time.Microsecond)
	}
	p.f.WriteData(id, true, nil)
	if text := k.succeeds(t); len(text) != 1000 {
		t.Errorf("%d bytes", len(text))
	}
}

func TestClientMaxConcurrent(t *testing.T) {
	p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	a, b := c.Open(), c.Open()
	if a == nil || b == nil || c.Open() != nil {
		t.Fatal("two streams were to be had")
	}
	b.Finish() // it was not used
	k := start(t, c, request("GET", "/"))
	p.headers(p.want(http2.FrameHeaders).StreamID, true, ":status: 200")
	k.succeeds(t)
	p.f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 3})
	p.want(http2.FrameSettings)
	opened := 0
	for range 3 {
		if c.Open() != nil {
			opened++
		}
	}
	if opened != 2 {
		t.Error("three streams were to be had")
	}
	if l := c.Load(); l.Open != 3 || l.Most != 3 || !l.Usable || !l.Settled || l.Ended {
		t.Errorf("%+v", l)
	}
}

// TestClientRefused repeats nothing by itself, but says what can be repeated,
// and leaves the content as it was.
func TestClientRefused(t *testing.T) {
	long := strings.Repeat("x", 20_000)
	for _, tt := range []struct {
		name    string
		pieces  []string
		resume  bool
		unsent  bool
		content string
	}{
		{"no content", nil, false, true, ""},
		{"content that was sent", []string{"con", "tent"}, false, true, "content"},
		{"content that is still to come", []string{"con", "", "tent"}, true, false, ""},
		{"content that is not kept", []string{long}, false, false, ""},
	} {
		for how, refuse := range map[string]func(p *upstreamPeer, id uint32){
			"refused": func(p *upstreamPeer, id uint32) { p.f.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
			"goaway":  func(p *upstreamPeer, id uint32) { p.f.WriteGoAway(id-2, http2.ErrCodeNo, nil) },
		} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				p, c := newPeer(t, nil)
				works(t, p, c)
				ex := request("POST", "/")
				var b *pieces
				if tt.pieces != nil {
					b = body(ex, tt.pieces...)
					ex.Out.Body, ex.Out.Length = b, -1
				}
				k := start(t, c, ex)
				id := p.want(http2.FrameHeaders).StreamID
				if tt.pieces != nil {
					p.want(http2.FrameData)
				}
				if tt.resume {
					// The pump waits for the client by now, or will see that it need not.
					for !b.waiting() {
						time.Sleep(time.Millisecond)
					}
				}
				refuse(p, id)
				up := k.fails(t)
				if up.Stage != exchange.Stale || up.Reason != how || up.Unsent != tt.unsent {
					t.Errorf("%+v", up)
				}
				if !tt.unsent || tt.pieces == nil {
					return
				}
				var content strings.Builder
				for {
					data, err := ex.Out.Body.Next()
					if err == io.EOF {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					content.Write(data)
				}
				if content.String() != tt.content {
					t.Errorf("the content is %q now", content.String())
				}
			})
		}
	}
}

// TestClientGoAway finishes what the peer still processes, and then ends.
func TestClientGoAway(t *testing.T) {
	p, c := newPeer(t, nil)
	first := start(t, c, request("GET", "/1"))
	id := p.want(http2.FrameHeaders).StreamID
	second := start(t, c, request("GET", "/2"))
	p.want(http2.FrameHeaders)
	late := open(t, c)
	p.f.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
	p.f.WriteGoAway(id, http2.ErrCodeNo, nil)
	if up := second.fails(t); up.Stage != exchange.Stale || !up.Unsent {
		t.Errorf("%+v", up)
	}
	if c.Open() != nil {
		t.Error("a stream can be opened")
	}
	k := &call{ex: request("POST", "/3"), s: late, err: make(chan error, 1)}
	k.err <- late.RoundTrip(k.ex)
	if up := k.fails(t); up.Stage != exchange.Stale && up.Stage != exchange.Dialing || !up.Unsent {
		t.Errorf("%+v", up)
	}
	p.headers(id, false, ":status: 200")
	p.f.WriteData(id, true, []byte("ok"))
	if text := first.succeeds(t); text != "ok" {
		t.Errorf("%q", text)
	}
	if code := p.ends(); code != "NO_ERROR" {
		t.Errorf("%q", code)
	}
}

func TestClientTunnel(t *testing.T) {
	t.Run("WebSocket", func(t *testing.T) {
		p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
		ex := request("GET", "/chat")
		ex.Out.Upgrade = "websocket"
		ex.Out.Fields.Add("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		ex.Out.Fields.Add("Sec-WebSocket-Version", "13")
		k := start(t, c, ex)
		h := p.want(http2.FrameHeaders)
		if h.fields[":method"] != "CONNECT" || h.fields[":protocol"] != "websocket" || h.fields[":path"] != "/chat" ||
			h.fields[":scheme"] != "http" || h.fields[":authority"] != "web.example" || h.fields["sec-websocket-version"] != "13" ||
			h.fields["sec-websocket-key"] != "" || h.Flags&http2.FlagHeadersEndStream != 0 {
			t.Errorf("%v", h.fields)
		}
		p.headers(h.StreamID, false, ":status: 200")
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		accept, _ := ex.Response.Fields.Get("Sec-WebSocket-Accept")
		if ex.Response.Status != 101 || ex.Response.Fields.Value(exchange.KeyUpgrade) != "websocket" || accept != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
			t.Errorf("%d %v", ex.Response.Status, ex.Response.Fields)
		}
		tunnel := ex.Response.Tunnel
		io.WriteString(tunnel, "hello")
		if d := p.want(http2.FrameData); string(d.payload) != "hello" {
			t.Errorf("%q", d.payload)
		}
		p.f.WriteData(h.StreamID, false, []byte("world"))
		buf := make([]byte, 3)
		if n, err := io.ReadFull(tunnel, buf); string(buf[:n]) != "wor" || err != nil {
			t.Errorf("%q %v", buf[:n], err)
		}
		if err := tunnel.CloseWrite(); err != nil {
			t.Error(err)
		}
		if d := p.want(http2.FrameData); d.Flags&http2.FlagDataEndStream == 0 {
			t.Errorf("%v", d)
		}
		p.f.WriteData(h.StreamID, true, []byte("!"))
		if rest, err := io.ReadAll(tunnel); string(rest) != "ld!" || err != nil {
			t.Errorf("%q %v", rest, err)
		}
		tunnel.Close()
		k.s.Finish()
		works(t, p, c)
	})
	t.Run("refused", func(t *testing.T) {
		p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
		ex := request("GET", "/chat")
		ex.Out.Upgrade = "websocket"
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 403")
		p.f.WriteData(id, true, []byte("no"))
		if text := k.succeeds(t); text != "no" || ex.Response.Tunnel != nil || ex.Response.Status != 403 {
			t.Errorf("%d %q", ex.Response.Status, text)
		}
		p.want(http2.FrameRSTStream)
	})
	t.Run("not enabled", func(t *testing.T) {
		p, c := newPeer(t, nil)
		ex := request("GET", "/chat")
		ex.Out.Upgrade = "websocket"
		if up := start(t, c, ex).fails(t); up.Reason != "upgrade_refused" || !up.Unsent {
			t.Errorf("%+v", up)
		}
		ex = request("GET", "/")
		ex.Out.Upgrade = "h2c" // is ignored
		k := start(t, c, ex)
		h := p.want(http2.FrameHeaders)
		if h.fields[":method"] != "GET" || h.fields["upgrade"] != "" {
			t.Errorf("%v", h.fields)
		}
		p.headers(h.StreamID, true, ":status: 200")
		k.succeeds(t)
	})
	t.Run("CONNECT", func(t *testing.T) {
		p, c := newPeer(t, nil)
		ex := request("CONNECT", "")
		ex.Out.Authority = "far.example:443"
		k := start(t, c, ex)
		h := p.want(http2.FrameHeaders)
		if _, has := h.fields[":path"]; has || h.fields[":authority"] != "far.example:443" || h.fields[":scheme"] != "" {
			t.Errorf("%v", h.fields)
		}
		p.headers(h.StreamID, false, ":status: 200")
		if err := k.wait(t); err != nil || ex.Response.Status != 200 || ex.Response.Tunnel == nil {
			t.Fatalf("%v %+v", err, ex.Response)
		}
		read := make(chan error, 1)
		go func() {
			_, err := ex.Response.Tunnel.Read(make([]byte, 1))
			read <- err
		}()
		ex.Response.Tunnel.Close() // wakes who reads
		if err := <-read; err == nil {
			t.Error("it read something")
		}
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
		k.s.Finish()
		works(t, p, c)
	})
}
