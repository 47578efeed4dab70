package h2

import (
	"errors"
	"io"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
)

var (
	// errUpgrade says that the peer does not take what the exchange asks for.
	errUpgrade      = errors.New("the peer has not enabled extended CONNECT")
	errContentLong  = errors.New("the content is longer than its declared length")
	errContentShort = errors.New("the content is shorter than its declared length")
)

// replayLimit is how much pulled content is kept until a response comes, so
// that a request which the peer has not acted on can go out once more.
const replayLimit = 16 << 10

// pump sends a request's content. What is ready goes out together with the
// head, by the goroutine that does the round trip; if that is not all of it, a
// goroutine of its own sends the rest, so that a response is seen when it
// comes, be it early.
type pump struct {
	s    *ClientStream
	body exchange.Body
	left int64  // of a known length; -1 if unknown
	rest []byte // pulled and not sent
	eof  bool   // all was pulled
	// kept is what was pulled, as long as it is within replayLimit.
	kept    []byte
	keeping bool
	tunnel  bool // the request asks for a tunnel: what is sent is not content

	loop    func() // run, made once
	running bool
	done    chan struct{}
	pulling bool // in body.Next; guarded by c.mu
}

func (p *pump) init(s *ClientStream) {
	p.s = s
	p.loop = p.run
	p.done = make(chan struct{}, 1)
}

// sendRequest sends the head and what is ready of the content.
func (s *ClientStream) sendRequest() error {
	c, out, p := s.c, &s.ex.Out, &s.pump
	p.body, p.left, p.rest, p.eof = out.Body, -1, nil, false
	p.kept, p.keeping = p.kept[:0], true
	if out.Body != nil {
		p.left = out.Length
	}
	// Other upgrades are ignored, as RFC 9110 section 7.8 allows.
	websocket := out.Method == "GET" && out.Body == nil && exchange.EqualFold(out.Upgrade, "websocket")
	p.tunnel = out.Method == "CONNECT" || websocket
	expect := out.ExpectContinue && out.Body != nil && !p.tunnel && !out.Body.Ready()

	c.mu.Lock()
	defer c.mu.Unlock()
	s.progress = deadline.Now()
	if websocket {
		if err := s.awaitSettings(); err != nil {
			return err
		}
	}
	switch {
	case s.err != nil:
		return s.err
	case c.err != nil:
		return c.err
	case c.away:
		return errAway
	}
	last := out.Body == nil && !p.tunnel
	s.register(out.Method)
	c.out = c.appendRequest(c.out, s.id, out, websocket, expect, last)
	s.sentAll = last
	var err error
	switch {
	case last, p.tunnel:
	case expect:
		s.continueAt = time.Now().Add(c.opts.ContinueTimeout)
	default:
		c.mu.Unlock()
		var all bool
		if all, err = p.stream(false); err == nil && !all {
			p.start()
		}
		c.mu.Lock()
	}
	if c.open > 1 {
		c.gather()
	}
	s.flush()
	if err == errBodyClosed {
		return nil // whatever ended the stream, be it a response, is seen by who waits for one
	}
	return err
}

// register gives the stream its identifier. c.mu is held until the head was
// appended: heads go out in the order of their identifiers.
func (s *ClientStream) register(method string) {
	c := s.c
	s.method = method
	s.id = c.nextID
	c.nextID += 2
	c.streams[s.id] = s
	s.send = sendWindow(c.window)
	s.recv = newRecvWindow(c.opts.StreamWindow)
}

// awaitSettings waits until it is known whether the peer takes extended
// CONNECT, RFC 8441 section 3. c.mu is held.
func (s *ClientStream) awaitSettings() error {
	c := s.c
	for !c.settled && s.err == nil && c.err == nil {
		c.blocked = append(c.blocked, s)
		if !s.await(s.until(), s.idleTimeout()) {
			return errTimeout
		}
	}
	if c.settled && !c.connects {
		return errUpgrade
	}
	return nil
}

// proceed sends the content that was held back. c.mu is held.
func (s *ClientStream) proceed() {
	if !s.continueAt.IsZero() {
		s.continueAt = time.Time{}
		s.pump.start()
	}
}

func (p *pump) start() {
	p.running = true
	go p.loop()
}

func (p *pump) run() {
	_, err := p.stream(true)
	s, c := p.s, p.s.c
	c.mu.Lock()
	var client *exchange.ClientError
	if errors.As(err, &client) && !s.finished {
		s.reset(Cancel, client)
	}
	s.flush()
	c.mu.Unlock()
	p.done <- struct{}{}
}

