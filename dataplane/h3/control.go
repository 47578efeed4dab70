package h3

import (
	"errors"
	"io"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/section"
)

// uniAccepter takes the client's unidirectional streams.
type uniAccepter ServerConn

// Run implements link.Task.
func (a *uniAccepter) Run() {
	c := (*ServerConn)(a)
	defer c.over()
	for {
		str, err := c.qc.AcceptUniStream(c.ctx)
		if err != nil {
			return
		}
		c.begin(1)
		// They live as long as the connection, and are silent most of the time.
		pool.Start(&uniStream{c: c, str: str, in: reader{from: str, buf: make([]byte, 64)}})
	}
}

// uniStream is one of the client's unidirectional streams.
type uniStream struct {
	c   *ServerConn
	str *quic.ReceiveStream
	in  reader
	// Of the control stream.
	settled bool
	pushes  uint64 // the greatest push ID that the client allows, plus one
	last    uint64 // of its GOAWAY, plus one
}

// Run implements link.Task.
func (u *uniStream) Run() {
	defer u.c.over()
	defer u.str.ReleaseStreamCredit()
	defer u.in.release()
	err := u.read()
	var bad *connError
	if errors.As(err, &bad) {
		u.c.fail(bad)
	}
}

// read reads the stream to its end. What it returns that is not the
// connection's error ends the stream only.
func (u *uniStream) read() error {
	kind, err := u.in.varint()
	if err != nil {
		u.str.CancelRead(StreamCreationError.stream()) // over before it said what it was
		return u.c.nothingErr(1)
	}
	var read func() error
	switch kind {
	case streamControl:
		read = u.readControl
	case streamEncoder:
		read = u.readEncoder
	case streamDecoder:
		read = u.readDecoder
	case streamPush:
		return errPushStream
	default:
		// An extension's that we do not know, RFC 9114 section 6.2.
		u.str.CancelRead(StreamCreationError.stream())
		return u.c.nothingErr(5)
	}
	u.c.mu.Lock()
	twice := u.c.critical[kind]
	u.c.critical[kind] = true
	u.c.mu.Unlock()
	if twice {
		return errStreamTwice
	}
	err = read()
	var bad *connError
	var reset *quic.StreamError
	switch {
	case errors.As(err, &bad):
		return bad
	case err == io.EOF, err == errCutOff, errors.As(err, &reset):
		return errCritical
	}
	return err
}

// nothingErr is nothing as an error.
func (c *ServerConn) nothingErr(n int) error {
	if err := c.nothing(n); err != nil {
		return err
	}
	return nil
}

// maxControlFrame is the largest frame of the control stream that we look into.
const maxControlFrame = 2 << 10

// readControl reads the control stream, RFC 9114 section 6.2.1.
func (u *uniStream) readControl() error {
	for {
		h, err := u.in.header()
		if err != nil {
			return err
		}
		switch h.kind {
		case frameSettings, frameGoAway, frameCancelPush, frameMaxPushID, framePriorityUpdate, framePriorityUpdateForPush:
		default:
			if !u.settled {
				return errMissingSettings
			}
			switch {
			case h.kind == frameData, h.kind == frameHeaders, h.kind == framePushPromise:
				return errFrameUnexpected
			case h.kind.reserved():
				return errFrameReserved
			}
			if err := u.c.nothingErr(1 + int(h.length>>10)); err != nil {
				return err
			}
			if err := u.in.skip(h.length); err != nil {
				return err
			}
			continue
		}
		if h.length > maxControlFrame {
			if h.kind == frameSettings {
				return errSettingsLong
			}
			return errFrame
		}
		if err := u.in.need(int(h.length)); err != nil {
			return err
		}
		payload := u.in.buffered()[:h.length]
		if err := u.take(h.kind, payload); err != nil {
			return err
		}
		u.in.r += int(h.length)
		if err := u.c.nothingErr(1); err != nil {
			return err
		}
	}
}

// take takes a frame of the control stream.
func (u *uniStream) take(kind frameType, payload []byte) error {
	if kind == frameSettings {
		if u.settled {
			return errFrameUnexpected
		}
		u.settled = true
		if err := checkSettings(payload); err != nil {
			return err
		}
		return nil
	}
	if !u.settled {
		return errMissingSettings
	}
	id, n, err := quicvarint.Parse(payload)
	if err != nil {
		return errFrame
	}
	switch kind {
	case framePriorityUpdate:
		if id%4 != 0 {
			return errPriority
		}
		u.c.prioritise(quic.StreamID(id), section.ParsePriority(string(payload[n:])))
		return nil
	case framePriorityUpdateForPush:
		return errPriority // there are no pushes
	}
	if n != len(payload) {
		return errFrame
	}
	switch kind {
	case frameMaxPushID:
		if id+1 < u.pushes {
			return errID
		}
		u.pushes = id + 1
	case frameGoAway: // of pushes, which there are none of
		if u.last > 0 && id+1 > u.last {
			return errID
		}
		u.last = id + 1
	case frameCancelPush:
		return errID // of a push that was never promised
	}
	return nil
}

// prioritise changes the priority of a request's response. One that is not
// there yet, or no longer, has what its own field says.
func (c *ServerConn) prioritise(id quic.StreamID, p section.Priority) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil {
		st.str.SetPriority(int8(p.Urgency), p.Incremental)
	}
}

// readEncoder reads the client's QPACK encoder stream, RFC 9204 section 4.3. All
// that it may say to a table without capacity is that it has none.
func (u *uniStream) readEncoder() error {
	return u.eachByte(func(b byte) error {
		if b != 0x20 {
			return errEncoderStream
		}
		return u.c.nothingErr(1)
	})
}

// readDecoder reads the client's QPACK decoder stream, RFC 9204 section 4.4. Our
// sections refer to no dynamic table, so there is nothing to acknowledge; that
// it has given up reading one it may say.
func (u *uniStream) readDecoder() error {
	within := false // the integer of a stream cancellation
	return u.eachByte(func(b byte) error {
		switch {
		case within:
			within = b&0x80 != 0
		case b&0xc0 == 0x40:
			within = b&0x3f == 0x3f
		default:
			return errDecoderStream
		}
		return u.c.nothingErr(1)
	})
}

func (u *uniStream) eachByte(take func(byte) error) error {
	for {
		for ; u.in.r < u.in.w; u.in.r++ {
			if err := take(u.in.buf[u.in.r]); err != nil {
				return err
			}
		}
		if err := u.in.fill(); err != nil {
			return err
		}
	}
}

var _ link.Task = (*uniStream)(nil)
