package h2

import (
	"errors"
	"time"

	"github.com/headgate/headgate/dataplane/link"
)

// drainState is how far the end of a connection has come, RFC 9113 section 6.8.
type drainState uint8

const (
	notDraining   drainState = iota
	drainingFirst            // GOAWAY was sent, and streams that are on their way are taken
	drainingLast             // GOAWAY was sent with the last stream that is taken
)

// drainPatience is how long streams may be on their way.
const drainPatience = 2 * time.Second

var errDrained = errors.New("h2: drained")

// Announce is Drain, which cuts no request off: the client has answered a PING
// by then, and so knows (RFC 9113 section 6.8).
func (c *ServerConn) Announce() { c.Drain() }

// Drain ends the connection soon: the client is told to open no more streams,
// and when those are over that it had opened by then, the connection ends.
// Tunnels go on until they end by themselves. Drain may be called from any
// goroutine, more than once.
func (c *ServerConn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startDrain()
	c.flushAside()
}

// startDrain is Drain that leaves writing to the caller. mu is held.
func (c *ServerConn) startDrain() {
	if c.drain != notDraining || c.err != nil || c.ending {
		return
	}
	c.drain = drainingFirst
	c.out = appendGoAway(c.out, maxStreamID, NoError, "")
	c.out = appendPing(c.out, false, pingDrain)
	c.drainTime = time.AfterFunc(drainPatience, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lastGoAway()
		c.flushAside()
	})
}

// lastGoAway names the last stream that is served. mu is held.
func (c *ServerConn) lastGoAway() {
	if c.drain != drainingFirst || c.err != nil || c.ending {
		return
	}
	c.drain = drainingLast
	c.out = appendGoAway(c.out, c.lastID, NoError, "")
	c.endIfDrained()
}

// drained reports whether nothing is left to do. mu is held.
func (c *ServerConn) drained() bool {
	return c.drain == drainingLast && len(c.streams) == 0 && c.serving == 0
}

// endIfDrained wakes the goroutine that reads. mu is held.
func (c *ServerConn) endIfDrained() {
	if c.drained() && !c.ending {
		_ = c.nc.SetReadDeadline(link.LongAgo)
	}
}
