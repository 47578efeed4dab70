package h2

import (
	"cmp"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// ClientStream is one exchange's use of a ClientConn. It belongs to one
// goroutine, from ClientConn.Open to Finish.
//
// For each exchange call RoundTrip, pull ex.Response.Body, then Finish.
type ClientStream struct {
	c    *ClientConn
	ex   *exchange.Exchange
	pump pump
	tun  clientTunnel
	// continueAt is until when the content waits for 100 (Continue).
	continueAt time.Time
	reused     bool // the connection had carried a response before

	// All that follows is guarded by c.mu.

	// cond is signalled when the reader, or the timer, has news.
	cond  sync.Cond
	timer *time.Timer
	armed time.Time // when the timer fires; zero if it is stopped

	id        uint32 // 0 until the request's head is sent
	head      responseHead
	answered  bool // head is there
	interims  []interim
	informed  int // interim responses that came
	method    string
	inbox     inbox
	length    int64 // of the content that is still to come; -1 if unknown
	bodiless  bool  // the response has no content, whatever it says
	trailers  exchange.Fields
	ended     bool  // END_STREAM came
	err       error // why nothing more will come
	gone      bool  // RST_STREAM was sent or received
	sentAll   bool  // END_STREAM was sent
	tail      int64 // where the flags of the last DATA frame are, as outbox.base counts
	closed    bool  // the response's body was given up
	finished  bool  // nothing is to be sent any more
	tunnelled bool  // what comes is a tunnel's, and has no deadline but Timeouts.End

	send    sendWindow
	recv    recvWindow
	starved bool // who pulls has waited since the window was last given back
	granted int32
	// progress is when something was last sent or received, on the clock of
	// package deadline.
	progress time.Duration
}

// responseHead is a response's head as it came.
type responseHead struct {
	status int
	length int64 // -1 if it has none
	fields exchange.Fields
}

// interim is an interim response that nobody has forwarded yet.
type interim struct {
	status int
	fields exchange.Fields
}

// interimLimit is how many interim responses an exchange may have.
const interimLimit = 64

func newClientStream(c *ClientConn) *ClientStream {
	s := &ClientStream{c: c}
	s.cond.L = &c.mu
	s.timer = time.AfterFunc(time.Hour, s.wake)
	s.timer.Stop()
	s.pump.init(s)
	return s
}

// open makes the stream ready for an exchange. c.mu is held.
func (s *ClientStream) open() {
	s.id, s.answered, s.ended, s.gone, s.sentAll, s.closed, s.finished = 0, false, false, false, false, false, false
	s.err, s.tail, s.granted, s.informed = nil, -1, 0, 0
	s.starved, s.bodiless, s.tunnelled = false, false, false
	s.continueAt = time.Time{}
	s.reused = s.c.served > 0
}

// wake is what the timer does. That it is time is for who waits to find out.
func (s *ClientStream) wake() {
	s.c.mu.Lock()
	s.armed = time.Time{}
	s.cond.Broadcast()
	s.c.mu.Unlock()
}

// fail says that nothing more will come. c.mu is held.
func (s *ClientStream) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.cond.Broadcast()
}

// reset gives the stream up, on both sides. c.mu is held. It reports whether
// there is something to be sent, and a flush must follow.
func (s *ClientStream) reset(code ErrCode, err error) (flush bool) {
	c := s.c
	s.fail(err)
	if s.id == 0 || s.gone || s.ended && s.sentAll || c.err != nil {
		return false
	}
	s.gone = true
	delete(c.streams, s.id)
	c.out = appendRSTStream(c.out, s.id, code)
	c.resets++
	c.askAboutResets()
	return true
}

// RoundTrip sends ex.Out and fills ex.Response with the final response's head;
// interim responses go to ex.Client. The error is an *exchange.UpstreamError
// or, if it was the request's content that failed or the client has given the
// exchange up, an *exchange.ClientError. Finish must be called after an error, too.
//
// Where the peer says that it has not acted on the request, or the connection
// was lost before anything was sent, the error has Stage Stale and is Unsent,
// and ex.Out is as it was: its content can be pulled from the beginning.
func (s *ClientStream) RoundTrip(ex *exchange.Exchange) error {
	s.ex = ex
	ex.Response.Fields, ex.Response.Trailers = ex.Response.Fields[:0], ex.Response.Trailers[:0]
	if !ex.Await((*awaitedHead)(s)) {
		return exchange.ErrAbandoned
	}
	err := s.roundTrip()
	ex.Await(nil)
	if err != nil {
		return s.explain(err)
	}
	return nil
}

// awaitedHead is the stream while an exchange waits for its response's head.
type awaitedHead ClientStream

