package h2_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// upstreamPeer is a server that does as the test says, frame by frame.
type upstreamPeer struct {
	t      testing.TB
	nc     net.Conn
	f      *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	frames chan any // *got, or an error at the end
}

// got is a frame that the client sent.
type got struct {
	http2.FrameHeader
	payload []byte
	fields  map[string]string // of HEADERS
}

// newPeer starts a peer that has sent its SETTINGS, and the client of it.
func newPeer(t testing.TB, opts *h2.ClientOptions, settings ...http2.Setting) (*upstreamPeer, *h2.ClientConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	p := &upstreamPeer{t: t, frames: make(chan any, 1<<12)}
	if p.nc, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	p.f = http2.NewFramer(p.nc, p.nc)
	p.f.AllowIllegalReads, p.f.AllowIllegalWrites = true, true
	p.enc = hpack.NewEncoder(&p.block)
	c := h2.NewClientConn(nc, opts)
	c.Start(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.read()
	}()
	t.Cleanup(func() {
		c.Close()
		p.nc.Close()
		<-done
	})
	if err := p.f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	p.want(http2.FrameSettings) // its own
	for p.want(http2.FrameSettings).Flags&http2.FlagSettingsAck == 0 {
		t.Fatal("no acknowledgement of SETTINGS")
	}
	return p, c
}

func (p *upstreamPeer) read() {
	if _, err := io.ReadFull(p.nc, make([]byte, len(h2.Preface))); err != nil {
		p.frames <- err
		return
	}
	fields := map[string]string{}
	dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) { fields[f.Name] = f.Value })
	f := http2.NewFramer(p.nc, p.nc) // p.f is the test's
	f.AllowIllegalReads = true
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			p.frames <- err
			return
		}
		g := &got{FrameHeader: frame.Header()}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			g.payload = bytes.Clone(frame.Data())
		case *http2.HeadersFrame:
			fields = map[string]string{}
			if _, err := dec.Write(frame.HeaderBlockFragment()); err != nil {
				p.t.Errorf("a field block that can't be decoded: %v", err)
			}
			g.fields = fields
		case *http2.RSTStreamFrame:
			g.payload = []byte(frame.ErrCode.String())
		case *http2.GoAwayFrame:
			g.payload = []byte(frame.ErrCode.String())
		case *http2.PingFrame:
			if !frame.IsAck() && frame.Data != [8]byte{'a', 'l', 'i', 'v', 'e'} {
				f.WritePing(true, frame.Data)
			}
			g.payload = bytes.Clone(frame.Data[:])
		case *http2.WindowUpdateFrame:
			g.payload = []byte{byte(frame.Increment >> 24), byte(frame.Increment >> 16), byte(frame.Increment >> 8), byte(frame.Increment)}
		}
		p.frames <- g
	}
}

// next returns the next frame that is none of the connection's business.
func (p *upstreamPeer) want(kind http2.FrameType) *got {
	p.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f := <-p.frames:
			switch f := f.(type) {
			case error:
				p.t.Fatalf("the client has ended the connection, %v was awaited: %v", kind, f)
			case *got:
				if f.Type == kind {
					return f
				}
				if f.Type != http2.FrameWindowUpdate && f.Type != http2.FramePing && f.Type != http2.FrameSettings {
					p.t.Fatalf("%v came, %v was awaited", f, kind)
				}
			}
		case <-timeout:
			p.t.Fatalf("%v did not come", kind)
		}
	}
}

// ends waits for the end of the connection and returns GOAWAY's code.
func (p *upstreamPeer) ends() (code string) {
	p.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case f := <-p.frames:
			switch f := f.(type) {
			case error:
				return code
			case *got:
				if f.Type == http2.FrameGoAway {
					code = string(f.payload)
				}
			}
		case <-timeout:
			p.t.Fatal("the connection did not end")
		}
	}
}

// headers sends HEADERS with fields "name: value".
func (p *upstreamPeer) headers(stream uint32, end bool, lines ...string) {
	p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p.encode(lines...), EndHeaders: true, EndStream: end})
}

