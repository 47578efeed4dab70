package listener

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// aged is a session that notes what is done to it.
type aged struct {
	announced, drained, expired atomic.Int32
	closed                      chan struct{}
	nc                          net.Conn
}

func (a *aged) Serve() {
	_, _ = a.nc.Read(make([]byte, 1))
	close(a.closed)
}
func (a *aged) Announce()    { a.announced.Add(1) }
func (a *aged) Drain()       { a.drained.Add(1) }
func (a *aged) Close() error { return a.nc.Close() }

// cutOnly is one that can only be cut off.
type cutOnly struct{ *aged }

func (c cutOnly) Announce() {}
func (c cutOnly) Expire()   { c.expired.Add(1) }

// TestConnectionsAge goes through a connection's age, with the time given.
func TestConnectionsAge(t *testing.T) {
	const age, grace = time.Hour, 10 * time.Minute
	for name, c := range map[string]struct {
		client    *snapshot.Client
		cutOnly   bool
		announced []int32 // at 50 min, at 70 min, a moment later, at 90 min
		drained   []int32
		expired   []int32
		cut       bool // in the end
	}{
		"without":              {client: &snapshot.Client{IdleTimeout: time.Hour}, announced: []int32{0, 0, 0, 0}, drained: []int32{0, 0, 0, 0}, expired: []int32{0, 0, 0, 0}},
		"with an age":          {client: &snapshot.Client{MaxConnectionAge: age}, announced: []int32{0, 1, 1, 1}, drained: []int32{0, 0, 1, 1}, expired: []int32{0, 0, 0, 0}},
		"and a grace":          {client: &snapshot.Client{MaxConnectionAge: age, MaxConnectionAgeGrace: 3 * grace / 2}, announced: []int32{0, 1, 1, 1}, drained: []int32{0, 0, 1, 1}, expired: []int32{0, 0, 0, 0}, cut: true},
		"passed on":            {client: &snapshot.Client{MaxConnectionAge: age}, cutOnly: true, announced: []int32{0, 0, 0, 0}, drained: []int32{0, 0, 0, 0}, expired: []int32{0, 1, 2, 3}},
		"passed on, and grace": {client: &snapshot.Client{MaxConnectionAge: age, MaxConnectionAgeGrace: grace}, cutOnly: true, announced: []int32{0, 0, 0, 0}, drained: []int32{0, 0, 0, 0}, expired: []int32{0, 0, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			made := make(chan *aged, 1)
			s := newSet(t, func(o *Options) {
				o.Codecs = []Codec{{ALPN: "http/1.1", New: func(nc net.Conn, _ *exchange.Conn, _ []*snapshot.Client) Session {
					a := &aged{nc: nc, closed: make(chan struct{})}
					made <- a
					if c.cutOnly {
						return cutOnly{a}
					}
					return a
				}}}
			})
			if err := s.Apply([]*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", Client: c.client})}); err != nil {
				t.Fatal(err)
			}
			client := dial(t, addressOf(t, s, "tcp/1"))
			a, p := <-made, s.ports["tcp/1"]
			var one *conn
			await(t, "the connection", func() bool {
				p.mu.Lock()
				defer p.mu.Unlock()
				for one = range p.conns {
					return one.session != nil
				}
				return false
			})
			for i, after := range []time.Duration{50 * time.Minute, 70 * time.Minute, 70*time.Minute + time.Second, 90 * time.Minute} {
				p.mu.Lock()
				any := p.ageAll(one.since.Add(after))
				p.mu.Unlock()
				if any != (c.client.MaxConnectionAge > 0) {
					t.Errorf("after %s: any is %v", after, any)
				}
				if got := []int32{a.announced.Load(), a.drained.Load(), a.expired.Load()}; got[0] != c.announced[i] || got[1] != c.drained[i] || got[2] != c.expired[i] {
					t.Errorf("after %s: announced, drained, expired %v", after, got)
				}
			}
			select {
			case <-a.closed:
				if !c.cut {
					t.Error("it was cut off")
				}
			case <-time.After(100 * time.Millisecond):
				if c.cut {
					<-a.closed // or the test's time is over
				}
			}
			client.Close()
			<-a.closed
		})
	}
}

func TestAgesDiffer(t *testing.T) {
	const age = 10 * time.Hour
	var sum time.Duration
	least, most := 2*age, time.Duration(0)
	for id := range uint64(1000) {
		c := &conn{info: &exchange.Conn{ID: id + 1}, aging: &snapshot.Client{MaxConnectionAge: age}}
		d := c.lifetime()
		least, most, sum = min(least, d), max(most, d), sum+d
	}
	if least < age*9/10-time.Second || least > age*92/100 || most > age*11/10+time.Second || most < age*108/100 {
		t.Errorf("from %s to %s", least, most)
	}
	if mean := sum / 1000; mean < age*99/100 || mean > age*101/100 {
		t.Errorf("%s on average", mean)
	}
}

// TestAgesAreWatchedWhileThereAreAny sees that nothing runs without need.
func TestAgesAreWatchedWhileThereAreAny(t *testing.T) {
	s := newSet(t)
	port := func(client *snapshot.Client) []*snapshot.Port {
		return []*snapshot.Port{portOf("tcp/1", &snapshot.Listener{Key: "l", Client: client})}
	}
	watched := func() bool {
		p := s.ports["tcp/1"]
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.ages != nil
	}
	if err := s.Apply(port(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t, addressOf(t, s, "tcp/1")).say("hello"); err != nil {
		t.Fatal(err)
	}
	if watched() {
		t.Error("ages are watched where there are none")
	}
	if err := s.Apply(port(&snapshot.Client{MaxConnectionAge: time.Hour})); err != nil {
		t.Fatal(err)
	}
	c := dial(t, addressOf(t, s, "tcp/1"))
	if _, err := c.say("hello"); err != nil {
		t.Fatal(err)
	}
	if !watched() {
		t.Error("ages are not watched")
	}
	c.Close()
	await(t, "an end to the watch", func() bool { return !watched() })
}