// Close implements exchange.Closer.
func (a *awaitedHead) Close() {
	a.c.mu.Lock()
	(*ClientStream)(a).fail(exchange.ErrAbandoned)
	a.c.mu.Unlock()
}

func (s *ClientStream) roundTrip() error {
	if err := s.sendRequest(); err != nil {
		return err
	}
	c := s.c
	began := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { s.ex.Upstream.Wait += time.Since(began) }()
	for {
		switch {
		case len(s.interims) > 0:
			if err := s.inform(); err != nil {
				return err
			}
		case s.answered:
			s.begin()
			return nil
		case s.err != nil:
			return s.err
		default:
			until := s.until()
			held := !s.continueAt.IsZero() && (until.IsZero() || s.continueAt.Before(until))
			if held {
				until = s.continueAt
			}
			if s.await(until, s.idleTimeout()) {
				continue
			}
			if held {
				s.proceed()
				continue
			}
			s.reset(Cancel, errTimeout)
			c.flushAside()
		}
	}
}

// flush is the connection's, for who may have a time to keep: the peer may keep
// who writes over TLS waiting for longer. c.mu is held.
func (s *ClientStream) flush() {
	if s.until().IsZero() {
		s.c.flush()
	} else {
		s.c.flushAside()
	}
}

// until is when the exchange, or its try, must be over; zero if it has no such time.
func (s *ClientStream) until() time.Time {
	if s.tunnelled {
		return s.ex.Timeouts.End
	}
	at := s.ex.Deadline
	if try := s.ex.TryDeadline; at.IsZero() || !try.IsZero() && try.Before(at) {
		at = try
	}
	return at
}

// idleTimeout is how long the endpoint may be silent.
func (s *ClientStream) idleTimeout() time.Duration {
	return cmp.Or(s.ex.Timeouts.Idle, s.c.opts.ReadTimeout)
}

// await waits until there is news. It reports false if it is time: until, or
// the peer was silent for too long. c.mu is held, but not while it waits.
func (s *ClientStream) await(until time.Time, silence time.Duration) bool {
	now := time.Now()
	at := now.Add(silence - (deadline.Now() - s.progress))
	if !until.IsZero() && until.Before(at) {
		at = until
	}
	if !now.Before(at) {
		return false
	}
	// A timer that fires too early only makes us look again.
	if s.armed.IsZero() || at.Before(s.armed) {
		s.armed = at
		s.timer.Reset(at.Sub(now))
	}
	s.cond.Wait()
	return true
}

// inform forwards an interim response. c.mu is held, but not all the time.
func (s *ClientStream) inform() error {
	next := s.interims[0]
	s.interims = s.interims[1:]
	if next.status == 100 {
		// The server side asks its client by itself, as soon as we pull.
		s.proceed()
		return nil
	}
	s.c.mu.Unlock()
	err := s.ex.Client.Inform(next.status, next.fields)
	s.c.mu.Lock()
	if err != nil {
		return &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: err}
	}
	return nil
}

// begin hands the final response over. c.mu is held.
func (s *ClientStream) begin() {
	r := &s.ex.Response
	s.continueAt = time.Time{}
	r.Status, r.Reason, r.Proto = s.head.status, "", exchange.HTTP2
	r.Fields = append(r.Fields, s.head.fields...)
	r.Length, r.Body = s.head.length, (*responseBody)(s)
	switch {
	case s.pump.tunnel && s.head.status < 300:
		s.openTunnel()
	case s.bodiless:
		r.Body = nil
		if s.ex.Out.Method != "HEAD" && r.Status != 304 {
			r.Length = 0
		}
	case s.ended && !s.inbox.unread() && len(s.trailers) == 0:
		r.Length, r.Body = 0, nil
	case r.Length > 0 && r.Fields.Find(exchange.KeyTrailer) >= 0:
		r.Length = -1 // HTTP/1.1 can have one or the other, RFC 9112 section 7.1.2
	}
}

// Finish ends the exchange's use of the stream: the response's body is no
// longer valid, and ex.Out.Body is nobody's but the caller's. A stream that is
// not at its end on both sides is reset.
func (s *ClientStream) Finish() {
	c := s.c
	s.pump.finish()
	c.mu.Lock()
	defer c.mu.Unlock()
	code := Cancel
	if s.ended {
		code = NoError // RFC 9113 section 8.1
	}
	// What others have gathered is theirs to send: flushing it here would undo that.
	if s.reset(code, errClosed) {
		defer c.flushAside()
	}
	if s.id != 0 {
		delete(c.streams, s.id)
	}
	c.budget += s.granted
	s.inbox.release()
	s.interims, s.trailers = nil, s.trailers[:0]
	s.ex = nil
	c.open--
	if c.err != nil {
		s.timer.Stop() // else it goes on for the next exchange
	} else {
		c.free = append(c.free, s)
	}
	c.closeIfDone()
}

