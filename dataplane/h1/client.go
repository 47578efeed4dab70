package h1

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// ClientConn is one connection to an upstream. It carries one exchange at a
// time and is not safe for concurrent use, except for Close.
//
// For each exchange call RoundTrip, pull ex.Response.Body, then Finish.
type ClientConn struct {
	conn
	awaiter link.Awaiter
	writer  writer
	opts    ClientOptions
	limits  headLimits

	ex   *exchange.Exchange
	in   reader
	scan headScan
	head responseHead
	body responseBody
	pump pump

	step      func(fd uintptr) bool // exchangeStep, made once
	sent      bool                  // the request's head is on its way
	sendErr   error
	unasked   error // what was found on the connection before anything was sent
	waiting   time.Time
	answered  bool // a byte of a response came
	precise   bool // the connection has deadlines of its own set
	exchanges int
	broken    bool
	tunnelled bool
	abandoned atomic.Bool // the exchange, while it waited for its response's head
}

// interimLimit is how many interim responses an exchange may have.
const interimLimit = 64

// NewClientConn makes the client side of a connection. A nil opts means the defaults.
func NewClientConn(c net.Conn, opts *ClientOptions) *ClientConn {
	cc := &ClientConn{opts: opts.withDefaults()}
	cc.limits = headLimits{firstLine: cc.opts.MaxHeaderBytes, bytes: cc.opts.MaxHeaderBytes, lines: cc.opts.MaxHeaderCount}
	cc.Open(c)
	cc.DL.Start(c)
	cc.in.src = c
	cc.in.poisoned = cc.opts.Poison
	cc.awaiter.Init(&cc.conn, cc.takeRoom, cc.in.release)
	cc.step = cc.exchangeStep
	cc.writer.conn, cc.writer.timeout = &cc.conn, cc.opts.WriteTimeout
	cc.body.c = cc
	cc.pump.init(cc)
	return cc
}

func (c *ClientConn) takeRoom() []byte {
	if c.in.buf == nil {
		c.in.buf = link.TakeBuffer(link.MediumBuffer)
	}
	return c.in.buf[c.in.w:]
}

// RoundTrip sends ex.Out and fills ex.Response with the final response's head;
// interim responses go to ex.Client. The error is an *exchange.UpstreamError
// or, if it was the request's content that failed or the client has given the
// exchange up, an *exchange.ClientError. Finish must be called after an error, too.
//
// Before anything is sent or any content is pulled from ex.Out.Body, a reused
// plain-text connection is checked: if the peer has closed it, or said
// something unasked, the error has Stage Stale and the request, whatever its
// method and content, can go out on another connection as it is.
func (c *ClientConn) RoundTrip(ex *exchange.Exchange) error {
	c.ex = ex
	ex.Response.Fields, ex.Response.Trailers = ex.Response.Fields[:0], ex.Response.Trailers[:0]
	c.sent, c.answered, c.tunnelled = false, false, false
	c.sendErr, c.unasked = nil, nil
	c.exchanges++
	c.setDeadlines()
	c.abandoned.Store(false)
	if !ex.Await((*awaitedHead)(c)) {
		c.broken = true
		return exchange.ErrAbandoned
	}
	err := c.roundTrip()
	ex.Await(nil)
	if c.abandoned.Load() {
		err = exchange.ErrAbandoned // the connection is of no use, whatever came
	}
	if err != nil {
		c.broken = true
		err = c.explain(err)
	}
	return err
}

func (c *ClientConn) roundTrip() error {
	if !c.DL.Read(c.idleTimeout()) {
		return errTimeout
	}
	if err := c.sendAndAwait(); err != nil {
		return err
	}
	for interim := 0; ; interim++ {
		if err := c.readHead(); err != nil {
			return err
		}
		status := c.head.status
		switch {
		case status >= 200:
			return c.begin()
		case status == 101:
			return c.upgrade()
		case interim == interimLimit:
			return errInformMany
		case status == 100:
			// The server side asks its client by itself, as soon as we pull.
			c.pump.proceed()
		default:
			if err := c.ex.Client.Inform(status, c.ex.Response.Fields); err != nil {
				return &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: err}
			}
		}
		c.ex.Response.Fields = c.ex.Response.Fields[:0]
		c.in.forget()
	}
}

// awaitedHead is the connection while an exchange waits for its response's head.
type awaitedHead ClientConn

// Close implements exchange.Closer.
func (a *awaitedHead) Close() {
	a.abandoned.Store(true)
	_ = a.NC.SetDeadline(link.LongAgo)
}

// setDeadlines keeps the exchange's own deadlines, which are too fine for the
// janitor.
func (c *ClientConn) setDeadlines() {
	if at := c.until(); !at.IsZero() {
		c.precise = true
		_ = c.NC.SetDeadline(at)
	}
}

// idleTimeout is how long the endpoint may be silent.
func (c *ClientConn) idleTimeout() time.Duration {
	return cmp.Or(c.ex.Timeouts.Idle, c.opts.ReadTimeout)
}

func (c *ClientConn) until() time.Time {
	at := c.ex.Deadline
	if try := c.ex.TryDeadline; at.IsZero() || !try.IsZero() && try.Before(at) {
		at = try
	}
	return at
}

