package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http" // the second reader of the differential fuzz targets
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

var defaultServer, defaultClient = (*ServerOptions)(nil).Complete(), (*ClientOptions)(nil).withDefaults()

// parsedRequest is what we make of a request's bytes.
type parsedRequest struct {
	ex       exchange.Exchange
	head     requestHead
	content  []byte
	consumed int
}

// readRequestBytes reads one request as the server side does, without a connection.
func readRequestBytes(raw []byte) (*parsedRequest, error) {
	p := &parsedRequest{}
	raw = append([]byte(nil), raw...)
	var scan headScan
	size, err := scan.scan(raw, &headLimits{defaultServer.MaxRequestLine, defaultServer.MaxHeaderBytes, defaultServer.MaxHeaderCount})
	if err != nil {
		return nil, err
	}
	if size == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	if err := parseRequest(raw[:size], scan.ends, &p.ex, &p.head, defaultServer); err != nil {
		return nil, err
	}
	content, n, failure := readContent(raw[size:], p.head.kind, p.ex.In.Length, &p.ex.In.Trailers)
	p.content, p.consumed = content, size+n
	return p, failure
}

func readContent(raw []byte, kind framing, length int64, trailers *exchange.Fields) (content []byte, consumed int, err error) {
	in := &reader{src: bytes.NewReader(nil), buf: raw, w: len(raw)}
	var d decoder
	d.reset(in, kind, length, 64<<10, 128)
	for {
		ready := d.ready()
		p, err := d.next()
		if ready != (p != nil || err != nil) {
			panic("Ready and Next disagree")
		}
		content = append(content, p...)
		if err == nil && len(p) == 0 {
			err = d.ended()
		}
		if err == io.EOF {
			*trailers = d.trailers
			return content, in.r, nil
		}
		if err != nil {
			return content, in.r, err
		}
	}
}

func addRawSeeds(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /a?b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabcGET /",
		"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: [::1]\r\nConnection: a, close\r\nA: \t b \r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"\r\n", "G", "GET / HTTP/1.1\nHost: a\n\n",
	} {
		f.Add([]byte(s))
	}
}

// What we accept, net/http reads in the same way: the same request, the same
// content, and the same bytes left for the next request.
func FuzzRequest(f *testing.F) {
	addRawSeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, err := readRequestBytes(raw)
		if err != nil {
			return
		}
		in := &ours.ex.In
		source := bytes.NewReader(raw)
		buffered := bufio.NewReaderSize(source, 128<<10)
		theirs, err := http.ReadRequest(buffered)
		if err != nil {
			if stricter(err, in) {
				return
			}
			t.Fatalf("%q: we accept, net/http does not: %v", raw, err)
		}
		content, err := io.ReadAll(theirs.Body)
		if err != nil {
			t.Fatalf("%q: we accept the content, net/http does not: %v", raw, err)
		}
		consumed := len(raw) - source.Len() - buffered.Buffered()
		if !bytes.Equal(content, ours.content) || consumed != ours.consumed {
			t.Fatalf("%q: content %q up to %d; net/http %q up to %d", raw, ours.content, ours.consumed, content, consumed)
		}
		if theirs.Method != in.Method || theirs.Host != in.Authority || (theirs.ProtoMinor == 0) != (in.Proto == exchange.HTTP10) {
			t.Fatalf("%q: %s %s %s; net/http %s %s %s", raw, in.Method, in.Authority, in.Proto, theirs.Method, theirs.Host, theirs.Proto)
		}
		if in.Method != "CONNECT" && in.Path != "*" && !strings.Contains(theirs.RequestURI, in.Path) {
			t.Fatalf("%q: path %q of %q", raw, in.Path, theirs.RequestURI)
		}
		if theirs.ContentLength != in.Length {
			t.Fatalf("%q: length %d; net/http %d", raw, in.Length, theirs.ContentLength)
		}
		n := 0
		for _, values := range theirs.Header {
			n += len(values)
		}
		lengths := ours.head.lengths
		if n != len(in.Fields)+lengths && !removesFields(theirs, in) {
			t.Fatalf("%q: %d fields %v; net/http %v", raw, len(in.Fields), in.Fields, theirs.Header)
		}
		for i := range in.Fields {
			if !onlyToken(in.Fields[i].Name) || strings.ContainsAny(in.Fields[i].Value, "\r\n\x00") {
				t.Fatalf("%q: field %q", raw, in.Fields[i])
			}
		}
	})
}

// stricter reports whether net/http refuses what is beyond message framing:
// targets that do not parse as URLs (percent-encoding, ports of names).
func stricter(err error, in *exchange.Request) bool {
	s := err.Error()
	return strings.Contains(s, "parse ") || strings.Contains(s, "invalid URL escape")
}

// removesFields knows what net/http takes out of the header: Trailer, and
// fields of an odd Connection.
func removesFields(theirs *http.Request, in *exchange.Request) bool {
	return in.Fields.Find(exchange.KeyTrailer) >= 0 || theirs.Header.Get("Pragma") != "" || len(theirs.Trailer) > 0
}

func onlyToken(s string) bool { return s != "" && syntax.All(s, syntax.TChar) }

// The scan finds the same head, or the same fault, however the bytes come.
func FuzzHeadInPieces(f *testing.F) {
	addRawSeeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		limits := &headLimits{100, 300, 5}
		var whole, pieces headScan
		size, err := whole.scan(raw, limits)
		var size2 int
		var err2 *refusal
		for i := 1; i <= len(raw) && size2 == 0 && err2 == nil; i++ {
			size2, err2 = pieces.scan(raw[:i], limits)
		}
		if len(raw) > 0 && (size != size2 || (err == nil) != (err2 == nil)) {
			t.Fatalf("%q: whole %d %v, in pieces %d %v", raw, size, err, size2, err2)
		}
	})
}

