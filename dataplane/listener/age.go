package listener

import (
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// ageEvery is how late a connection may learn that it is old, and how long it
// then has for a request that may be on its way to it.
const ageEvery = time.Second

// expirer is a Session that can only be cut off, as its client cannot be told.
type expirer interface {
	Session
	// Expire ends it at once because it has lasted as long as it may.
	Expire()
}

// The stages of a connection's age.
const (
	young   uint8 = iota
	told          // its client knows that it will end
	leaving       // and it has ended if nothing was in progress
)

// agingOf returns the one by whose connections grow old the soonest, nil if those
// of none do: where several share a port without TLS, nobody knows whose it is.
func agingOf(clients ...*snapshot.Client) (soonest *snapshot.Client) {
	for _, c := range clients {
		if c != nil && c.MaxConnectionAge > 0 && (soonest == nil || c.MaxConnectionAge < soonest.MaxConnectionAge) {
			soonest = c
		}
	}
	return soonest
}

// watchAges has connections told when they are old, as long as there are any
// that grow old. p.mu is held.
func (p *port) watchAges() {
	if p.ages == nil && !p.stopped() {
		p.ages = time.AfterFunc(ageEvery, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.ages != nil && p.ageAll(time.Now()) {
				p.ages.Reset(ageEvery)
			} else {
				p.ages = nil
			}
		})
	}
}

// ageAll does to each connection what its age asks for. It reports whether there
// are any that grow old. p.mu is held.
func (p *port) ageAll(now time.Time) (any bool) {
	for c := range p.conns {
		if c.aging != nil && c.session != nil {
			any = true
			c.age(now)
		}
	}
	return any
}

// age is called with port.mu held.
func (c *conn) age(now time.Time) {
	old := now.Sub(c.since) - c.lifetime()
	grace := c.aging.MaxConnectionAgeGrace
	if old < 0 {
		return
	}
	if session, ok := c.session.(expirer); ok {
		if old >= grace {
			session.Expire()
		}
		return
	}
	switch {
	case grace > 0 && old >= grace:
		c.wake()
		_ = c.nc.Close()
	case c.stage == young:
		c.stage = told
		if session, ok := c.session.(Announcer); ok {
			session.Announce()
		}
	case c.stage == told:
		c.stage = leaving
		c.session.Drain()
		c.wake()
	}
}

// lifetime is the connection's share of the greatest age: a tenth more or less,
// so that connections that came together do not come again together.
func (c *conn) lifetime() time.Duration {
	const most = 1 << 16
	random := time.Duration(c.info.ID * 0x9E3779B97F4A7C15 >> 48) // 0 to most
	return c.aging.MaxConnectionAge / (10 * most) * (9*most + 2*random)
}
