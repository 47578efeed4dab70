package h2

import (
	"encoding/binary"
	"io"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// clientReader is the receiving half of a ClientConn: its one goroutine.
type clientReader struct {
	framer
	c   *ClientConn
	dec decoder
	// block is the stream whose field block is not complete, or 0; last says
	// that the stream ends with it.
	block  uint32
	last   bool
	fields exchange.Fields
	arena  exchange.Arena
	first  bool // nothing was taken yet
}

const clientReadBuffer = 32 << 10 // at least one frame

func (in *clientReader) init(c *ClientConn) {
	in.c = c
	in.limit = minFrameSize
	in.dec.MaxBytes, in.dec.MaxCount = c.opts.MaxHeaderBytes, c.opts.MaxHeaderCount
	in.first = true
	in.buf = make([]byte, clientReadBuffer)
}

// run reads until the connection ends.
func (in *clientReader) run() {
	c := in.c
	for in.read() {
		c.heard.Store(int64(deadline.Now()))
		if err := in.take(); err != nil {
			c.mu.Lock()
			c.refuse(err)
			c.mu.Unlock()
		}
	}
	c.changed()
}

// read reads more, and reports false if the connection has ended.
func (in *clientReader) read() bool {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if in.missing() > len(in.buf)-in.w {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	n, err := in.c.nc.Read(in.buf[in.w:])
	in.w += n
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 && err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // only END_STREAM is the end of content
		}
		c.fail(err)
	}
	return c.err == nil
}

// take takes all complete frames, and then sends what they ask for.
func (in *clientReader) take() *connError {
	c, changed := in.c, false
	for {
		h, payload, ok, err := in.next()
		if err == nil && ok {
			var more bool
			more, err = in.frame(h, payload)
			changed = changed || more
		}
		if err != nil {
			return err
		}
		if !ok {
			break
		}
	}
	c.mu.Lock()
	c.flushAside()
	c.mu.Unlock()
	if changed {
		c.changed()
	}
	return nil
}

