package dataplane_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/h2"
)

// witness is an upstream of HTTP/1.1 that tells what its connections carried,
// as the parser of net/http reads it, and keeps the bytes.
type witness struct {
	ln        net.Listener
	accepting chan struct{}
	open      sync.WaitGroup // connections

	mu   sync.Mutex
	raw  bytes.Buffer
	told []string
}

func testify(t *testing.T) *witness {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{ln: ln, accepting: make(chan struct{})}
	go func() {
		defer close(w.accepting)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			w.open.Go(func() {
				defer nc.Close()
				_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
				w.hear(nc)
			})
		}
	}()
	return w
}

func (w *witness) hear(nc net.Conn) {
	in := bufio.NewReader(io.TeeReader(nc, writer(func(p []byte) (int, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.raw.Write(p)
	})))
	for {
		req, err := http.ReadRequest(in)
		if err == io.EOF {
			return
		}
		said := ""
		if err == nil {
			said = fmt.Sprintf("%s %s of %s", req.Method, req.RequestURI, req.Host)
			var content []byte
			if content, err = io.ReadAll(req.Body); len(content) > 0 {
				said += fmt.Sprintf(" %q", content)
			}
			for name, values := range req.Trailer {
				said += fmt.Sprintf(" %s: %s", name, values)
			}
		}
		if err != nil {
			said += " cut"
		}
		w.mu.Lock()
		w.told = append(w.told, strings.TrimSpace(said))
		w.mu.Unlock()
		if err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// end waits for the ends of all connections, and returns what was told of
// them and what they carried.
func (w *witness) end() (told, raw string) {
	_ = w.ln.Close()
	<-w.accepting
	w.open.Wait()
	return strings.Join(w.told, ", "), w.raw.String()
}

// raw2 sends requests of HTTP/2 that no library would.
type raw2 struct {
	t *testing.T
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func dialRaw2(t *testing.T, address string) (*raw2, net.Conn) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(nc, h2.Preface)
	c := &raw2{t: t, Framer: http2.NewFramer(nc, nc)}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.block)
	_ = c.WriteSettings()
	return c, nc
}

// headers sends a field section of names and values.
func (c *raw2) headers(end bool, pairs ...string) {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: true})
}

// outcome waits for the stream's end, and says which.
func (c *raw2) outcome() string {
	status := ""
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return strings.TrimSpace(status + " closed")
		}
		ended := false
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			status, ended = f.PseudoValue("status"), f.StreamEnded()
		case *http2.DataFrame:
			ended = f.StreamEnded()
		case *http2.RSTStreamFrame:
			return strings.TrimSpace(status + " reset " + f.ErrCode.String())
		case *http2.GoAwayFrame:
			return strings.TrimSpace(status + " goaway " + f.ErrCode.String())
		}
		if ended {
			return status
		}
	}
}

