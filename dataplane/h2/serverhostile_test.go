package h2_test

import (
	"bytes"
	"fmt"
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

// guest is a client that says what it is told to.
type guest struct {
	*http2.Framer
	nc    net.Conn
	t     *testing.T
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
}

// dial connects, without a word.
func (f *front) dial(t *testing.T) *guest {
	t.Helper()
	nc, err := net.Dial("tcp", f.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	p := &guest{Framer: http2.NewFramer(nc, nc), nc: nc, t: t, dec: hpack.NewDecoder(4096, nil)}
	p.AllowIllegalWrites, p.AllowIllegalReads = true, true
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// greet dials and sends the preface.
func (f *front) greet(t *testing.T, settings ...http2.Setting) *guest {
	t.Helper()
	p := f.dial(t)
	p.raw(h2.Preface)
	_ = p.WriteSettings(settings...)
	return p
}

func (p *guest) raw(s string) { _, _ = io.WriteString(p.nc, s) }

// fields encodes name, value pairs.
func (p *guest) fields(pairs ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

var getFields = []string{":method", "GET", ":scheme", "http", ":authority", "a.test", ":path", "/"}

func with(more ...string) []string { return append(append([]string(nil), getFields...), more...) }

// request opens a stream.
func (p *guest) request(id uint32, end bool, pairs ...string) {
	if pairs == nil {
		pairs = getFields
	}
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(pairs...), EndStream: end, EndHeaders: true})
}

// outcome reads until the server has said what it thinks: the first GOAWAY,
// or, unless one is wanted, RST_STREAM or response, or the end of the connection.
func (p *guest) outcome(want string) string {
	goAway := strings.HasPrefix(want, "GOAWAY")
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			if f.ErrCode == http2.ErrCodeNo {
				continue
			}
			return "GOAWAY " + f.ErrCode.String() + " " + string(f.DebugData())
		case *http2.RSTStreamFrame:
			if goAway {
				continue
			}
			return fmt.Sprintf("RST %d %v", f.StreamID, f.ErrCode)
		case *http2.HeadersFrame:
			fields, err := p.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				return err.Error()
			}
			if !goAway {
				return fmt.Sprintf("%d %s", f.StreamID, fields[0].Value)
			}
		}
	}
}

func repeat(n int, do func(i int)) {
	for i := range n {
		do(i)
	}
}

