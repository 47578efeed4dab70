package h2

import (
	"encoding/binary"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// openBlock is the field block that is being received.
type openBlock struct {
	open bool
	id   uint32
	st   *stream // nil if the fields are of no use, and only decoded
	kind section.Kind
	end  bool // END_STREAM
	// refused says that the stream is one too many.
	refused bool
	scrap   exchange.Fields // for fields of no use
	arena   exchange.Arena
}

// frame takes a frame. Its errors end the connection.
func (c *ServerConn) frame(h frameHeader, payload []byte) *connError {
	if c.block.open != (h.kind == frameContinuation) || c.block.open && c.block.id != h.stream {
		return errContinuation
	}
	if !c.settled {
		if h.kind != frameSettings || h.flags.has(flagAck) {
			return errPreface
		}
		c.settled = true
	}
	switch h.kind {
	case frameHeaders:
		return c.takeHeaders(h, payload)
	case frameContinuation:
		return c.takeFragment(h, payload)
	case framePushPromise:
		return errPush
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch h.kind {
	case frameData:
		return c.takeData(h, payload)
	case frameRSTStream:
		return c.takeReset(h.stream)
	case frameSettings:
		return c.takeSettings(h, payload)
	case framePing:
		return c.takePing(h, payload)
	case frameWindowUpdate:
		return c.takeWindow(h.stream, binary.BigEndian.Uint32(payload)&maxWindow)
	case framePriority:
		if priorityParam(payload) == h.stream {
			return errDependency
		}
	case framePriorityUpdate:
		return c.takePriority(payload)
	case frameGoAway:
		return nil
	}
	return c.nothing(1)
}

// nothing accounts for frames that carry nothing. mu is held.
func (c *ServerConn) nothing(n int) *connError {
	if !c.frames.Spend(n, c.opts.Frames, c.opts.Frames/10, now()) {
		return errFrameFlood
	}
	return nil
}

func (c *ServerConn) takeHeaders(h frameHeader, payload []byte) *connError {
	payload, err := h.unpad(payload)
	if err != nil {
		return err
	}
	if h.flags.has(flagPriority) {
		if len(payload) < 5 {
			return errFrameSize
		}
		if priorityParam(payload) == h.stream {
			return errDependency
		}
		payload = payload[5:]
	}
	if h.stream%2 == 0 {
		return errStreamID
	}
	b := &c.block
	scrap, arena := b.scrap[:0], b.arena
	arena.Reset()
	*b = openBlock{open: true, id: h.stream, end: h.flags.has(flagEndStream), scrap: scrap, arena: arena}

	c.mu.Lock()
	switch st := c.streams[h.stream]; {
	case st != nil:
		if st.remoteClosed {
			c.mu.Unlock()
			return errStreamClosed
		}
		b.st, b.kind = st, section.Trailers
	case h.stream <= c.lastID:
		if !c.isOurs(h.stream) {
			c.mu.Unlock()
			return errStreamClosed
		}
	default:
		if c.drain != drainingLast {
			c.lastID = h.stream
			// Clients number their streams one after another, RFC 9113 section 5.1.1.
			if most := c.opts.MaxRequests; most > 0 && int(h.stream/2)+1 >= most {
				c.startDrain() // read flushes it
			}
			b.refused = len(c.streams) >= c.opts.MaxStreams || c.serving >= 2*c.opts.MaxStreams
			if !b.refused {
				b.st = newStream(c, h.stream)
			}
		}
	}
	c.mu.Unlock()

	switch {
	case b.st == nil:
		c.dec.begin(section.Request, &b.scrap, &b.arena)
	case b.kind == section.Trailers:
		c.dec.begin(section.Trailers, &b.scrap, &b.arena)
	default:
		c.dec.begin(section.Request, &b.st.ex.In.Fields, &b.st.ex.Arena)
	}
	return c.takeFragment(h, payload)
}

func (c *ServerConn) takeFragment(h frameHeader, payload []byte) *connError {
	if err := c.dec.add(payload); err != nil {
		return err
	}
	if !h.flags.has(flagEndHeaders) {
		return nil
	}
	if err := c.dec.end(); err != nil {
		return err
	}
	b := &c.block
	b.open = false
	st := b.st
	b.st = nil
	switch {
	case b.refused:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.reset(b.id, nil, RefusedStream, "")
	case st == nil:
		return nil
	case b.kind == section.Trailers:
		return c.takeTrailers(st, b)
	}
	return c.open(st, b)
}

// open begins to serve a request.
func (c *ServerConn) open(st *stream, b *openBlock) *connError {
	status, reason := st.accept(&c.dec.Section, b.end)
	if reason == "" {
		c.mu.Lock()
		c.streams[st.id] = st
		c.serving++
		c.takeOut()
		c.setPhase()
		c.mu.Unlock()
		pool.Start(st)
		return nil
	}
	c.handler.Malformed(c.info, status, reason)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer st.reuse()
	if status == 0 {
		return c.reset(st.id, nil, ProtocolError, "")
	}
	c.refuse(st.id, status)
	if b.end {
		return nil
	}
	return c.reset(st.id, nil, NoError, "")
}

// refuse answers a request that does not get to the handler. mu is held.
func (c *ServerConn) refuse(id uint32, status int) {
	start := len(c.out)
	out := c.enc.begin(beginHeaders(c.out))
	out = appendStatus(out, status)
	out = c.enc.appendLength(out, 0)
	out = c.enc.appendField(out, section.Date())
	c.out = endHeaders(out, start, id, true, minFrameSize)
}

func (c *ServerConn) takeTrailers(st *stream, b *openBlock) *connError {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[b.id] != st {
		return nil // it has ended in between
	}
	switch d := &c.dec; {
	case d.Malformed != "":
		return c.reset(b.id, st, ProtocolError, d.Malformed)
	case !b.end:
		return c.reset(b.id, st, ProtocolError, "trailers_without_end") // RFC 9113 section 8.1
	case d.TooLarge:
		return c.reset(b.id, st, ProtocolError, "trailers_too_large")
	}
	st.trailers = append(st.trailers, b.scrap...)
	return c.ended(st)
}

// ended takes END_STREAM. mu is held.
func (c *ServerConn) ended(st *stream) *connError {
	if st.declared >= 0 && st.received != st.declared {
		return c.reset(st.id, st, ProtocolError, "content_length") // section 8.1.1
	}
	st.remoteClosed = true
	st.readable.Broadcast()
	return nil
}

func (c *ServerConn) takeData(h frameHeader, payload []byte) *connError {
	all := len(payload)
	payload, err := h.unpad(payload)
	if err != nil {
		return err
	}
	if !c.recv.receive(all) {
		return errWindow
	}
	if len(payload) == 0 && !h.flags.has(flagEndStream) {
		if err := c.nothing(2); err != nil {
			return err
		}
	}
	st := c.streams[h.stream]
	if st == nil {
		c.giveConn(all)
		switch {
		case h.stream > c.lastID:
			return c.idle(h.stream)
		case c.isOurs(h.stream):
			return c.nothing(1)
		}
		return c.reset(h.stream, nil, StreamClosed, "")
	}
	if st.remoteClosed {
		c.giveConn(all)
		return c.reset(h.stream, st, StreamClosed, "stream_closed")
	}
	if !st.recv.receive(all) {
		c.giveConn(all)
		return c.reset(h.stream, st, FlowControlError, "window")
	}
	st.received += int64(len(payload))
	if st.declared >= 0 && st.received > st.declared {
		c.giveConn(all)
		return c.reset(h.stream, st, ProtocolError, "content_length")
	}
	if c.est.receive(len(payload), time.Since(processStart)) {
		c.out = appendPing(c.out, false, pingBandwidth)
	}
	switch padding := all - len(payload); {
	case st.bodyClosed || st.bodyErr != nil:
		c.giveConn(all)
	default:
		if padding > 0 {
			c.giveConn(padding)
			c.giveStream(st, padding)
		}
		st.inbox.put(payload)
		if c.opts.MaxBody > 0 && st.received > c.opts.MaxBody {
			st.failBody(errBodyLong)
		}
		st.readable.Broadcast()
	}
	if h.flags.has(flagEndStream) {
		return c.ended(st)
	}
	return nil
}

// idle says what to do about a frame for a stream that was never opened. One
// that came after the last GOAWAY is ignored, section 6.8.
func (c *ServerConn) idle(id uint32) *connError {
	if c.drain == drainingLast && id%2 == 1 {
		return c.nothing(1)
	}
	return errIdleStream
}

// giveConn and giveStream let the client send more. mu is held.
func (c *ServerConn) giveConn(n int) {
	if inc := c.recv.give(n); inc > 0 {
		c.out = appendWindowUpdate(c.out, 0, inc)
	}
}

func (c *ServerConn) giveStream(st *stream, n int) {
	inc := st.recv.give(n)
	if more := st.recv.grow(c.est.window); more > 0 {
		inc += more
	}
	if inc > 0 && !st.remoteClosed {
		c.out = appendWindowUpdate(c.out, st.id, inc)
	}
}

func (c *ServerConn) takeReset(id uint32) *connError {
	st := c.streams[id]
	if st == nil {
		if id > c.lastID || id%2 == 0 {
			return c.idle(id)
		}
		return c.nothing(1)
	}
	c.gone(st, errReset)
	if !c.resets.Spend(1, c.opts.Resets, c.opts.Resets/4, now()) {
		return errResetFlood
	}
	return nil
}

func (c *ServerConn) takeSettings(h frameHeader, payload []byte) *connError {
	if h.flags.has(flagAck) {
		return c.nothing(1)
	}
	for len(payload) > 0 {
		var s setting
		s, payload = nextSetting(payload)
		if err := s.check(); err != nil {
			return err
		}
		switch s.id {
		case settingHeaderTableSize:
			c.enc.setTableSize(s.value)
		case settingInitialWindowSize:
			delta := int64(s.value) - c.window
			c.window = int64(s.value)
			for _, st := range c.streams {
				if !st.send.add(delta) {
					return errWindowSetting
				}
				c.enqueue(st)
			}
		}
	}
	c.out = appendSettingsAck(c.out)
	c.pump()
	return c.nothing(5)
}

var (
	pingBandwidth = [8]byte{'h', 'g', 0, 0, 0, 0, 0, 1}
	pingDrain     = [8]byte{'h', 'g', 0, 0, 0, 0, 0, 2}
	processStart  = time.Now()
)

func (c *ServerConn) takePing(h frameHeader, payload []byte) *connError {
	data := [8]byte(payload)
	switch {
	case !h.flags.has(flagAck):
		c.out = appendPing(c.out, true, data)
	case data == pingBandwidth && c.est.pinging:
		if w := c.est.pong(time.Since(processStart)); connWindows*w > c.recv.size {
			if n := c.recv.grow(connWindows * w); n > 0 {
				c.out = appendWindowUpdate(c.out, 0, n)
			}
		}
		return nil
	case data == pingDrain && c.drain == drainingFirst:
		c.lastGoAway()
		return nil
	}
	return c.nothing(2)
}

func (c *ServerConn) takeWindow(id, increment uint32) *connError {
	if id == 0 {
		if increment == 0 {
			return errWindowZero
		}
		if !c.send.add(int64(increment)) {
			return errWindow
		}
		c.pump()
		return c.nothing(1)
	}
	st := c.streams[id]
	if st == nil {
		if id > c.lastID || id%2 == 0 {
			return c.idle(id)
		}
		return c.nothing(1)
	}
	if increment == 0 {
		return c.reset(id, st, ProtocolError, "window_increment")
	}
	if !st.send.add(int64(increment)) {
		return c.reset(id, st, FlowControlError, "window")
	}
	c.enqueue(st)
	c.pump()
	return c.nothing(1)
}

func (c *ServerConn) takePriority(payload []byte) *connError {
	id := binary.BigEndian.Uint32(payload) & maxStreamID
	if id%2 == 0 {
		return errPriorityFrame // we push nothing
	}
	if st := c.streams[id]; st != nil {
		st.priority = section.ParsePriority(string(payload[4:]))
		if st.queued {
			c.ready.remove(st)
			c.ready.push(st)
		}
	}
	return c.nothing(1)
}

// reset ends a stream for the client's fault, or because it is one too many:
// both at our cost, so there is a bound to it. st is nil for a stream that is
// not there. mu is held.
func (c *ServerConn) reset(id uint32, st *stream, code ErrCode, reason string) *connError {
	c.out = appendRSTStream(c.out, id, code)
	c.remember(id)
	if st != nil {
		if reason != "" {
			// The handler of the stream may be told by its content; metrics are by this.
			st.malformed = reason
		}
		c.gone(st, errMalformed)
	}
	if code != NoError && !c.provoked.Spend(1, c.opts.Resets, c.opts.Resets/4, now()) {
		return errProvoked
	}
	return nil
}

// remember keeps in mind that we have reset a stream.
func (c *ServerConn) remember(id uint32) {
	c.ours[c.our%len(c.ours)] = id
	c.our++
}

func (c *ServerConn) isOurs(id uint32) bool {
	for _, our := range c.ours {
		if our == id {
			return true
		}
	}
	return false
}