// What would be another request, or more than one, in HTTP/1.1 does not become
// one there. Nothing malformed reaches the upstream; what has begun when it
// turns out to be malformed never ends there.
func TestHTTP2DoesNotSmuggle(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
	type fields = []string
	req := func(method, path string, more ...string) fields {
		return append(fields{":method", method, ":scheme", "http", ":authority", "a.test", ":path", path}, more...)
	}
	with := func(name, value string) fields { return req("POST", "/x", name, value) }
	const nothing, cut, emptyOrCut = "", "cut", "empty or cut"
	tests := []struct {
		name     string
		head     fields
		content  []string // DATA frames; nil means that the head ends the stream
		trailers fields
		// want is what the upstream tells; emptyOrCut is for a request that was whole
		// before its content came, and may have gone out; cut means that it tells of no whole
		// request, and nothing that it was not even asked.
		want string
	}{
		// Where a head would end, or another line begin.
		{"CR LF in a value", with("x", "y\r\n\r\n"+smuggled), nil, nil, nothing},
		{"LF in a value", with("x", "y\nTransfer-Encoding: chunked"), nil, nil, nothing},
		{"CR in a value", with("x", "y\rTransfer-Encoding: chunked"), nil, nil, nothing},
		{"NUL in a value", with("x", "y\x00z"), nil, nil, nothing},
		{"a folded value", with("x", "y\r\n z"), nil, nil, nothing},
		{"white space before a value", with("content-length", " 5"), []string{"hello"}, nil, nothing},
		{"white space behind a value", with("x", "y\t"), nil, nil, nothing},
		{"CR LF in a name", with("x: y\r\nz", "1"), nil, nil, nothing},
		{"LF in a name", with("x\nz", "1"), nil, nil, nothing},
		{"a colon in a name", with("transfer-encoding: chunked\r\nx:", "y"), nil, nil, nothing},
		{"a colon behind a name", with("transfer-encoding:", "chunked"), nil, nil, nothing},
		{"a space behind a name", with("transfer-encoding ", "chunked"), nil, nil, nothing},
		{"a NUL in a name", with("transfer-encoding\x00", "chunked"), nil, nil, nothing},
		{"an empty name", with("", "chunked"), nil, nil, nothing},
		{"an upper-case name", with("Transfer-Encoding", "chunked"), []string{"0\r\n\r\n" + smuggled}, nil, nothing},
		{"CR LF in the cookie", with("cookie", "a=1\r\nx: y"), nil, nil, nothing},

		// Where a request line would.
		{"CR LF in :path", req("GET", "/ HTTP/1.1\r\nHost: a.test\r\n\r\n"+smuggled), nil, nil, nothing},
		{"a space in :path", req("GET", "/x HTTP/1.1 "), nil, nil, nothing},
		{"LF in :path", req("GET", "/x\nHost:b.test"), nil, nil, nothing},
		{"a fragment in :path", req("GET", "/x#y"), nil, nil, nothing},
		{"a :path of another form", req("GET", "http://b.test/x"), nil, nil, nothing},
		{"a :path without its slash", req("GET", "x"), nil, nil, nothing},
		{"an empty :path", req("GET", ""), nil, nil, nothing},
		{"CR LF in :method", req("GET /smuggled HTTP/1.1\r\nx: y\r\n\r\nGET", "/x"), nil, nil, nothing},
		{"a space in :method", req("GET /smuggled", "/x"), nil, nil, nothing},
		{"an empty :method", req("", "/x"), nil, nil, nothing},
		{"CR LF in :authority", fields{":method", "GET", ":scheme", "http", ":authority", "a.test\r\nx: y", ":path", "/x"}, nil, nil, nothing},
		{"a path in :authority", fields{":method", "GET", ":scheme", "http", ":authority", "a.test/smuggled?", ":path", "/x"}, nil, nil, nothing},
		{"a user in :authority", fields{":method", "GET", ":scheme", "http", ":authority", "b.test@a.test", ":path", "/x"}, nil, nil, nothing},
		{"a space in :authority", fields{":method", "GET", ":scheme", "http", ":authority", "a.test b.test", ":path", "/x"}, nil, nil, nothing},
		{"CR LF in :scheme", fields{":method", "GET", ":scheme", "http\r\nx: y", ":authority", "a.test", ":path", "/x"}, nil, nil, nothing},
		{"a target in :scheme", fields{":method", "GET", ":scheme", "http://b.test/?", ":authority", "a.test", ":path", "/x"}, nil, nil, nothing},

		// Two readings of which request it is.
		{"two :path", req("GET", "/x", ":path", "/smuggled"), nil, nil, nothing},
		{"two :method", req("GET", "/x", ":method", "POST"), nil, nil, nothing},
		{"two :authority", req("GET", "/x", ":authority", "b.test"), nil, nil, nothing},
		{"a pseudo-header field behind", req("GET", "/x", "y", "z", ":path", "/smuggled"), nil, nil, nothing},
		{"an unknown pseudo-header field", req("GET", "/x", ":host", "b.test"), nil, nil, nothing},
		{"a response's pseudo-header field", req("GET", "/x", ":status", "200"), nil, nil, nothing},
		{"no :path", fields{":method", "GET", ":scheme", "http", ":authority", "a.test"}, nil, nil, nothing},
		{"another Host", req("GET", "/x", "host", "b.test"), nil, nil, nothing},
		{"two Hosts", req("GET", "/x", "host", "a.test", "host", "a.test"), nil, nil, nothing},
		{"the same Host", req("GET", "/x", "host", "a.test"), nil, nil, "GET /x of a.test"},

		// Two readings of where content ends.
		{"Transfer-Encoding", with("transfer-encoding", "chunked"), []string{"0\r\n\r\n" + smuggled}, nil, nothing},
		{"Transfer-Encoding of two kinds", with("transfer-encoding", "identity"), []string{"x"}, nil, nothing},
		{"Connection", with("connection", "content-length"), nil, nil, nothing},
		{"Keep-Alive", with("keep-alive", "timeout=5"), nil, nil, nothing},
		{"Proxy-Connection", with("proxy-connection", "keep-alive"), nil, nil, nothing},
		{"Upgrade", with("upgrade", "h2c"), nil, nil, nothing},
		{"TE of more than trailers", with("te", "trailers, chunked"), nil, nil, nothing},
		{"two lengths", req("POST", "/x", "content-length", "0", "content-length", "5"), []string{"hello"}, nil, nothing},
		{"a list of lengths", with("content-length", "5, 5"), []string{"hello"}, nil, nothing},
		{"a signed length", with("content-length", "+5"), []string{"hello"}, nil, nothing},
		{"a negative length", with("content-length", "-1"), []string{"hello"}, nil, nothing},
		{"a hexadecimal length", with("content-length", "0x5"), []string{"hello"}, nil, nothing},
		{"a length beyond all", with("content-length", "18446744073709551621"), []string{"hello"}, nil, nothing},
		{"an empty length", with("content-length", ""), []string{"hello"}, nil, nothing},
		{"a length and no content", with("content-length", "5"), nil, nil, nothing},
		{"less than the length", with("content-length", "50"), []string{"hello"}, nil, cut},
		{"more than the length", with("content-length", "5"), []string{"hello" + smuggled}, nil, cut},
		{"more than the length in another frame", with("content-length", "9"), []string{"hell", "o", smuggled}, nil, cut},
		{"a length of 0 and content", with("content-length", "0"), []string{smuggled}, nil, emptyOrCut},

		// Content that looks like framing is content.
		{"a request as content", req("POST", "/x"), []string{smuggled}, nil, fmt.Sprintf("POST /x of a.test %q", smuggled)},
		{"a request as GET's content", req("GET", "/x"), []string{smuggled}, nil, fmt.Sprintf("GET /x of a.test %q", smuggled)},
		{"a last chunk as content", req("POST", "/x"), []string{"0\r\n\r\n", smuggled}, nil, fmt.Sprintf("POST /x of a.test %q", "0\r\n\r\n"+smuggled)},
		{"a last chunk as content of some length", with("content-length", "5"), []string{"0\r\n\r\n"}, nil, `POST /x of a.test "0\r\n\r\n"`},
		{"empty DATA", req("POST", "/x"), []string{"", "x", "", "", ""}, nil, `POST /x of a.test "x"`},
		{"CR LF, encoded", req("GET", "/x%0d%0aHost:%20b.test"), nil, nil, "GET /x%0D%0AHost:%20b.test of a.test"},
		{"cookies in crumbs", req("GET", "/x", "cookie", "a=1", "cookie", "b=2"), nil, nil, "GET /x of a.test"},

		// Trailers.
		{"CR LF in trailers", req("POST", "/x"), []string{"x"}, fields{"y", "z\r\n\r\n" + smuggled}, cut},
		{"pseudo-header fields in trailers", req("POST", "/x"), []string{"x"}, fields{":path", "/smuggled"}, cut},
		{"Transfer-Encoding in trailers", req("POST", "/x"), []string{"x"}, fields{"transfer-encoding", "chunked"}, cut},
		{"an upper-case trailer", req("POST", "/x"), []string{"x"}, fields{"Y", "z"}, cut},
		{"Host in trailers", req("POST", "/x"), []string{"x"}, fields{"host", "b.test"}, cut},
		{"fields that are no trailers", req("POST", "/x"), []string{"x"}, fields{"authorization", "x", "content-type", "x", "y", "z"}, `POST /x of a.test "x" Y: [z]`},

		// Tunnels, to an upstream that opens none.
		{"CONNECT", fields{":method", "CONNECT", ":authority", "a.test:80"}, []string{smuggled}, nil, nothing},
		{"WebSocket", append(req("CONNECT", "/x", ":protocol", "websocket"), "sec-websocket-version", "13"), []string{smuggled}, nil, "GET /x of a.test"},
		{"WebSocket with a key", append(req("CONNECT", "/x", ":protocol", "websocket"), "sec-websocket-key", "x"), []string{smuggled}, nil, nothing},
		{"another protocol", req("CONNECT", "/x", ":protocol", "h2c"), []string{smuggled}, nil, nothing},
		{"a protocol of two lines", req("CONNECT", "/x", ":protocol", "websocket\r\nx: y"), []string{smuggled}, nil, nothing},
		{":protocol without CONNECT", req("GET", "/x", ":protocol", "websocket"), nil, nil, nothing},
	}

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			upstream := testify(t)
			p := start(t, dataplane.Options{})
			w := &world{}
			w.port(plain()).cluster("a", upstream.ln.Addr().String()).host(gateway, "*", to("/", "a")).apply(t, p)
			c, nc := dialRaw2(t, address(t, p))
			c.headers(test.content == nil && test.trailers == nil, test.head...)
			for i, data := range test.content {
				_ = c.WriteData(1, i == len(test.content)-1 && test.trailers == nil, []byte(data))
			}
			if test.trailers != nil {
				c.headers(true, test.trailers...)
			}
			outcome := c.outcome()
			nc.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := p.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			told, raw := upstream.end()
			switch {
			case test.want == cut:
				if told != "" && !strings.HasSuffix(told, cut) || strings.Contains(told, "smuggled") || outcome == "200" {
					t.Errorf("the client got %s, the upstream %s", outcome, told)
				}
			case test.want == emptyOrCut:
				if told != "" && told != "POST /x of a.test" && !strings.HasSuffix(told, cut) || strings.Contains(told, "smuggled") {
					t.Errorf("the client got %s, the upstream %s", outcome, told)
				}
			case test.want == nothing:
				if raw != "" || outcome == "200" {
					t.Errorf("the client got %s, the upstream\n%s", outcome, raw)
				}
			case told != test.want:
				t.Errorf("the client got %s, the upstream %s, want %s", outcome, told, test.want)
			}
			head, _, _ := strings.Cut(raw, "\r\n\r\n")
			if strings.ContainsAny(strings.ReplaceAll(head, "\r\n", ""), "\r\n\x00") || strings.Contains(head, "\r\n ") ||
				strings.Count(strings.ToLower(head), "\r\ncontent-length:")+strings.Count(strings.ToLower(head), "\r\ntransfer-encoding:") > 1 ||
				strings.Contains(head, "cookie") && !strings.Contains(head, "\r\ncookie: a=1; b=2") {
				t.Errorf("the upstream got %q", head)
			}
		})
	}
}