// explain says what an error means to the caller.
func (s *ClientStream) explain(err error) error {
	var client *exchange.ClientError
	if errors.As(err, &client) {
		return client
	}
	s.c.mu.Lock()
	answered, sent := s.answered, s.id != 0
	s.c.mu.Unlock()
	e := &exchange.UpstreamError{Stage: exchange.Sending, Reason: "reset", Err: err}
	var broken *connError
	var malformed *streamError
	var peer *peerReset
	switch {
	case errors.Is(err, errRefused):
		e.Reason = "refused"
	case errors.Is(err, errAway):
		e.Reason = "goaway"
	case errors.Is(err, errTimeout), errors.Is(err, errSilent):
		e.Reason = "timeout"
	case errors.Is(err, errUpgrade):
		e.Reason = "upgrade_refused"
	case errors.As(err, &malformed), errors.As(err, &broken):
		e.Reason = "malformed_response"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, errClosed):
		e.Reason = "closed"
	case link.IsAlert(err):
		e.Reason = "tls_alert"
	case errors.As(err, &peer):
	}
	switch {
	case answered:
		e.Stage = exchange.Receiving
	case errors.Is(err, errRefused), errors.Is(err, errAway):
		e.Stage, e.Unsent = exchange.Stale, s.pump.restore()
	case errors.Is(err, errUpgrade), !sent && !s.reused:
		e.Stage, e.Unsent = exchange.Dialing, true
	case !sent:
		e.Stage, e.Unsent = exchange.Stale, true
	case s.reused && isGone(err):
		e.Stage = exchange.Stale
	}
	return e
}

// peerReset is an RST_STREAM that came.
type peerReset struct{ code ErrCode }

func (e *peerReset) Error() string { return "the peer has reset the stream: " + e.code.String() }

// isGone reports whether the peer has closed or reset the connection.
func isGone(err error) bool {
	return errors.Is(err, errClosed) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
}

// responseBody is a response's content: a ClientStream as exchange.Body.
type responseBody ClientStream

// Ready implements exchange.Body.
func (b *responseBody) Ready() bool {
	b.c.mu.Lock()
	defer b.c.mu.Unlock()
	return b.inbox.unread() || b.ended || b.err != nil || b.closed
}

// Next implements exchange.Body. Its errors are *exchange.UpstreamError.
func (b *responseBody) Next() ([]byte, error) {
	s := (*ClientStream)(b)
	p, err := s.next(s.idleTimeout())
	if err == io.EOF {
		if len(s.trailers) > 0 {
			s.ex.Response.Trailers = append(s.ex.Response.Trailers, s.trailers...)
			s.trailers = s.trailers[:0]
		}
		return nil, io.EOF
	}
	if err != nil && err != errBodyClosed {
		return nil, s.explain(err)
	}
	return p, err
}

var errBodyClosed = errors.New("the content was given up")

// next returns content as it comes, and io.EOF behind its end.
func (s *ClientStream) next(silence time.Duration) ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if p := s.inbox.take(); len(p) > 0 {
			s.give(len(p))
			return p, nil
		}
		switch {
		case s.ended:
			return nil, io.EOF
		case s.closed:
			return nil, errBodyClosed
		case s.err != nil:
			return nil, s.err
		}
		s.starved = true
		began := time.Now()
		if !s.await(s.until(), silence) {
			s.reset(Cancel, errTimeout)
			c.flushAside()
		}
		s.ex.Upstream.Wait += time.Since(began)
	}
}

// give lets the peer send more, for n bytes that were pulled. c.mu is held.
func (s *ClientStream) give(n int) {
	c := s.c
	if s.ended || s.gone {
		return
	}
	increment := s.recv.give(n)
	if increment == 0 {
		return
	}
	// Who pulls has waited for the peer, so the window may be what holds it up.
	if more := s.recv.size; s.starved && more <= c.opts.MaxStreamWindow/2 && more <= c.budget {
		c.budget -= more
		s.granted += more
		increment += s.recv.grow(2 * more)
	}
	s.starved = false
	c.out = appendWindowUpdate(c.out, s.id, increment)
	s.flush()
}

// Close implements exchange.Body.
func (b *responseBody) Close() {
	b.c.mu.Lock()
	b.closed = true
	b.cond.Broadcast()
	b.c.mu.Unlock()
}