// stream sends the content to its end, or, unless it may wait, as far as it is
// ready; all reports which. An error is a *exchange.ClientError, or says that
// nothing more is to be sent.
func (p *pump) stream(wait bool) (all bool, err error) {
	for {
		for len(p.rest) > 0 {
			n, err := p.s.sendData(p.rest, wait)
			if err != nil {
				return false, err
			}
			if n == 0 {
				return false, nil
			}
			p.rest = p.rest[n:]
		}
		if p.eof {
			return true, p.s.endRequest()
		}
		if !p.body.Ready() {
			if !wait {
				return false, nil
			}
			p.s.c.mu.Lock()
			p.s.flush()
			p.s.c.mu.Unlock()
		}
		if err := p.pull(); err != nil {
			return false, err
		}
	}
}

// pull gets more of the content.
func (p *pump) pull() error {
	if !p.setPulling(true) {
		return errBodyClosed
	}
	data, err := p.body.Next()
	p.setPulling(false)
	switch {
	case err == io.EOF:
		if p.left > 0 {
			return asClientError(errContentShort)
		}
		p.eof = true
		return nil
	case err != nil:
		return asClientError(err)
	}
	if p.left >= 0 {
		if p.left -= int64(len(data)); p.left < 0 {
			return asClientError(errContentLong)
		}
	}
	p.rest = data
	if p.keeping = p.keeping && len(p.kept)+len(data) <= replayLimit; p.keeping {
		p.kept = append(p.kept, data...)
	}
	return nil
}

// setPulling says whether the content's owner may have to be waited for. It
// reports false, and nothing is to be pulled, if the stream is over.
func (p *pump) setPulling(now bool) bool {
	p.s.c.mu.Lock()
	defer p.s.c.mu.Unlock()
	p.pulling = now
	return !p.s.over()
}

// over reports whether nothing more is to be sent. c.mu is held.
func (s *ClientStream) over() bool { return s.finished || s.gone || s.err != nil }

// sendData appends as much of p as flow control lets through. It waits until
// that is something, unless it may not.
func (s *ClientStream) sendData(p []byte, wait bool) (n int, err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case s.over():
			return 0, errBodyClosed
		case s.send > 0 && c.send > 0 && c.hasRoom():
			n = s.send.take(min(len(p), c.maxFrame, int(c.send)))
			c.send.take(n)
			s.tail = c.base + int64(len(c.out)) + 4
			c.out = appendData(c.out, s.id, p[:n], false)
			s.progress = deadline.Now()
			return n, nil
		case !wait:
			return 0, nil
		}
		s.flush()
		if c.hasRoom() && s.send > 0 && c.send > 0 {
			continue // while it was written
		}
		if s.send > 0 {
			c.blocked = append(c.blocked, s)
		}
		s.cond.Wait()
	}
}

// endRequest says that this was all, with trailers if there are any.
func (s *ClientStream) endRequest() error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over() {
		return errBodyClosed
	}
	s.sentAll = true
	switch {
	case len(s.ex.Out.Trailers) > 0:
		c.out = c.appendTrailers(c.out, s.id, s.ex.Out.Trailers)
	case s.tail >= c.base:
		c.out[s.tail-c.base] |= byte(flagEndStream) // it was not sent yet
	default:
		c.out = appendData(c.out, s.id, nil, true)
	}
	return nil
}

func asClientError(err error) error {
	var client *exchange.ClientError
	if errors.As(err, &client) {
		return client
	}
	return &exchange.ClientError{Status: 400, Reason: "content", Err: err}
}

// finish takes the content back. A pump that is still at it is stopped: the
// response is over.
func (p *pump) finish() {
	s, c := p.s, p.s.c
	c.mu.Lock()
	s.finished = true
	s.continueAt = time.Time{}
	s.cond.Broadcast()
	pulling := p.pulling
	c.mu.Unlock()
	if p.running {
		if pulling {
			p.body.Close()
		}
		<-p.done
		p.running = false
	}
	p.body, p.rest = nil, nil
}

// restore puts the content together again as it was before anything was
// pulled, and reports whether it could.
func (p *pump) restore() bool {
	if p.running {
		p.s.c.mu.Lock()
		pulling := p.pulling
		p.s.c.mu.Unlock()
		if pulling {
			return false // who knows for how long
		}
		<-p.done
		p.running = false
	}
	if p.body == nil || len(p.kept) == 0 && !p.eof && p.keeping {
		return true
	}
	if !p.keeping {
		return false
	}
	p.s.ex.Out.Body = &again{ready: append([]byte(nil), p.kept...), eof: p.eof, rest: p.body}
	return true
}

// again is content of which some was pulled before.
type again struct {
	ready []byte
	eof   bool
	rest  exchange.Body
}

func (b *again) Next() ([]byte, error) {
	switch {
	case len(b.ready) > 0:
		p := b.ready
		b.ready = nil
		return p, nil
	case b.eof:
		return nil, io.EOF
	}
	return b.rest.Next()
}

func (b *again) Ready() bool { return len(b.ready) > 0 || b.eof || b.rest.Ready() }
func (b *again) Close()      { b.rest.Close() }
