package h3

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/section"
)

// stream is one request and its response. It is its request's body, and the
// client of its exchange.
type stream struct {
	c   *ServerConn
	str *quic.Stream
	id  quic.StreamID
	ex  exchange.Exchange
	dec decoder

	tunnels   bool // extended CONNECT, or CONNECT
	responded bool // our side of the stream is complete

	// Receiving: of the goroutine that pulls, which may be another than the one
	// that serves. pulling is held meanwhile.
	pulling       sync.Mutex
	in            reader
	left          int64 // of the DATA frame
	declared      int64 // content-length, or -1
	received      atomic.Int64
	ended         bool // the stream was read to its end
	trailed       bool // the trailer section was read
	view          []byte
	trailers      exchange.Fields
	trailerArena  exchange.Arena
	bodyErr       error
	malformed     string
	reset         bool // the client has given up
	bodyClosed    atomic.Bool
	readsContinue atomic.Bool // content came, or 100 (Continue) was sent

	// Sending.
	out      []byte
	writing  sync.Mutex // held while something is written in front of the response
	answered bool       // no more of that; guarded by writing

	// timer bounds how long the stream waits for the client.
	timer deadline.Conn

	// unwatch ends the watch for a client that goes, which only exchanges have
	// that take long. It is the janitor's until the timer is stopped.
	unwatch func() bool
}

// watchAfter is how long an exchange may take before its client is watched. It
// costs more than most exchanges take.
const watchAfter = 250 * time.Millisecond

var (
	errReset        = &exchange.ClientError{Status: 400, Reason: "stream_reset", Err: errors.New("the client has reset the stream")}
	errConnLost     = &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: errors.New("the client's connection has ended")}
	errMalformed    = &exchange.ClientError{Status: 400, Reason: "malformed_content", Err: errors.New("the client has broken the rules of the stream")}
	errBodyLong     = &exchange.ClientError{Status: 413, Reason: "content_too_large", Err: errors.New("the content is longer than it may be")}
	errBodySlow     = &exchange.ClientError{Status: 408, Reason: "content_timeout", Err: errors.New("the content has paused for too long")}
	errBodyClosed   = errors.New("h3: the content was closed")
	errNotRead      = errors.New("h3: the client does not read")
	errContentShort = errors.New("h3: the response's content is shorter than its length")
	errContentLong  = errors.New("h3: the response's content is longer than its length")
)

var streams = sync.Pool{New: func() any {
	st := new(stream)
	st.timer.Ring = st.watch
	return st
}}

func newStream(c *ServerConn, str *quic.Stream) *stream {
	st := streams.Get().(*stream)
	st.c, st.str, st.id = c, str, str.StreamID()
	st.in.from = str
	st.dec.MaxBytes, st.dec.MaxCount = c.opts.MaxHeaderBytes, c.opts.MaxHeaderCount
	st.ex.Conn, st.ex.Client = c.info, st
	st.ex.Start = time.Now()
	return st
}

// reuse makes the stream ready for another request.
func (st *stream) reuse() {
	st.in.release()
	st.ex.Reset()
	st.ex.Conn, st.ex.Client = nil, nil
	st.c, st.str = nil, nil
	st.tunnels, st.responded = false, false
	st.left, st.declared, st.ended, st.trailed = 0, 0, false, false
	st.received.Store(0)
	st.view, st.trailers, st.bodyErr, st.malformed, st.reset = nil, st.trailers[:0], nil, "", false
	st.trailerArena.Reset()
	st.bodyClosed.Store(false)
	st.readsContinue.Store(false)
	st.answered = false
	if st.out != nil {
		link.GiveBuffer(st.out)
		st.out = nil
	}
	streams.Put(st)
}

// streamTimer is what the janitor sees of a stream.
type streamTimer stream

// SetReadDeadline implements deadline.Deadliner.
func (t *streamTimer) SetReadDeadline(at time.Time) error { return t.str.SetReadDeadline(at) }