// Malformed and hostile sequences, and how they end.
var hostile = []struct {
	name string
	do   func(p *guest)
	want string
}{
	// RFC 9113 section 3.4
	{"preface", func(p *guest) { p.raw("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n") }, "GOAWAY PROTOCOL_ERROR preface"},
	{"HTTP/1.1", func(p *guest) { p.raw("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n") }, "GOAWAY PROTOCOL_ERROR preface"},
	{"no SETTINGS", func(p *guest) { p.raw(h2.Preface); _ = p.WritePing(false, [8]byte{}) }, "GOAWAY PROTOCOL_ERROR preface"},
	{"SETTINGS ack first", func(p *guest) { p.raw(h2.Preface); _ = p.WriteSettingsAck() }, "GOAWAY PROTOCOL_ERROR preface"},
	// sections 4 and 6: frames
	{"frame too large", greeted(func(p *guest) { p.raw("\x00\x40\x01\x00\x00\x00\x00\x00\x01") }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"DATA on 0", greeted(func(p *guest) { _ = p.WriteData(0, true, nil) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	{"HEADERS on 0", greeted(func(p *guest) { p.request(0, true) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	{"HEADERS on 2", greeted(func(p *guest) { p.request(2, true) }), "GOAWAY PROTOCOL_ERROR stream_id"},
	{"SETTINGS on 1", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	{"PING on 1", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8)) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	{"GOAWAY on 1", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameGoAway, 0, 1, make([]byte, 8)) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	{"short PING", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, 7)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"short RST_STREAM", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameRSTStream, 0, 1, make([]byte, 3)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"long WINDOW_UPDATE", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, make([]byte, 5)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"odd SETTINGS", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameSettings, 0, 0, make([]byte, 7)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"SETTINGS ack with content", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameSettings, 1, 0, make([]byte, 6)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"short GOAWAY", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameGoAway, 0, 0, make([]byte, 7)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"short PRIORITY", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FramePriority, 0, 1, make([]byte, 4)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"HEADERS too short for priority", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameHeaders, 0x24, 1, make([]byte, 4)) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"padding beyond the frame", greeted(func(p *guest) {
		p.request(1, false, waiting...)
		_ = p.WriteRawFrame(http2.FrameData, 0x8, 1, []byte{2, 0})
	}), "GOAWAY PROTOCOL_ERROR padding"},
	{"padding and no room for its length", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FrameHeaders, 0xc, 1, nil) }), "GOAWAY FRAME_SIZE_ERROR frame_size"},
	{"PUSH_PROMISE", greeted(func(p *guest) { _ = p.WriteRawFrame(http2.FramePushPromise, 4, 1, make([]byte, 4)) }), "GOAWAY PROTOCOL_ERROR push_promise"},
	{"PRIORITY on itself", greeted(func(p *guest) { _ = p.WritePriority(3, http2.PriorityParam{StreamDep: 3}) }), "GOAWAY PROTOCOL_ERROR depends_on_itself"},
	{"PRIORITY_UPDATE for 0", greeted(func(p *guest) { _ = p.WriteRawFrame(0x10, 0, 0, make([]byte, 4)) }), "GOAWAY PROTOCOL_ERROR priority_update"},
	{"PRIORITY_UPDATE on 1", greeted(func(p *guest) { _ = p.WriteRawFrame(0x10, 0, 1, make([]byte, 4)) }), "GOAWAY PROTOCOL_ERROR frame_on_wrong_stream"},
	// section 6.5.2
	{"ENABLE_PUSH 2", greeted(func(p *guest) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 2}) }), "GOAWAY PROTOCOL_ERROR settings"},
	{"INITIAL_WINDOW_SIZE", greeted(func(p *guest) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}) }), "GOAWAY FLOW_CONTROL_ERROR initial_window"},
	{"MAX_FRAME_SIZE", greeted(func(p *guest) { _ = p.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16383}) }), "GOAWAY PROTOCOL_ERROR settings"},
	{"ENABLE_CONNECT_PROTOCOL 2", greeted(func(p *guest) { _ = p.WriteSettings(http2.Setting{ID: 8, Val: 2}) }), "GOAWAY PROTOCOL_ERROR settings"},
	// section 5.1: states
	{"DATA on an idle stream", greeted(func(p *guest) { _ = p.WriteData(1, true, nil) }), "GOAWAY PROTOCOL_ERROR idle_stream"},
	{"RST_STREAM on an idle stream", greeted(func(p *guest) { _ = p.WriteRSTStream(1, 0) }), "GOAWAY PROTOCOL_ERROR idle_stream"},
	{"WINDOW_UPDATE on an idle stream", greeted(func(p *guest) { _ = p.WriteWindowUpdate(1, 1) }), "GOAWAY PROTOCOL_ERROR idle_stream"},
	{"DATA behind END_STREAM", greeted(func(p *guest) { p.request(1, true, waiting...); _ = p.WriteData(1, true, nil) }), "RST 1 STREAM_CLOSED"},
	{"HEADERS behind END_STREAM", greeted(func(p *guest) { p.request(1, true, waiting...); p.request(1, true) }), "GOAWAY STREAM_CLOSED stream_closed"},
	{"a lower stream", greeted(func(p *guest) { p.request(5, true, waiting...); p.request(3, true) }), "GOAWAY STREAM_CLOSED stream_closed"},
	{"CONTINUATION alone", greeted(func(p *guest) { _ = p.WriteContinuation(1, true, nil) }), "GOAWAY PROTOCOL_ERROR continuation"},
	{"CONTINUATION of another stream", greeted(func(p *guest) { half(p, 1); _ = p.WriteContinuation(3, true, nil) }), "GOAWAY PROTOCOL_ERROR continuation"},
	{"PING amid a header block", greeted(func(p *guest) { half(p, 1); _ = p.WritePing(false, [8]byte{}) }), "GOAWAY PROTOCOL_ERROR continuation"},
	{"unknown frame amid a header block", greeted(func(p *guest) { half(p, 1); _ = p.WriteRawFrame(0xff, 0, 0, nil) }), "GOAWAY PROTOCOL_ERROR continuation"},
	// section 6.9: windows
	{"WINDOW_UPDATE 0", greeted(func(p *guest) { _ = p.WriteWindowUpdate(0, 0) }), "GOAWAY PROTOCOL_ERROR window_increment"},
	{"WINDOW_UPDATE 0 on a stream", greeted(func(p *guest) { p.request(1, true, waiting...); _ = p.WriteWindowUpdate(1, 0) }), "RST 1 PROTOCOL_ERROR"},
	{"window too large", greeted(func(p *guest) { _ = p.WriteWindowUpdate(0, 1<<31-1) }), "GOAWAY FLOW_CONTROL_ERROR window"},
	{"stream's window too large", greeted(func(p *guest) { p.request(1, true, waiting...); _ = p.WriteWindowUpdate(1, 1<<31-1) }), "RST 1 FLOW_CONTROL_ERROR"},
	{"settings make a window too large", greeted(func(p *guest) {
		p.request(1, true, waiting...)
		_ = p.WriteWindowUpdate(1, 1<<30)
		_ = p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	}), "GOAWAY FLOW_CONTROL_ERROR initial_window"},
	{"DATA beyond the stream's window", greeted(func(p *guest) {
		p.request(1, false, holding...)
		repeat(5, func(int) { _ = p.WriteData(1, false, make([]byte, 16384)) })
	}), "RST 1 FLOW_CONTROL_ERROR"},
	{"DATA beyond the connection's window", greeted(func(p *guest) {
		repeat(5, func(i int) {
			p.request(uint32(2*i+1), false, holding...)
			repeat(4, func(int) { _ = p.WriteData(uint32(2*i+1), false, make([]byte, 16384)) })
		})
	}), "GOAWAY FLOW_CONTROL_ERROR window"},
	// section 4.3
	{"index out of range", greeted(func(p *guest) { headers(p, "\xff\x00") }), "GOAWAY COMPRESSION_ERROR compression"},
	{"truncated block", greeted(func(p *guest) { headers(p, "\x82\x40\x05a") }), "GOAWAY COMPRESSION_ERROR compression"},
	{"table size too large", greeted(func(p *guest) { headers(p, "\x3f\xff\xff\x03\x82") }), "GOAWAY COMPRESSION_ERROR compression"},
	// section 8: requests. None gets to the handler.
	{"no :method", asking(":scheme", "http", ":path", "/", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{"no :scheme", asking(":method", "GET", ":path", "/", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{"no :path", asking(":method", "GET", ":scheme", "http", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{"no authority", asking(":method", "GET", ":scheme", "http", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
	{"empty :path", asking(":method", "GET", ":scheme", "http", ":path", "", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path without slash", asking(":method", "GET", ":scheme", "http", ":path", "a", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path with space", asking(":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path with line", asking(":method", "GET", ":scheme", "http", ":path", "/\r\nX: y", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path with fragment", asking(":method", "GET", ":scheme", "http", ":path", "/#a", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path with backslash", asking(":method", "GET", ":scheme", "http", ":path", `/a\b`, ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":path * of GET", asking(":method", "GET", ":scheme", "http", ":path", "*", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":method with space", asking(":method", "GET /x", ":scheme", "http", ":path", "/", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":scheme ftp", asking(":method", "GET", ":scheme", "ftp", ":path", "/", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":authority with user", asking(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"), "RST 1 PROTOCOL_ERROR"},
	{":authority with slash", asking(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a/b"), "RST 1 PROTOCOL_ERROR"},
	{"empty :authority", asking(":method", "GET", ":scheme", "http", ":path", "/", ":authority", ""), "RST 1 PROTOCOL_ERROR"},
	{"host differs", asking(with("host", "b.test")...), "RST 1 PROTOCOL_ERROR"},
	{"host twice", asking(with("host", "a.test", "host", "a.test")...), "RST 1 PROTOCOL_ERROR"},
	{"pseudo twice", asking(with(":path", "/")...), "RST 1 PROTOCOL_ERROR"},
	{"pseudo unknown", asking(with(":x", "/")...), "RST 1 PROTOCOL_ERROR"},
	{"pseudo of a response", asking(with(":status", "200")...), "RST 1 PROTOCOL_ERROR"},
	{"pseudo behind a field", asking(":method", "GET", ":scheme", "http", ":authority", "a", "x", "y", ":path", "/"), "RST 1 PROTOCOL_ERROR"},
	{"upper case", asking(with("X-A", "b")...), "RST 1 PROTOCOL_ERROR"},
	{"space in a name", asking(with("x a", "b")...), "RST 1 PROTOCOL_ERROR"},
	{"colon in a name", asking(with("x:a", "b")...), "RST 1 PROTOCOL_ERROR"},
	{"line in a value", asking(with("x", "a\r\ny: b")...), "RST 1 PROTOCOL_ERROR"},
	{"NUL in a value", asking(with("x", "a\x00")...), "RST 1 PROTOCOL_ERROR"},
	{"space around a value", asking(with("x", " a")...), "RST 1 PROTOCOL_ERROR"},
	{"connection", asking(with("connection", "close")...), "RST 1 PROTOCOL_ERROR"},
	{"keep-alive", asking(with("keep-alive", "1")...), "RST 1 PROTOCOL_ERROR"},
	{"proxy-connection", asking(with("proxy-connection", "close")...), "RST 1 PROTOCOL_ERROR"},
	{"upgrade", asking(with("upgrade", "h2c")...), "RST 1 PROTOCOL_ERROR"},
	{"transfer-encoding", asking(with("transfer-encoding", "chunked")...), "RST 1 PROTOCOL_ERROR"},
	{"te", asking(with("te", "gzip")...), "RST 1 PROTOCOL_ERROR"},
	{"content-length without content", asking(with("content-length", "1")...), "RST 1 PROTOCOL_ERROR"},
	{"content-length twice", asking(with("content-length", "0", "content-length", "0")...), "RST 1 PROTOCOL_ERROR"},
	{"content-length signed", asking(with("content-length", "+0")...), "RST 1 PROTOCOL_ERROR"},
	{"CONNECT with :path", asking(":method", "CONNECT", ":scheme", "http", ":path", "/", ":authority", "a:1"), "RST 1 PROTOCOL_ERROR"},
	{"CONNECT without port", asking(":method", "CONNECT", ":authority", "a"), "RST 1 PROTOCOL_ERROR"},
	{":protocol with GET", asking(with(":protocol", "websocket")...), "RST 1 PROTOCOL_ERROR"},
	{"less content than content-length", greeted(func(p *guest) {
		p.request(1, false, append(with("content-length", "3"), "wait", "1")...)
		_ = p.WriteData(1, true, []byte("ab"))
	}), "RST 1 PROTOCOL_ERROR"},
	{"more content than content-length", greeted(func(p *guest) {
		p.request(1, false, append(with("content-length", "3"), "wait", "1")...)
		_ = p.WriteData(1, false, []byte("abcd"))
	}), "RST 1 PROTOCOL_ERROR"},
	{"trailers without END_STREAM", greeted(func(p *guest) { p.request(1, false, waiting...); p.request(1, false, "x", "y") }), "RST 1 PROTOCOL_ERROR"},
	{"pseudo in trailers", greeted(func(p *guest) { p.request(1, false, waiting...); p.request(1, true, ":path", "/") }), "RST 1 PROTOCOL_ERROR"},
	{"content-length in trailers", greeted(func(p *guest) { p.request(1, false, waiting...); p.request(1, true, "content-length", "0") }), "RST 1 PROTOCOL_ERROR"},
	// what can be answered
	{"CONNECT", asking(":method", "CONNECT", ":authority", "a.test:443"), "1 501"},
	{"CONNECT for an unknown protocol", asking(":method", "CONNECT", ":scheme", "http", ":path", "/", ":authority", "a", ":protocol", "x"), "1 501"},
	{"expect", asking(with("expect", "x")...), "1 417"},
	{"too many fields", asking(with(strings.Split(strings.Repeat("x,y,", 130)[:4*130-1], ",")...)...), "1 431"},
	{"long :path", asking(":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"+strings.Repeat("a", 9000)), "1 414"},
	// floods and bombs
	{"rapid reset", greeted(func(p *guest) {
		repeat(300, func(i int) {
			id := uint32(2*i + 1)
			p.request(id, false, waiting...)
			_ = p.WriteRSTStream(id, http2.ErrCodeCancel)
		})
	}), "GOAWAY ENHANCE_YOUR_CALM rapid_reset"},
	{"provoked resets", greeted(func(p *guest) {
		repeat(300, func(i int) { id := uint32(2*i + 1); p.request(id, false, waiting...); _ = p.WriteWindowUpdate(id, 0) })
	}), "GOAWAY ENHANCE_YOUR_CALM provoked_resets"},
	{"PING flood", greeted(func(p *guest) { repeat(2000, func(int) { _ = p.WritePing(false, [8]byte{}) }) }), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"SETTINGS flood", greeted(func(p *guest) { repeat(2000, func(int) { _ = p.WriteSettings() }) }), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"PRIORITY flood", greeted(func(p *guest) {
		repeat(2000, func(int) { _ = p.WritePriority(3, http2.PriorityParam{StreamDep: 1}) })
	}), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"PRIORITY_UPDATE flood", greeted(func(p *guest) {
		repeat(2000, func(int) { _ = p.WriteRawFrame(0x10, 0, 0, []byte("\x00\x00\x00\x01u=1")) })
	}), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"empty DATA flood", greeted(func(p *guest) {
		p.request(1, false, waiting...)
		repeat(2000, func(int) { _ = p.WriteData(1, false, nil) })
	}), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"WINDOW_UPDATE flood", greeted(func(p *guest) { repeat(2000, func(int) { _ = p.WriteWindowUpdate(0, 1) }) }), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"unknown frame flood", greeted(func(p *guest) { repeat(2000, func(int) { _ = p.WriteRawFrame(0x99, 0, 0, nil) }) }), "GOAWAY ENHANCE_YOUR_CALM frame_flood"},
	{"CONTINUATION flood", greeted(func(p *guest) { half(p, 1); repeat(100, func(int) { _ = p.WriteContinuation(1, false, nil) }) }), "GOAWAY ENHANCE_YOUR_CALM continuation_flood"},
	{"endless header block", greeted(func(p *guest) {
		half(p, 1)
		block := []byte(strings.Repeat("\x00\x01a\x01b", 3000))
		repeat(100, func(int) { _ = p.WriteContinuation(1, false, block) })
	}), "GOAWAY ENHANCE_YOUR_CALM header_b"},
	{"HPACK bomb", greeted(func(p *guest) {
		value := strings.Repeat("x", 3900)
		headers(p, "\x40\x01a\x7f\xbd\x1d"+value+strings.Repeat("\xbe", 4000))
	}), "GOAWAY ENHANCE_YOUR_CALM header_bomb"},
	{"many tiny cookies", greeted(func(p *guest) { headers(p, "\x40\x06cookie\x03a=b"+strings.Repeat("\xbe", 9000)) }), "GOAWAY ENHANCE_YOUR_CALM header_bomb"},
}

// waiting is a request that the handler does not answer before its stream ends.
var waiting = with("wait", "1")

// holding is one whose content the handler does not pull meanwhile.
var holding = with("wait", "hold")

func greeted(do func(p *guest)) func(p *guest) {
	return func(p *guest) {
		p.raw(h2.Preface)
		_ = p.WriteSettings()
		do(p)
	}
}

func asking(pairs ...string) func(p *guest) {
	return greeted(func(p *guest) { p.request(1, true, pairs...) })
}

func headers(p *guest, block string) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block), EndStream: true, EndHeaders: true})
}

// half sends a header section that goes on.
func half(p *guest, id uint32) {
	_ = p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.fields(getFields...), EndStream: true})
}

func TestServerHostile(t *testing.T) {
	for _, test := range hostile {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			over := make(chan struct{}) // the outcome is known
			h := &handler{serve: func(ex *exchange.Exchange) {
				wait, _ := ex.In.Fields.Get("wait")
				if wait == "" {
					t.Errorf("it was served: %+v", ex.In)
				} else if wait != "hold" && ex.In.Body != nil {
					for err := error(nil); err == nil; {
						_, err = ex.In.Body.Next()
					}
				} else {
					<-over
				}
				ex.Answer(400, "test", "")
			}}
			f := serveH2(t, h, nil)
			p := f.dial(t)
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				test.do(p)
			}()
			got := p.outcome(test.want)
			close(over)
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("%s, want %s", got, test.want)
			}
			<-wrote
			if strings.HasPrefix(test.want, "GOAWAY") {
				for {
					if _, err := p.ReadFrame(); err != nil {
						break // the connection ends
					}
				}
				reason := test.want[strings.LastIndexByte(test.want, ' ')+1:]
				if got := h.reported(); !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "0 "+reason) }) {
					t.Errorf("%q was reported", got)
				}
			}
		})
	}
}
