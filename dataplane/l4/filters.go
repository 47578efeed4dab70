package l4

import (
	"cmp"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/policy"
)

// filters are what policies do to a target's connections or flows. Each of these
// is an exchange to them, of which there is the client and the route, and no request;
// that a connection is sent to an endpoint is a tunnel.
type filters struct {
	list  []policy.Filter
	route exchange.RouteInfo
	slow  bool // they act on tunnels
}

// newFilters builds the filters of a target, nil if it has none. release gives
// back what they hold.
func newFilters(configs []policy.Config, route exchange.RouteInfo, env *policy.Env) (f *filters, release func(), err error) {
	if len(configs) == 0 {
		return nil, nil, nil
	}
	if env == nil {
		return nil, nil, errors.New("there is nothing to build filters with")
	}
	f = &filters{route: route}
	release = func() {
		for _, one := range f.list {
			if one.Release != nil {
				one.Release()
			}
		}
	}
	for _, cfg := range configs {
		one, err := cfg.Build(env)
		if err != nil {
			release()
			return nil, nil, err
		}
		f.list = append(f.list, one)
		f.slow = f.slow || one.Response != nil
	}
	return f, release, nil
}

// passage is a connection or flow that has passed filters; nil where there are none.
type passage struct {
	*filters
	ex exchange.Exchange
}

// enter has a connection or flow pass the filters. One that does not is told why.
func (f *filters) enter(conn *exchange.Conn, client netip.Addr) (p *passage, refused string) {
	if f == nil {
		return nil, ""
	}
	p = &passage{filters: f, ex: exchange.Exchange{Conn: conn, ClientIP: client, Route: &f.route}}
	for i := range f.list {
		if one := &f.list[i]; one.Request != nil && one.Request(&p.ex) == exchange.Answered {
			p.leave(i)
			return nil, cmp.Or(p.ex.Response.LocalReason, "refused")
		}
	}
	return p, ""
}

// leave tells the first n filters that it is over.
func (p *passage) leave(n int) {
	for i := range p.list[:n] {
		if done := p.list[i].Done; done != nil {
			done(&p.ex)
		}
	}
}

// over is the end of one that entered.
func (p *passage) over() {
	if p != nil {
		p.leave(len(p.list))
	}
}

// slows reports whether what passes is to be moved by way of a tunnel.
func (p *passage) slows() bool { return p != nil && p.slow }

// tunnel returns the endpoint's side as the filters have it.
func (p *passage) tunnel(up exchange.Tunnel) exchange.Tunnel {
	p.ex.Response.Tunnel = up
	for i := len(p.list) - 1; i >= 0; i-- {
		if response := p.list[i].Response; response != nil {
			response(&p.ex)
		}
	}
	return p.ex.Response.Tunnel
}

// end is a connection of a stream that is read and written piece by piece: each has
// its deadline from when it begins, whatever it has waited for.
type end struct {
	net.Conn
	s *Stream
	// total and counted are of what is written.
	total   *atomic.Int64
	counted func(int64)
}

// Read implements exchange.Tunnel.
func (e *end) Read(b []byte) (int, error) {
	_ = e.SetReadDeadline(time.Now().Add(min(e.s.idle/4, maxCopy)))
	n, err := e.Conn.Read(b)
	if n > 0 {
		e.s.held.Add(1) // until relay has written it
	}
	return n, err
}

// Write implements exchange.Tunnel.
func (e *end) Write(b []byte) (int, error) {
	_ = e.SetWriteDeadline(time.Now().Add(e.s.idle + e.s.idle/4))
	n, err := e.Conn.Write(b)
	if n > 0 {
		e.s.moved.Store(int64(time.Since(e.s.began)))
		e.s.count(e.total, e.counted, int64(n))
	}
	return n, err
}

// CloseWrite implements exchange.Tunnel.
func (e *end) CloseWrite() error {
	if half, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return e.Close()
}

// relayBoth passes bytes both ways as the filters have them pass.
func (s *Stream) relayBoth(up exchange.Tunnel) {
	down := &end{s.down, s, &s.sent, s.way.metrics.Sent}
	if len(s.head) > 0 {
		if _, err := up.Write(s.head); err != nil {
			s.because(reasonUpstreamReset)
			reset(s.down)
			return
		}
		s.head = nil
	}
	both(func() { s.relay(down, up) }, func() { s.relay(up, down) })
}

// relay is pass for what filters slow down: bytes are read to be counted, and no
// kernel moves them.
func (s *Stream) relay(dst, src exchange.Tunnel) {
	buf := link.TakeBuffer(link.MediumBuffer)
	defer link.GiveBuffer(buf)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			_, failed := dst.Write(buf[:n])
			s.held.Add(-1)
			if failed != nil {
				s.fail(failed)
				return
			}
		}
		switch {
		case err == nil:
		case isLate(err) && (s.held.Load() > 0 || time.Since(s.began)-time.Duration(s.moved.Load()) < s.idle):
			// What is held waits for its turn: that is no silence.
		case err == io.EOF:
			if dst.CloseWrite() != nil {
				s.closer.close()
			}
			return
		default:
			s.fail(err)
			return
		}
	}
}
