package h2_test

import (
	"bytes"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/h2"
)

// TestClientMalformed answers with what no response may be, RFC 9113 sections
// 8.1 to 8.3: the stream ends, and the connection goes on.
func TestClientMalformed(t *testing.T) {
	p, c := newPeer(t, nil)
	type script func(id uint32)
	head := func(lines ...string) script { return func(id uint32) { p.headers(id, false, lines...) } }
	last := func(lines ...string) script { return func(id uint32) { p.headers(id, true, lines...) } }
	data := func(text string, end bool) script { return func(id uint32) { p.f.WriteData(id, end, []byte(text)) } }
	for name, do := range map[string][]script{
		"no status":                     {last("server: x")},
		"status twice":                  {last(":status: 200", ":status: 200")},
		"status after a field":          {last("server: x", ":status: 200")},
		"status of two digits":          {last(":status: 20")},
		"status of four digits":         {last(":status: 2000")},
		"status that is no number":      {last(":status: 2x0")},
		"status above all":              {last(":status: 600")},
		"status below all":              {last(":status: 099")},
		"pseudo-field of a request":     {last(":status: 200", ":path: /")},
		"unknown pseudo-field":          {last(":status: 200", ":other: x")},
		"upper case":                    {last(":status: 200", "Server: x")},
		"upper case in the middle":      {last(":status: 200", "x-Y: x")},
		"name with a space":             {last(":status: 200", "x y: x")},
		"name with a line break":        {last(":status: 200", "x\r\ny: x")},
		"value with a line break":       {last(":status: 200", "x: a\r\nb: c")},
		"value with NUL":                {last(":status: 200", "x: a\x00b")},
		"value with a space before":     {last(":status: 200", "x:  a")},
		"value with a space behind":     {last(":status: 200", "x: a ")},
		"connection":                    {last(":status: 200", "connection: close")},
		"keep-alive":                    {last(":status: 200", "keep-alive: 5")},
		"proxy-connection":              {last(":status: 200", "proxy-connection: x")},
		"transfer-encoding":             {last(":status: 200", "transfer-encoding: chunked")},
		"upgrade":                       {last(":status: 200", "upgrade: h2c")},
		"te":                            {last(":status: 200", "te: trailers")},
		"101":                           {last(":status: 101")},
		"101 that is not the end":       {head(":status: 101")},
		"interim that is the end":       {last(":status: 103")},
		"interim with a length":         {head(":status: 103", "content-length: 0")},
		"two lengths":                   {head(":status: 200", "content-length: 2", "content-length: 2")},
		"length with a sign":            {head(":status: 200", "content-length: +2")},
		"length that is a list":         {head(":status: 200", "content-length: 2, 2")},
		"length that is too large":      {head(":status: 200", "content-length: 99999999999999999999")},
		"length and no content":         {last(":status: 200", "content-length: 2")},
		"content before the head":       {data("ok", false)},
		"content before the final head": {head(":status: 103"), data("ok", false)},
	} {
		t.Run(name, func(t *testing.T) {
			k := start(t, c, request("GET", "/"))
			h := p.want(http2.FrameHeaders)
			for _, step := range do {
				step(h.StreamID)
			}
			if up := k.fails(t); up.Reason != "malformed_response" || up.Unsent {
				t.Errorf("%+v", up)
			}
			if rst := p.want(http2.FrameRSTStream); rst.StreamID != h.StreamID || string(rst.payload) != "PROTOCOL_ERROR" {
				t.Errorf("%v %s", rst, rst.payload)
			}
		})
	}
	// Those that are only seen when the head was handed over.
	for name, tt := range map[string]struct {
		method string
		do     []script
		code   string
	}{
		"more content than the length":   {"GET", []script{head(":status: 200", "content-length: 2"), data("long", false)}, "PROTOCOL_ERROR"},
		"less content than the length":   {"GET", []script{head(":status: 200", "content-length: 9"), data("short", true)}, "PROTOCOL_ERROR"},
		"less before trailers":           {"GET", []script{head(":status: 200", "content-length: 9"), data("short", false), last("x: y")}, "PROTOCOL_ERROR"},
		"trailers that are not the end":  {"GET", []script{head(":status: 200"), data("ok", false), head("x: y")}, "PROTOCOL_ERROR"},
		"trailers with a pseudo-field":   {"GET", []script{head(":status: 200"), data("ok", false), last(":status: 200")}, "PROTOCOL_ERROR"},
		"trailers with a length":         {"GET", []script{head(":status: 200"), data("ok", false), last("content-length: 2")}, "PROTOCOL_ERROR"},
		"a second head":                  {"GET", []script{head(":status: 200"), head(":status: 200")}, "PROTOCOL_ERROR"},
		"content in an answer to HEAD":   {"HEAD", []script{head(":status: 200"), data("ok", true)}, "PROTOCOL_ERROR"},
		"content behind 204":             {"GET", []script{head(":status: 204"), data("ok", true)}, "PROTOCOL_ERROR"},
		"content behind 304":             {"GET", []script{head(":status: 304"), data("ok", true)}, "PROTOCOL_ERROR"},
		"more content than is to be had": {"GET", []script{head(":status: 200"), data(strings.Repeat("x", 16384), false), data(strings.Repeat("x", 16384), false), data(strings.Repeat("x", 16384), false), data(strings.Repeat("x", 16384), false), data("x", false)}, "FLOW_CONTROL_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			k := start(t, c, request(tt.method, "/"))
			h := p.want(http2.FrameHeaders)
			for _, step := range tt.do {
				step(h.StreamID)
			}
			if rst := p.want(http2.FrameRSTStream); rst.StreamID != h.StreamID || string(rst.payload) != tt.code {
				t.Errorf("%v %s", rst, rst.payload)
			}
			if err := k.wait(t); err == nil {
				if _, err = readAll(k.ex); err == nil && k.ex.Response.Body != nil {
					t.Error("the content was well")
				}
			}
			k.s.Finish()
		})
	}
	works(t, p, c)
}

