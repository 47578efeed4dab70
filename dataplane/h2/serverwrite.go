package h2

import (
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
	"github.com/headgate/headgate/dataplane/syntax"
)

// respond sends ex.Response.
func (st *stream) respond() error {
	ex, c := &st.ex, st.c
	r := &ex.Response
	if r.Status < 200 || r.Status > 599 {
		ex.Answer(500, "no_response", "")
	}
	body := r.Body
	if section.Bodiless(ex.In.Method, r.Status) {
		body = nil
	}
	if body == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if st.err != nil {
			return st.err
		}
		st.appendHead(r, body, true)
		return st.flushEnd()
	}

	if !ex.Await(body) {
		return exchange.ErrAbandoned
	}
	defer ex.Await(nil)
	// What is ready of the content goes with the head.
	var p []byte
	var err error
	left := r.Length
	if body.Ready() {
		if p, err = body.Next(); err != nil && err != io.EOF {
			return err
		}
		if left >= 0 && int64(len(p)) > left {
			return errContentLong
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	end := err == io.EOF && len(r.Trailers) == 0 && left <= 0
	st.appendHead(r, body, end)
	for {
		if err == io.EOF {
			if left > 0 {
				return errContentShort
			}
			break
		}
		if left >= 0 {
			if left -= int64(len(p)); left < 0 {
				return errContentLong
			}
		}
		// Behind its length there is nothing, but for trailers.
		last := left == 0 && r.Proto < exchange.HTTP2
		if err := st.write(p, last); err != nil {
			return err
		}
		if last {
			return st.flushEnd()
		}
		c.mu.Unlock()
		ready := body.Ready()
		if !ready {
			c.mu.Lock()
			c.gatherAndFlush()
			c.mu.Unlock()
		}
		p, err = body.Next()
		c.mu.Lock()
		if st.err != nil {
			return st.err
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
	switch {
	case st.localClosed:
	case len(r.Trailers) > 0 && st.appendTrailers(r.Trailers):
	default:
		c.out = appendData(c.out, st.id, nil, true)
	}
	return st.flushEnd()
}

// appendHead appends the response's header section. mu is held.
func (st *stream) appendHead(r *exchange.Response, body exchange.Body, end bool) {
	c := st.c
	st.answered, st.localClosed = true, end
	start := len(c.out)
	out := c.enc.begin(beginHeaders(c.out))
	out = appendStatus(out, r.Status)
	dated := false
	for i := range r.Fields {
		f := &r.Fields[i]
		if section.Unsent[f.Key] {
			continue
		}
		dated = dated || f.Key == exchange.KeyDate
		out = c.enc.appendField(out, f)
	}
	if !dated {
		out = c.enc.appendField(out, section.Date())
	}
	if n := section.Length(r, st.ex.In.Method, body); n >= 0 {
		out = c.enc.appendLength(out, n)
	}
	c.out = endHeaders(out, start, st.id, end, minFrameSize)
	c.frames.Earn(4)
}

// appendTrailers ends the stream with a trailer section. It reports false if
// nothing of it may be sent.
func (st *stream) appendTrailers(trailers exchange.Fields) bool {
	c := st.c
	start := len(c.out)
	out := c.enc.begin(beginHeaders(c.out))
	some := false
	for i := range trailers {
		if f := &trailers[i]; syntax.MayTrail(f.Key) && !section.Unsent[f.Key] {
			out = c.enc.appendField(out, f)
			some = true
		}
	}
	if !some {
		c.out = out[:start]
		return false
	}
	c.out = endHeaders(out, start, st.id, true, minFrameSize)
	return true
}

// flushEnd writes what ends the stream. mu is held.
func (st *stream) flushEnd() error {
	c := st.c
	st.localClosed = true
	if st.remoteClosed && st.err == nil {
		c.gone(st, errBodyClosed)
		c.resets.Earn(1)
		c.provoked.Earn(1)
	}
	c.gatherAndFlush()
	return nil
}

// gatherAndFlush writes what is gathered, together with what other streams are
// about to append. mu is held, but not all the time.
func (c *ServerConn) gatherAndFlush() {
	if c.serving > 1 {
		c.gather()
	}
	c.flush()
}

// write sends content, and returns when all of it was gathered. mu is held,
// but not all the time.
func (st *stream) write(p []byte, last bool) error {
	c := st.c
	if len(p) == 0 && !last {
		return nil
	}
	st.ex.Sent += int64(len(p))
	if len(p) == 0 {
		c.out = appendData(c.out, st.id, nil, true)
		st.localClosed = true
		return nil
	}
	st.pending, st.last = p, last
	c.enqueue(st)
	c.pump()
	for st.pending != nil {
		switch {
		case st.err != nil || c.err != nil || st.stalled:
			st.pending = nil
			c.ready.remove(st)
			if st.err != nil {
				return st.err
			}
			return errNoWindow
		case len(c.out) > 0 && !c.writing:
			c.flush()
			continue
		}
		if st.send > 0 && c.send > 0 {
			st.writable.Wait() // for room: the write has a bound of its own
			continue
		}
		if st.watch() {
			continue
		}
		if !st.timer.Write(c.opts.WriteTimeout) {
			st.stalled = true
			continue
		}
		st.writable.Wait()
		if !st.timer.Write(0) {
			st.stalled = true
		}
	}
	return nil
}

// enqueue makes it a stream's turn some time, if it has something that it may
// send. mu is held.
func (c *ServerConn) enqueue(st *stream) {
	if st.pending != nil && !st.queued && st.send > 0 {
		c.ready.push(st)
	}
}

// pump moves content of streams to what is to be written, as far as windows and
// room allow, in the order of priorities. mu is held. It is also the outbox's:
// called when there is room again.
func (c *ServerConn) pump() {
	if c.ending || c.err != nil {
		c.served.Broadcast()
	}
	for c.hasRoom() && c.send > 0 {
		st := c.ready.peek()
		if st == nil {
			return
		}
		n := st.send.take(min(len(st.pending), minFrameSize, int(c.send)))
		c.send.take(n)
		end := st.last && n == len(st.pending)
		c.out = appendData(c.out, st.id, st.pending[:n], end)
		c.frames.Earn(4)
		if st.pending = st.pending[n:]; len(st.pending) == 0 {
			st.pending = nil
			st.localClosed = end
			c.ready.remove(st)
			st.writable.Signal()
		} else if st.send <= 0 {
			c.ready.remove(st) // until its window is raised
		} else {
			c.ready.rotate(st)
		}
	}
}

// Inform implements exchange.Client.
func (st *stream) Inform(status int, fields exchange.Fields) error {
	if status < 100 || status > 199 || status == 101 {
		return nil
	}
	c := st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	if st.answered {
		return nil
	}
	start := len(c.out)
	out := appendStatus(c.enc.begin(beginHeaders(c.out)), status)
	for i := range fields {
		if f := &fields[i]; !section.Unsent[f.Key] {
			out = c.enc.appendField(out, f)
		}
	}
	c.out = endHeaders(out, start, st.id, false, minFrameSize)
	c.flush()
	return nil
}
