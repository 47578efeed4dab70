package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane"
)

// recorder is an upstream of HTTP/1.1 that keeps what it gets, and answers
// each empty line, so that whoever is made to send two requests is caught.
type recorder struct {
	mu  sync.Mutex
	got bytes.Buffer
}

func record(t *testing.T) (*recorder, string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				buf := make([]byte, 8<<10)
				for {
					_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
					n, err := c.Read(buf)
					r.mu.Lock()
					r.got.Write(buf[:n])
					head := bytes.Contains(r.got.Bytes(), []byte("\r\n\r\n"))
					r.mu.Unlock()
					if err != nil {
						return
					}
					if head {
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); group.Wait() })
	return r, ln.Addr().String()
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.got.Reset()
	return r.got.String()
}

func http3Frame(kind uint64, payload []byte) []byte {
	return append(quicvarint.Append(quicvarint.Append(nil, kind), uint64(len(payload))), payload...)
}

func http3Headers(pairs ...string) []byte {
	var b bytes.Buffer
	enc := qpack.NewEncoder(&b)
	for i := 0; i < len(pairs); i += 2 {
		_ = enc.WriteField(qpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return http3Frame(1, b.Bytes())
}

// What would be two requests, or another one, in HTTP/1.1 does not get there.
func TestHTTP3DoesNotSmuggle(t *testing.T) {
	rec, addr := record(t)
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port3(listener3(t, "one", "one.example.com")).cluster("a", addr).host("one", "one.example.com", to("/", "a")).apply(t, p)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	qc, err := quic.DialAddr(ctx, address3(t, p), &tls.Config{ServerName: "one.example.com", InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer qc.CloseWithError(0x100, "")
	// send sends a request and waits for the end of the answer.
	send := func(frames ...[]byte) {
		t.Helper()
		str, err := qc.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = str.Write(bytes.Join(frames, nil))
		_ = str.Close()
		_ = str.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.Copy(io.Discard, str)
	}
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: one.example.com\r\n\r\n"
	base := func(method, path string, more ...string) []byte {
		return http3Headers(append([]string{":method", method, ":scheme", "https", ":authority", "one.example.com", ":path", path}, more...)...)
	}
	content := func(s string) []byte { return http3Frame(0, []byte(s)) }

	for name, frames := range map[string][][]byte{
		"CR LF in :path":                {base("GET", "/ HTTP/1.1\r\nHost: one.example.com\r\n\r\n"+smuggled)},
		"a space in :path":              {base("GET", "/a b")},
		"CR LF in :method":              {base("GET / HTTP/1.1\r\nx: y\r\n\r\nGET", "/")},
		"CR LF in :authority":           {http3Headers(":method", "GET", ":scheme", "https", ":authority", "one.example.com\r\nx: y", ":path", "/")},
		"CR LF in :scheme":              {http3Headers(":method", "GET", ":scheme", "https\r\nx: y", ":authority", "one.example.com", ":path", "/")},
		"CR LF in a value":              {base("GET", "/", "x", "y\r\n\r\n"+smuggled)},
		"LF in a value":                 {base("GET", "/", "x", "y\nTransfer-Encoding: chunked")},
		"CR in a value":                 {base("GET", "/", "x", "y\rTransfer-Encoding: chunked")},
		"NUL in a value":                {base("GET", "/", "x", "y\x00z")},
		"CR LF in a name":               {base("GET", "/", "x: y\r\nz", "")},
		"a space in a name":             {base("GET", "/", "transfer-encoding ", "chunked")},
		"a colon in a name":             {base("GET", "/", "transfer-encoding:", "chunked")},
		"an upper-case name":            {base("POST", "/", "Transfer-Encoding", "chunked"), content("0\r\n\r\n" + smuggled)},
		"Transfer-Encoding":             {base("POST", "/", "transfer-encoding", "chunked"), content("0\r\n\r\n" + smuggled)},
		"Transfer-Encoding in trailers": {base("POST", "/"), content("x"), http3Headers("Transfer-Encoding", "chunked")},
		"a list of lengths":             {base("POST", "/", "content-length", "0, 5"), content("hello")},
		"two lengths":                   {base("POST", "/", "content-length", "0", "content-length", "5"), content("hello")},
		"a signed length":               {base("POST", "/", "content-length", "+5"), content("hello")},
		"length 0 with content":         {base("GET", "/", "content-length", "0"), content(smuggled)},
		"Connection":                    {base("GET", "/", "connection", "x-forwarded-for")},
		"Upgrade":                       {base("GET", "/", "upgrade", "h2c", "http2-settings", "AAAA")},
		"Host beside another authority": {base("GET", "/", "host", "two.example.com")},
		"two Hosts":                     {base("GET", "/", "host", "one.example.com", "host", "one.example.com")},
		"a pseudo-header field twice":   {base("GET", "/", ":path", "/smuggled")},
		"a pseudo-header field behind":  {base("GET", "/", "x", "y", ":path", "/smuggled")},
	} {
		send(frames...)
		if got := rec.take(); strings.Contains(got, "\r\n\r\n") && !strings.HasPrefix(name, "length 0") || strings.Contains(got, "smuggled") {
			t.Errorf("%s: the upstream got\n%s", name, got)
		}
	}

	// What is cut off on its way is cut off for the upstream too: it never gets
	// a message that is whole.
	for name, frames := range map[string][][]byte{
		"less than said":         {base("POST", "/", "content-length", "50"), content("hello")},
		"malformed trailers":     {base("POST", "/"), content("hello"), http3Headers("x", "y\r\n\r\n"+smuggled)},
		"pseudo-fields trailing": {base("POST", "/"), content("hello"), http3Headers(":path", "/smuggled")},
	} {
		send(frames...)
		if got := rec.take(); strings.HasSuffix(got, "0\r\n\r\n") || strings.Contains(got, "smuggled") {
			t.Errorf("%s: the upstream got\n%s", name, got)
		}
	}

	// What is right gets there, once, and in one reading.
	send(base("POST", "/a?b", "content-length", "5", "te", "trailers", "x_y", "1", "cookie", "a=1", "cookie", "b=2"), content("hello"), http3Headers("content-type", "x", "x-sum", "7"))
	got := rec.take()
	for _, want := range []string{"POST /a?b HTTP/1.1\r\n", "\r\nHost: one.example.com\r\n", "\r\ncookie: a=1; b=2\r\n", "hello"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, got)
		}
	}
	for _, never := range []string{"\r\nte:", "trailers", "content-type"} {
		if strings.Contains(strings.ToLower(got), never) {
			t.Errorf("%q is there:\n%s", never, got)
		}
	}
}
