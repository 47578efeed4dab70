package h1

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/syntax"
)

// ServerConn serves one client's connection.
type ServerConn struct {
	conn
	awaiter link.Awaiter
	info    *exchange.Conn
	handler exchange.Handler
	opts    *ServerOptions // complete
	preface []byte         // see Preface

	// work is nil while the connection waits for a request.
	work     *work
	requests int

	resting   bool      // see Resting
	idleSince time.Time // zero unless the connection has rested since its last request

	// watch is nil unless an exchange waits for its upstream.
	watch     atomic.Pointer[clientWatch]
	state     atomic.Int32
	announced atomic.Bool // the next response is the last
	draining  atomic.Bool // announced, and nothing is waited for
	drainMu   sync.Mutex  // held while Drain wakes an idle connection

	// interim orders what is sent before a final response by the goroutine that
	// pumps the request's content with that response. Beyond it, only the
	// serving goroutine writes.
	interim   sync.Mutex
	finalSent bool
}

// The states of a connection, as Drain sees them.
const (
	idle   int32 = iota
	active       // an exchange is in progress
	woken        // idle, and Drain makes its read fail
)

// work is what a connection has while it serves a request.
type work struct {
	ex     exchange.Exchange
	in     reader
	scan   headScan
	head   requestHead
	body   requestBody
	writer writer
}

var works = sync.Pool{New: func() any {
	w := new(work)
	w.body.look = w.body.readPresent
	return w
}}

// Bounds on what is read from a client that sends more than we want of it.
const (
	drainLimit    = 256 << 10
	drainTimeout  = 2 * time.Second
	lingerTimeout = 2 * time.Second
)

// NewServerConn makes the server side of an accepted connection. A nil opts
// means the defaults. The connection belongs to the ServerConn from here on.
func NewServerConn(c net.Conn, info *exchange.Conn, h exchange.Handler, opts *ServerOptions) *ServerConn {
	s := &ServerConn{info: info, handler: h, opts: opts.Complete()}
	s.Open(c)
	s.awaiter.Init(&s.conn, s.takeWork, s.dropWork)
	return s
}

// Serve reads requests and answers them, in order, until the connection ends.
// Tunnels run inside it. It closes the connection before it returns, unless
// that rests.
func (s *ServerConn) Serve() {
	s.resting = false
	s.DL.Ring = s.late
	s.DL.Start(s.NC)
	defer func() {
		if !s.resting {
			s.end()
		}
	}()
	for s.awaitRequest() && s.serveRequest() {
	}
}

// Resting returns for how much longer the connection may wait for a request,
// if that is why Serve has returned: it needs nobody then, until there is
// something to read, the time is over, or it is drained or closed, and Serve is
// called again. It returns 0 if the connection has ended.
func (s *ServerConn) Resting() time.Duration {
	if !s.resting {
		return 0
	}
	return max(s.opts.IdleTimeout-time.Since(s.idleSince), 1)
}

// Preface returns what was read off a connection that turned out to speak
// HTTP/2, if the options say that it may, or nil. It may be called when Serve
// has returned; the connection is open then, and the caller's.
func (s *ServerConn) Preface() []byte { return s.preface }

func (s *ServerConn) end() {
	s.DL.Stop()
	if s.preface == nil {
		_ = s.NC.Close()
	}
	s.dropWork()
}

// Announce ends the connection with its next response, which says
// Connection: close (RFC 9112 section 9.6). Until there is one it goes on. It may
// be called from any goroutine, more than once.
func (s *ServerConn) Announce() { s.announced.Store(true) }

// Drain ends the connection soon: at once if it is idle, else after the
// exchange in progress, whose response says Connection: close. A tunnel goes
// on until it ends by itself. Drain may be called from any goroutine, more than once.
func (s *ServerConn) Drain() {
	s.drainMu.Lock()
	defer s.drainMu.Unlock()
	s.announced.Store(true)
	s.draining.Store(true)
	if s.state.CompareAndSwap(idle, woken) {
		_ = s.NC.SetReadDeadline(link.LongAgo)
	}
}

// Close cuts the connection off at once. It may be called from any goroutine.
func (s *ServerConn) Close() error { return s.NC.Close() }

// takeWork provides the room for the first bytes of a request.
func (s *ServerConn) takeWork() []byte {
	if s.work == nil {
		w := works.Get().(*work)
		w.in.src = s.NC
		w.in.poisoned = s.opts.Poison
		w.body.s = s
		w.writer.conn, w.writer.timeout = &s.conn, s.opts.WriteTimeout
		s.work = w
	}
	in := &s.work.in
	if in.buf == nil {
		in.buf = link.TakeBuffer(link.SmallBuffer)
	}
	return in.buf[in.w:]
}

