package h2_test

import (
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// fixed answers with the same fields and content again and again.
type fixed struct{ content []byte }

func (h fixed) Serve(ex *exchange.Exchange) {
	ex.Response.Status, ex.Response.Length = 200, int64(len(h.content))
	ex.Response.Fields = append(ex.Response.Fields,
		exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "text/plain"},
		exchange.Field{Key: exchange.KeyServer, Name: "Server", Value: "test"},
		exchange.Field{Name: "X-Test", Value: "the same as ever"})
	b, _ := ex.Private.(*again)
	if b == nil {
		b = &again{}
		ex.Private = b
	}
	b.content, b.done = h.content, false
	ex.Response.Body = b
}
func (fixed) Done(*exchange.Exchange, error)        {}
func (fixed) Malformed(*exchange.Conn, int, string) {}

type again struct {
	content []byte
	done    bool
}

func (b *again) Next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	b.done = true
	return b.content, nil
}
func (b *again) Ready() bool { return true }
func (b *again) Close()      {}

// asker sends the same request on new streams and reads until it was answered,
// without allocating.
type asker struct {
	nc   net.Conn
	out  []byte
	in   []byte
	r, w int
	id   uint32
}

func newAsker(t testing.TB, h exchange.Handler) *asker {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s := h2.NewServerConn(sc, &exchange.Conn{}, h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve()
	}()
	t.Cleanup(func() { _ = nc.Close(); <-done })
	a := &asker{nc: nc, in: make([]byte, 64<<10), id: 1}
	// Windows that last for all of the test.
	_, _ = io.WriteString(nc, h2.Preface+"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\x00\x00\x00")
	a.out = append(a.out, 0, 0, 0, 1, 5, 0, 0, 0, 0)
	enc := hpack.NewEncoder(appender{&a.out})
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "example.com"}, {":path", "/api/items?page=2"}, {"user-agent", "test"}, {"accept", "*/*"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	a.out[2] = byte(len(a.out) - 9)
	a.ask(t, 1)
	// From here on all fields are in the table.
	a.out = append(a.out[:0], 0, 0, 0, 1, 5, 0, 0, 0, 0)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "example.com"}, {":path", "/api/items?page=2"}, {"user-agent", "test"}, {"accept", "*/*"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	a.out[2] = byte(len(a.out) - 9)
	return a
}

// ask sends n requests at once and awaits their responses.
func (a *asker) ask(t testing.TB, n int) {
	one := len(a.out)
	for range n {
		b := a.out[:one]
		b[5], b[6], b[7], b[8] = byte(a.id>>24), byte(a.id>>16), byte(a.id>>8), byte(a.id)
		a.id += 2
		if _, err := a.nc.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for n > 0 {
		for a.w-a.r >= 9 {
			b := a.in[a.r:a.w]
			size := 9 + int(b[0])<<16 + int(b[1])<<8 + int(b[2])
			if len(b) < size {
				break
			}
			a.r += size
			switch b[3] {
			case 0, 1:
				n -= int(b[4] & 1)
			case 3, 7:
				t.Fatalf("%q", b[:size])
			}
		}
		if n == 0 {
			break
		}
		a.w = copy(a.in, a.in[a.r:a.w])
		a.r = 0
		m, err := a.nc.Read(a.in[a.w:])
		if err != nil {
			t.Fatal(err)
		}
		a.w += m
	}
}

// The bound is two; what is left is nothing, but for what pools lose to the collector.
func TestServerAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools drop things")
	}
	a := newAsker(t, fixed{make([]byte, 1000)})
	a.ask(t, 32)
	if n := testing.AllocsPerRun(1000, func() { a.ask(t, 1) }); n > 0.5 {
		t.Errorf("%v allocations per request", n)
	}
	if n := testing.AllocsPerRun(200, func() { a.ask(t, 32) }); n > 16 {
		t.Errorf("%v allocations per 32 requests", n)
	}
}

func BenchmarkServer(b *testing.B) {
	a := newAsker(b, fixed{make([]byte, 1000)})
	b.ReportAllocs()
	for b.Loop() {
		a.ask(b, 1)
	}
}

func BenchmarkServer32(b *testing.B) {
	a := newAsker(b, fixed{make([]byte, 1000)})
	b.ReportAllocs()
	for b.Loop() {
		a.ask(b, 32)
	}
}
