package h3

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// ServerConn serves one client's connection. One goroutine accepts the
// requests; each is read and served by a goroutine of its own.
//
// Before the handshake is over, requests may be somebody's who repeats what
// another has sent (0-RTT, RFC 8470). Those with a safe method are served, with
// Early-Data for who is behind us; all others wait until the client has shown
// that it is there.
type ServerConn struct {
	qc      *quic.Conn
	info    *exchange.Conn
	handler exchange.Handler
	opts    ServerOptions
	// ctx ends when nothing is to be accepted any more.
	ctx    context.Context
	cancel context.CancelFunc
	// idle bounds how long there may be no request.
	idle deadline.Conn

	mu      sync.Mutex // guards all below, and is taken before no other lock
	streams map[quic.StreamID]*stream
	next    quic.StreamID // the first request that was not accepted yet
	serving int           // tasks that have not returned
	served  sync.Cond
	control *quic.SendStream
	fatal   *connError
	lastEnd time.Time // when the last request was over

	drain     drainState
	drainTime *time.Timer

	resets, provoked, frames link.Budget
	// Which of the client's streams that there may be one of have come.
	critical [4]bool
}

// pool serves streams.
var pool link.Workers

// NewServerConn makes the server side of an accepted connection, which must
// have been accepted with opts.QUIC. A nil opts means the defaults. The
// connection belongs to the ServerConn from here on.
func NewServerConn(qc *quic.Conn, info *exchange.Conn, h exchange.Handler, opts *ServerOptions) *ServerConn {
	c := &ServerConn{qc: qc, info: info, handler: h, opts: opts.withDefaults(), streams: map[quic.StreamID]*stream{}}
	c.ctx, c.cancel = context.WithCancel(qc.Context())
	c.served.L = &c.mu
	return c
}

// Serve serves the connection to its end and closes it. It returns when the
// last of its requests is over.
func (c *ServerConn) Serve() {
	pool.Use()
	defer pool.Unuse()
	c.idle.Start((*idleTimer)(c))
	c.idle.Read(c.opts.IdleTimeout)
	if err := c.greet(); err == nil {
		c.begin(1)
		pool.Start((*uniAccepter)(c))
		c.accept()
	}
	c.end()
}

// greet opens our control stream.
func (c *ServerConn) greet() error {
	control, err := c.qc.OpenUniStream()
	if err != nil {
		return err // a client must allow three, RFC 9114 section 6.2
	}
	b := quicvarint.Append(nil, streamControl)
	b = appendSettings(b,
		setting{settingMaxFieldSectionSize, uint64(c.opts.MaxHeaderBytes)},
		setting{settingEnableConnect, 1},
	)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control = control
	c.tell(b)
	return nil
}

// tell writes to the control stream. mu is held.
func (c *ServerConn) tell(b []byte) {
	if c.control != nil && c.control.TryWriteAll(b) == quic.ErrWouldBlock {
		go c.fail(errUnread)
	}
}

// accept takes requests until the connection ends.
func (c *ServerConn) accept() {
	for {
		str, err := c.qc.AcceptStream(c.ctx)
		if err != nil {
			return
		}
		st := newStream(c, str)
		c.mu.Lock()
		rejected := c.drain == drainingLast // GOAWAY named those before, RFC 9114 section 5.2
		if !rejected {
			c.next = st.id + 4
			c.streams[st.id] = st
			if c.serving++; len(c.streams) == 1 {
				c.idle.Read(0)
			}
		}
		full := c.opts.MaxRequests > 0 && int64(st.id/4)+1 >= int64(c.opts.MaxRequests)
		c.mu.Unlock()
		if full {
			c.Drain()
		}
		if rejected {
			str.CancelRead(RequestRejected.stream())
			str.CancelWrite(RequestRejected.stream())
			str.ReleaseStreamCredit()
			st.reuse()
			continue
		}
		pool.Start(st)
	}
}

// begin counts tasks that Serve waits for.
func (c *ServerConn) begin(n int) {
	c.mu.Lock()
	c.serving += n
	c.mu.Unlock()
}

// over is the end of a task.
func (c *ServerConn) over() {
	c.mu.Lock()
	c.serving--
	c.served.Broadcast()
	c.mu.Unlock()
}

// forget takes a request out of the connection.
func (c *ServerConn) forget(id quic.StreamID) {
	c.mu.Lock()
	delete(c.streams, id)
	c.serving--
	c.served.Broadcast()
	if len(c.streams) == 0 {
		c.lastEnd = time.Now()
		c.idle.Read(c.opts.IdleTimeout)
		c.endIfDrained()
	}
	c.mu.Unlock()
}

// end waits for what is being served.
func (c *ServerConn) end() {
	_ = c.qc.CloseWithError(NoError.conn(), "")
	c.cancel()
	c.idle.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drainTime != nil {
		c.drainTime.Stop()
	}
	for c.serving > 0 {
		c.served.Wait()
	}
}

