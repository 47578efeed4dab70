package h2

import (
	"net"
	"strings"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// ServerConn serves one client's connection. One goroutine reads it; each
// request is served by a goroutine of its own, which also writes the response.
type ServerConn struct {
	// outbox's mu guards everything below the line, and every stream.
	outbox
	info    *exchange.Conn
	handler exchange.Handler
	opts    *ServerOptions // complete
	scheme  string

	// Of the goroutine that reads.
	awaiter  link.Awaiter
	in       framer
	unread   []byte
	prefaced bool
	settled  bool // the client's first SETTINGS came
	dec      decoder
	block    openBlock

	// ------------------------------------------------------------------

	streams map[uint32]*stream
	lastID  uint32 // the client's highest stream
	serving int    // streams whose handler has not returned
	served  sync.Cond

	send   sendWindow
	recv   recvWindow
	est    estimator
	window int64 // what the client's SETTINGS give each stream
	enc    encoder
	ready  queue

	phase   phase
	partial phase // of what has been received in part, or phaseIdle
	fatal   *connError
	ending  bool // nothing is served any more

	drain     drainState
	drainTime *time.Timer

	rest      restState
	idleSince time.Time // when the connection came to rest, or zero

	resets, provoked, frames link.Budget
	gathering                *gathering // nil while there is nothing to write
	// ours are the streams that we reset last: what is on its way for them is no error.
	ours [64]uint32
	our  int
}

// phase is what a connection waits for, which decides for how long.
type phase uint8

const (
	phaseNone   phase = iota
	phaseIdle         // for a request
	phaseActive       // streams have their own bounds
	phaseFrame        // for the rest of a frame
	phaseHeader       // for the rest of a header section
)

const (
	// lingerTimeout and lingerLimit bound what is read after the last frame,
	// so that a reset does not take it away from the client.
	lingerTimeout = time.Second
	lingerLimit   = 256 << 10
	// queueLimit is how much may be gathered for a client that does not read.
	queueLimit = 512 << 10
	// connWindows is how many streams' windows a connection has.
	connWindows = 4
)

// NewServerConn makes the server side of an accepted connection, before its
// preface was read. A nil opts means the defaults. The connection belongs to
// the ServerConn from here on.
func NewServerConn(nc net.Conn, info *exchange.Conn, h exchange.Handler, opts *ServerOptions) *ServerConn {
	c := &ServerConn{info: info, handler: h, opts: opts.Complete(), scheme: "http", streams: map[uint32]*stream{}}
	if info.TLS != nil {
		c.scheme = "https"
	}
	c.served.L = &c.mu
	c.init(nc, c.opts.WriteTimeout, c.writeFailed, c.pump)
	l := &link.Link{}
	l.Open(nc)
	c.awaiter.Init(l, c.takeRoom, c.dropRoom)
	c.in.limit = minFrameSize
	c.dec.MaxBytes, c.dec.MaxCount = c.opts.MaxHeaderBytes, c.opts.MaxHeaderCount
	c.send, c.window = initialWindow, initialWindow
	c.recv = newRecvWindow(initialWindow)
	c.est = estimator{window: c.opts.StreamWindow, limit: c.opts.MaxStreamWindow}
	return c
}

// Unread gives bytes that somebody has read off the connection already, to
// find out which protocol it speaks. It must be called before Serve.
func (c *ServerConn) Unread(b []byte) { c.unread = append(c.unread, b...) }

// Serve serves the connection to its end and closes it. It returns when the
// last of its requests is over, or when the connection rests.
func (c *ServerConn) Serve() {
	pool.Use()
	defer pool.Unuse()
	c.mu.Lock()
	if c.rest == resting {
		c.resume()
	} else {
		c.begin()
	}
	c.mu.Unlock()
	if err := c.read(); err != errResting {
		c.end(err)
	}
}

// begin sends our SETTINGS. mu is held.
func (c *ServerConn) begin() {
	c.dl.Ring = func() { go c.askRest() }
	c.out = appendSettings(c.out,
		setting{settingMaxConcurrentStreams, uint32(c.opts.MaxStreams)},
		setting{settingInitialWindowSize, uint32(c.opts.StreamWindow)},
		setting{settingMaxHeaderListSize, uint32(c.opts.MaxHeaderBytes)},
		setting{settingEnableConnect, 1},
		setting{settingNoPriorities, 1},
	)
	if n := c.recv.grow(connWindows * c.opts.StreamWindow); n > 0 {
		c.out = appendWindowUpdate(c.out, 0, n)
	}
	c.setPhase()
}

// Close cuts the connection off at once. It may be called from any goroutine.
func (c *ServerConn) Close() error {
	c.mu.Lock()
	c.writeFailed(net.ErrClosed)
	c.mu.Unlock()
	return c.shut()
}

// shut closes the connection. mu is not held: over TLS it may have to wait.
func (c *ServerConn) shut() error {
	c.dl.Stop()
	return c.nc.Close()
}

// end says goodbye and waits for the requests.
func (c *ServerConn) end(err error) {
	c.mu.Lock()
	if c.fatal != nil {
		err = c.fatal
	}
	if c.drainTime != nil {
		c.drainTime.Stop()
	}
	c.ending = true
	bad, _ := err.(*connError)
	dead := c.err != nil
	for _, st := range c.streams {
		c.gone(st, errConnLost)
	}
	if !dead {
		code := NoError
		if bad != nil {
			code = bad.code
		}
		if bad != nil || link.IsTimeout(err) || c.drain != notDraining {
			reason := ""
			if bad != nil {
				reason = bad.reason
			}
			c.out = appendGoAway(c.out, c.lastID, code, reason)
		}
		_ = c.nc.SetWriteDeadline(time.Now().Add(lingerTimeout))
		for c.err == nil && (c.writing || len(c.out) > 0) {
			if c.writing {
				c.served.Wait()
				continue
			}
			c.flush()
		}
		dead = c.err != nil
	}
	c.mu.Unlock()
	if bad != nil {
		c.handler.Malformed(c.info, 0, bad.reason)
	}
	if !dead && bad != nil || link.IsTimeout(err) {
		c.linger()
	}
	_ = c.shut()
	c.mu.Lock()
	if c.err == nil {
		c.err = net.ErrClosed
	}
	for c.serving > 0 || c.writing {
		c.served.Wait()
	}
	c.out = c.out[:0]
	c.putAway()
	c.mu.Unlock()
	if c.in.buf != nil {
		link.GiveBuffer(c.in.buf)
		c.in.buf = nil
	}
}

// linger reads on for a while: closing with unread bytes would reset the
// connection, and the client could lose what it has not read yet.
func (c *ServerConn) linger() {
	if !link.CloseWrite(c.nc) {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTimeout))
	buf := link.TakeBuffer(link.SmallBuffer)
	defer link.GiveBuffer(buf)
	for read := 0; read < lingerLimit; {
		n, err := c.nc.Read(buf)
		if err != nil {
			return
		}
		read += n
	}
}