// sendAndAwait sends the request, as much of it as is ready, and reads the
// first bytes that come back.
func (c *ClientConn) sendAndAwait() error {
	var err error
	c.awaiter.N, c.awaiter.Err = 0, nil
	if c.Raw != nil {
		err = c.Raw.Read(c.step)
	} else {
		c.sendErr = c.send()
		c.sent = true
		if !fatal(c.sendErr) {
			c.waiting = time.Now()
			var n int
			n, err = c.awaiter.Await()
			c.in.w += n
		}
	}
	if c.unasked != nil {
		return c.unasked
	}
	if fatal(c.sendErr) {
		return c.sendErr
	}
	if err == nil {
		err = c.awaiter.Err
	}
	if c.heldTooLong(err) {
		c.pump.proceed()
		var n int
		n, err = c.awaiter.Await()
		c.in.w += n
	}
	c.ex.Upstream.Wait += time.Since(c.waiting)
	return err
}

// exchangeStep is called while the connection's next readability is awaited:
// first before that, then each time that there might be something. Sending
// from in here makes the read that would otherwise be in vain say whether the
// peer has closed the connection, or sent what nobody asked for and what would
// be taken for the response.
func (c *ClientConn) exchangeStep(fd uintptr) bool {
	if c.sent {
		done := c.awaiter.Attempt(fd)
		if done {
			c.in.w += c.awaiter.N
		}
		return done
	}
	switch n, err := link.RawRead(fd, c.One[:]); {
	case n > 0:
		c.unasked = errUnasked
		return true
	case err == nil:
		c.unasked = io.EOF
		return true
	case err != syscall.EAGAIN:
		c.unasked = err
		return true
	}
	c.sendErr = c.send()
	c.sent = true
	c.waiting = time.Now()
	return fatal(c.sendErr)
}

// fatal reports whether there is no point in waiting for a response after this
// error from sending. A peer that does not read any more may have answered before.
func fatal(err error) bool {
	if err == nil {
		return false // before the variable below is allocated
	}
	var client *exchange.ClientError
	return !link.IsGone(err) || errors.As(err, &client)
}

// readHead reads the next head, whose first bytes may be there.
func (c *ClientConn) readHead() error {
	c.scan.reset()
	in := &c.in
	for {
		if in.r < in.w {
			c.answered = true
			size, err := c.scan.scan(in.buffered(), &c.limits)
			if err != nil {
				return err
			}
			if size > 0 {
				err := parseResponse(in.buffered()[:size], c.scan.ends, c.ex.Out.Method, &c.ex.Response.Fields, &c.head)
				if err != nil {
					return err
				}
				in.r += size
				return nil
			}
		}
		if err := c.read(1); err != nil {
			if err == io.EOF && c.answered && in.r < in.w {
				return errTruncatedHead
			}
			return err
		}
	}
}

// read reads more of the response, and counts the wait.
func (c *ClientConn) read(want int) error {
	if !c.DL.Read(c.idleTimeout()) {
		return errTimeout
	}
	began := time.Now()
	c.takeRoom()
	err := c.in.fill(want)
	if c.heldTooLong(err) {
		c.pump.proceed()
		err = c.in.fill(want)
	}
	c.ex.Upstream.Wait += time.Since(began)
	if !c.DL.Read(0) && err == nil {
		err = errTimeout
	}
	return err
}

// heldTooLong reports whether a read has failed only because nobody said 100
// (Continue) in time: the content is sent all the same then.
func (c *ClientConn) heldTooLong(err error) bool {
	if err == nil || !c.pump.held.Load() || !link.IsTimeout(err) {
		return false
	}
	until := c.until()
	return !c.abandoned.Load() && (until.IsZero() || time.Now().Before(until))
}

func (c *ClientConn) setReadDeadline(at time.Time) {
	c.precise = true
	_ = c.NC.SetReadDeadline(at)
	if c.abandoned.Load() { // just before, so that this has undone it
		_ = c.NC.SetReadDeadline(link.LongAgo)
	}
}

// begin hands the final response over.
func (c *ClientConn) begin() error {
	h, r := &c.head, &c.ex.Response
	c.in.keep()
	c.DL.Read(0)
	if c.pump.held.Load() {
		c.setReadDeadline(c.until()) // in place of the one for 100 (Continue)
	}
	r.Status, r.Reason, r.Proto = h.status, h.reason, h.proto
	c.body.d.reset(&c.in, h.kind, h.length, c.opts.MaxHeaderBytes, c.opts.MaxHeaderCount)
	c.body.closed.Store(false)
	r.Length, r.Body = 0, nil
	switch h.kind {
	case framedNone:
		if c.ex.Out.Method == "HEAD" || h.status == 304 {
			r.Length = h.length
		}
	case framedLength:
		r.Length, r.Body = h.length, &c.body
	default:
		r.Length, r.Body = -1, &c.body
	}
	if c.ex.Out.Method == "CONNECT" && h.status < 300 {
		return c.openTunnel()
	}
	return nil
}