// SetWriteDeadline implements deadline.Deadliner.
func (t *streamTimer) SetWriteDeadline(at time.Time) error { return t.str.SetWriteDeadline(at) }

// Run reads and serves the request. It implements link.Task.
func (st *stream) Run() {
	c, ex := st.c, &st.ex
	st.timer.Start((*streamTimer)(st))
	if st.readRequest() {
		st.timer.Alarm(watchAfter)
		c.handler.Serve(ex)
		var err error
		if st.tunnels {
			err = st.tunnel()
		} else {
			err = st.respond()
		}
		if err == nil {
			c.succeed()
		}
		ex.Received = st.received.Load()
		c.handler.Done(ex, err)
		st.finish(err)
	}
	st.timer.Stop()
	if st.unwatch != nil {
		st.unwatch()
		st.unwatch = nil
	}
	if !st.ended {
		// The rest of the request is of no use, RFC 9114 section 4.1.
		st.str.CancelRead(NoError.stream())
	}
	if st.malformed != "" {
		c.handler.Malformed(c.info, 0, st.malformed)
	}
	st.str.ReleaseStreamCredit()
	c.forget(st.id)
	st.reuse()
}

// watch gives the exchange up when the client does so. The janitor calls it.
func (st *stream) watch() {
	ex, turn, ctx := &st.ex, st.ex.Turn(), st.str.Context()
	st.unwatch = context.AfterFunc(ctx, func() {
		// It also ends when we end our side, which leaves a tunnel's other one open.
		if context.Cause(ctx) != quic.ErrStreamClosed {
			ex.Abandon(turn)
		}
	})
}

// finish ends both sides.
func (st *stream) finish(err error) {
	(*requestBody)(st).Close()
	st.pulling.Lock() // whoever pulls has been told to stop
	defer st.pulling.Unlock()
	if st.responded {
		return
	}
	code := InternalError
	switch {
	case st.malformed != "":
		code = MessageError
	case err == errNotRead:
		code, st.malformed = RequestCancelled, "stalled_window"
	case st.reset:
		code = RequestCancelled
	case st.tunnels:
		code = ConnectError
	}
	st.str.CancelWrite(code.stream())
}

// readRequest reads the header section. It reports false if there is nothing to
// serve; the stream has its answer then.
func (st *stream) readRequest() bool {
	c := st.c
	st.timer.Read(c.opts.HeaderTimeout)
	h, err := st.header()
	if err != nil {
		return st.failHead(err)
	}
	if h.length > int64(2*c.opts.MaxHeaderBytes) {
		return st.refuse(431, "header_too_large") // need not be read: no other section depends on it
	}
	if err := st.in.need(int(h.length)); err != nil {
		return st.failHead(err)
	}
	in := &st.ex.In
	if err := st.dec.decode(st.in.buffered()[:h.length], section.Request, &in.Fields, &st.ex.Arena); err != nil {
		return st.failHead(err)
	}
	st.in.r += int(h.length)
	s := &st.dec.Section
	end, err := st.endsHere(s)
	if err != nil {
		return st.failHead(err)
	}
	in.Proto, in.Scheme = exchange.HTTP3, "https"
	var status int
	var reason string
	st.tunnels, status, reason = s.Accept(in, &st.ex.Arena, section.Limits{
		MaxPath: c.opts.MaxPath, MaxBody: c.opts.MaxBody, AllowConnect: c.opts.AllowConnect, RefuseUnderscores: c.opts.RefuseUnderscores,
	}, (*requestBody)(st), end)
	switch {
	case reason != "" && status == 0:
		st.breakOff(reason)
		return false
	case reason != "":
		return st.refuse(status, reason)
	}
	st.timer.Read(0)
	st.ended, st.declared = end, s.Length
	if s.Priority != "" {
		p := section.ParsePriority(s.Priority)
		st.str.SetPriority(int8(p.Urgency), p.Incremental)
	}
	return c.proven() || st.early()
}