// What we accept of an upstream, net/http reads in the same way.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200\r\n\r\nuntil the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\nok\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
		"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: a, close\r\nA: b\r\n\r\n",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	limits := &headLimits{defaultClient.MaxHeaderBytes, defaultClient.MaxHeaderBytes, defaultClient.MaxHeaderCount}
	f.Fuzz(func(t *testing.T, raw []byte, isHead bool) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		ours := append([]byte(nil), raw...)
		var scan headScan
		size, refused := scan.scan(ours, limits)
		if refused != nil || size == 0 {
			return
		}
		var fields, trailers exchange.Fields
		var h responseHead
		if parseResponse(ours[:size], scan.ends, method, &fields, &h) != nil {
			return
		}
		for i := range fields {
			if framed[fields[i].Key] || fields[i].Key.HopByHop() {
				t.Fatalf("%q: field %q", raw, fields[i])
			}
		}
		source := bytes.NewReader(raw)
		buffered := bufio.NewReaderSize(source, 128<<10)
		theirs, err := http.ReadResponse(buffered, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: we accept, net/http does not: %v", raw, err)
		}
		if theirs.StatusCode != h.status {
			t.Fatalf("%q: status %d; net/http %d", raw, h.status, theirs.StatusCode)
		}
		content, n, failure := readContent(ours[size:], h.kind, h.length, &trailers)
		if failure != nil {
			return
		}
		theirContent, err := io.ReadAll(theirs.Body)
		consumed := len(raw) - source.Len() - buffered.Buffered()
		if err != nil || !bytes.Equal(content, theirContent) || consumed != size+n {
			t.Fatalf("%q: content %q up to %d; net/http %q up to %d, %v", raw, content, size+n, theirContent, consumed, err)
		}
	})
}

// Chunked content is the same however it comes, and what we accept, net/http
// reads in the same way.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n000;c\r\nA: b\r\n\r\n", "a\r\n", "FFFFFFFFFFFFFFFF\r\n",
		"1\r\nx\r\n1\nx\r\n0\r\n\r\n", "2\r\nhixx0\r\n\r\n", "0\r\nContent-Length: 1\r\n\r\n", "0x1\r\n", "-1\r\n", "1 \r\nx\r\n0\r\n\r\n"} {
		f.Add([]byte(s), 1)
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, step int) {
		var trailers exchange.Fields
		content, n, err := readContent(append([]byte(nil), raw...), framedChunked, -1, &trailers)

		pieces := &reader{src: &slowly{raw, max(1, step%7)}, buf: make([]byte, 16)}
		var d decoder
		d.reset(pieces, framedChunked, -1, 64<<10, 128)
		var again []byte
		for d.err == nil {
			p, _ := d.next()
			again = append(again, p...)
			if d.err == nil && len(p) == 0 && pieces.fill(d.want()) != nil {
				_ = d.ended()
			}
		}
		if (err == nil) != d.done() || err == nil && !bytes.Equal(content, again) {
			t.Fatalf("%q: whole %q, %v; in pieces %q, %v", raw, content, err, again, d.err)
		}
		if err != nil {
			return
		}
		head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		source := bytes.NewReader(append([]byte(head), raw...))
		buffered := bufio.NewReaderSize(source, 128<<10)
		theirs, err := http.ReadRequest(buffered)
		if err != nil {
			t.Fatal(err)
		}
		theirContent, err := io.ReadAll(theirs.Body)
		consumed := len(head) + len(raw) - source.Len() - buffered.Buffered()
		if err != nil || !bytes.Equal(theirContent, content) || consumed != len(head)+n {
			t.Fatalf("%q: content %q up to %d; net/http %q up to %d, %v", raw, content, n, theirContent, consumed-len(head), err)
		}
	})
}

// slowly gives a few bytes at a time.
type slowly struct {
	rest []byte
	step int
}

func (s *slowly) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest[:min(s.step, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

// What is sent upstream is one request, with the content that was given,
// whatever the exchange's strings are.
func FuzzSentRequest(f *testing.F) {
	f.Add("GET", "/a b\r\nX: y", "q#\x00", "a.test", "v\r\nTransfer-Encoding: chunked")
	f.Add("POST", "", "é", "a.test:80", "\x7f\t")
	f.Fuzz(func(t *testing.T, method, path, query, authority, value string) {
		if !onlyToken(method) || method == "CONNECT" || method == "PRI" {
			return // checked when it was received; nothing edits it
		}
		if _, _, ok := syntax.ParseAuthority(authority); !ok {
			return // likewise
		}
		c := &ClientConn{ex: &exchange.Exchange{}, opts: defaultClient}
		out := &c.ex.Out
		out.Method, out.Authority, out.Path, out.Query, out.HasQuery = method, authority, "/"+path, query, true
		out.Fields.Add("X-A", value)
		raw := c.appendRequest(nil, framedNone, false)
		if len(raw) > defaultServer.MaxRequestLine {
			return
		}
		p, err := readRequestBytes(raw)
		if err == errTarget && strings.Contains(path, `\`) {
			return
		}
		if err != nil || p.consumed != len(raw) || len(p.ex.In.Fields) != 1 || p.head.kind != framedNone {
			t.Fatalf("%q: %v", raw, err)
		}
	})
}