func (p *upstreamPeer) encode(lines ...string) []byte {
	p.block.Reset()
	for _, line := range lines {
		name, value, _ := strings.Cut(line[1:], ": ")
		p.enc.WriteField(hpack.HeaderField{Name: line[:1] + name, Value: value})
	}
	return p.block.Bytes()
}

// call is an exchange in progress.
type call struct {
	ex  *exchange.Exchange
	s   *h2.ClientStream
	err chan error
}

func start(t testing.TB, c *h2.ClientConn, ex *exchange.Exchange) *call {
	t.Helper()
	k := &call{ex: ex, s: open(t, c), err: make(chan error, 1)}
	go func() { k.err <- k.s.RoundTrip(ex) }()
	return k
}

func (k *call) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-k.err:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the round trip did not end")
		return nil
	}
}

// fails waits for the round trip to fail upstream, and finishes.
func (k *call) fails(t testing.TB) *exchange.UpstreamError {
	t.Helper()
	err := k.wait(t)
	k.s.Finish()
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		t.Fatalf("got %v, status %d; want an upstream error", err, k.ex.Response.Status)
	}
	return up
}

// succeeds waits for the response and returns its content.
func (k *call) succeeds(t testing.TB) string {
	t.Helper()
	if err := k.wait(t); err != nil {
		t.Fatal(err)
	}
	text, err := readAll(k.ex)
	if err != nil {
		t.Fatal(err)
	}
	k.s.Finish()
	return text
}

// works makes an exchange to see that the connection is well.
func works(t testing.TB, p *upstreamPeer, c *h2.ClientConn) {
	t.Helper()
	k := start(t, c, request("GET", "/works"))
	h := p.want(http2.FrameHeaders)
	p.headers(h.StreamID, false, ":status: 200")
	p.f.WriteData(h.StreamID, true, []byte("ok"))
	if text := k.succeeds(t); text != "ok" {
		t.Errorf("%q", text)
	}
}

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

func TestClientInterim(t *testing.T) {
	p, c := newPeer(t, nil)
	ex := request("GET", "/")
	k := start(t, c, ex)
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 103", "link: a")
	p.headers(id, false, ":status: 100")
	p.headers(id, false, ":status: 102")
	p.headers(id, true, ":status: 200")
	k.succeeds(t)
	if got := ex.Client.(*informed).got; len(got) != 2 || !strings.HasPrefix(got[0], "103") || !strings.HasPrefix(got[1], "102") {
		t.Errorf("%q", got)
	}
	k = start(t, c, request("GET", "/"))
	id = p.want(http2.FrameHeaders).StreamID
	for range 65 {
		p.headers(id, false, ":status: 103")
	}
	if up := k.fails(t); up.Reason != "malformed_response" {
		t.Errorf("%+v", up)
	}
}