// fail ends the connection for the client's fault.
func (c *ServerConn) fail(err *connError) {
	c.mu.Lock()
	first := c.fatal == nil && c.ctx.Err() == nil
	if first {
		c.fatal = err
	}
	c.mu.Unlock()
	if !first {
		return
	}
	c.handler.Malformed(c.info, 0, err.reason)
	_ = c.qc.CloseWithError(err.code.conn(), err.reason)
	c.cancel()
}

// Close cuts the connection off at once. It may be called from any goroutine.
func (c *ServerConn) Close() error {
	defer c.cancel()
	return c.qc.CloseWithError(NoError.conn(), "")
}

// nothing accounts for what carries nothing.
func (c *ServerConn) nothing(n int) *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.frames.Spend(n, c.opts.Frames, c.opts.Frames/10, deadline.Now()) {
		return errFrameFlood
	}
	return nil
}

// reset accounts for a request that the client has given up.
func (c *ServerConn) reset() {
	c.mu.Lock()
	ok := c.resets.Spend(1, c.opts.Resets, c.opts.Resets/4, deadline.Now())
	c.mu.Unlock()
	if !ok {
		c.fail(errResetFlood)
	}
}

// provoke accounts for a request that the client makes us give up.
func (c *ServerConn) provoke() {
	c.mu.Lock()
	ok := c.provoked.Spend(1, c.opts.Resets, c.opts.Resets/4, deadline.Now())
	c.mu.Unlock()
	if !ok {
		c.fail(errProvoked)
	}
}

// succeed accounts for a request that was served to its end.
func (c *ServerConn) succeed() {
	c.mu.Lock()
	c.resets.Earn(1)
	c.provoked.Earn(1)
	c.frames.Earn(4)
	c.mu.Unlock()
}

// proven reports whether the client is known to be there, and not somebody who
// repeats what it has sent.
func (c *ServerConn) proven() bool {
	select {
	case <-c.qc.HandshakeComplete():
		return c.qc.Context().Err() == nil
	default:
		return false
	}
}

// prove waits until it is. It reports false if the connection ends before.
func (c *ServerConn) prove() bool {
	select {
	case <-c.qc.HandshakeComplete():
	case <-c.qc.Context().Done():
	}
	return c.qc.Context().Err() == nil
}

// idleTimer is what the janitor sees of a connection.
type idleTimer ServerConn

// SetReadDeadline implements deadline.Deadliner: there was no request for too long.
func (t *idleTimer) SetReadDeadline(time.Time) error {
	go (*ServerConn)(t).Drain()
	return nil
}

// SetWriteDeadline implements deadline.Deadliner.
func (t *idleTimer) SetWriteDeadline(time.Time) error { return nil }

// drainState is how far the end of a connection has come, RFC 9114 section 5.2.
type drainState uint8

const (
	notDraining   drainState = iota
	drainingFirst            // GOAWAY was sent, and requests that are on their way are taken
	drainingLast             // GOAWAY was sent with the first request that is not taken
)

const (
	// maxRequestID is the greatest ID of a request, RFC 9000 section 2.1.
	maxRequestID = 1<<62 - 4
	// minPatience and maxPatience bound how long requests may be on their way:
	// three times as long as the path takes there and back.
	minPatience = 100 * time.Millisecond
	maxPatience = 2 * time.Second
	// lingerTimeout is for what was written last: a connection that is closed
	// sends nothing again that was lost.
	lingerTimeout = time.Second
)

// Announce is Drain, which rejects no request but such as are sent after the
// client could know better.
func (c *ServerConn) Announce() { c.Drain() }

// Drain ends the connection soon: the client is told to send no more requests,
// and when those are over that were on their way, the connection ends. Tunnels
// go on until they end by themselves. Drain may be called from any goroutine,
// more than once.
func (c *ServerConn) Drain() {
	patience := min(max(3*c.qc.ConnectionStats().SmoothedRTT, minPatience), maxPatience)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drain != notDraining || c.ctx.Err() != nil {
		return
	}
	c.drain = drainingFirst
	c.tell(appendGoAway(nil, maxRequestID))
	c.drainTime = time.AfterFunc(patience, c.lastGoAway)
}

// lastGoAway names the first request that is not served.
func (c *ServerConn) lastGoAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	c.drain = drainingLast
	c.tell(appendGoAway(nil, uint64(c.next)))
	c.endIfDrained()
}

// endIfDrained ends the connection when nothing is left to do. mu is held.
func (c *ServerConn) endIfDrained() {
	if c.drain != drainingLast || len(c.streams) > 0 {
		return
	}
	c.drainTime.Stop()
	c.drainTime = time.AfterFunc(max(lingerTimeout-time.Since(c.lastEnd), 0), c.cancel)
}

var errNoRequest = errors.New("h3: the stream has ended before its request")
