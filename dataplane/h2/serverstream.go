package h2

import (
	"errors"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// stream is one request and its response. It is its request's body, and the
// client of its exchange.
//
// A worker owns it from start to reuse. What the connection's reader shares
// with it is guarded by the connection's mu.
type stream struct {
	c  *ServerConn
	id uint32
	ex exchange.Exchange

	// How far it has come.
	remoteClosed bool  // END_STREAM was received
	localClosed  bool  // END_STREAM was sent
	err          error // the stream is no longer the connection's, and why
	malformed    string
	informed     bool // 100 (Continue) was sent
	answered     bool // the final response's header section was sent
	tunnels      bool // extended CONNECT, or CONNECT

	// Receiving.
	recv       recvWindow
	inbox      inbox
	lent       int    // bytes that Next has returned and that were not given back
	view       []byte // the same
	declared   int64  // content-length, or -1
	received   int64
	trailers   exchange.Fields
	bodyErr    error
	bodyClosed bool
	readable   sync.Cond

	// Sending.
	send     sendWindow
	pending  []byte // is lent by who waits for writable
	last     bool   // END_STREAM goes with the last of pending
	stalled  bool
	writable sync.Cond
	priority section.Priority
	queued   bool
	at       uint8 // the queue's list
	next     *stream

	// timer bounds how long the stream waits for the client. It is registered
	// when it first has to wait.
	timer deadline.Conn
	timed bool
}

var (
	errReset     = &exchange.ClientError{Status: 400, Reason: "stream_reset", Err: errors.New("the client has reset the stream")}
	errConnLost  = &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: errors.New("the client's connection has ended")}
	errMalformed = &exchange.ClientError{Status: 400, Reason: "malformed_content", Err: errors.New("the client has broken the rules of the stream")}
	errBodyLong  = &exchange.ClientError{Status: 413, Reason: "content_too_large", Err: errors.New("the content is longer than it may be")}
	errBodySlow  = &exchange.ClientError{Status: 408, Reason: "content_timeout", Err: errors.New("the content has paused for too long")}
	errNoWindow  = errors.New("the client does not read")
)

var streams = sync.Pool{New: func() any { return new(stream) }}

// newStream returns a stream for the connection. mu is held.
func newStream(c *ServerConn, id uint32) *stream {
	st := streams.Get().(*stream)
	st.c, st.id = c, id
	st.readable.L, st.writable.L = &c.mu, &c.mu
	st.recv = newRecvWindow(c.opts.StreamWindow)
	st.send = sendWindow(c.window)
	st.ex.Conn, st.ex.Client = c.info, st
	st.ex.Start = time.Now()
	return st
}

// reuse makes the stream ready for another request.
func (st *stream) reuse() {
	if st.timed {
		st.timer.Stop()
	}
	st.ex.Reset()
	st.ex.Conn, st.ex.Client = nil, nil
	st.c = nil
	st.remoteClosed, st.localClosed, st.err, st.malformed = false, false, nil, ""
	st.informed, st.answered, st.tunnels = false, false, false
	st.lent, st.view, st.declared, st.received, st.trailers = 0, nil, 0, 0, st.trailers[:0]
	st.bodyErr, st.bodyClosed = nil, false
	st.pending, st.last, st.stalled = nil, false, false
	st.timed = false
	streams.Put(st)
}

// accept fills ex.In from a decoded block. It returns a reason if the request
// is not to be served: with the status to answer, or 0 if it is malformed.
func (st *stream) accept(s *section.Section, end bool) (status int, reason string) {
	c, in := st.c, &st.ex.In
	in.Proto, in.Scheme = exchange.HTTP2, c.scheme
	st.tunnels, status, reason = s.Accept(in, &st.ex.Arena, section.Limits{
		MaxPath: c.opts.MaxPath, MaxBody: c.opts.MaxBody, AllowConnect: c.opts.AllowConnect, RefuseUnderscores: c.opts.RefuseUnderscores,
	}, (*requestBody)(st), end)
	st.remoteClosed, st.declared, st.priority = end, s.Length, section.ParsePriority(s.Priority)
	return status, reason
}

// gone takes a stream out of the connection; its worker finds out. mu is held.
func (c *ServerConn) gone(st *stream, err error) {
	if st.err != nil {
		return
	}
	st.err = err
	delete(c.streams, st.id)
	c.ready.remove(st)
	st.readable.Broadcast()
	st.writable.Broadcast()
	c.setPhase()
	if err != nil && !st.localClosed {
		// Not here: it may take the lock of the upstream's connection, whose owner
		// may want ours.
		go st.ex.Abandon(st.ex.Turn())
	}
}

// Run serves the request. It implements link.Task.
func (st *stream) Run() {
	c, ex := st.c, &st.ex
	c.handler.Serve(ex)
	var err error
	if st.tunnels {
		err = st.tunnel()
	} else {
		err = st.respond()
	}
	c.mu.Lock()
	ex.Received = st.received
	c.mu.Unlock()
	c.handler.Done(ex, err)
	st.finish(err)
}

// finish ends the stream on the connection.
func (st *stream) finish(err error) {
	c := st.c
	c.mu.Lock()
	if st.malformed != "" {
		malformed := st.malformed
		c.mu.Unlock()
		c.handler.Malformed(c.info, 0, malformed)
		c.mu.Lock()
	}
	if st.err == nil {
		switch {
		case !st.localClosed:
			code := InternalError
			if st.stalled {
				code = Cancel
			}
			c.out = appendRSTStream(c.out, st.id, code)
			c.remember(st.id)
		case !st.remoteClosed:
			// The rest of the request is of no use, RFC 9113 section 8.1.
			c.out = appendRSTStream(c.out, st.id, NoError)
			c.remember(st.id)
		}
		c.gone(st, errBodyClosed)
	}
	unread := st.lent
	for p := st.inbox.take(); p != nil; p = st.inbox.take() {
		unread += len(p)
	}
	st.inbox.release()
	if unread > 0 {
		c.giveConn(unread)
	}
	c.serving--
	c.setPhase()
	c.endIfDrained()
	if c.ending || c.err != nil {
		c.served.Broadcast()
	} else if c.flush(); c.phase == phaseIdle {
		c.putAway()
	}
	c.mu.Unlock()
	st.reuse()
}

// watch registers the stream's timer. mu is held, but not all the time: it
// reports true if it was given up, so that the caller looks again.
func (st *stream) watch() bool {
	if st.timed {
		return false
	}
	// The janitor's locks come before ours.
	st.timed = true
	st.c.mu.Unlock()
	st.timer.Start((*streamTimer)(st))
	st.c.mu.Lock()
	return true
}

// streamTimer is what the janitor sees of a stream.
type streamTimer stream

// SetReadDeadline implements deadline.Deadliner: the client is late with content.
func (t *streamTimer) SetReadDeadline(time.Time) error {
	c, st, id := t.c, (*stream)(t), t.id
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.streams[id] == st && !st.remoteClosed {
			st.failBody(errBodySlow)
		}
	}()
	return nil
}

// SetWriteDeadline implements deadline.Deadliner: the client is late with its window.
func (t *streamTimer) SetWriteDeadline(time.Time) error {
	c, st, id := t.c, (*stream)(t), t.id
	go func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.streams[id] != st || st.pending == nil {
			return
		}
		st.stalled = true
		st.malformed = "stalled_window"
		st.writable.Broadcast()
		if c.send <= 0 {
			c.fail(errStalled)
		} else if !c.provoked.Spend(1, c.opts.Resets, c.opts.Resets/4, now()) {
			c.fail(errProvoked)
		}
	}()
	return nil
}
