package h2

import (
	"cmp"
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// clientTunnel is the upstream's side of a tunnel on a stream: what follows a
// 2xx to CONNECT, RFC 9113 section 8.5, or to extended CONNECT, RFC 8441. One
// goroutine may read while another writes.
type clientTunnel struct {
	s    *ClientStream
	rest []byte // received, and not read by the caller
}

// openTunnel makes the response what its client expects of an upgrade. c.mu is held.
func (s *ClientStream) openTunnel() {
	r, out := &s.ex.Response, &s.ex.Out
	s.tunnelled = true
	s.tun = clientTunnel{s: s}
	r.Tunnel, r.Body, r.Length = &s.tun, nil, 0
	if out.Upgrade == "" {
		return
	}
	r.Status = 101
	r.Fields = append(r.Fields, exchange.Field{Key: exchange.KeyUpgrade, Name: "Upgrade", Value: out.Upgrade})
	if key, ok := out.Fields.Get("Sec-WebSocket-Key"); ok {
		r.Fields.Add("Sec-WebSocket-Accept", section.WebSocketAccept(key))
	}
}

// Read implements exchange.Tunnel.
func (t *clientTunnel) Read(p []byte) (int, error) {
	if len(t.rest) == 0 {
		var err error
		if t.rest, err = t.s.next(cmp.Or(t.s.ex.Timeouts.Tunnel, t.s.c.opts.TunnelTimeout)); err != nil {
			return 0, err
		}
	}
	n := copy(p, t.rest)
	t.rest = t.rest[n:]
	return n, nil
}

// Write implements exchange.Tunnel.
func (t *clientTunnel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := t.s.sendData(p[n:], true)
		n += m
		if err != nil {
			return n, io.ErrClosedPipe
		}
	}
	t.flush()
	return n, nil
}

func (t *clientTunnel) flush() {
	t.s.c.mu.Lock()
	t.s.c.flush()
	t.s.c.mu.Unlock()
}

// CloseWrite implements exchange.Tunnel.
func (t *clientTunnel) CloseWrite() error {
	if err := t.s.endRequest(); err != nil {
		return io.ErrClosedPipe
	}
	t.flush()
	return nil
}

// Close implements exchange.Tunnel.
func (t *clientTunnel) Close() error {
	c := t.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	t.s.closed = true
	t.s.reset(Cancel, errBodyClosed)
	c.flush()
	return nil
}