// writeFailed is the outbox's: nothing more can be written.
func (c *ServerConn) writeFailed(err error) {
	if c.err != nil {
		return
	}
	if link.IsTimeout(err) {
		c.fatal = errSlowRead
	}
	c.err = err
	for _, st := range c.streams {
		c.gone(st, err)
	}
	_ = c.nc.SetReadDeadline(link.LongAgo)
	c.served.Broadcast()
}

// fail ends the connection from another goroutine than the one that reads. mu is held.
func (c *ServerConn) fail(err *connError) {
	if c.fatal == nil {
		c.fatal = err
		_ = c.nc.SetReadDeadline(link.LongAgo)
	}
}

// setPhase bounds how long the connection may go on as it is. mu is held.
func (c *ServerConn) setPhase() {
	p := c.partial
	switch {
	case p != phaseNone:
	case len(c.streams) > 0 || c.serving > 0:
		p = phaseActive
	default:
		p = phaseIdle
	}
	if p == c.phase {
		return
	}
	c.phase = p
	switch p {
	case phaseIdle:
		c.dl.Read(c.opts.IdleTimeout)
		if c.opts.RestAfter > 0 && c.opts.RestAfter < c.opts.IdleTimeout {
			c.dl.Alarm(c.opts.RestAfter)
		}
	case phaseActive:
		c.dl.Read(0)
		c.idleSince = time.Time{}
	case phaseFrame:
		c.dl.Read(c.opts.BodyTimeout)
	case phaseHeader:
		c.dl.Read(c.opts.HeaderTimeout)
	}
}