// TestClientExpect holds content back until the peer asks for it, has answered,
// or has been silent for long enough.
func TestClientExpect(t *testing.T) {
	expecting := func() (*exchange.Exchange, *pieces) {
		ex := request("PUT", "/")
		b := body(ex, "", "content")
		ex.Out.Body, ex.Out.Length, ex.Out.ExpectContinue = b, 7, true
		return ex, b
	}
	p, c := newPeer(t, &h2.ClientOptions{ContinueTimeout: 10 * time.Second})
	t.Run("asked for", func(t *testing.T) {
		ex, b := expecting()
		k := start(t, c, ex)
		h := p.want(http2.FrameHeaders)
		if h.fields["expect"] != "100-continue" {
			t.Errorf("%v", h.fields)
		}
		b.resume() // what is there now is held back all the same
		p.headers(h.StreamID, false, ":status: 100")
		if d := p.want(http2.FrameData); string(d.payload) != "content" {
			t.Errorf("%q", d.payload)
		}
		p.headers(h.StreamID, true, ":status: 200")
		k.succeeds(t)
	})
	t.Run("refused", func(t *testing.T) {
		ex, _ := expecting()
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, true, ":status: 417")
		k.succeeds(t)
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "NO_ERROR" {
			t.Errorf("%s", rst.payload)
		}
	})
	works(t, p, c)
	p, c = newPeer(t, &h2.ClientOptions{ContinueTimeout: 10 * time.Millisecond})
	t.Run("silence", func(t *testing.T) {
		ex, b := expecting()
		b.resume()
		b.paused = true
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		b.resume()
		if d := p.want(http2.FrameData); string(d.payload) != "content" {
			t.Errorf("%q", d.payload)
		}
		p.headers(id, true, ":status: 200")
		k.succeeds(t)
	})
}

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
	if c.Open() == nil || c.Open() == nil || c.Open() != nil {
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

func TestClientDeadlines(t *testing.T) {
	p, c := newPeer(t, nil, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	t.Run("head", func(t *testing.T) {
		ex := request("GET", "/")
		ex.TryDeadline = time.Now().Add(20 * time.Millisecond)
		ex.Deadline = ex.TryDeadline.Add(time.Hour)
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		if up := k.fails(t); up.Reason != "timeout" || up.Stage != exchange.Sending {
			t.Errorf("%+v", up)
		}
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
	})
	works(t, p, c) // once the peer has seen the reset
	t.Run("content", func(t *testing.T) {
		ex := request("GET", "/")
		ex.Deadline = time.Now().Add(50 * time.Millisecond)
		k := start(t, c, ex)
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200")
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		text, err := readAll(ex)
		var up *exchange.UpstreamError
		if text != "some" || !errors.As(err, &up) || up.Reason != "timeout" || up.Stage != exchange.Receiving {
			t.Errorf("%q %v", text, err)
		}
		k.s.Finish()
		p.want(http2.FrameRSTStream)
	})
	works(t, p, c)
	t.Run("silence", func(t *testing.T) {
		p, c := newPeer(t, &h2.ClientOptions{ReadTimeout: 100 * time.Millisecond})
		k := start(t, c, request("GET", "/"))
		p.want(http2.FrameHeaders)
		if up := k.fails(t); up.Reason != "timeout" {
			t.Errorf("%+v", up)
		}
		p.want(http2.FrameRSTStream)
	})
}

// TestClientAborts ends streams whose clients are gone.
func TestClientAborts(t *testing.T) {
	p, c := newPeer(t, nil)
	t.Run("while sending", func(t *testing.T) {
		ex := request("PUT", "/")
		b := body(ex, "con", "", "tent")
		gone := &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: io.ErrUnexpectedEOF}
		b.list, b.err = b.list[:2], gone
		ex.Out.Body, ex.Out.Length = b, 7
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		p.want(http2.FrameData)
		b.resume()
		err := k.wait(t)
		var client *exchange.ClientError
		if !errors.As(err, &client) || client != gone {
			t.Errorf("%v", err)
		}
		k.s.Finish()
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
	})
	t.Run("too short", func(t *testing.T) {
		ex := request("PUT", "/")
		ex.Out.Body, ex.Out.Length = body(ex, "con"), 7
		k := start(t, c, ex)
		p.want(http2.FrameHeaders)
		var client *exchange.ClientError
		if err := k.wait(t); !errors.As(err, &client) {
			t.Errorf("%v", err)
		}
		k.s.Finish()
		p.want(http2.FrameData)
		p.want(http2.FrameRSTStream)
	})
	t.Run("while receiving", func(t *testing.T) {
		k := start(t, c, request("GET", "/"))
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200")
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		k.ex.Response.Body.Close()
		k.s.Finish()
		if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "CANCEL" {
			t.Errorf("%s", rst.payload)
		}
		p.f.WriteData(id, false, []byte("more")) // was on its way
		p.headers(id, true, "x: y")
	})
	works(t, p, c)
}

// TestClientEarlyResponse answers before it has all of the request.
func TestClientEarlyResponse(t *testing.T) {
	p, c := newPeer(t, nil)
	for name, reset := range map[string]bool{"and resets": true, "and leaves it to the client": false} {
		t.Run(name, func(t *testing.T) {
			ex := request("PUT", "/")
			b := body(ex, "con", "", "tent")
			ex.Out.Body, ex.Out.Length = b, -1
			k := start(t, c, ex)
			id := p.want(http2.FrameHeaders).StreamID
			p.want(http2.FrameData)
			p.headers(id, false, ":status: 403")
			p.f.WriteData(id, true, []byte("no"))
			if reset {
				p.f.WriteRSTStream(id, http2.ErrCodeNo)
			}
			if text := k.succeeds(t); text != "no" || ex.Response.Status != 403 {
				t.Errorf("%d %q", ex.Response.Status, text)
			}
			if !reset {
				if rst := p.want(http2.FrameRSTStream); string(rst.payload) != "NO_ERROR" {
					t.Errorf("%s", rst.payload)
				}
			}
			works(t, p, c)
		})
	}
}

func TestClientPeerResets(t *testing.T) {
	p, c := newPeer(t, nil)
	k := start(t, c, request("GET", "/"))
	p.f.WriteRSTStream(p.want(http2.FrameHeaders).StreamID, http2.ErrCodeInternal)
	if up := k.fails(t); up.Reason != "reset" || up.Stage != exchange.Sending || up.Unsent {
		t.Errorf("%+v", up)
	}
	k = start(t, c, request("GET", "/"))
	id := p.want(http2.FrameHeaders).StreamID
	p.headers(id, false, ":status: 200")
	p.f.WriteData(id, false, []byte("some"))
	p.f.WriteRSTStream(id, http2.ErrCodeInternal)
	if err := k.wait(t); err != nil {
		t.Fatal(err)
	}
	text, err := readAll(k.ex)
	var up *exchange.UpstreamError
	if text != "some" || !errors.As(err, &up) || up.Reason != "reset" || up.Stage != exchange.Receiving {
		t.Errorf("%q %v", text, err)
	}
	k.s.Finish()
	works(t, p, c)
}

// TestClientLost cuts the connection.
func TestClientLost(t *testing.T) {
	p, c := newPeer(t, nil)
	k := start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	p.nc.Close()
	if up := k.fails(t); up.Stage != exchange.Sending || up.Unsent {
		t.Errorf("the first exchange: %+v", up)
	}
	for _, head := range []string{"content-length: 9", "x: unknown length"} {
		p, c = newPeer(t, nil)
		k = start(t, c, request("GET", "/"))
		id := p.want(http2.FrameHeaders).StreamID
		p.headers(id, false, ":status: 200", head)
		p.f.WriteData(id, false, []byte("some"))
		if err := k.wait(t); err != nil {
			t.Fatal(err)
		}
		p.nc.Close()
		text, err := readAll(k.ex)
		var up *exchange.UpstreamError
		if text != "some" || !errors.As(err, &up) || up.Stage != exchange.Receiving || up.Reason != "closed" {
			t.Errorf("%s: %q %v", head, text, err)
		}
		k.s.Finish()
	}
	p, c = newPeer(t, nil)
	works(t, p, c)
	k = start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	p.nc.Close()
	if up := k.fails(t); up.Stage != exchange.Stale || up.Unsent {
		t.Errorf("a later exchange: %+v", up)
	}
	if !c.Load().Ended {
		t.Error("it has not ended")
	}
}

// TestClientPings gives up a peer that shows no sign of life, and no other.
func TestClientPings(t *testing.T) {
	opts := &h2.ClientOptions{PingInterval: 100 * time.Millisecond, PingTimeout: 200 * time.Millisecond}
	p, c := newPeer(t, opts)
	k := start(t, c, request("GET", "/"))
	id := p.want(http2.FrameHeaders).StreamID
	for range 5 {
		ping := p.want(http2.FramePing)
		p.f.WritePing(true, [8]byte(ping.payload))
	}
	p.headers(id, true, ":status: 200")
	k.succeeds(t)

	k = start(t, c, request("GET", "/"))
	p.want(http2.FrameHeaders)
	if up := k.fails(t); up.Reason != "timeout" {
		t.Errorf("%+v", up)
	}
	p.ends()
}

// TestClientAnswersPings answers what the peer asks, up to a bound.
func TestClientAnswersPings(t *testing.T) {
	p, c := newPeer(t, nil)
	p.f.WritePing(false, [8]byte{1, 2, 3})
	if ping := p.want(http2.FramePing); ping.Flags&http2.FlagPingAck == 0 || ping.payload[2] != 3 {
		t.Errorf("%v", ping)
	}
	works(t, p, c)
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
		if took := time.Since(began); took > 5*time.Second {
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
