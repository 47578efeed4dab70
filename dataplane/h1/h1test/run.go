package h1test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Options say how to run cases.
type Options struct {
	// OneByte sends every byte in a write of its own, both from the client and
	// from the upstream.
	OneByte bool
	// Ignore says which fields the proxy adds by itself, to be left out when
	// what arrived is compared. Date always is.
	Ignore func(name string) bool
	// Skip returns why a case is not for this proxy, or "".
	Skip func(c *Case) string
}

// patience bounds each wait; nothing waits that long unless it fails.
const patience = 10 * time.Second

// Run runs each case as a subtest against the proxy at address, which must
// forward every request to u.
func Run(t *testing.T, address string, u *Upstream, cases []Case, opts Options) {
	t.Helper()
	for i := range cases {
		c := &cases[i]
		t.Run(c.Name, func(t *testing.T) {
			if opts.Skip != nil {
				if why := opts.Skip(c); why != "" {
					t.Skip(why)
				}
			}
			t.Logf("line %d: %s", c.Line, c.Why)
			if err := u.script(c, opts.OneByte); err != nil {
				t.Fatal(err)
			}
			run(t, address, u, c, opts)
		})
	}
}

func run(t *testing.T, address string, u *Upstream, c *Case, opts Options) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))

	continued, sent := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sent)
		for i, part := range c.Client {
			switch {
			case i == 1 && len(c.Status) > 0 && c.Status[0] == 100:
				// With the content there, the proxy need not ask for it.
				select {
				case <-continued:
				case <-time.After(patience):
				}
			case i > 0:
				time.Sleep(5 * time.Millisecond) // so that it likely is a segment of its own
			}
			// The proxy may have refused it and closed already.
			if send(conn, part, opts.OneByte && len(part) < 2000) != nil {
				return
			}
		}
		if c.Shut {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()

	var got strings.Builder
	r := bufio.NewReader(io.TeeReader(conn, &got))
	method := func(i int) string {
		m, _, _ := strings.Cut(strings.Join(c.Client, ""), " ")
		if i > 0 { // only the first may be HEAD
			return "GET"
		}
		return m
	}
	final := 0
	for i, want := range c.Status {
		status, err := readResponse(r, method(final))
		if status != want || err != nil {
			t.Fatalf("response %d: status %d (%v), want %d; got %s", i+1, status, err, want, quote(got.String()))
		}
		switch {
		case i == 0 && status == 100:
			close(continued)
		case status >= 200:
			final++
		}
	}
	<-sent
	saw := u.sawSoFar() // before the probe
	answered := got.String()
	if c.Keep {
		checkAlive(t, conn, r)
	} else {
		rest, err := io.ReadAll(r)
		if len(rest) > 0 || isTimeout(err) {
			t.Errorf("the connection goes on with %s (%v), want its end", quote(string(rest)), err)
		}
		saw = u.sawSoFar()
		answered = got.String()
	}
	ignore := func(name string) bool {
		return strings.EqualFold(name, "date") || opts.Ignore != nil && opts.Ignore(name)
	}
	saw, most := joinChunks(dropFields(saw, ignore)), joinChunks(c.Saw)
	if !c.AnySaw && (c.AtMost && !strings.HasPrefix(most, saw) || !c.AtMost && saw != most) {
		t.Errorf("upstream saw %s\nwant         %s", quote(saw), quote(most))
	}
	if c.CheckGot {
		if answered = joinChunks(dropFields(answered, ignore)); answered != joinChunks(c.Got) {
			t.Errorf("client got %s\nwant       %s", quote(answered), quote(c.Got))
		}
	}
}

func isTimeout(err error) bool {
	t, ok := err.(net.Error)
	return ok && t.Timeout()
}

// checkAlive asks once more: the connection must be in order.
func checkAlive(t *testing.T, conn net.Conn, r *bufio.Reader) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET "+probePath+" HTTP/1.1\r\nHost: probe.test\r\n\r\n"); err != nil {
		t.Fatalf("the connection is closed, want it kept: %v", err)
	}
	status, err := readResponse(r, "GET")
	if status != 200 || err != nil {
		t.Errorf("another request on the connection: status %d, %v", status, err)
	}
}

// readResponse reads a response to its end. It is strict about framing.
func readResponse(r *bufio.Reader, method string) (status int, err error) {
	tp := textproto.NewReader(r)
	line, err := tp.ReadLine()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || line[:9] != "HTTP/1.1 " {
		return 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(line[9:12]); err != nil {
		return 0, err
	}
	head, err := tp.ReadMIMEHeader()
	if err != nil {
		return status, err
	}
	lengths := head.Values("Content-Length")
	switch {
	case status < 200 || status == 204 || status == 304 || method == "HEAD":
		return status, nil
	case head.Get("Transfer-Encoding") != "":
		if len(lengths) > 0 || head.Get("Transfer-Encoding") != "chunked" {
			return status, fmt.Errorf("conflicting framing: %v", head)
		}
		return status, readChunks(tp)
	case len(lengths) == 1:
		n, err := strconv.ParseInt(lengths[0], 10, 64)
		if err != nil {
			return status, err
		}
		_, err = io.CopyN(io.Discard, r, n)
		return status, err
	case len(lengths) > 1:
		return status, fmt.Errorf("Content-Length twice: %v", head)
	}
	_, err = io.Copy(io.Discard, r)
	return status, err
}

func readChunks(tp *textproto.Reader) error {
	for {
		line, err := tp.ReadLine()
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(line, 16, 62)
		if err != nil {
			return err
		}
		if n == 0 {
			_, err := tp.ReadMIMEHeader()
			return err
		}
		if _, err := io.CopyN(io.Discard, tp.R, int64(n)); err != nil {
			return err
		}
		if line, err := tp.ReadLine(); err != nil || line != "" {
			return fmt.Errorf("after a chunk: %q, %v", line, err)
		}
	}
}
