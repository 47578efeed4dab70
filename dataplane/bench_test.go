package dataplane_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"github.com/headgate/headgate/dataplane"
)

const (
	rawRequest  = "GET /api/orders/42?x=1 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	rawResponse = "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\nhello world\n"
)

// rawBackend answers every request with the same bytes and allocates nothing.
func rawBackend(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf, response := make([]byte, 8<<10), []byte(rawResponse)
				for n := 0; ; {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
						n = 0
						if _, err := c.Write(response); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// rawClient returns a function that does one request on a kept connection.
func rawClient(t testing.TB, address string) func() {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	buf, request := make([]byte, 8<<10), []byte(rawRequest)
	return func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		for n := 0; ; {
			m, err := c.Read(buf[n:])
			if err != nil {
				t.Fatal(err)
			}
			if n += m; bytes.HasSuffix(buf[:n], []byte("hello world\n")) {
				if !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 200 OK\r\n")) {
					t.Fatalf("%s", buf[:n])
				}
				return
			}
		}
	}
}

func plainProxy(t testing.TB) *dataplane.Proxy {
	p := start(t, dataplane.Options{})
	w := &world{}
	w.port(plain()).cluster("a", rawBackend(t)).
		host(gateway, "*.example.com", to("/api", "a"), to("/", "a")).
		host(gateway, "shop.example.com", to("/admin", "a")).
		apply(t, p)
	return p
}

// TestPlainRequestAllocatesNothing covers client, proxy and backend together.
func TestPlainRequestAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	do := rawClient(t, address(t, plainProxy(t)))
	for range 200 {
		do()
	}
	if allocs := testing.AllocsPerRun(2000, do); allocs != 0 {
		t.Errorf("%v allocations for a request", allocs)
	}
}

func BenchmarkPlainRequest(b *testing.B) {
	do := rawClient(b, address(b, plainProxy(b)))
	do()
	b.ReportAllocs()
	for b.Loop() {
		do()
	}
}

// BenchmarkApply is the cost of one change among 5,000 virtual hosts.
func BenchmarkApply(b *testing.B) {
	for _, hosts := range []int{50, 5000} {
		p := dataplane.New(dataplane.Options{})
		b.Cleanup(func() { _ = p.Shutdown(b.Context()) })
		w := &world{}
		w.port(plain())
		for i := range hosts {
			key := fmt.Sprintf("c%d", i)
			w.cluster(key, "127.0.0.1:9").host(gateway, fmt.Sprintf("h%d.example.com", i), to("/", key))
		}
		w.apply(b, p)
		b.Run(fmt.Sprintf("route/hosts=%d", hosts), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.host(gateway, "h7.example.com", to("/", "c8")).apply(b, p)
			}
		})
		b.Run(fmt.Sprintf("endpoints/hosts=%d", hosts), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w.endpoints("c7", "127.0.0.1:9").apply(b, p)
			}
		})
	}
}
