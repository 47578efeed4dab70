package h1_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

// counting records the content bytes of each exchange.
type counting struct {
	handler
	counts chan string
}

func (h *counting) Done(ex *exchange.Exchange, err error) {
	h.counts <- fmt.Sprintf("%s %d %d", ex.In.Method, ex.Received, ex.Sent)
	h.handler.Done(ex, err)
}

// Content is counted without its framing, and anew for each exchange.
func TestContentIsCounted(t *testing.T) {
	h := &counting{counts: make(chan string, 1)}
	h.serve = func(ex *exchange.Exchange) {
		for ex.In.Body != nil {
			if _, err := ex.In.Body.Next(); err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		ex.Answer(200, "test", "hello")
	}
	c := dial(t, serve(t, h, nil).address())
	for _, x := range []struct{ method, rest, want string }{
		{"POST", "Content-Length: 3\r\n\r\nabc", "POST 3 5"},
		{"PUT", "Transfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n2\r\nef\r\n0\r\nA: b\r\n\r\n", "PUT 6 5"},
		{"GET", "\r\n", "GET 0 5"},
		{"HEAD", "\r\n", "HEAD 0 0"},
	} {
		c.send(x.method + " / HTTP/1.1\r\nHost: a.test\r\n" + x.rest)
		if _, _, err := c.response(x.method); err != nil {
			t.Fatal(err)
		}
		if got := <-h.counts; got != x.want {
			t.Errorf("%s: %q, want %q", x.method, got, x.want)
		}
	}
}
