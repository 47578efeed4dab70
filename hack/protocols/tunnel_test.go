package protocols

//lint:file-ignore SA1019 net/http's own client of HTTP/2 does not send :protocol

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// way is how a client reaches WebSocket's upstream through Headgate. Its
// transport answers a handshake with a body that is a *stream.
type way struct {
	name      string
	url       string
	transport http.RoundTripper
}

// ways are all of them: by HTTP/1.1 and HTTP/2, without TLS and with.
func (h *headgate) ways() []way {
	tlsTo := func(ctx context.Context, address string, protocol string) (net.Conn, error) {
		d := tls.Dialer{Config: &tls.Config{RootCAs: h.roots, NextProtos: []string{protocol}}}
		nc, err := d.DialContext(ctx, "tcp", address)
		if err == nil && nc.(*tls.Conn).ConnectionState().NegotiatedProtocol != protocol {
			nc.Close()
			return nil, fmt.Errorf("%s was not negotiated", protocol)
		}
		return nc, err
	}
	plainTo := func(ctx context.Context, address string, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	both := func(to func(context.Context, string, string) (net.Conn, error)) (h1, h2 http.RoundTripper) {
		return &upgrade{func(ctx context.Context, address string) (net.Conn, error) { return to(ctx, address, "http/1.1") }},
			&connect{&http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, _, address string, _ *tls.Config) (net.Conn, error) {
				return to(ctx, address, "h2")
			}}}
	}
	h1, h2 := both(plainTo)
	h1s, h2s := both(tlsTo)
	plain, secure := fmt.Sprintf("http://localhost:%d", h.plain), fmt.Sprintf("https://localhost:%d", h.secure)
	return []way{{"H1", plain, h1}, {"H1 TLS", secure, h1s}, {"H2", plain, h2}, {"H2 TLS", secure, h2s}}
}

// upgrade sends a handshake as HTTP/1.1 has it, RFC 6455 section 4.1, each on a
// connection of its own.
type upgrade struct {
	dial func(ctx context.Context, address string) (net.Conn, error)
}

func (u *upgrade) RoundTrip(req *http.Request) (*http.Response, error) {
	nc, err := u.dial(req.Context(), req.URL.Host)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(nc)
	var resp *http.Response
	if err = req.Write(nc); err == nil {
		resp, err = http.ReadResponse(in, req)
	}
	if err != nil || resp.StatusCode != 101 {
		context.AfterFunc(req.Context(), func() { nc.Close() })
		return resp, err
	}
	resp.Body = newStream(in, nc, nc.(interface{ CloseWrite() error }).CloseWrite, nc.Close, func() { _ = nc.Close() })
	return resp, nil
}

// connect sends the same handshake as HTTP/2 has it, RFC 8441 section 5, all on
// one connection; and makes of the answer what the client's library expects.
type connect struct{ *http2.Transport }

func (c *connect) RoundTrip(req *http.Request) (*http.Response, error) {
	key := req.Header.Get("Sec-WebSocket-Key")
	up, toUp := io.Pipe()
	req = req.Clone(req.Context())
	req.Method, req.Body, req.ContentLength = "CONNECT", up, -1
	req.Header.Set(":protocol", "websocket")
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Key"} {
		req.Header.Del(name)
	}
	resp, err := c.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		return resp, err
	}
	for _, name := range []string{"Connection", "Upgrade", "Sec-WebSocket-Accept"} {
		if resp.Header.Get(name) != "" {
			return nil, fmt.Errorf("the answer has %s: %s", name, resp.Header.Get(name))
		}
	}
	resp.StatusCode = 101
	resp.Header.Set("Connection", "Upgrade")
	resp.Header.Set("Upgrade", "websocket")
	resp.Header.Set("Sec-WebSocket-Accept", acceptOf(key))
	// Who closes a socket lets arrive what was sent. So END_STREAM is what stands
	// for it, and RST_STREAM for being cut off, RFC 8441 section 5.
	resp.Body = newStream(resp.Body, toUp, toUp.Close, toUp.Close, func() { _ = toUp.CloseWithError(io.ErrClosedPipe) })
	return resp, nil
}

// acceptOf answers a Sec-WebSocket-Key, RFC 6455 section 4.2.2.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// stream is one end of a tunnel, which remembers what went through it.
type stream struct {
	in                io.Reader
	out               io.Writer
	closeWrite, close func() error
	cut               func()
	received, sent    sum
}

func newStream(in io.Reader, out io.Writer, closeWrite, close func() error, cut func()) *stream {
	return &stream{in: in, out: out, closeWrite: closeWrite, close: close, cut: cut, received: sum{h: sha256.New()}, sent: sum{h: sha256.New()}}
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	s.received.add(p[:n])
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.sent.add(p[:n])
	return n, err
}

func (s *stream) Close() error      { return s.close() }
func (s *stream) CloseWrite() error { return s.closeWrite() }

// sum is a checksum and the number of what was added.
type sum struct {
	mu sync.Mutex
	h  hash.Hash
	n  int64
}

func (s *sum) add(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h.Write(p)
	s.n += int64(len(p))
}

func (s *sum) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d bytes, SHA-256 %x", s.n, s.h.Sum(nil))
}

// tapped is a ResponseWriter whose connection becomes a stream when it is taken over.
type tapped struct {
	http.ResponseWriter
	stream *stream
}

// Hijack implements http.Hijacker.
func (w *tapped) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := w.ResponseWriter.(http.Hijacker).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	in := io.MultiReader(strings.NewReader(string(early)), nc)
	w.stream = newStream(in, nc, nc.(*net.TCPConn).CloseWrite, nc.Close, func() { _ = nc.Close() })
	tap := tappedConn{nc, w.stream}
	return tap, bufio.NewReadWriter(bufio.NewReader(tap), bufio.NewWriter(tap)), nil
}

type tappedConn struct {
	net.Conn
	s *stream
}

func (c tappedConn) Read(p []byte) (int, error)  { return c.s.Read(p) }
func (c tappedConn) Write(p []byte) (int, error) { return c.s.Write(p) }

// accept answers a handshake and returns the bare tunnel.
func accept(t *testing.T, w *tapped, r *http.Request) (*stream, bool) {
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Sec-WebSocket-Accept", acceptOf(r.Header.Get("Sec-WebSocket-Key")))
	w.WriteHeader(101)
	if _, _, err := w.Hijack(); err != nil {
		t.Error(err)
		return nil, false
	}
	return w.stream, true
}
