package h1

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
)

// requestBody is a request's content as the server side receives it.
type requestBody struct {
	s  *ServerConn
	ex *exchange.Exchange
	// mu is held in Next, so that finish waits for whoever is still in it.
	mu       sync.Mutex
	d        decoder
	expected bool // the client waits for 100 (Continue)
	received atomic.Int64
	max      int64
	failure  error
	failed   atomic.Bool // failure is set

	look   func(fd uintptr) bool // readPresent, made once
	looked bool                  // Ready has done so

	// complete is set once all of the content has been received and handed out.
	complete atomic.Bool
	closed   atomic.Bool
	reading  atomic.Bool // Next is about to read or reads
	kicked   atomic.Bool // Close has made the connection's reads fail
}

var errBodyClosed = errors.New("the content was given up")

func (b *requestBody) begin(in *reader, ex *exchange.Exchange, kind framing, opts *ServerOptions) {
	b.ex = ex
	b.d.reset(in, kind, ex.In.Length, opts.MaxHeaderBytes, opts.MaxHeaderCount)
	b.expected = ex.In.ExpectContinue
	b.received.Store(0)
	b.max, b.failure, b.looked = opts.MaxBody, nil, false
	b.complete.Store(b.d.done())
	b.closed.Store(false)
	b.failed.Store(false)
	b.kicked.Store(false)
}

// Ready implements exchange.Body. Once in each exchange it looks whether more
// has come than was read with the head: a short content goes on with its head
// then, in one write and by one goroutine.
func (b *requestBody) Ready() bool {
	if b.failure != nil || b.d.ready() {
		return true
	}
	if b.looked || b.expected || b.s.Raw == nil || b.d.kind != framedLength {
		return false
	}
	b.looked = true
	b.mu.Lock()
	defer b.mu.Unlock()
	in := b.d.in
	in.makeRoom(b.d.want())
	before := in.w
	// If the connection is not to be read any more, Next learns it.
	_ = b.s.Raw.Read(b.look)
	return in.w > before
}

// readPresent reads what is there, without waiting. An error comes again when
// more is waited for.
func (b *requestBody) readPresent(fd uintptr) bool {
	in := b.d.in
	n, _ := link.RawRead(fd, in.buf[in.w:])
	in.w += n
	return true
}

// Next implements exchange.Body. Its errors are *exchange.ClientError.
func (b *requestBody) Next() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.failure != nil {
			return nil, b.failure
		}
		p, err := b.d.next()
		switch {
		case err == io.EOF:
			if b.complete.CompareAndSwap(false, true) || len(b.d.trailers) > 0 {
				b.handOverTrailers()
			}
			return nil, io.EOF
		case err != nil:
			return nil, b.fail(err)
		case p != nil:
			b.expected = false
			if n := b.received.Add(int64(len(p))); b.max > 0 && n > b.max {
				return nil, b.fail(errBodyLong)
			}
			if b.d.done() {
				b.complete.Store(true)
			}
			return p, nil
		}
		if err := b.read(); err != nil {
			if b.closed.Load() {
				return nil, errBodyClosed
			}
			return nil, b.fail(err)
		}
	}
}

func (b *requestBody) handOverTrailers() {
	b.ex.In.Trailers = append(b.ex.In.Trailers, b.d.trailers...)
	b.ex.Out.Trailers = append(b.ex.Out.Trailers, b.d.trailers...)
	b.d.trailers = b.d.trailers[:0]
}

// read reads more of the content into the buffer.
func (b *requestBody) read() error {
	if b.expected {
		// The client is waiting unless it has sent something all the same.
		b.expected = false
		if len(b.d.in.buffered()) == 0 {
			if err := b.s.informContinue(); err != nil {
				return err
			}
		}
	}
	b.reading.Store(true)
	defer b.reading.Store(false)
	if b.closed.Load() {
		return errBodyClosed
	}
	if !b.s.DL.Read(b.s.opts.BodyTimeout) {
		return errTimeout
	}
	err := b.d.in.fill(b.d.want())
	if !b.s.DL.Read(0) && err == nil {
		err = errTimeout
	}
	if errors.Is(err, io.EOF) {
		err = b.d.ended()
	}
	return err
}

// fail makes an error final, and the client's.
func (b *requestBody) fail(err error) error {
	failure := &exchange.ClientError{Status: 400, Reason: "connection_lost", Err: err}
	if r, ok := err.(*refusal); ok {
		failure.Status, failure.Reason = r.status, r.reason
	} else if link.IsTimeout(err) {
		failure.Status, failure.Reason = 408, "content_timeout"
	}
	b.failure = failure
	b.failed.Store(true)
	return failure
}

// Close implements exchange.Body.
func (b *requestBody) Close() {
	if b.complete.Load() {
		return
	}
	b.closed.Store(true)
	if b.reading.Load() && b.kicked.CompareAndSwap(false, true) {
		_ = b.s.NC.SetReadDeadline(link.LongAgo)
	}
}

// finish ends the exchange's use of the content, and reports whether the
// connection's next bytes are a request: it reads what is left of the content
// if the connection is to be kept and there is not too much of it.
func (b *requestBody) finish(keep bool) bool {
	if b.complete.Load() && !b.kicked.Load() {
		return true
	}
	b.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kicked.Load() {
		_ = b.s.NC.SetReadDeadline(time.Time{})
	}
	if b.d.done() {
		return true
	}
	if !keep || b.expected || b.failure != nil || !b.s.DL.Read(drainTimeout) {
		return false
	}
	for drained := 0; drained <= drainLimit; {
		p, err := b.d.next()
		if err != nil {
			return err == io.EOF && b.s.DL.Read(0)
		}
		if drained += len(p); len(p) == 0 && b.d.in.fill(b.d.want()) != nil {
			return false
		}
	}
	return false
}
