package h1

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/syntax"
)

// pump sends a request's content. What is ready goes out together with the
// head, by the goroutine that does the round trip; if that is not all of it, a
// goroutine of its own sends the rest, so that a response is seen when it
// comes, be it early.
type pump struct {
	c    *ClientConn
	body exchange.Body
	kind framing
	left int64

	loop    func() // run, made once
	running bool
	done    chan struct{}
	// held says that the content waits for 100 (Continue).
	held atomic.Bool
	// ending says that all of the content has been pulled, and only the last write is to come.
	ending atomic.Bool
	// ended says that all of it has been written.
	ended bool
	// failure is why the content could not be pulled. It made the connection's reads fail.
	failure  atomic.Pointer[exchange.ClientError]
	writeErr error
}

func (p *pump) init(c *ClientConn) {
	p.c = c
	p.loop = p.run
	p.done = make(chan struct{}, 1)
}

// send writes the head and what is ready of the content.
func (c *ClientConn) send() error {
	out, w, p := &c.ex.Out, &c.writer, &c.pump
	p.body, p.kind, p.left = out.Body, framedNone, 0
	p.ended, p.writeErr = false, nil
	p.held.Store(false)
	p.ending.Store(false)
	p.failure.Store(nil)
	if out.Body != nil {
		p.kind, p.left = framedChunked, out.Length
		if out.Length >= 0 {
			p.kind = framedLength
		}
	}
	expect := out.ExpectContinue && out.Body != nil && !out.Body.Ready()
	w.begin()
	w.out = c.appendRequest(w.out, p.kind, expect)
	if p.body == nil {
		p.ended = true
		err := w.flush()
		w.release()
		return err
	}
	if expect {
		if err := w.flush(); err != nil {
			return err
		}
		p.held.Store(true)
		at := time.Now().Add(c.opts.ContinueTimeout)
		if until := c.until(); !until.IsZero() && until.Before(at) {
			at = until
		}
		c.setReadDeadline(at)
		return nil
	}
	err := p.stream(false)
	if p.ended {
		w.release()
	} else if err == nil {
		p.start()
	}
	return err
}

// appendRequest appends the request's head, RFC 9112 section 3.
func (c *ClientConn) appendRequest(b []byte, kind framing, expect bool) []byte {
	out := &c.ex.Out
	b = append(b, out.Method...)
	b = append(b, ' ')
	switch {
	case out.Method == "CONNECT":
		b = appendTarget(b, out.Authority)
	case out.Path == "":
		b = append(b, '/')
	default:
		b = appendTarget(b, out.Path)
	}
	if out.HasQuery {
		b = append(b, '?')
		b = appendTarget(b, out.Query)
	}
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", out.Authority)
	b = appendFields(b, out.Fields)
	switch kind {
	case framedLength:
		b = appendLength(b, out.Length)
	case framedChunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	default:
		// These are expected to have content, RFC 9110 section 8.6.
		if out.Method == "POST" || out.Method == "PUT" || out.Method == "PATCH" {
			b = append(b, "Content-Length: 0\r\n"...)
		}
	}
	if expect {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	switch {
	case out.Upgrade != "" && c.opts.Trailers:
		b = append(b, "Connection: upgrade, TE\r\n"...)
	case out.Upgrade != "":
		b = append(b, "Connection: upgrade\r\n"...)
	case c.opts.Trailers:
		b = append(b, "Connection: TE\r\n"...)
	}
	if out.Upgrade != "" {
		b = appendField(b, "Upgrade", out.Upgrade)
	}
	if c.opts.Trailers {
		b = append(b, "TE: trailers\r\n"...)
	}
	return append(b, '\r', '\n')
}

// appendTarget appends a part of the request target. What was received has
// been checked; a rewrite may have put in bytes that must not stand there.
func appendTarget(b []byte, s string) []byte {
	start := len(b)
	b = append(b, s...)
	if syntax.All(s, syntax.TargetChar) {
		return b
	}
	b = b[:start]
	for i := range len(s) {
		if syntax.Classes[s[i]]&syntax.TargetChar != 0 {
			b = append(b, s[i])
		} else {
			b = append(b, '%', upperHex[s[i]>>4], upperHex[s[i]&15])
		}
	}
	return b
}

const upperHex = "0123456789ABCDEF"

// proceed sends the content that was held back.
func (p *pump) proceed() {
	if p.held.CompareAndSwap(true, false) {
		p.c.setReadDeadline(p.c.until())
		p.start()
	}
}

func (p *pump) start() {
	p.running = true
	go p.loop()
}

func (p *pump) run() {
	if err := p.stream(true); err != nil {
		var client *exchange.ClientError
		if errors.As(err, &client) {
			p.failure.Store(client)
			_ = p.c.NC.SetReadDeadline(link.LongAgo)
		} else {
			// The peer may have answered before it stopped reading.
			p.writeErr = err
		}
	}
	p.done <- struct{}{}
}

// stream sends the content to its end, or, unless it may wait, as far as it is
// ready. An error is a *exchange.ClientError unless it came from writing.
func (p *pump) stream(wait bool) error {
	w := &p.c.writer
	for {
		if !p.body.Ready() {
			if err := w.flush(); err != nil {
				return err
			}
			if !wait {
				return nil
			}
		}
		data, err := p.body.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return asClientError(err)
		}
		if len(data) == 0 {
			continue
		}
		if p.kind == framedChunked {
			err = w.addChunk(data)
		} else {
			if p.left -= int64(len(data)); p.left < 0 {
				return asClientError(errContentLong)
			}
			p.ending.Store(p.left == 0)
			err = w.add(data, "")
		}
		if err != nil {
			return err
		}
		if wait {
			// The upstream cannot be late before it has all of the request.
			p.c.DL.Read(p.c.idleTimeout())
		}
	}
	if p.kind == framedChunked {
		w.addTrailers(p.c.ex.Out.Trailers)
	} else if p.left > 0 {
		return asClientError(errContentShort)
	}
	p.ending.Store(true)
	if err := w.flush(); err != nil {
		return err
	}
	p.ended = true
	return nil
}

func asClientError(err error) error {
	var client *exchange.ClientError
	if errors.As(err, &client) {
		return client
	}
	return &exchange.ClientError{Status: 400, Reason: "content", Err: err}
}

// finish takes the content back, and reports whether all of it was sent. A
// pump that is still at it is stopped: the response is over, and so is the
// connection.
func (p *pump) finish() bool {
	held := p.held.Swap(false)
	if p.running {
		select {
		case <-p.done:
		default:
			p.stop()
		}
		p.running = false
	}
	p.body = nil
	return p.ended && !held && p.writeErr == nil && p.failure.Load() == nil
}

// lastWrite is how long a pump may take for its last write after the response
// has ended. It usually is only behind because the response was quick.
const lastWrite = 100 * time.Millisecond

func (p *pump) stop() {
	at := link.LongAgo
	if p.ending.Load() {
		at = time.Now().Add(lastWrite)
	} else {
		p.body.Close()
	}
	p.c.precise = true
	_ = p.c.NC.SetWriteDeadline(at)
	<-p.done
}