// TestClientBroken breaks rules that hold for the connection.
func TestClientBroken(t *testing.T) {
	told := 0
	tests := map[string]struct {
		do   func(p *upstreamPeer, id uint32)
		code string
	}{
		"a frame that is too large":   {func(p *upstreamPeer, id uint32) { p.f.WriteData(id, false, make([]byte, 16385)) }, "FRAME_SIZE_ERROR"},
		"DATA on stream 0":            {func(p *upstreamPeer, id uint32) { p.f.WriteRawFrame(http2.FrameData, 0, 0, []byte("x")) }, "PROTOCOL_ERROR"},
		"DATA on a stream never used": {func(p *upstreamPeer, id uint32) { p.f.WriteData(id+2, false, []byte("x")) }, "PROTOCOL_ERROR"},
		"HEADERS on one never used":   {func(p *upstreamPeer, id uint32) { p.headers(id+2, true, ":status: 200") }, "PROTOCOL_ERROR"},
		"HEADERS on a stream of its":  {func(p *upstreamPeer, id uint32) { p.headers(2, true, ":status: 200") }, "PROTOCOL_ERROR"},
		"PUSH_PROMISE": {func(p *upstreamPeer, id uint32) {
			p.f.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true})
		}, "PROTOCOL_ERROR"},
		"a block that is no HPACK": {func(p *upstreamPeer, id uint32) {
			p.f.WriteRawFrame(http2.FrameHeaders, 4, id, []byte{0xff, 0xff, 0xff})
		}, "COMPRESSION_ERROR"},
		"a block cut off":         {func(p *upstreamPeer, id uint32) { p.f.WriteRawFrame(http2.FrameHeaders, 4, id, []byte{0x40, 5, 'a'}) }, "COMPRESSION_ERROR"},
		"CONTINUATION of nothing": {func(p *upstreamPeer, id uint32) { p.f.WriteContinuation(id, true, nil) }, "PROTOCOL_ERROR"},
		"something within a block": {func(p *upstreamPeer, id uint32) {
			p.f.WriteRawFrame(http2.FrameHeaders, 0, id, []byte{0x88})
			p.f.WriteData(id, true, nil)
		}, "PROTOCOL_ERROR"},
		"WINDOW_UPDATE of nothing":  {func(p *upstreamPeer, id uint32) { p.f.WriteWindowUpdate(0, 0) }, "PROTOCOL_ERROR"},
		"WINDOW_UPDATE of too much": {func(p *upstreamPeer, id uint32) { p.f.WriteWindowUpdate(0, 1<<31-1) }, "FLOW_CONTROL_ERROR"},
		"SETTINGS that ask for a push": {func(p *upstreamPeer, id uint32) {
			p.f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 1})
		}, "PROTOCOL_ERROR"},
		"SETTINGS of a small frame": {func(p *upstreamPeer, id uint32) {
			p.f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
		}, "PROTOCOL_ERROR"},
		"SETTINGS of a huge window": {func(p *upstreamPeer, id uint32) {
			p.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31})
		}, "FLOW_CONTROL_ERROR"},
		"padding beyond the frame": {func(p *upstreamPeer, id uint32) { p.f.WriteRawFrame(http2.FrameData, 8, id, []byte{9, 1}) }, "PROTOCOL_ERROR"},
		"PING of seven bytes":      {func(p *upstreamPeer, id uint32) { p.f.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }, "FRAME_SIZE_ERROR"},
		"PRIORITY_UPDATE":          {func(p *upstreamPeer, id uint32) { p.f.WritePriorityUpdate(id, "u=1") }, "PROTOCOL_ERROR"},
		"a flood of CONTINUATION": {func(p *upstreamPeer, id uint32) {
			p.f.WriteRawFrame(http2.FrameHeaders, 0, id, []byte{0x88})
			for range 100 {
				p.f.WriteContinuation(id, false, nil)
			}
		}, "ENHANCE_YOUR_CALM"},
		"a bomb": {func(p *upstreamPeer, id uint32) {
			p.headers(id, false, ":status: 103", "x: "+strings.Repeat("y", 3000))
			block := bytes.Repeat([]byte{0x80 | 62}, 10_000)
			p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
		}, "ENHANCE_YOUR_CALM"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, c := newPeer(t, nil)
			k := start(t, c, request("GET", "/"))
			h := p.want(http2.FrameHeaders)
			tt.do(p, h.StreamID)
			// Where the connection ends before all was read that the peer sent, the
			// kernel may reset it, and GOAWAY be lost.
			code := p.ends()
			if code != tt.code && code != "" {
				t.Errorf("GOAWAY says %q, want %q", code, tt.code)
			}
			if code != "" {
				told++
			}
			if up := k.fails(t); up.Reason != "malformed_response" {
				t.Errorf("%+v", up)
			}
			if c.Open() != nil {
				t.Error("a stream can be opened")
			}
		})
	}
	if told < len(tests)/2 {
		t.Errorf("only %d of %d peers were told why", told, len(tests))
	}
}

