package h1_test

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h1/h1test"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy is the smallest handler that forwards: what a pipeline without filters
// and a pool without limits do.
type proxy struct {
	dial func() (net.Conn, error)
	opts *h1.ClientOptions

	mu        sync.Mutex
	idle      []*h1.ClientConn
	malformed []string
	failures  []error
	// alter is called for each exchange before it goes upstream; nil for nothing.
	alter func(ex *exchange.Exchange)
}

func (p *proxy) Serve(ex *exchange.Exchange) {
	in, out := &ex.In, &ex.Out
	out.Method, out.Authority = in.Method, in.Authority
	out.Path, out.Query, out.HasQuery = in.Path, in.Query, in.HasQuery
	out.Fields.AppendEndToEnd(in.Fields)
	out.Body, out.Length, out.Upgrade, out.ExpectContinue = in.Body, in.Length, in.Upgrade, in.ExpectContinue
	if p.alter != nil {
		p.alter(ex)
	}
	for {
		conn, err := p.take()
		if err != nil {
			ex.Answer(503, "dial", "")
			return
		}
		err = conn.RoundTrip(ex)
		if err == nil {
			ex.Private = conn
			return
		}
		conn.Finish()
		_ = conn.Close()
		var client *exchange.ClientError
		var upstream *exchange.UpstreamError
		switch {
		case errors.As(err, &client):
			ex.Answer(client.Status, client.Reason, "")
			return
		case errors.As(err, &upstream) && upstream.Stage == exchange.Stale && (in.Body == nil || !in.Body.Ready()):
			continue
		case upstream.Reason == "timeout":
			ex.Answer(504, upstream.Reason, "")
			return
		}
		ex.Answer(502, upstream.Reason, "")
		return
	}
}

func (p *proxy) Done(ex *exchange.Exchange, err error) {
	if ex.In.Body != nil {
		ex.In.Body.Close()
	}
	if ex.Response.Body != nil {
		ex.Response.Body.Close()
	}
	conn, _ := ex.Private.(*h1.ClientConn)
	ex.Private = nil
	if conn != nil {
		if conn.Finish() {
			p.mu.Lock()
			p.idle = append(p.idle, conn)
			p.mu.Unlock()
		} else {
			_ = conn.Close()
		}
	}
	if err != nil {
		p.mu.Lock()
		p.failures = append(p.failures, err)
		p.mu.Unlock()
	}
}

func (p *proxy) Malformed(_ *exchange.Conn, status int, reason string) {
	p.mu.Lock()
	p.malformed = append(p.malformed, reason)
	p.mu.Unlock()
}

func (p *proxy) take() (*h1.ClientConn, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		conn := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return conn, nil
	}
	p.mu.Unlock()
	conn, err := p.dial()
	if err != nil {
		return nil, err
	}
	return h1.NewClientConn(conn, p.opts), nil
}

func (p *proxy) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range p.idle {
		_ = conn.Close()
	}
	p.idle = nil
}

// front serves a handler on a listener of its own until the test ends.
type front struct {
	l     net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[*h1.ServerConn]bool
	hide  atomic.Bool
	rests atomic.Int32 // how often connections have rested
}

func serve(t testing.TB, handler exchange.Handler, opts *h1.ServerOptions) *front {
	t.Helper()
	return serveOver(t, handler, opts, nil)
}

// serveOver is serve with something in between, unless wrap is nil.
func serveOver(t testing.TB, handler exchange.Handler, opts *h1.ServerOptions, wrap func(net.Conn) net.Conn) *front {
	t.Helper()
	f := &front{l: listen(t), conns: map[*h1.ServerConn]bool{}}
	f.wg.Go(func() {
		for {
			c, err := f.l.Accept()
			if err != nil {
				return
			}
			info := &exchange.Conn{Remote: c.RemoteAddr().(*net.TCPAddr).AddrPort()}
			if f.hide.Load() {
				c = other{c}
			}
			if wrap != nil {
				c = wrap(c)
			}
			s := h1.NewServerConn(c, info, handler, opts)
			f.mu.Lock()
			f.conns[s] = true
			f.mu.Unlock()
			f.wg.Go(func() {
				for s.Serve(); s.Resting() > 0; s.Serve() {
					f.rests.Add(1)
				}
				f.mu.Lock()
				delete(f.conns, s)
				f.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = f.l.Close()
		f.each(func(s *h1.ServerConn) { _ = s.Close() })
		f.wg.Wait()
	})
	return f
}

func (f *front) each(do func(*h1.ServerConn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.conns {
		do(s)
	}
}

func (f *front) address() string { return f.l.Addr().String() }

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newProxy(t testing.TB, upstream net.Addr, server *h1.ServerOptions, client *h1.ClientOptions) (*proxy, *front) {
	p := &proxy{dial: func() (net.Conn, error) { return net.Dial("tcp", upstream.String()) }, opts: client}
	t.Cleanup(p.close) // after the front's
	return p, serve(t, p, server)
}

// other hides what a connection is, as TLS does.
type other struct{ net.Conn }

func (o other) CloseWrite() error { return o.Conn.(*net.TCPConn).CloseWrite() }

func TestRawMessages(t *testing.T) {
	for _, file := range []string{"testdata/requests.txt", "testdata/responses.txt"} {
		cases := h1test.Load(t, file)
		for name, c := range map[string]struct{ oneByte, hidden bool }{
			"":                         {false, false},
			" one byte at a time":      {true, false},
			" over other than sockets": {false, true},
		} {
			t.Run(file+name, func(t *testing.T) {
				t.Parallel()
				l := listen(t)
				u := h1test.NewUpstream(l)
				t.Cleanup(u.Close)
				p, f := newProxy(t, l.Addr(), &h1.ServerOptions{Poison: true},
					&h1.ClientOptions{Poison: true, ContinueTimeout: 200 * time.Millisecond})
				if c.hidden {
					f.hide.Store(true)
					dial := p.dial
					p.dial = func() (net.Conn, error) {
						conn, err := dial()
						return other{conn}, err
					}
				}
				h1test.Run(t, f.address(), u, cases, h1test.Options{OneByte: c.oneByte, Skip: func(c *h1test.Case) string {
					if f.hide.Load() && c.Whole {
						return "what comes unasked for is not seen in time without the socket"
					}
					return ""
				}})
			})
		}
	}
}
