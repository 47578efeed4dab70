package h2

import (
	"errors"
	"time"

	"github.com/headgate/headgate/dataplane/link"
)

// restState is whether the connection needs somebody who waits for its client.
type restState uint8

const (
	notResting restState = iota
	restAsked            // who reads is to come to rest, if it still waits
	resting
)

var errResting = errors.New("h2: resting")

// askRest wakes the goroutine that reads. The alarm may be of a time when the
// connection was idle before.
func (c *ServerConn) askRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == phaseIdle && c.restable() {
		c.rest = restAsked
		_ = c.nc.SetReadDeadline(link.LongAgo)
	}
}

// restable reports whether nobody needs the connection. mu is held.
func (c *ServerConn) restable() bool {
	return c.prefaced && c.rest != resting && c.err == nil && c.fatal == nil && !c.ending && c.drain == notDraining &&
		!c.writing && len(c.out) == 0
}

// rests brings the connection to rest if that is why a read has failed. If it
// was asked to, but is not idle any more, it goes on.
func (c *ServerConn) rests(err error) (goesOn, rests bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rest != restAsked || !link.IsTimeout(err) || !c.dl.Read(0) {
		return false, false
	}
	c.rest = notResting
	if c.err != nil || c.fatal != nil {
		return false, false
	}
	_ = c.nc.SetReadDeadline(time.Time{})
	idle := c.phase == phaseIdle && c.in.w == 0 && c.restable()
	c.phase = phaseNone // its bound is to be set again
	if !idle {
		return true, false
	}
	c.rest = resting
	c.enc.forget()
	if c.idleSince.IsZero() {
		c.idleSince = time.Now().Add(-c.opts.RestAfter)
	}
	c.dl.Stop()
	return false, true
}

// resume goes on after a rest. mu is held.
func (c *ServerConn) resume() {
	c.rest = notResting
	c.dl.Start(c.nc)
	c.phase = phaseIdle
	left := c.opts.IdleTimeout - time.Since(c.idleSince)
	c.dl.Read(max(left, 1))
	if c.opts.RestAfter > 0 && c.opts.RestAfter < left {
		c.dl.Alarm(c.opts.RestAfter)
	}
}

// Resting returns for how much longer the connection may wait for a request,
// if that is why Serve has returned: it needs nobody then, until there is
// something to read, the time is over, or it is drained or closed, and Serve is
// called again. It returns 0 if the connection has ended.
func (c *ServerConn) Resting() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rest != resting {
		return 0
	}
	return max(c.opts.IdleTimeout-time.Since(c.idleSince), 1)
}