// TestClientHeaderTooLarge answers with more than is taken, but not so much
// that the connection must end.
func TestClientHeaderTooLarge(t *testing.T) {
	p, c := newPeer(t, &h2.ClientOptions{MaxHeaderBytes: 4096, MaxHeaderCount: 10})
	for name, lines := range map[string][]string{
		"bytes": {":status: 200", "x: " + strings.Repeat("y", 5000)},
		"count": append([]string{":status: 200"}, slices.Repeat([]string{"x: y"}, 11)...),
	} {
		k := start(t, c, request("GET", "/"))
		p.headers(p.want(http2.FrameHeaders).StreamID, true, lines...)
		if up := k.fails(t); up.Reason != "malformed_response" {
			t.Errorf("%s: %+v", name, up)
		}
		p.want(http2.FrameRSTStream)
	}
	works(t, p, c)
}

// TestClientUnread has a peer that does not read: nobody waits longer than its
// exchange may take.
func TestClientUnread(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	remote, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	f := http2.NewFramer(remote, nil)
	f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	f.WriteWindowUpdate(0, 1<<30)
	c := h2.NewClientConn(nc, nil)
	c.Start(nil)
	defer c.Close()
	big := strings.Repeat("x", 64<<20)
	for range 3 {
		ex := request("PUT", "/")
		ex.Out.Body, ex.Out.Length = body(ex, big), int64(len(big))
		ex.TryDeadline = time.Now().Add(50 * time.Millisecond)
		began := time.Now()
		if up := start(t, c, ex).fails(t); up.Reason != "timeout" {
			t.Errorf("%+v", up)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	}
}

// FuzzClient has a peer that sends anything. The exchange must end, one way or
// another.
func FuzzClient(f *testing.F) {
	var seed bytes.Buffer
	framer := http2.NewFramer(&seed, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	enc.WriteField(hpack.HeaderField{Name: "content-length", Value: "2"})
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	framer.WriteData(1, true, []byte("ok"))
	f.Add(bytes.Clone(seed.Bytes()))
	seed.Reset()
	framer.WriteRSTStream(1, http2.ErrCodeRefusedStream)
	framer.WriteGoAway(0, http2.ErrCodeNo, []byte("x"))
	f.Add(bytes.Clone(seed.Bytes()))
	seed.Reset()
	framer.WritePing(false, [8]byte{})
	framer.WriteWindowUpdate(1, 5)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	f.Add(bytes.Clone(seed.Bytes()))
	f.Fuzz(func(t *testing.T, sent []byte) {
		local, remote := net.Pipe()
		c := h2.NewClientConn(local, &h2.ClientOptions{ReadTimeout: time.Second, WriteTimeout: time.Second})
		go io.Copy(io.Discard, remote)
		s := c.Open() // before the peer can have ended the connection
		c.Start(nil)
		go func() {
			http2.NewFramer(remote, nil).WriteSettings()
			remote.Write(sent)
			remote.Close()
		}()
		ex := request("POST", "/")
		ex.Out.Body, ex.Out.Length = body(ex, "content"), -1
		if err := s.RoundTrip(ex); err == nil {
			if ex.Response.Status < 200 || ex.Response.Status > 599 {
				t.Errorf("status %d", ex.Response.Status)
			}
			text, err := readAll(ex)
			if n := ex.Response.Length; err == nil && n > 0 && ex.Response.Body != nil && int64(len(text)) != n {
				t.Errorf("%d bytes of %d", len(text), n)
			}
		}
		s.Finish()
		c.Close()
	})
}
