package h1_test

import (
	"bytes"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/h1"
)

const benchRequest = "GET /api/v1/things?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench/1.0\r\n" +
	"Accept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\nX-Request-Id: 0123456789abcdef\r\n\r\n"

const benchResponse = "HTTP/1.1 200 OK\r\nServer: fake\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Type: application/json\r\n" +
	"Content-Length: 100\r\nConnection: keep-alive\r\n\r\n" +
	"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

// fakeUpstream answers whatever ends with an empty line, without allocating.
func fakeUpstream(t testing.TB, response string) net.Addr {
	l := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf, answer := make([]byte, 8<<10), []byte(response)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						if _, err := c.Write(answer); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr()
}

// proxied returns a function that does one exchange through a proxy.
func proxied(t testing.TB, request, response string, answerSize int) (exchange func()) {
	upstream := fakeUpstream(t, response)
	_, f := newProxy(t, upstream, nil, nil)
	conn, err := net.Dial("tcp", f.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	req, buf := []byte(request), make([]byte, answerSize)
	return func() {
		if _, err := conn.Write(req); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
	}
}

// The proxy leaves out Connection: keep-alive.
const benchAnswerSize = len(benchResponse) - len("Connection: keep-alive\r\n")

func BenchmarkProxiedGET(b *testing.B) {
	exchange := proxied(b, benchRequest, benchResponse, benchAnswerSize)
	exchange()
	b.ReportAllocs()
	for b.Loop() {
		exchange()
	}
}

func TestProxiedExchangesAllocateNothing(t *testing.T) {
	post := "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 4\r\n\r\n\r\n\r\n"
	chunked := "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
	for name, c := range map[string]struct {
		request, response string
		answer            int
	}{
		"GET":              {benchRequest, benchResponse, benchAnswerSize},
		"POST":             {post, benchResponse, benchAnswerSize},
		"chunked response": {benchRequest, chunked, len(chunked)},
		"upper-case host":  {"GET / HTTP/1.1\r\nHost: A.TEST\r\n\r\n", benchResponse, benchAnswerSize},
	} {
		t.Run(name, func(t *testing.T) {
			if raceEnabled {
				t.Skip("the race detector makes pools forget")
			}
			exchange := proxied(t, c.request, c.response, c.answer)
			for range 100 {
				exchange()
			}
			// As testing.AllocsPerRun, but the work is done by other goroutines,
			// so that all of the process is counted.
			const runs = 2000
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range runs {
				exchange()
			}
			runtime.ReadMemStats(&after)
			// A collection may empty the pools, and the runtime has its own.
			if n := after.Mallocs - before.Mallocs; n > runs/20 {
				t.Errorf("%d allocations for %d exchanges", n, runs)
			}
		})
	}
}

// Ten thousand of these must stay well under 200 MiB.
func TestIdleConnectionsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory")
	}
	const conns, most = 500, 9 << 10
	_, f := newProxy(t, fakeUpstream(t, benchResponse), nil, &h1.ClientOptions{})
	clients := make([]net.Conn, conns)
	buf := make([]byte, benchAnswerSize)
	before := memory()
	for i := range clients {
		conn, err := net.Dial("tcp", f.address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		clients[i] = conn
		if _, err := io.WriteString(conn, benchRequest); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			t.Fatal(err)
		}
	}
	// Connections put their buffers away just after they have answered.
	deadline := time.Now().Add(5 * time.Second)
	var each uint64
	for {
		if each = (memory() - before) / conns; each <= most || time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("%d bytes for an idle connection, its client included", each)
	if each > most {
		t.Errorf("want at most %d", most)
	}
}

func memory() uint64 {
	var m runtime.MemStats
	for range 3 { // pools empty, stacks shrink
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
