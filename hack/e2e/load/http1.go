package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// http1 speaks HTTP/1.1. It sends no request over a connection that it knows to
// be closed, and no request twice.
type http1 struct {
	load *Load
	conn net.Conn // nil if there is none
	in   *bufio.Reader
}

const content = "content\n"

func (c *http1) ask(ctx context.Context) (string, error) {
	if c.conn == nil {
		conn, err := c.load.dial(ctx)
		if err != nil {
			return "", err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.conn.SetDeadline(deadline)
	}
	opts := &c.load.opts
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", opts.Method, opts.Path, opts.Host)
	if opts.Method == "POST" {
		head += fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content)
	} else {
		head += "\r\n"
	}
	// What the server had to say, it may have said before it closed: so a failed
	// write is no reason not to read.
	_, writeErr := io.WriteString(c.conn, head)
	response, err := http.ReadResponse(c.in, nil)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
	}
	if err != nil {
		c.close()
		return "", &failed{Exchange, errors.Join(err, writeErr)}
	}
	if response.Close {
		c.load.count(func(r *Report) { r.Announced++ })
		c.close()
	}
	if response.StatusCode != http.StatusOK {
		return "", &failed{Response, fmt.Errorf("%s: %s", response.Status, body)}
	}
	return string(body), nil
}

func (c *http1) idle(d time.Duration, stop <-chan struct{}) {
	if c.conn == nil {
		select {
		case <-time.After(d):
		case <-stop:
		}
		return
	}
	// A wait of no time would not look at all.
	_ = c.conn.SetReadDeadline(time.Now().Add(max(d, 100*time.Microsecond)))
	_, err := c.in.Peek(1)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if err == nil {
		err = errors.New("bytes that nobody asked for")
	}
	c.load.cut(err)
	c.close()
}

func (c *http1) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
