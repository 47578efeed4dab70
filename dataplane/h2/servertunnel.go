package h2

import (
	"encoding/base64"
	"errors"
	"io"
	"math/rand/v2"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// acceptConnect accepts CONNECT, if that is allowed, and extended CONNECT,
// which becomes what HTTP/1.1 has for it: GET with Upgrade.
func (st *stream) acceptConnect(b *fieldBlock, end bool) (status int, reason string) {
	in := &st.ex.In
	switch {
	case b.length >= 0:
		return 0, "connect" // what follows is no content, RFC 9113 section 8.5
	case b.protocol == "" && !st.c.opts.AllowConnect:
		return 501, "connect"
	case b.protocol != "" && !exchange.EqualFold(b.protocol, "websocket"):
		return 501, "protocol_unknown" // RFC 8441 section 4 and RFC 9220
	}
	st.tunnels, st.remoteClosed = true, end
	if b.protocol == "" {
		return 0, ""
	}
	in.Method, in.Upgrade = "GET", "websocket"
	for i := range in.Fields {
		// RFC 8441 section 5: it is not used here, so it is not the client's to choose.
		if exchange.EqualFold(in.Fields[i].Name, "sec-websocket-key") {
			return 0, "websocket_key"
		}
	}
	var nonce [16]byte
	for i := 0; i < len(nonce); i += 8 {
		for n, j := rand.Uint64(), i; j < i+8; j, n = j+1, n>>8 {
			nonce[j] = byte(n)
		}
	}
	key := st.ex.Arena.Append(func(b []byte) []byte { return base64.StdEncoding.AppendEncode(b, nonce[:]) })
	in.Fields = append(in.Fields, exchange.Field{Name: "Sec-WebSocket-Key", Value: key})
	return 0, ""
}

// tunnel answers CONNECT, and if that succeeded carries bytes both ways until
// both directions have ended or one has failed.
func (st *stream) tunnel() error {
	c, r := st.c, &st.ex.Response
	t := r.Tunnel
	if t == nil {
		if r.Status < 300 {
			// It would mean that there is a tunnel.
			st.ex.Answer(502, "upgrade_refused", "The service does not speak this protocol.\n")
		}
		return st.respond()
	}
	defer t.Close()
	if st.ex.In.Upgrade != "" {
		key, _ := st.ex.In.Fields.Get("Sec-WebSocket-Key")
		if accept, ok := r.Fields.Get("Sec-WebSocket-Accept"); !ok || accept != webSocketAccept(key) {
			r.Tunnel = nil
			st.ex.Answer(502, "websocket_accept", "The service does not speak WebSocket.\n")
			return st.respond()
		}
		r.Fields.Del("Sec-WebSocket-Accept")
		r.Fields.DelKey(exchange.KeyUpgrade)
		r.Status = 200
	}
	c.mu.Lock()
	if st.err != nil {
		defer c.mu.Unlock()
		return st.err
	}
	r.Length = -1
	st.appendHead(r, (*requestBody)(st), false)
	c.flush()
	c.mu.Unlock()
	if !st.ex.Await(tunnelCloser{t}) {
		return exchange.ErrAbandoned
	}
	defer st.ex.Await(nil)

	up := &upward{st: st, t: t, done: make(chan error, 1)}
	pool.start(up)
	err := st.carryDown(t)
	return errors.Join(err, <-up.done)
}

// tunnelCloser is a tunnel as what an exchange waits for.
type tunnelCloser struct{ t exchange.Tunnel }

func (c tunnelCloser) Close() { _ = c.t.Close() }

// upward carries what the client sends.
type upward struct {
	st   *stream
	t    exchange.Tunnel
	done chan error
}

func (u *upward) run() {
	err := u.carry()
	if err != nil {
		_ = u.t.Close()
	}
	u.done <- err
}

func (u *upward) carry() error {
	for {
		u.st.c.mu.Lock()
		p, err := u.st.pull()
		u.st.c.mu.Unlock()
		if err == io.EOF {
			return u.t.CloseWrite()
		}
		if err != nil {
			return err
		}
		if _, err := u.t.Write(p); err != nil {
			return err
		}
	}
}

// carryDown carries what the upstream sends.
func (st *stream) carryDown(t exchange.Tunnel) error {
	c := st.c
	buf := link.TakeBuffer(link.MediumBuffer)
	defer link.GiveBuffer(buf)
	for {
		n, err := t.Read(buf)
		c.mu.Lock()
		if n > 0 {
			if err := st.write(buf[:n], false); err != nil {
				st.failBody(errReset)
				c.mu.Unlock()
				_ = t.Close()
				return err
			}
			c.flush()
			if st.timed {
				st.timer.Read(c.opts.TunnelTimeout) // it is not silent
			}
		}
		if err == io.EOF {
			c.out = appendData(c.out, st.id, nil, true)
			err = st.flushEnd()
			c.mu.Unlock()
			return err
		}
		if err != nil {
			st.failBody(errReset)
			c.mu.Unlock()
			return err
		}
		c.mu.Unlock()
	}
}