// upgrade accepts a 101, if it was asked for.
func (c *ClientConn) upgrade() error {
	if c.ex.Out.Upgrade == "" || !c.head.upgrades || c.head.upgrade == "" {
		return errUnasked101
	}
	c.in.keep()
	r := &c.ex.Response
	r.Status, r.Reason, r.Proto = 101, c.head.reason, c.head.proto
	r.Fields = append(r.Fields, exchange.Field{Key: exchange.KeyUpgrade, Name: "Upgrade", Value: c.head.upgrade})
	return c.openTunnel()
}

func (c *ClientConn) openTunnel() error {
	c.tunnelled = true
	c.ex.Response.Tunnel = newClientTunnel(c, c.in.buffered())
	c.in.r = c.in.w
	c.clearDeadlines()
	if end := c.ex.Timeouts.End; !end.IsZero() {
		c.precise = true
		_ = c.NC.SetDeadline(end)
	}
	return nil
}

func (c *ClientConn) clearDeadlines() {
	if c.precise {
		c.precise = false
		_ = c.NC.SetDeadline(time.Time{})
	}
}

// Finish ends the exchange's use of the connection: the response's strings and
// body are no longer valid, and ex.Out.Body is nobody's but the caller's. It
// reports whether the connection can carry another exchange; if not, the
// caller closes it.
func (c *ClientConn) Finish() (reusable bool) {
	if c.ex == nil {
		return !c.broken
	}
	pumped := c.pump.finish()
	reusable = pumped && !c.broken && !c.body.kicked.Load() && !c.tunnelled && c.sendErr == nil &&
		c.head.persistent && c.body.d.done() && c.in.r == c.in.w
	c.in.release()
	c.writer.release()
	c.clearDeadlines()
	if !c.DL.Read(0) || !c.DL.Write(0) {
		reusable = false
	}
	c.broken = !reusable
	c.ex = nil
	return reusable
}

// Close closes the connection. It may be called from any goroutine.
func (c *ClientConn) Close() error {
	c.DL.Stop()
	if c.Raw == nil {
		go c.NC.Close() // over TLS it says goodbye, and may wait for the peer to read it
		return nil
	}
	return c.NC.Close()
}

// explain says what an error means to the caller.
func (c *ClientConn) explain(err error) error {
	var client *exchange.ClientError
	if errors.As(err, &client) {
		return client
	}
	if failed := c.pump.failure.Load(); failed != nil {
		return failed // it made our read fail
	}
	e := &exchange.UpstreamError{Stage: exchange.Sending, Reason: "reset", Err: err}
	switch {
	case c.unasked != nil:
		e.Stage, e.Reason, e.Unsent = exchange.Stale, "closed", true
		if err == errUnasked {
			e.Reason = "unasked_bytes"
		}
		if c.exchanges == 1 {
			e.Stage = exchange.Dialing // it never was a connection to speak of
		}
		return e
	case c.answered:
		e.Stage = exchange.Receiving
	case c.exchanges > 1 && link.IsGone(err):
		e.Stage = exchange.Stale
	}
	var malformed *refusal
	switch {
	case link.IsTimeout(err):
		e.Reason = "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err == errTruncated:
		e.Reason = "closed" // over TLS without a word, which is why it may not be the end
	case errors.As(err, &malformed):
		e.Reason = "malformed_response"
	case link.IsAlert(err):
		e.Reason = "tls_alert" // such as that it wants a certificate of ours: TLS 1.3 tells so late
	}
	return e
}

// responseBody is a response's content as the client side receives it.
type responseBody struct {
	c       *ClientConn
	d       decoder
	closed  atomic.Bool
	reading atomic.Bool // Next is about to read or reads
	kicked  atomic.Bool // Close has made the connection's reads fail
}

// Ready implements exchange.Body.
func (b *responseBody) Ready() bool { return b.d.ready() }

// Next implements exchange.Body. Its errors are *exchange.UpstreamError.
func (b *responseBody) Next() ([]byte, error) {
	c := b.c
	for {
		p, err := b.d.next()
		switch {
		case err == io.EOF:
			if len(b.d.trailers) > 0 {
				c.ex.Response.Trailers = append(c.ex.Response.Trailers, b.d.trailers...)
				b.d.trailers = b.d.trailers[:0]
			}
			return nil, io.EOF
		case err != nil:
			return nil, b.fail(err)
		case p != nil:
			return p, nil
		}
		b.reading.Store(true)
		if b.closed.Load() {
			b.reading.Store(false)
			return nil, errBodyClosed
		}
		err = c.read(b.d.want())
		b.reading.Store(false)
		switch {
		case err == io.EOF:
			_ = b.d.ended()
		case err != nil:
			return nil, b.fail(err)
		}
	}
}

func (b *responseBody) fail(err error) error {
	b.c.broken = true
	b.d.err = err
	return b.c.explain(err)
}

// Close implements exchange.Body.
func (b *responseBody) Close() {
	b.closed.Store(true)
	if b.reading.Load() && b.kicked.CompareAndSwap(false, true) {
		_ = b.c.NC.SetReadDeadline(link.LongAgo)
	}
}