// gathering is what an outbox gathers in, which idle connections do without.
type gathering struct{ out, spare []byte }

var gatherings = sync.Pool{New: func() any { return &gathering{out: make([]byte, 0, 4<<10)} }}

// takeOut provides for what is going to be written. mu is held.
func (c *ServerConn) takeOut() {
	if c.gathering != nil {
		return
	}
	c.gathering = gatherings.Get().(*gathering)
	if c.out == nil && c.spare == nil && !c.writing {
		c.out, c.spare = c.gathering.out, c.gathering.spare
	}
}

// putAway is the opposite, if nothing is being written. mu is held.
func (c *ServerConn) putAway() {
	if c.gathering == nil || c.writing || len(c.out) > 0 {
		return
	}
	c.gathering.out, c.gathering.spare = c.out, c.spare
	gatherings.Put(c.gathering)
	c.gathering, c.out, c.spare = nil, nil, nil
}

func (c *ServerConn) takeRoom() []byte {
	if c.in.buf == nil {
		c.in.buf = link.TakeBuffer(link.MediumBuffer)
	}
	return c.in.buf[c.in.w:]
}

func (c *ServerConn) dropRoom() {
	if c.in.buf != nil && c.in.w == 0 {
		link.GiveBuffer(c.in.buf)
		c.in.buf = nil
	}
}

// read reads frames until the connection fails, or is to end.
func (c *ServerConn) read() error {
	if len(c.unread) > 0 {
		c.in.buf = link.TakeBuffer(max(len(c.unread), link.MediumBuffer))
		c.in.w = copy(c.in.buf, c.unread)
		c.unread = nil
	}
	for {
		if err := c.cut(); err != nil {
			return err
		}
		c.mu.Lock()
		c.partial = phaseNone
		switch {
		case c.block.open || !c.prefaced && c.in.w > 0:
			c.partial = phaseHeader
		case c.in.r < c.in.w:
			c.partial = phaseFrame
		}
		c.setPhase()
		idle := c.phase == phaseIdle || c.awaiter.Raw != nil
		if len(c.out) > queueLimit {
			c.mu.Unlock()
			return errQueueFlood
		}
		if c.prefaced {
			c.flushAside()
		}
		if c.phase == phaseIdle {
			c.putAway()
		}
		err := c.err
		if c.drained() {
			err = errDrained
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if err := c.fill(idle); err != nil {
			goesOn, resting := c.rests(err)
			switch {
			case resting:
				return errResting
			case !goesOn:
				return c.explain(err)
			}
		}
	}
}

// explain tells which bound a failed read has run into.
func (c *ServerConn) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fatal == nil && link.IsTimeout(err) && c.err == nil {
		switch c.phase {
		case phaseHeader:
			return errSlowHeader
		case phaseFrame:
			return errSlowFrame
		}
	}
	return err
}

// fill reads once. Who waits without a frame in part waits without a buffer.
func (c *ServerConn) fill(idle bool) error {
	in := &c.in
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.w == 0 && idle {
		n, err := c.awaiter.Await()
		in.w += n
		return err
	}
	c.takeRoom()
	if want := in.w + in.missing(); want > len(in.buf) {
		bigger := link.TakeBuffer(want)
		copy(bigger, in.buf[:in.w])
		link.GiveBuffer(in.buf)
		in.buf = bigger
	}
	n, err := c.nc.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	return err
}

// cut takes the frames that have been received.
func (c *ServerConn) cut() error {
	if !c.prefaced {
		got := string(c.in.buf[c.in.r:min(c.in.w, c.in.r+len(Preface))])
		if !strings.HasPrefix(Preface, got) {
			return errPreface
		}
		if len(got) < len(Preface) {
			return nil
		}
		c.prefaced = true
		c.in.r += len(Preface)
	}
	for {
		h, payload, ok, err := c.in.next()
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if err := c.frame(h, payload); err != nil {
			return err
		}
	}
}

// pool serves streams.
var pool link.Workers

// now is the time for budgets and bandwidth.
func now() time.Duration { return deadline.Now() }