func (s *ServerConn) dropWork() {
	w := s.work
	if w == nil {
		return
	}
	s.work = nil
	w.writer.release()
	w.in.forget()
	w.in.r, w.in.w = 0, 0
	if len(w.in.buf) != link.SmallBuffer {
		w.in.release()
	}
	w.in.src, w.body.s, w.writer.conn = nil, nil, nil
	w.ex.Conn, w.ex.Client = nil, nil
	works.Put(w)
}

// awaitRequest waits for the first bytes of a request.
func (s *ServerConn) awaitRequest() bool {
	if s.work != nil && s.work.in.r < s.work.in.w {
		return true // it was pipelined
	}
	s.state.Store(idle)
	n, ok := s.awaitInput()
	if !ok {
		return false
	}
	s.idleSince = time.Time{}
	s.work.in.w += n
	if !s.state.CompareAndSwap(idle, active) {
		// A request came just as Drain woke us. It is answered.
		s.drainMu.Lock()
		_ = s.NC.SetReadDeadline(time.Time{})
		s.state.Store(active)
		s.drainMu.Unlock()
	}
	return true
}

// awaitInput waits for a client that says nothing. It reports false if the
// connection ends, or rests.
func (s *ServerConn) awaitInput() (n int, ok bool) {
	wait := s.opts.IdleTimeout
	if !s.idleSince.IsZero() {
		wait -= time.Since(s.idleSince)
	}
	rests := s.opts.RestAfter > 0 && s.opts.RestAfter < wait
	if rests {
		wait = s.opts.RestAfter
	}
	if wait <= 0 || s.draining.Load() || !s.DL.Read(wait) {
		return 0, false
	}
	n, err := s.awaiter.Await()
	if s.DL.Read(0) {
		return n, err == nil
	}
	if !rests {
		return 0, false
	}
	// It was not the last deadline that has passed: the connection is as before.
	s.DL.Stop()
	_ = s.NC.SetReadDeadline(time.Time{})
	if n > 0 {
		s.DL.Start(s.NC)
		return n, true
	}
	s.resting = true
	if s.idleSince.IsZero() {
		s.idleSince = time.Now().Add(-wait)
	}
	return 0, false
}

// serveRequest serves one exchange, and reports whether the connection goes on.
func (s *ServerConn) serveRequest() bool {
	w := s.work
	ex := &w.ex
	ex.Conn, ex.Client = s.info, s
	ex.Start = time.Now()
	err := s.readHead(w)
	if err == nil {
		err = s.accept(w)
	}
	if err != nil {
		if err != error(errVersionUnknown) || !s.takePreface(&w.in) {
			s.refuse(err)
		}
		ex.Reset()
		return false
	}
	s.watchSoon()
	s.handler.Serve(ex)
	keep, tunnelled, failure := false, false, error(nil)
	if ex.Response.Tunnel != nil {
		s.unwatch()
		tunnelled = true
		failure = s.tunnel(ex)
	} else {
		keep, failure = s.respond(ex)
		s.unwatch()
	}
	ex.Received = w.body.received.Load()
	s.handler.Done(ex, failure)
	w.writer.release()

	if !tunnelled && failure == nil && !w.body.finish(keep) {
		keep = false
		s.linger()
	} else if !keep && failure == nil && !tunnelled && w.head.persistent {
		s.linger() // it was not the client's wish, so it may be sending more
	}
	ex.Reset()
	w.in.forget()
	return keep && failure == nil
}

// mayPreface reports whether what comes first may be HTTP/2's preface.
func (s *ServerConn) mayPreface() bool {
	return s.opts.HTTP2 && s.info.TLS == nil && s.requests == 0
}

// takePreface finds out whether the client speaks HTTP/2. Its preface is a
// head that names another version, so that nobody else is asked.
func (s *ServerConn) takePreface(in *reader) bool {
	const preface = "PRI * HTTP/2.0\r\n\r\n"
	if !s.mayPreface() || in.r > 0 || len(in.buffered()) < len(preface) || string(in.buffered()[:len(preface)]) != preface {
		return false
	}
	s.preface = append([]byte(nil), in.buffered()...)
	return true
}

