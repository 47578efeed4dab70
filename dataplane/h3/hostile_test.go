package h3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h3"
)

// guest is a client that says what it is told to.
type guest struct {
	t   *testing.T
	qc  *quic.Conn
	str *quic.Stream // the last request
}

func (f *front) guest(t *testing.T) *guest {
	return &guest{t: t, qc: f.dialQUIC(clientTLS())}
}

func varint(values ...uint64) (b []byte) {
	for _, v := range values {
		b = quicvarint.Append(b, v)
	}
	return b
}

// frame is a frame of parts.
func frame(kind uint64, parts ...[]byte) []byte {
	payload := bytes.Join(parts, nil)
	return append(varint(kind, uint64(len(payload))), payload...)
}

// fields encodes name, value pairs.
func fields(pairs ...string) []byte {
	var b bytes.Buffer
	enc := qpack.NewEncoder(&b)
	if len(pairs) == 0 {
		return []byte{0, 0}
	}
	for i := 0; i < len(pairs); i += 2 {
		_ = enc.WriteField(qpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return b.Bytes()
}

func headers(pairs ...string) []byte { return frame(1, fields(pairs...)) }

func data(s string) []byte { return frame(0, []byte(s)) }

var getFields = []string{":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"}

// get is a GET's header section, with more.
func get(more ...string) []byte {
	return headers(append(append([]string(nil), getFields...), more...)...)
}

// post is a POST's.
func post(more ...string) []byte {
	return headers(append([]string{":method", "POST", ":scheme", "https", ":authority", "a.test", ":path", "/"}, more...)...)
}

// uni opens a unidirectional stream.
func (g *guest) uni(parts ...[]byte) *quic.SendStream {
	str, err := g.qc.OpenUniStreamSync(context.Background())
	if err != nil {
		return nil // the connection has ended
	}
	_, _ = str.Write(bytes.Join(parts, nil))
	return str
}

// control opens the control stream with empty settings, and more.
func (g *guest) control(more ...[]byte) *quic.SendStream {
	return g.uni(append([][]byte{varint(0), frame(4)}, more...)...)
}

// begin begins a request.
func (g *guest) begin(parts ...[]byte) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	str, err := g.qc.OpenStreamSync(ctx)
	if err != nil {
		return
	}
	g.str = str
	_, _ = str.Write(bytes.Join(parts, nil))
}

// request sends a request whole.
func (g *guest) request(parts ...[]byte) {
	g.begin(parts...)
	if g.str != nil {
		_ = g.str.Close()
	}
}

// outcome is what the server thinks of it: an error of the connection if one is
// wanted, else a status, or an error of the stream.
func (g *guest) outcome(want string) string {
	if strings.HasPrefix(want, "CONN") {
		select {
		case <-g.qc.Context().Done():
		case <-time.After(20 * time.Second):
			return "the connection goes on"
		}
		var app *quic.ApplicationError
		if err := context.Cause(g.qc.Context()); !errors.As(err, &app) {
			return err.Error()
		}
		return "CONN " + h3.ErrCode(app.ErrorCode).String() + " " + app.ErrorMessage
	}
	if g.str == nil {
		return "no request was sent"
	}
	_ = g.str.SetReadDeadline(time.Now().Add(20 * time.Second))
	status, err := readStatus(g.str)
	var reset *quic.StreamError
	switch {
	case errors.As(err, &reset):
		return "RESET " + h3.ErrCode(reset.ErrorCode).String()
	case err != nil:
		return err.Error()
	}
	return status
}

// readStatus reads the final response's status.
func readStatus(r io.Reader) (string, error) {
	br := quicvarint.NewReader(r)
	for {
		kind, err := quicvarint.Read(br)
		if err != nil {
			return "", err
		}
		length, err := quicvarint.Read(br)
		if err != nil {
			return "", err
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(br, payload); err != nil {
			return "", err
		}
		if kind != 1 {
			continue
		}
		field, err := qpack.NewDecoder().Decode(payload)()
		if err != nil {
			return "", err
		}
		if field.Value[0] != '1' {
			return field.Value, nil
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
	do   func(g *guest)
	want string
}{
	// What is right, so that the rest means something.
	{"GET", func(g *guest) { g.control(); g.request(get()) }, "200"},
	{"GET without a control stream yet", func(g *guest) { g.request(get()) }, "200"},
	{"POST with content and trailers", func(g *guest) { g.request(post("content-length", "5"), data("he"), data("llo"), headers("a", "b")) }, "200"},
	{"frames of unknown types", func(g *guest) {
		g.control(frame(0x21, []byte("grease")))
		g.request(frame(0x40, []byte("x")), post(), frame(0x21), data("x"), frame(0x1f*7+0x21, []byte("y")))
	}, "200"},
	{"streams of unknown types", func(g *guest) { g.uni(varint(0x21), []byte("x")); g.uni(varint(0x54), []byte("x")); g.request(get()) }, "200"},
	{"a QPACK encoder without a table", func(g *guest) { g.uni(varint(2), []byte{0x20}); g.uni(varint(3), []byte{0x40}); g.request(get()) }, "200"},
	{"crumbs of Cookie", func(g *guest) { g.request(get("cookie", "a=1", "cookie", "b=2")) }, "200"},
	{"TE: trailers", func(g *guest) { g.request(get("te", "trailers")) }, "200"},
	{"Host beside :authority", func(g *guest) { g.request(get("host", "a.test")) }, "200"},
	{"OPTIONS *", func(g *guest) {
		g.request(headers(":method", "OPTIONS", ":scheme", "https", ":authority", "a.test", ":path", "*"))
	}, "200"},

	// Requests, RFC 9114 section 4.
	{"no HEADERS", func(g *guest) { g.request() }, "RESET H3_REQUEST_INCOMPLETE"},
	{"only frames of unknown types", func(g *guest) { g.request(frame(0x21)) }, "RESET H3_REQUEST_INCOMPLETE"},
	{"DATA first", func(g *guest) { g.request(data("x"), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"DATA after trailers", func(g *guest) { g.request(post(), data("x"), headers("a", "b"), data("y")) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"HEADERS after trailers", func(g *guest) { g.request(post(), data("x"), headers("a", "b"), headers("c", "d")) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"a HEADERS frame cut off", func(g *guest) { g.request(get()[:8]) }, "CONN H3_FRAME_ERROR frame"},
	{"a frame's header cut off", func(g *guest) { g.request([]byte{0x40}) }, "CONN H3_FRAME_ERROR frame"},
	{"a DATA frame cut off", func(g *guest) { g.request(post(), data("hello")[:4]) }, "CONN H3_FRAME_ERROR frame"},
	{"a frame of an unknown type cut off", func(g *guest) { g.request(frame(0x21, []byte("hello"))[:4]) }, "CONN H3_FRAME_ERROR frame"},
	{"SETTINGS in a request", func(g *guest) { g.request(frame(4), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"GOAWAY in a request", func(g *guest) { g.request(get(), frame(7, varint(0))) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"GOAWAY amid content", func(g *guest) { g.request(post(), frame(7, varint(0)), data("x")) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"CANCEL_PUSH in a request", func(g *guest) { g.request(frame(3, varint(0)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"MAX_PUSH_ID in a request", func(g *guest) { g.request(frame(0xd, varint(0)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"PUSH_PROMISE", func(g *guest) { g.request(frame(5, varint(0), fields(getFields...)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"PRIORITY_UPDATE in a request", func(g *guest) { g.request(frame(0xf0700, varint(0)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"HTTP/2's PRIORITY", func(g *guest) { g.request(frame(2, make([]byte, 5)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_reserved"},
	{"HTTP/2's PING", func(g *guest) { g.request(frame(6, make([]byte, 8)), get()) }, "CONN H3_FRAME_UNEXPECTED frame_reserved"},
	{"HTTP/2's WINDOW_UPDATE", func(g *guest) { g.request(post(), frame(8, make([]byte, 4))) }, "CONN H3_FRAME_UNEXPECTED frame_reserved"},
	{"HTTP/2's CONTINUATION", func(g *guest) { g.request(post(), frame(9, fields("a", "b"))) }, "CONN H3_FRAME_UNEXPECTED frame_reserved"},

	// Fields.
	{"no pseudo-header fields", func(g *guest) { g.request(headers("a", "b")) }, malformed},
	{"no fields", func(g *guest) { g.request(headers()) }, malformed},
	{"no :method", func(g *guest) { g.request(headers(getFields[2:]...)) }, malformed},
	{"no :scheme", func(g *guest) { g.request(headers(":method", "GET", ":authority", "a.test", ":path", "/")) }, malformed},
	{"no :path", func(g *guest) { g.request(headers(getFields[:6]...)) }, malformed},
	{"no :authority and no Host", func(g *guest) { g.request(headers(":method", "GET", ":scheme", "https", ":path", "/")) }, malformed},
	{"an empty :authority", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "", ":path", "/"))
	}, malformed},
	{":path twice", func(g *guest) { g.request(headers(append([]string{":path", "/b"}, getFields...)...)) }, malformed},
	{":status in a request", func(g *guest) { g.request(headers(append([]string{":status", "200"}, getFields...)...)) }, malformed},
	{"an unknown pseudo-header field", func(g *guest) { g.request(headers(append([]string{":x", "y"}, getFields...)...)) }, malformed},
	{"a pseudo-header field behind others", func(g *guest) { g.request(get("a", "b", ":method", "GET")) }, malformed},
	{"a pseudo-header field in trailers", func(g *guest) { g.request(post(), headers(":path", "/")) }, malformed},
	{"an empty :path", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", ""))
	}, malformed},
	{"a :path of another form", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "https://b.test/"))
	}, malformed},
	{"a :path with a space", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/a HTTP/1.1"))
	}, malformed},
	{"a :path with a fragment", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/a#b"))
	}, malformed},
	{"another :scheme", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "ftp", ":authority", "a.test", ":path", "/"))
	}, malformed},
	{"a :method with a space", func(g *guest) {
		g.request(headers(":method", "GET /x", ":scheme", "https", ":authority", "a.test", ":path", "/"))
	}, malformed},
	{"user information in :authority", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "u@a.test", ":path", "/"))
	}, malformed},
	{"a slash in :authority", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test/b", ":path", "/"))
	}, malformed},
	{"Host that differs", func(g *guest) { g.request(get("host", "b.test")) }, malformed},
	{"Host twice", func(g *guest) { g.request(get("host", "a.test", "host", "a.test")) }, malformed},
	{"an upper-case name", func(g *guest) { g.request(get("Accept", "x")) }, malformed},
	{"an unknown upper-case name", func(g *guest) { g.request(get("X-A", "x")) }, malformed},
	{"a space in a name", func(g *guest) { g.request(get("a b", "x")) }, malformed},
	{"a colon in a name", func(g *guest) { g.request(get("a:b", "x")) }, malformed},
	{"CR LF in a name", func(g *guest) { g.request(get("a\r\nb", "x")) }, malformed},
	{"an empty name", func(g *guest) { g.request(get("", "x")) }, malformed},
	{"CR in a value", func(g *guest) { g.request(get("a", "x\ry")) }, malformed},
	{"LF in a value", func(g *guest) { g.request(get("a", "x\ny")) }, malformed},
	{"NUL in a value", func(g *guest) { g.request(get("a", "x\x00y")) }, malformed},
	{"white space around a value", func(g *guest) { g.request(get("a", " x")) }, malformed},
	{"Connection", func(g *guest) { g.request(get("connection", "close")) }, malformed},
	{"Keep-Alive", func(g *guest) { g.request(get("keep-alive", "1")) }, malformed},
	{"Proxy-Connection", func(g *guest) { g.request(get("proxy-connection", "close")) }, malformed},
	{"Transfer-Encoding", func(g *guest) { g.request(post("transfer-encoding", "chunked"), data("0\r\n\r\n")) }, malformed},
	{"Upgrade", func(g *guest) { g.request(get("upgrade", "websocket")) }, malformed},
	{"TE: gzip", func(g *guest) { g.request(get("te", "gzip")) }, malformed},
	{"Content-Length twice", func(g *guest) { g.request(post("content-length", "1", "content-length", "1"), data("x")) }, malformed},
	{"Content-Length: a list", func(g *guest) { g.request(post("content-length", "1, 1"), data("x")) }, malformed},
	{"Content-Length: -1", func(g *guest) { g.request(post("content-length", "-1"), data("x")) }, malformed},
	{"Content-Length in trailers", func(g *guest) { g.request(post(), data("x"), headers("content-length", "1")) }, malformed},
	{"Host in trailers", func(g *guest) { g.request(post(), data("x"), headers("host", "b.test")) }, malformed},
	{"more content than said", func(g *guest) { g.request(post("content-length", "2"), data("hello")) }, malformed},
	{"less content than said", func(g *guest) { g.request(post("content-length", "9"), data("hello")) }, malformed},
	{"no content where some is said", func(g *guest) { g.request(post("content-length", "9")) }, malformed},
	{"content in pieces that is too long", func(g *guest) { g.request(post("content-length", "7"), data("hello"), data("hello")) }, malformed},
	{"trailers that are malformed", func(g *guest) { g.request(post(), data("x"), headers("A", "b")) }, malformed},
	{"Expect of something else", func(g *guest) { g.request(post("expect", "a miracle")) }, "417"},
	{"CONNECT", func(g *guest) { g.request(headers(":method", "CONNECT", ":authority", "a.test:1")) }, "501"},
	{"CONNECT with :path", func(g *guest) {
		g.request(headers(":method", "CONNECT", ":authority", "a.test:1", ":path", "/", ":scheme", "https"))
	}, malformed},
	{"CONNECT without a port", func(g *guest) { g.request(headers(":method", "CONNECT", ":authority", "a.test")) }, malformed},
	{":protocol with GET", func(g *guest) { g.request(headers(append([]string{":protocol", "websocket"}, getFields...)...)) }, malformed},
	{"an unknown :protocol", func(g *guest) {
		g.request(headers(":method", "CONNECT", ":protocol", "connect-udp", ":scheme", "https", ":authority", "a.test", ":path", "/"))
	}, "501"},
	{"WebSocket with a key of its own", func(g *guest) {
		g.request(headers(":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a.test", ":path", "/", "sec-websocket-key", "x"))
	}, malformed},

	// Sizes.
	{"a long :path", func(g *guest) {
		g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/"+strings.Repeat("x", 9000)))
	}, "414"},
	{"a large field", func(g *guest) { g.request(get("a", strings.Repeat("x", 17000))) }, "431"},
	{"many fields", func(g *guest) {
		g.request(headers(append(getFields[:8:8], strings.Fields(strings.Repeat("a b ", 200))...)...))
	}, "431"},
	{"a bomb of static entries", func(g *guest) { g.request(frame(1, []byte{0, 0}, bytes.Repeat([]byte{0xc0 | 31}, 30000))) }, "431"},
	{"a section too large to be read", func(g *guest) { g.begin(append(varint(1, 1<<30), make([]byte, 1000)...)) }, "431"},
	{"large trailers", func(g *guest) { g.request(post(), data("x"), headers("a", strings.Repeat("x", 17000))) }, malformed},
	{"content that is too long", func(g *guest) { g.begin(post("content-length", "2000000")) }, "413"},
	{"content that turns out too long", func(g *guest) { g.begin(post(), varint(0, 2000000), []byte("x")) }, "413"},

	// QPACK, RFC 9204.
	{"an entry of the dynamic table", func(g *guest) { g.request(frame(1, []byte{0, 0, 0x80})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"a required insert", func(g *guest) { g.request(frame(1, []byte{2, 0, 0x80})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"a base below 0", func(g *guest) { g.request(frame(1, []byte{0, 0x80})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"an entry that is not in the static table", func(g *guest) { g.request(frame(1, []byte{0, 0, 0xff, 36})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"an index that overflows", func(g *guest) { g.request(frame(1, []byte{0, 0}, bytes.Repeat([]byte{0xff}, 12))) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"a string cut off", func(g *guest) { g.request(frame(1, []byte{0, 0, 0x51, 9, 'x'})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"wrong Huffman padding", func(g *guest) { g.request(frame(1, []byte{0, 0, 0x51, 0x81, 0})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"a post-base index", func(g *guest) { g.request(frame(1, []byte{0, 0, 0x10})) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"an empty section", func(g *guest) { g.request(frame(1)) }, "CONN QPACK_DECOMPRESSION_FAILED compression"},
	{"an insert by the encoder", func(g *guest) { g.uni(varint(2), []byte{0x20, 0xc0, 1, 'x'}) }, "CONN QPACK_ENCODER_STREAM_ERROR encoder_stream"},
	{"a table by the encoder", func(g *guest) { g.uni(varint(2), []byte{0x3f, 1}) }, "CONN QPACK_ENCODER_STREAM_ERROR encoder_stream"},
	{"an acknowledgement of nothing", func(g *guest) { g.uni(varint(3), []byte{0x80}) }, "CONN QPACK_DECODER_STREAM_ERROR decoder_stream"},
	{"an increment of nothing", func(g *guest) { g.uni(varint(3), []byte{0x01}) }, "CONN QPACK_DECODER_STREAM_ERROR decoder_stream"},

	// Unidirectional streams, RFC 9114 section 6.2.
	{"two control streams", func(g *guest) { g.control(); g.control() }, "CONN H3_STREAM_CREATION_ERROR stream_twice"},
	{"two encoder streams", func(g *guest) { g.uni(varint(2)); g.uni(varint(2)) }, "CONN H3_STREAM_CREATION_ERROR stream_twice"},
	{"two decoder streams", func(g *guest) { g.uni(varint(3)); g.uni(varint(3)) }, "CONN H3_STREAM_CREATION_ERROR stream_twice"},
	{"a push stream", func(g *guest) { g.uni(varint(1, 0)) }, "CONN H3_STREAM_CREATION_ERROR push_stream"},
	{"the control stream ends", func(g *guest) { _ = g.control().Close() }, "CONN H3_CLOSED_CRITICAL_STREAM critical_stream_closed"},
	{"the control stream is reset", func(g *guest) { s := g.control(); g.request(get()); g.outcome(""); s.CancelWrite(0x100) }, "CONN H3_CLOSED_CRITICAL_STREAM critical_stream_closed"},
	{"the encoder stream ends", func(g *guest) { _ = g.uni(varint(2)).Close() }, "CONN H3_CLOSED_CRITICAL_STREAM critical_stream_closed"},
	{"the decoder stream ends", func(g *guest) { _ = g.uni(varint(3)).Close() }, "CONN H3_CLOSED_CRITICAL_STREAM critical_stream_closed"},
	{"no SETTINGS", func(g *guest) { g.uni(varint(0), frame(7, varint(0))) }, "CONN H3_MISSING_SETTINGS settings_missing"},
	{"a frame of an unknown type before SETTINGS", func(g *guest) { g.uni(varint(0), frame(0x21)) }, "CONN H3_MISSING_SETTINGS settings_missing"},
	{"DATA before SETTINGS", func(g *guest) { g.uni(varint(0), data("x")) }, "CONN H3_MISSING_SETTINGS settings_missing"},
	{"SETTINGS twice", func(g *guest) { g.control(frame(4)) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"DATA on the control stream", func(g *guest) { g.control(data("x")) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"HEADERS on the control stream", func(g *guest) { g.control(get()) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"PUSH_PROMISE on the control stream", func(g *guest) { g.control(frame(5, varint(0))) }, "CONN H3_FRAME_UNEXPECTED frame_unexpected"},
	{"HTTP/2's PING on the control stream", func(g *guest) { g.control(frame(6, make([]byte, 8))) }, "CONN H3_FRAME_UNEXPECTED frame_reserved"},
	{"a setting twice", func(g *guest) { g.uni(varint(0), frame(4, varint(6, 1, 6, 1))) }, "CONN H3_SETTINGS_ERROR settings"},
	{"a setting of HTTP/2", func(g *guest) { g.uni(varint(0), frame(4, varint(4, 1))) }, "CONN H3_SETTINGS_ERROR settings"},
	{"ENABLE_CONNECT_PROTOCOL: 2", func(g *guest) { g.uni(varint(0), frame(4, varint(8, 2))) }, "CONN H3_SETTINGS_ERROR settings"},
	{"a setting without a value", func(g *guest) { g.uni(varint(0), frame(4, varint(6))) }, "CONN H3_FRAME_ERROR frame"},
	{"many settings", func(g *guest) {
		var all []byte
		repeat(100, func(i int) { all = append(all, varint(uint64(0x100+i), 1)...) })
		g.uni(varint(0), frame(4, all))
	}, "CONN H3_EXCESSIVE_LOAD settings_too_large"},
	{"SETTINGS without end", func(g *guest) { g.uni(varint(0), varint(4, 1<<40)) }, "CONN H3_EXCESSIVE_LOAD settings_too_large"},
	{"a long GOAWAY", func(g *guest) { g.control(frame(7, varint(0, 0))) }, "CONN H3_FRAME_ERROR frame"},
	{"an empty GOAWAY", func(g *guest) { g.control(frame(7)) }, "CONN H3_FRAME_ERROR frame"},
	{"GOAWAY that grows", func(g *guest) { g.control(frame(7, varint(1)), frame(7, varint(2))) }, "CONN H3_ID_ERROR id"},
	{"MAX_PUSH_ID that shrinks", func(g *guest) { g.control(frame(0xd, varint(9)), frame(0xd, varint(8))) }, "CONN H3_ID_ERROR id"},
	{"CANCEL_PUSH of what was not promised", func(g *guest) { g.control(frame(3, varint(0))) }, "CONN H3_ID_ERROR id"},
	{"PRIORITY_UPDATE of no request", func(g *guest) { g.control(frame(0xf0700, varint(2), []byte("u=1"))) }, "CONN H3_ID_ERROR priority_update"},
	{"PRIORITY_UPDATE of a push", func(g *guest) { g.control(frame(0xf0701, varint(0), []byte("u=1"))) }, "CONN H3_ID_ERROR priority_update"},
	{"PRIORITY_UPDATE", func(g *guest) {
		g.control(frame(0xf0700, varint(0), []byte("u=1")))
		g.request(get("priority", "u=2, i"))
	}, "200"},

	// Floods.
	{"resets", func(g *guest) {
		repeat(100, func(int) {
			if g.begin(post()); g.str != nil {
				g.str.CancelWrite(0x10c)
				g.str.CancelRead(0x10c)
			}
		})
	}, "CONN H3_EXCESSIVE_LOAD rapid_reset"},
	{"malformed requests", func(g *guest) { repeat(100, func(int) { g.request(headers("a", "b")) }) }, "CONN H3_EXCESSIVE_LOAD provoked_resets"},
	{"empty DATA", func(g *guest) { g.begin(post(), bytes.Repeat(data(""), 1000)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"frames of unknown types", func(g *guest) { g.begin(bytes.Repeat(frame(0x21), 1000)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"a frame of an unknown type without end", func(g *guest) { g.begin(varint(0x21, 1<<50)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"such on the control stream", func(g *guest) { g.control(bytes.Repeat(frame(0x21), 1000)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"PRIORITY_UPDATE without end", func(g *guest) { g.control(bytes.Repeat(frame(0xf0700, varint(0)), 1000)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"streams of unknown types", func(g *guest) { repeat(300, func(int) { g.uni(varint(0x21)) }) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},
	{"stream cancellations", func(g *guest) { g.uni(varint(3), bytes.Repeat([]byte{0x40}, 1000)) }, "CONN H3_EXCESSIVE_LOAD frame_flood"},

	// Slowness.
	{"a HEADERS frame that does not come", func(g *guest) { g.begin(get()[:8]) }, "408"},
	{"nothing on a stream", func(g *guest) { g.begin([]byte{1}) }, "408"},
	{"content that does not come", func(g *guest) { g.begin(post(), data("x")) }, "408"},
	{"a GET that does not end", func(g *guest) { g.begin(get()) }, "408"},
}

const malformed = "RESET H3_MESSAGE_ERROR"

func TestHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			h := &handler{serve: strict}
			f := serveH3(t, h, &h3.ServerOptions{
				HeaderTimeout: time.Second, BodyTimeout: time.Second, // a busy machine is in time
				MaxHeaderBytes: 16 << 10, MaxBody: 1 << 20, Resets: 20, Frames: 200,
			})
			g := f.guest(t)
			tt.do(g)
			if got := g.outcome(tt.want); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
			// Whatever it was, others are served.
			other := f.guest(t)
			other.request(get())
			if got := other.outcome("200"); got != "200" {
				t.Errorf("another connection: %s", got)
			}
		})
	}
}

// strict reads the content, and answers 200 if it came whole.
func strict(ex *exchange.Exchange) {
	for ex.In.Body != nil {
		_, err := ex.In.Body.Next()
		var client *exchange.ClientError
		if errors.As(err, &client) {
			ex.Answer(client.Status, client.Reason, "")
			return
		}
		if err != nil {
			break
		}
	}
	ex.Answer(200, "test", "fine")
}

// A client that opens more requests than it may is the transport's to stop, and
// resetting them makes no room for others while they are being served.
func TestStreamsAreBounded(t *testing.T) {
	began, release := make(chan struct{}), make(chan struct{})
	h := &handler{serve: func(ex *exchange.Exchange) {
		began <- struct{}{}
		<-release
		ex.Answer(200, "test", "")
	}}
	f := serveH3(t, h, &h3.ServerOptions{MaxStreams: 4})
	defer close(release)
	g := f.guest(t)
	for range 4 {
		g.begin(post())
		<-began
		g.str.CancelWrite(0x10c)
		g.str.CancelRead(0x10c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := g.qc.OpenStreamSync(ctx); err == nil {
		t.Error("a fifth request while four are served")
	}
}

// A client that does not read is given up, and does not hold the others up.
func TestStalledClient(t *testing.T) {
	h := &handler{serve: func(ex *exchange.Exchange) {
		ex.Response.Status, ex.Response.Length = 200, -1
		if ex.In.Path == "/large" {
			ex.Response.Body = &content{parts: [][]byte{make([]byte, 10<<20)}}
			return
		}
		ex.Answer(200, "test", "small")
	}}
	f := serveH3(t, h, &h3.ServerOptions{WriteTimeout: 300 * time.Millisecond})
	g := f.guest(t)
	g.request(headers(":method", "GET", ":scheme", "https", ":authority", "a.test", ":path", "/large"))
	stalled := g.str
	g.request(get())
	if got := g.outcome("200"); got != "200" {
		t.Error(got)
	}
	await(t, func() bool { return fmt.Sprint(h.reported()) == "[0 stalled_window]" })
	_ = stalled.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, stalled)
	var reset *quic.StreamError
	if !errors.As(err, &reset) || reset.ErrorCode != quic.StreamErrorCode(h3.RequestCancelled) {
		t.Error(err)
	}
}

// A connection without a request ends in time, by GOAWAY first.
func TestIdleTimeout(t *testing.T) {
	f := serveH3(t, &handler{serve: strict}, &h3.ServerOptions{IdleTimeout: time.Second}) // the request is sent by then
	g := f.guest(t)
	g.control()
	g.request(get())
	if got := g.outcome("200"); got != "200" {
		t.Fatal(got)
	}
	if got := g.outcome("CONN"); got != "CONN H3_NO_ERROR " {
		t.Error(got)
	}
}

// After the last GOAWAY requests are rejected, so that they can be sent again elsewhere.
func TestRejectedAfterGoAway(t *testing.T) {
	release := make(chan struct{})
	h := &handler{serve: func(ex *exchange.Exchange) {
		<-release
		ex.Answer(200, "test", "")
	}}
	f := serveH3(t, h, nil)
	g := f.guest(t)
	g.request(get())
	first := g.str
	await(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.conns) == 1 })
	str, err := g.qc.AcceptUniStream(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	control := quicvarint.NewReader(str)
	next := func() (kind uint64, payload []byte) {
		kind, _ = quicvarint.Read(control)
		n, err := quicvarint.Read(control)
		if err != nil {
			t.Fatal(err)
		}
		payload = make([]byte, n)
		_, _ = io.ReadFull(control, payload)
		return kind, payload
	}
	if kind, _ := quicvarint.Read(control); kind != 0 {
		t.Fatal(kind)
	}
	if kind, _ := next(); kind != 4 {
		t.Fatal(kind)
	}
	f.each(func(s *h3.ServerConn) { s.Drain() })
	for _, want := range []uint64{1<<62 - 4, 4} {
		if kind, payload := next(); kind != 7 || !bytes.Equal(payload, varint(want)) {
			t.Errorf("frame %d %x, want GOAWAY %d", kind, payload, want)
		}
	}
	g.request(get())
	if got := g.outcome(""); got != "RESET H3_REQUEST_REJECTED" {
		t.Error(got)
	}
	close(release)
	g.str = first
	if got := g.outcome("200"); got != "200" {
		t.Error(got)
	}
	if got := g.outcome("CONN"); got != "CONN H3_NO_ERROR " {
		t.Error(got)
	}
}
