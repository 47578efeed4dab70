package h2_test

import (
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h2"
)

// echoPeer answers every request at once with the same response, and allocates
// nothing for it.
func echoPeer(t testing.TB) *h2.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		if _, err := io.ReadFull(nc, make([]byte, len(h2.Preface))); err != nil {
			return
		}
		f := http2.NewFramer(nc, nc)
		f.SetReuseFrames()
		f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 250})
		var head []byte
		enc := hpack.NewEncoder(appender{&head})
		enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
		enc.WriteField(hpack.HeaderField{Name: "server", Value: "peer"})
		enc.WriteField(hpack.HeaderField{Name: "content-type", Value: "text/plain"})
		again := []byte{head[0], 0x80 | 63, 0x80 | 62} // both are in the table then
		content := []byte("hello")
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			h := frame.Header()
			if h.Type == http2.FrameSettings && !h.Flags.Has(http2.FlagSettingsAck) {
				f.WriteSettingsAck()
			}
			if h.Flags.Has(http2.FlagDataEndStream) && (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) {
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: h.StreamID, BlockFragment: head, EndHeaders: true})
				f.WriteData(h.StreamID, true, content)
				head = again
			}
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := h2.NewClientConn(nc, nil)
	c.Start(nil)
	t.Cleanup(c.Close)
	return c
}

type appender struct{ to *[]byte }

func (a appender) Write(p []byte) (int, error) { *a.to = append(*a.to, p...); return len(p), nil }

func roundTrip(t testing.TB, c *h2.ClientConn, ex *exchange.Exchange) {
	refill(ex, "GET", "/path")
	s := c.Open()
	if err := s.RoundTrip(ex); err != nil {
		t.Fatal(err)
	}
	n := 0
	for {
		p, err := ex.Response.Body.Next()
		n += len(p)
		if err != nil {
			break
		}
	}
	s.Finish()
	if ex.Response.Status != 200 || n != 5 {
		t.Fatalf("status %d, %d bytes", ex.Response.Status, n)
	}
}

func TestClientAllocates(t *testing.T) {
	c := echoPeer(t)
	ex := &exchange.Exchange{Client: &informed{}}
	for range 10 {
		roundTrip(t, c, ex)
	}
	if n := testing.AllocsPerRun(1000, func() { roundTrip(t, c, ex) }); n > 2 {
		t.Errorf("%v allocations for an exchange, at most 2 are wanted", n)
	}
}

func BenchmarkClient(b *testing.B) {
	b.Run("1", func(b *testing.B) {
		c := echoPeer(b)
		ex := &exchange.Exchange{Client: &informed{}}
		b.ReportAllocs()
		for b.Loop() {
			roundTrip(b, c, ex)
		}
	})
	b.Run("32", func(b *testing.B) {
		c := echoPeer(b)
		b.SetParallelism(16)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ex := &exchange.Exchange{Client: &informed{}}
			for pb.Next() {
				roundTrip(b, c, ex)
			}
		})
	})
}