// frame takes one frame, and reports whether the connection may have come to
// take more streams, or none any more.
func (in *clientReader) frame(h frameHeader, payload []byte) (changed bool, err *connError) {
	c := in.c
	if in.first {
		if h.kind != frameSettings || h.flags.has(flagAck) {
			return false, errPreface
		}
		in.first = false
	}
	if in.block != 0 && (h.kind != frameContinuation || h.stream != in.block) {
		return false, errContinuation
	}
	if h.kind == frameHeaders || h.kind == frameContinuation {
		return false, in.headers(h, payload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch h.kind {
	case frameData:
		return false, c.takeData(h, payload)
	case frameRSTStream:
		return false, c.takeReset(h.stream, ErrCode(binary.BigEndian.Uint32(payload)))
	case frameSettings:
		return true, c.takeSettings(h, payload)
	case framePushPromise:
		return false, errPush
	case framePing:
		return c.takePing(h, payload), nil
	case frameGoAway:
		c.takeGoAway(binary.BigEndian.Uint32(payload) & maxStreamID)
		return true, nil
	case frameWindowUpdate:
		return false, c.takeWindow(h.stream, binary.BigEndian.Uint32(payload)&maxWindow)
	case framePriorityUpdate:
		return false, errPriorityFrame // RFC 9218 section 7.1
	}
	return false, nil
}

// stream returns an open stream; nil for one that was open once.
func (c *ClientConn) stream(id uint32) (*ClientStream, *connError) {
	if s := c.streams[id]; s != nil {
		return s, nil
	}
	if id&1 == 0 || id >= c.nextID {
		return nil, errIdleStream
	}
	return nil, nil
}

// headers takes a HEADERS or CONTINUATION frame, RFC 9113 sections 6.2 and 6.10.
func (in *clientReader) headers(h frameHeader, payload []byte) *connError {
	if h.kind == frameContinuation && in.block == 0 {
		return errContinuation
	}
	if h.kind == frameHeaders {
		var err *connError
		if payload, err = h.unpad(payload); err != nil {
			return err
		}
		if h.flags.has(flagPriority) {
			if len(payload) < 5 {
				return errFrameSize
			}
			payload = payload[5:]
		}
		in.c.mu.Lock()
		s, err := in.c.stream(h.stream)
		kind := section.Response
		if s != nil && s.answered {
			kind = section.Trailers
		}
		in.c.mu.Unlock()
		if err != nil {
			return err
		}
		in.block, in.last = h.stream, h.flags.has(flagEndStream)
		in.fields = in.fields[:0]
		in.dec.begin(kind, &in.fields, &in.arena)
	}
	if err := in.dec.add(payload); err != nil {
		return err
	}
	if !h.flags.has(flagEndHeaders) {
		return nil
	}
	id := in.block
	in.block = 0
	if err := in.dec.end(); err != nil {
		return err
	}
	c := in.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[id]; s != nil {
		if reason := in.deliver(s); reason != "" {
			s.reset(ProtocolError, &streamError{ProtocolError, reason})
		}
	}
	return nil
}

// deliver gives a stream the section that was decoded, or returns why the
// response is malformed. c.mu is held.
func (in *clientReader) deliver(s *ClientStream) (malformed string) {
	d := &in.dec
	switch {
	case d.Malformed != "":
		return d.Malformed
	case d.TooLarge:
		return "header_too_large"
	case s.ended:
		return "after_the_end"
	}
	s.progress = deadline.Now()
	defer s.cond.Broadcast()
	if d.Kind == section.Trailers {
		if !in.last {
			return "trailer" // RFC 9113 section 8.1
		}
		s.trailers, in.fields = in.fields, s.trailers[:0]
		return s.end()
	}
	switch {
	case d.Seen != section.HasStatus:
		return "status"
	case d.Status == 101:
		return "switching_protocols" // RFC 9113 section 8.6
	case d.Status < 200:
		if in.last || d.Length >= 0 {
			return "interim_with_content"
		}
		if s.informed++; s.informed > interimLimit {
			return "interim_many"
		}
		s.interims = append(s.interims, interim{d.Status, append(exchange.Fields(nil), in.fields...)})
		return ""
	}
	s.length = d.Length
	switch {
	case s.pump.tunnel && d.Status < 300:
		s.length = -1
	case s.method == "HEAD" || d.Status == 204 || d.Status == 304:
		s.bodiless, s.length = true, 0
	}
	if in.last {
		if reason := s.end(); reason != "" {
			return reason
		}
	}
	s.head.status, s.head.length = d.Status, d.Length
	s.head.fields, in.fields = in.fields, s.head.fields[:0]
	s.answered = true
	in.c.served++
	return ""
}

// end takes the end of the response. c.mu is held.
func (s *ClientStream) end() (malformed string) {
	if s.length > 0 {
		return "content_short" // RFC 9113 section 8.1.1
	}
	s.ended = true
	s.cond.Broadcast()
	return ""
}

// takeData takes content, RFC 9113 section 6.1.
func (c *ClientConn) takeData(h frameHeader, payload []byte) *connError {
	data, err := h.unpad(payload)
	if err != nil {
		return err
	}
	if !c.recv.receive(len(payload)) {
		return errWindow
	}
	if increment := c.recv.give(len(payload)); increment > 0 {
		c.out = appendWindowUpdate(c.out, 0, increment)
	}
	s, err := c.stream(h.stream)
	if s == nil {
		return err
	}
	switch n := int64(len(data)); {
	case s.ended:
		s.reset(StreamClosed, errAfterEnd)
	case !s.recv.receive(len(payload)):
		s.reset(FlowControlError, errStreamWindow)
	case !s.answered, s.bodiless && n > 0, s.length >= 0 && s.length < n:
		s.reset(ProtocolError, errContent)
	default:
		if s.length > 0 {
			s.length -= n
		}
		if !s.closed {
			s.inbox.put(data)
		}
		s.progress = deadline.Now()
		if h.flags.has(flagEndStream) {
			if reason := s.end(); reason != "" {
				s.reset(ProtocolError, errContent)
			}
		} else if padding := len(payload) - len(data); padding > 0 {
			if increment := s.recv.give(padding); increment > 0 {
				c.out = appendWindowUpdate(c.out, s.id, increment)
			}
		}
		if n > 0 {
			s.cond.Broadcast()
		}
	}
	return nil
}

var (
	errAfterEnd     = &streamError{StreamClosed, "after_the_end"}
	errStreamWindow = &streamError{FlowControlError, "window"}
	errContent      = &streamError{ProtocolError, "content"} // section 8.1.1
	errIncrement    = &streamError{ProtocolError, "window_increment"}
)

// takeReset takes the end of a stream by its peer, RFC 9113 section 6.4.
func (c *ClientConn) takeReset(id uint32, code ErrCode) *connError {
	s, err := c.stream(id)
	if s == nil {
		return err
	}
	s.gone = true
	delete(c.streams, id)
	switch {
	case s.ended:
		s.cond.Broadcast() // it only wants no more of the request, section 8.1
	case code == RefusedStream && !s.answered:
		s.fail(errRefused)
	default:
		s.fail(&peerReset{code})
	}
	return nil
}

// takeSettings takes what the peer bounds us to, RFC 9113 section 6.5.
func (c *ClientConn) takeSettings(h frameHeader, payload []byte) *connError {
	if h.flags.has(flagAck) {
		return nil
	}
	if !c.settled {
		c.settled = true
		c.maxStreams = maxStreamID // unless it says otherwise
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
		case settingEnablePush:
			if s.value != 0 {
				return errSettings // section 6.5.2: a server must not
			}
		case settingMaxConcurrentStreams:
			c.maxStreams = s.value
		case settingMaxFrameSize:
			c.maxFrame = int(min(s.value, roomLimit/2))
		case settingEnableConnect:
			c.connects = c.connects || s.value == 1
		case settingInitialWindowSize:
			delta := int64(s.value) - c.window
			c.window = int64(s.value)
			for _, stream := range c.streams {
				if !stream.send.add(delta) {
					return errWindow
				}
				stream.cond.Broadcast()
			}
		}
	}
	c.unblock()
	c.answer(appendSettingsAck(nil))
	return nil
}

// takePing answers a PING, or takes an answer, RFC 9113 section 6.7.
func (c *ClientConn) takePing(h frameHeader, payload []byte) (changed bool) {
	data := [8]byte(payload)
	switch {
	case !h.flags.has(flagAck):
		c.answer(appendPing(nil, true, data))
	case data == pingResets:
		c.resets, c.asked = c.resets-c.asked, 0
		c.askAboutResets()
		return true
	}
	return false
}

// takeGoAway takes that the peer takes no streams above last, RFC 9113 section 6.8.
func (c *ClientConn) takeGoAway(last uint32) {
	c.away = true
	for id, s := range c.streams {
		if id > last {
			s.gone = true
			delete(c.streams, id)
			if s.answered {
				s.fail(&peerReset{RefusedStream})
			} else {
				s.fail(errAway)
			}
		}
	}
	c.closeIfDone()
}

// takeWindow lets us send more, RFC 9113 section 6.9.
func (c *ClientConn) takeWindow(id, increment uint32) *connError {
	if id == 0 {
		if increment == 0 {
			return errWindowZero
		}
		if !c.send.add(int64(increment)) {
			return errWindow
		}
		c.unblock()
		return nil
	}
	s, err := c.stream(id)
	switch {
	case s == nil:
		return err
	case increment == 0:
		s.reset(ProtocolError, errIncrement)
	case !s.send.add(int64(increment)):
		s.reset(FlowControlError, errStreamWindow)
	default:
		s.cond.Broadcast()
	}
	return nil
}