// readHead reads a request's head and parses it.
func (s *ServerConn) readHead(w *work) error {
	w.scan.reset()
	in := &w.in
	size, timed, skipped := 0, false, false
	limits := headLimits{firstLine: s.opts.MaxRequestLine, bytes: s.opts.MaxHeaderBytes, lines: s.opts.MaxHeaderCount}
	for {
		head := in.buffered()
		if !skipped && len(head) >= 2 && head[0] == '\r' && head[1] == '\n' {
			// One empty line is allowed for, RFC 9112 section 2.2.
			in.r, skipped = in.r+2, true
			continue
		}
		if len(head) > 0 {
			if syntax.Classes[head[0]]&syntax.TChar == 0 && (head[0] != '\r' || skipped) {
				return errMethod // not HTTP; its first line may never end
			}
			var err *refusal
			if size, err = w.scan.scan(head, &limits); err != nil {
				return err
			}
			if size > 0 {
				break
			}
		}
		if !timed {
			// For the whole head, however often a byte comes.
			timed = true
			if !s.DL.Read(s.opts.HeaderTimeout) {
				return errTimeout
			}
		}
		if err := in.fill(1); err != nil {
			return headFailure(err, in.r == in.w)
		}
	}
	if timed && !s.DL.Read(0) {
		return errHeaderTimeout
	}
	if err := parseRequest(in.buffered()[:size], w.scan.ends, &w.ex, &w.head, s.opts); err != nil {
		return err
	}
	in.r += size
	in.keep()
	return nil
}

func headFailure(err error, nothing bool) error {
	switch {
	case nothing:
		return err
	case link.IsTimeout(err):
		return errHeaderTimeout
	case errors.Is(err, io.EOF):
		return errTruncatedHead
	}
	return err
}

// accept prepares the exchange for the handler.
func (s *ServerConn) accept(w *work) error {
	s.requests++
	s.finalSent = false
	w.ex.In.Scheme = "http"
	if s.info.TLS != nil {
		w.ex.In.Scheme = "https"
	}
	w.body.begin(&w.in, &w.ex, w.head.kind, s.opts)
	if w.head.kind != framedNone {
		w.ex.In.Body = &w.body
	}
	return nil
}

// refuse answers a request that cannot be served, if it can be answered.
func (s *ServerConn) refuse(err error) {
	r, ok := err.(*refusal)
	if !ok {
		if s.work.in.r < s.work.in.w {
			s.handler.Malformed(s.info, 0, "connection_lost")
		}
		return
	}
	if r == errNotHTTP && s.mayPreface() {
		// It speaks neither version, and to who gets HTTP/2's preface wrong our
		// answer would be nonsense: RFC 9113 section 3.4 has the connection
		// closed without a word.
		s.handler.Malformed(s.info, 0, r.reason)
		return
	}
	s.handler.Malformed(s.info, r.status, r.reason)
	w := &s.work.writer
	w.begin()
	defer w.release()
	w.out = appendStatus(w.out, r.status, "")
	w.out = appendDate(w.out)
	w.out = append(w.out, "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"...)
	w.out = appendLength(w.out, int64(len(r.reason)+1))
	w.out = append(w.out, "\r\n"...)
	w.out = append(w.out, r.reason...)
	w.out = append(w.out, '\n')
	if w.flush() == nil {
		s.linger()
	}
}

// linger ends our direction and reads on for a while: closing with unread
// bytes would reset the connection, and the client could lose the response
// that it has not read yet, RFC 9112 section 9.6.
func (s *ServerConn) linger() {
	if !link.CloseWrite(s.NC) || !s.DL.Read(lingerTimeout) {
		return
	}
	in := &s.work.in
	for read := 0; read < drainLimit; {
		in.r, in.w = in.floor, in.floor
		if in.fill(1) != nil {
			return
		}
		read += in.w - in.r
	}
}

// Inform implements exchange.Client.
func (s *ServerConn) Inform(status int, fields exchange.Fields) error {
	ex := &s.work.ex
	if ex.In.Proto == exchange.HTTP10 || status < 100 || status > 199 || status == 101 {
		return nil // RFC 9110 section 15.2
	}
	s.interim.Lock()
	defer s.interim.Unlock()
	w := &s.work.writer
	w.begin()
	w.out = appendStatus(w.out, status, "")
	w.out = appendFields(w.out, fields)
	w.out = append(w.out, '\r', '\n')
	return w.flush()
}

// informContinue asks for the request's content. It is called by whoever pulls it.
func (s *ServerConn) informContinue() error {
	s.interim.Lock()
	defer s.interim.Unlock()
	if s.finalSent {
		return nil
	}
	return s.work.writer.write(bytesOf(continueLine))
}

const continueLine = "HTTP/1.1 100 Continue\r\n\r\n"
