package ratelimit

import (
	"math"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/quota"
)

// meter has one content pass as fast as it may. It belongs to who moves the
// content; giveUp may be called from any goroutine.
type meter struct {
	limits *bandwidth
	ex     *exchange.Exchange // whose waiting it is; nil if that is another's to count
	until  time.Time          // or never, if zero
	passed int64
	shares []share // by limit

	mu     sync.Mutex
	gone   chan struct{} // nil until somebody waits; closed by giveUp
	closed bool
}

// share is what a meter has of a limit: a bucket's key, or a bucket.
type share struct {
	key quota.Key
	own quota.Bucket
}

// newMeter makes one for a content of the exchange. serving says that it is
// moved by the goroutine that serves the exchange: its waiting counts as waiting
// for the upstream then, and its deadline is kept.
func newMeter(b *bandwidth, ex *exchange.Exchange, serving bool) *meter {
	m := &meter{limits: b, shares: make([]share, len(b.limits))}
	if serving {
		m.ex, m.until = ex, ex.Deadline
		if try := ex.TryDeadline; m.until.IsZero() || !try.IsZero() && try.Before(m.until) {
			m.until = try
		}
	}
	for i := range b.limits {
		if l := &b.limits[i]; l.buckets != nil {
			m.shares[i].key = l.key(ex, l.buckets.Seed)
		}
	}
	return m
}

// next returns how many of n bytes are to pass next.
func (m *meter) next(n int) int64 {
	size := int64(n)
	for i := range m.limits.limits {
		l := &m.limits.limits[i]
		if free := l.After - m.passed; free > 0 {
			size = min(size, free)
		} else {
			size = min(size, l.most)
		}
	}
	return size
}

// ready reports whether so many bytes of what next has returned may pass at once.
func (m *meter) ready(size int64) bool {
	now := m.limits.now()
	for i := range m.limits.limits {
		l, s := &m.limits.limits[i], &m.shares[i]
		if m.passed < l.After {
			continue
		}
		used := int64(0)
		if l.buckets != nil {
			used = l.buckets.Used(s.key, now)
		} else {
			used = s.own.Used(now.UnixNano())
		}
		if used+l.cost(size) > l.capacity {
			return false
		}
	}
	return true
}

// pass returns when so many bytes, which next has returned, may pass.
func (m *meter) pass(size int64) error {
	now, wait := m.limits.now(), int64(0)
	for i := range m.limits.limits {
		l, s := &m.limits.limits[i], &m.shares[i]
		if m.passed < l.After {
			continue
		}
		w := int64(0)
		if l.buckets != nil {
			w = l.buckets.Reserve(s.key, now, l.cost(size), l.capacity)
		} else {
			w = s.own.Reserve(now.UnixNano(), l.cost(size), l.capacity)
		}
		l.metrics.Passed(size, time.Duration(w))
		wait = max(wait, w)
	}
	m.passed += size
	if wait == 0 {
		return nil
	}
	return m.wait(now, time.Duration(wait))
}

// wait waits for d, but not beyond the deadline.
func (m *meter) wait(now time.Time, d time.Duration) error {
	var late error
	if !m.until.IsZero() && now.Add(d).After(m.until) {
		d, late = max(m.until.Sub(now), 0), errLate
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return m.abandoned()
	}
	if m.gone == nil {
		m.gone = make(chan struct{})
	}
	gone := m.gone
	m.mu.Unlock()
	if !m.limits.sleep(d, gone) {
		return m.abandoned()
	}
	if m.ex != nil {
		m.ex.Upstream.Wait += m.limits.now().Sub(now)
	}
	return late
}

// abandoned is why a content ends that was given up.
func (m *meter) abandoned() error {
	if m.ex != nil {
		return exchange.ErrAbandoned // a response is, when its client goes
	}
	return errGivenUp
}

// giveUp ends waiting, now and from now on.
func (m *meter) giveUp() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed = true
	if m.gone != nil {
		close(m.gone)
	}
}

// slowed is content that passes as fast as its meter lets it.
type slowed struct {
	exchange.Body
	meter *meter
	rest  []byte // of what was pulled last
}

// Ready implements exchange.Body.
func (b *slowed) Ready() bool {
	if len(b.rest) > 0 {
		return b.meter.ready(b.meter.next(len(b.rest)))
	}
	// However much comes.
	return b.meter.ready(b.meter.next(math.MaxInt)) && b.Body.Ready()
}

// Next implements exchange.Body.
func (b *slowed) Next() ([]byte, error) {
	if len(b.rest) == 0 {
		p, err := b.Body.Next()
		if err != nil || len(p) == 0 {
			return p, err
		}
		b.rest = p
	}
	size := b.meter.next(len(b.rest))
	if err := b.meter.pass(size); err != nil {
		return nil, err
	}
	p := b.rest[:size:size]
	b.rest = b.rest[size:]
	return p, nil
}

// Close implements exchange.Body.
func (b *slowed) Close() {
	b.meter.giveUp()
	b.Body.Close()
}

// slowedTunnel is a tunnel that is slowed down in one of its directions: the
// other meter is nil.
type slowedTunnel struct {
	exchange.Tunnel
	up, down *meter
}

// Read implements exchange.Tunnel.
func (t *slowedTunnel) Read(p []byte) (int, error) {
	if t.down == nil {
		return t.Tunnel.Read(p)
	}
	n, err := t.Tunnel.Read(p[:t.down.next(len(p))])
	if n > 0 {
		if err := t.down.pass(int64(n)); err != nil {
			return 0, err
		}
	}
	return n, err
}

// Write implements exchange.Tunnel.
func (t *slowedTunnel) Write(p []byte) (n int, err error) {
	for t.up != nil && n < len(p) {
		size := int(t.up.next(len(p) - n))
		if err := t.up.pass(int64(size)); err != nil {
			return n, err
		}
		m, err := t.Tunnel.Write(p[n : n+size])
		if n += m; err != nil {
			return n, err
		}
	}
	if t.up == nil {
		return t.Tunnel.Write(p)
	}
	return n, nil
}

// Close implements exchange.Tunnel.
func (t *slowedTunnel) Close() error {
	for _, m := range []*meter{t.up, t.down} {
		if m != nil {
			m.giveUp()
		}
	}
	return t.Tunnel.Close()
}
