package l4

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// script is a tunnel whose reads fail as it is told, and which notes what is done to it.
type script struct {
	exchange.Tunnel
	reads       []error
	ended, gone bool
}

func (s *script) Read([]byte) (int, error) {
	err := s.reads[0]
	s.reads = s.reads[1:]
	return 0, err
}
func (s *script) CloseWrite() error { s.ended = true; return nil }
func (s *script) Close() error      { s.gone = true; return nil }

// TestWaitingIsNoSilence has the idle timeout pass while bytes that were read wait for
// their turn, and while there are none.
func TestWaitingIsNoSilence(t *testing.T) {
	for _, held := range []int32{0, 1} {
		client, other := net.Pipe()
		defer client.Close()
		defer other.Close()
		src, dst := &script{reads: []error{os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, io.EOF}}, &script{}
		s := &Stream{idle: time.Minute, began: time.Now().Add(-time.Hour)}
		s.closer = closer{conns: []net.Conn{client, other}, tunnel: src}
		s.held.Store(held)
		s.relay(dst, src)
		if waits := held > 0; dst.ended != waits || src.gone == waits || (s.reason == reasonIdle) == waits {
			t.Errorf("%d held: ended %v, given up %v, reason %q", held, dst.ended, src.gone, s.reason)
		}
	}
}

// counted is a filter that notes who passes it.
type counted struct {
	verdict        exchange.Verdict
	fails          error
	entered, over  int
	acts, released bool
}

func (c *counted) Kind() string { return "counted" }

func (c *counted) Build(*policy.Env) (policy.Filter, error) {
	f := policy.Filter{
		Request: func(ex *exchange.Exchange) exchange.Verdict {
			if c.verdict == exchange.Answered {
				return ex.Answer(429, "limited", "")
			}
			c.entered++
			return exchange.Continue
		},
		Done:    func(*exchange.Exchange) { c.over++ },
		Release: func() { c.released = true },
	}
	if c.acts {
		f.Response = func(*exchange.Exchange) {}
	}
	return f, c.fails
}

func TestFilters(t *testing.T) {
	build := func(configs ...policy.Config) (*filters, func(), error) {
		return newFilters(configs, exchange.RouteInfo{Name: "r"}, &policy.Env{})
	}
	client := netip.MustParseAddr("192.0.2.1")
	if f, release, err := build(); f != nil || release != nil || err != nil {
		t.Errorf("none: %v, %v", f, err)
	}
	if p, refused := (*filters)(nil).enter(nil, client); p != nil || refused != "" || p.slows() {
		t.Errorf("none: %v, %q", p, refused)
	}
	first, second := &counted{}, &counted{acts: true}
	f, release, err := build(first, second)
	if err != nil {
		t.Fatal(err)
	}
	p, refused := f.enter(nil, client)
	if refused != "" || !p.slows() || p.ex.ClientIP != client || p.ex.Route.Name != "r" {
		t.Errorf("%q, %+v", refused, p)
	}
	second.verdict = exchange.Answered
	if _, refused := f.enter(nil, client); refused != "limited" || first.entered != 2 || first.over != 1 || second.over != 0 {
		t.Errorf("%q, %+v, %+v", refused, first, second)
	}
	p.over()
	if first.over != 2 || second.over != 1 {
		t.Errorf("over: %+v, %+v", first, second)
	}
	if release(); !first.released || !second.released {
		t.Error("not released")
	}
	// What cannot be built takes nothing and keeps nothing.
	good := &counted{}
	if _, _, err := build(good, &counted{fails: errors.New("no")}); err == nil || !good.released {
		t.Errorf("%v, %+v", err, good)
	}
	if _, _, err := newFilters([]policy.Config{good}, exchange.RouteInfo{}, nil); err == nil {
		t.Error("built without an Env")
	}
}
