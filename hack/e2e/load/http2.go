package load

//lint:file-ignore SA1019 net/http's Transport speaks HTTP/2 over TLS only to connections of crypto/tls, within which nobody sees GOAWAY

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// http2Client speaks HTTP/2, a stream at a time.
type http2Client struct {
	load      *Load
	transport *http2.Transport
	conn      atomic.Pointer[watched] // the latest
}

func newHTTP2(l *Load) *http2Client {
	c := &http2Client{load: l}
	c.transport = &http2.Transport{
		AllowHTTP: true,
		DialTLSContext: func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			conn, err := l.dial(ctx)
			if err != nil {
				return nil, err
			}
			w := &watched{Conn: conn, load: l}
			c.conn.Store(w)
			return w, nil
		},
	}
	return c
}

func (c *http2Client) ask(ctx context.Context) (string, error) {
	opts := &c.load.opts
	var in io.Reader
	if opts.Method == "POST" {
		in = strings.NewReader(content)
	}
	scheme := "http"
	if opts.TLS != nil {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, opts.Method, scheme+"://"+opts.Host+opts.Path, in)
	if err != nil {
		return "", err
	}
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		if staged := (*failed)(nil); errors.As(err, &staged) {
			return "", err
		}
		return "", &failed{Exchange, err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", &failed{Exchange, err}
	}
	if response.StatusCode != http.StatusOK {
		return "", &failed{Response, fmt.Errorf("%s: %s", response.Status, body)}
	}
	return string(body), nil
}

func (c *http2Client) idle(d time.Duration, stop <-chan struct{}) {
	select {
	case <-time.After(d):
	case <-stop:
	}
}

func (c *http2Client) close() {
	if w := c.conn.Load(); w != nil {
		w.ended.Store(true)
	}
	c.transport.CloseIdleConnections()
}

// watched looks for GOAWAY among what the server sends, RFC 9113 section 6.8.
type watched struct {
	net.Conn
	load   *Load
	header []byte // of the frame that comes, as far as it is here
	skip   int    // of the frame's payload
	away   bool
	ended  atomic.Bool // by us, or it is known that it has
}

const (
	frameHeaderLength = 9
	frameGoAway       = 7
)

// Read implements net.Conn. Only the transport's reader calls it.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if w.skip > 0 {
			some := min(w.skip, len(b))
			w.skip -= some
			b = b[some:]
			continue
		}
		some := min(frameHeaderLength-len(w.header), len(b))
		w.header = append(w.header, b[:some]...)
		b = b[some:]
		if len(w.header) == frameHeaderLength {
			w.skip = int(binary.BigEndian.Uint32(w.header) >> 8)
			if w.header[3] == frameGoAway && !w.away {
				w.away = true
				w.load.count(func(r *Report) { r.Announced++ })
			}
			w.header = w.header[:0]
		}
	}
	if err != nil && !w.ended.Swap(true) && !w.away && !errors.Is(err, net.ErrClosed) {
		w.load.cut(err)
	}
	return n, err
}