// header reads frames up to the header section's.
func (st *stream) header() (frameHeader, error) {
	for {
		h, err := st.in.header()
		switch {
		case err == io.EOF:
			return h, errNoRequest
		case err != nil, h.kind == frameHeaders:
			return h, err
		case h.kind == frameData:
			return h, errFrameUnexpected // RFC 9114 section 4.1
		}
		if err := st.other(h); err != nil {
			return h, err
		}
	}
}

// other takes a frame that is neither DATA nor HEADERS.
func (st *stream) other(h frameHeader) error {
	switch h.kind {
	case frameCancelPush, frameSettings, framePushPromise, frameGoAway, frameMaxPushID, framePriorityUpdate, framePriorityUpdateForPush:
		return errFrameUnexpected // RFC 9114 section 7.2
	}
	if h.kind.reserved() {
		return errFrameReserved
	}
	if err := st.c.nothingErr(2 + int(h.length>>10)); err != nil {
		return err
	}
	return st.in.skip(h.length)
}

// endsHere reports whether the request has no content. The end of a stream may
// come after its header section, so with methods that have no content it is
// waited for: else they would go on as if they had some.
func (st *stream) endsHere(s *section.Section) (bool, error) {
	in := &st.in
	switch s.Method {
	case "GET", "HEAD", "OPTIONS", "DELETE", "TRACE":
		if s.Length > 0 || s.Malformed != "" || s.Expect != "" {
			break
		}
		for in.r == in.w {
			if err := in.fill(); err == io.EOF {
				return true, nil
			} else if err != nil {
				return false, err
			}
		}
	}
	return in.end && in.r == in.w, nil
}

// early decides what becomes of a request that came before the handshake was
// over. A safe one goes on, and says so: who is behind us may refuse it, RFC
// 8470 section 5.1. All others wait.
func (st *stream) early() bool {
	in := &st.ex.In
	safe := !st.tunnels
	switch in.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE": // RFC 9110 section 9.2.1
	default:
		safe = false
	}
	if safe {
		if _, ok := in.Fields.Get("Early-Data"); !ok {
			in.Fields = append(in.Fields, exchange.Field{Name: "Early-Data", Value: "1"})
		}
		return true
	}
	if st.c.prove() {
		return true
	}
	st.str.CancelWrite(RequestRejected.stream())
	return false
}

// failHead ends a stream whose header section could not be read.
func (st *stream) failHead(err error) bool {
	var bad *connError
	var reset *quic.StreamError
	switch {
	case err == errCutOff:
		st.c.fail(errFrame)
	case errors.As(err, &bad):
		st.c.fail(bad)
	case err == errNoRequest:
		st.ended = true
		st.malformed = "request_incomplete"
		st.str.CancelWrite(RequestIncomplete.stream())
		st.c.provoke()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return st.refuse(408, "header_timeout")
	case errors.As(err, &reset):
		st.str.CancelWrite(RequestIncomplete.stream())
		st.c.reset()
	}
	return false
}

// breakOff ends a stream that is malformed, RFC 9114 section 4.1.2.
func (st *stream) breakOff(reason string) {
	st.malformed = reason
	st.str.CancelRead(MessageError.stream())
	st.str.CancelWrite(MessageError.stream())
	st.c.provoke()
}

// refuse answers a request that does not get to the handler.
func (st *stream) refuse(status int, reason string) bool {
	st.c.handler.Malformed(st.c.info, status, reason)
	out := appendStatus(beginSection(beginHeaders(st.takeOut())), status)
	out = appendField(appendLength(out, 0), section.Date())
	st.out = endHeaders(out, 0)
	if st.flush() == nil && st.str.Close() == nil {
		st.responded = true
	} else {
		st.str.CancelWrite(RequestCancelled.stream())
	}
	return false
}
