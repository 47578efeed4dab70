package h3_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h3"
)

var benchRequest = headers(":method", "GET", ":scheme", "https", ":authority", "shop.example.com", ":path", "/api/v1/things?page=2",
	"user-agent", "bench/1.0", "accept", "application/json", "accept-encoding", "gzip, deflate, br", "x-request-id", "0123456789abcdef")

var benchContent = []byte("0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789")

// benchHandler answers without allocating.
type benchHandler struct{ body benchBody }

type benchBody struct{ done bool }

func (b *benchBody) Next() ([]byte, error) {
	if b.done {
		return nil, io.EOF
	}
	b.done = true
	return benchContent, nil
}
func (b *benchBody) Ready() bool { return true }
func (b *benchBody) Close()      {}

func (h *benchHandler) Serve(ex *exchange.Exchange) {
	h.body.done = false
	r := &ex.Response
	r.Status, r.Length, r.Body = 200, int64(len(benchContent)), &h.body
	r.Fields = append(r.Fields,
		exchange.Field{Key: exchange.KeyServer, Name: "Server", Value: "bench"},
		exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "application/json"},
		exchange.Field{Name: "X-Custom", Value: "some value"})
}
func (h *benchHandler) Done(*exchange.Exchange, error)        {}
func (h *benchHandler) Malformed(*exchange.Conn, int, string) {}

// asker returns a function that sends the request on a stream of its own and
// reads what comes.
func asker(t testing.TB, qc *quic.Conn) func() {
	buf := make([]byte, 4<<10)
	ctx := context.Background()
	return func() {
		str, err := qc.OpenStreamSync(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := str.Write(benchRequest); err != nil {
			t.Fatal(err)
		}
		_ = str.Close()
		for n := 0; ; {
			m, err := str.Read(buf)
			if n += m; err == io.EOF && n > len(benchContent) {
				return
			} else if err != nil {
				t.Fatal(n, err)
			}
		}
	}
}

// plainQUIC answers each stream with the same bytes, and reads none of it: what
// remains of an exchange without the codec.
func plainQUIC(t testing.TB) *quic.Conn {
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	conf := clientTLS()
	conf.Certificates = append(conf.Certificates, certificate())
	ln, err := quic.Listen(socket, conf, (&h3.ServerOptions{}).QUIC())
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	t.Cleanup(func() { group.Wait(); _ = ln.Close(); _ = socket.Close() })
	answer := make([]byte, 200)
	group.Go(func() {
		qc, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		buf := make([]byte, 4<<10)
		for {
			str, err := qc.AcceptStream(context.Background())
			if err != nil {
				return
			}
			for err == nil {
				_, err = str.Read(buf)
			}
			_, _ = str.Write(answer)
			_ = str.Close()
			str.ReleaseStreamCredit()
		}
	})
	return (&front{t: t, addr: socket.LocalAddr().(*net.UDPAddr)}).dialQUIC(clientTLS())
}

func BenchmarkGET(b *testing.B) {
	bench(b, asker(b, serveH3(b, &benchHandler{}, nil).dialQUIC(clientTLS())))
}

func BenchmarkPlainQUIC(b *testing.B) { bench(b, asker(b, plainQUIC(b))) }

func bench(b *testing.B, ask func()) {
	for range 100 {
		ask()
	}
	b.ReportAllocs()
	for b.Loop() {
		ask()
	}
}

// What an exchange allocates is the transport's: streams that carry as much
// without the codec allocate about the same.
func TestExchangesAllocateLittle(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	measure := func(ask func()) float64 {
		for range 200 {
			ask()
		}
		runtime.GC()
		return testing.AllocsPerRun(500, ask)
	}
	plain := measure(asker(t, plainQUIC(t)))
	ours := measure(asker(t, serveH3(t, &benchHandler{}, nil).dialQUIC(clientTLS())))
	t.Logf("%.0f allocations of an exchange, %.0f of a stream without the codec", ours, plain)
	if ours > plain+4 {
		t.Errorf("an exchange allocates %.0f times, a stream without the codec %.0f times", ours, plain)
	}
}
