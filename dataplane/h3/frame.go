package h3

import (
	"errors"
	"io"

	"github.com/quic-go/quic-go/quicvarint"

	"github.com/headgate/headgate/dataplane/link"
)

// frameType is the type of a frame, RFC 9114 section 7.2.
type frameType uint64

const (
	frameData                  frameType = 0x0
	frameHeaders               frameType = 0x1
	frameCancelPush            frameType = 0x3
	frameSettings              frameType = 0x4
	framePushPromise           frameType = 0x5
	frameGoAway                frameType = 0x7
	frameMaxPushID             frameType = 0xd
	framePriorityUpdate        frameType = 0xf0700 // of a request, RFC 9218 section 7.2
	framePriorityUpdateForPush frameType = 0xf0701
)

// reserved reports whether it was a type of HTTP/2 that HTTP/3 must not have,
// RFC 9114 section 7.2.8.
func (t frameType) reserved() bool { return t == 0x2 || t == 0x6 || t == 0x8 || t == 0x9 }

// The types of unidirectional streams, RFC 9114 section 6.2 and RFC 9204 section 4.2.
const (
	streamControl = 0x0
	streamPush    = 0x1
	streamEncoder = 0x2
	streamDecoder = 0x3
)

// The settings, RFC 9114 section 7.2.4.1, RFC 9204 section 5 and RFC 9220 section 3.
const (
	settingMaxTableCapacity    = 0x1
	settingMaxFieldSectionSize = 0x6
	settingBlockedStreams      = 0x7
	settingEnableConnect       = 0x8
	settingDatagram            = 0x33 // RFC 9297 section 2.1.1
)

// frameHeader is what stands in front of a frame.
type frameHeader struct {
	kind   frameType
	length int64
}

// errCutOff says that a stream has ended amid a frame.
var errCutOff = errors.New("h3: the stream has ended amid a frame")

// reader reads a stream by frames. Its buffer comes from link's pools, unless
// it was given one.
type reader struct {
	from io.Reader
	buf  []byte
	r, w int
	end  bool // from has ended
}

// release gives the buffer back.
func (in *reader) release() {
	if in.buf != nil {
		link.GiveBuffer(in.buf)
	}
	*in = reader{}
}

// buffered is what was read and not used.
func (in *reader) buffered() []byte { return in.buf[in.r:in.w] }

// fill reads once more; it returns io.EOF only if nothing came.
func (in *reader) fill() error {
	if in.end {
		return io.EOF
	}
	if in.buf == nil {
		in.buf = link.TakeBuffer(link.SmallBuffer)
	}
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	n, err := in.from.Read(in.buf[in.w:])
	in.w += n
	if err == io.EOF {
		in.end = true
		if n > 0 {
			err = nil
		}
	}
	return err
}

// enlarge makes the buffer fit for content. Nothing is buffered.
func (in *reader) enlarge() {
	if len(in.buf) < link.MediumBuffer {
		if in.buf != nil {
			link.GiveBuffer(in.buf)
		}
		in.buf, in.r, in.w = link.TakeBuffer(link.MediumBuffer), 0, 0
	}
}

// need reads until n bytes are buffered, for n that are bounded. The buffer
// grows with what comes, not with what is announced.
func (in *reader) need(n int) error {
	for in.w-in.r < n {
		if in.buf != nil && in.r == 0 && in.w == len(in.buf) {
			bigger := link.TakeBuffer(min(n, 4*len(in.buf)))
			copy(bigger, in.buf)
			link.GiveBuffer(in.buf)
			in.buf = bigger
		}
		if err := in.fill(); err == io.EOF {
			return errCutOff
		} else if err != nil {
			return err
		}
	}
	return nil
}

// varint reads an integer, RFC 9000 section 16. It returns io.EOF if the stream
// has ended in front of it.
func (in *reader) varint() (uint64, error) {
	for in.r == in.w {
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	if err := in.need(1 << (in.buf[in.r] >> 6)); err != nil {
		return 0, err
	}
	v, n, err := quicvarint.Parse(in.buffered())
	in.r += n
	return v, err
}

// header reads the header of the next frame. It returns io.EOF if there is none.
func (in *reader) header() (h frameHeader, err error) {
	kind, err := in.varint()
	if err != nil {
		return h, err
	}
	length, err := in.varint()
	if err == io.EOF {
		err = errCutOff
	}
	return frameHeader{frameType(kind), int64(length)}, err
}

// skip leaves out the next n bytes.
func (in *reader) skip(n int64) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.fill(); err == io.EOF {
				return errCutOff
			} else if err != nil {
				return err
			}
		}
		m := min(n, int64(in.w-in.r))
		in.r += int(m)
		n -= m
	}
	return nil
}

func appendFrameHeader(b []byte, kind frameType, length int64) []byte {
	return quicvarint.Append(quicvarint.Append(b, uint64(kind)), uint64(length))
}

// beginHeaders appends room for the header of a HEADERS frame.
func beginHeaders(b []byte) []byte { return append(b, byte(frameHeaders), 0, 0, 0, 0) }

// endHeaders makes a HEADERS frame of b[start:], which beginHeaders began.
func endHeaders(b []byte, start int) []byte {
	n := uint32(len(b) - start - 5)
	b[start+1], b[start+2], b[start+3], b[start+4] = byte(n>>24)|0x80, byte(n>>16), byte(n>>8), byte(n)
	return b
}

type setting struct{ id, value uint64 }

func appendSettings(b []byte, settings ...setting) []byte {
	n := 0
	for _, s := range settings {
		n += quicvarint.Len(s.id) + quicvarint.Len(s.value)
	}
	b = appendFrameHeader(b, frameSettings, int64(n))
	for _, s := range settings {
		b = quicvarint.Append(quicvarint.Append(b, s.id), s.value)
	}
	return b
}

// checkSettings checks the payload of a SETTINGS frame. None of them matters to
// us: a client's bounds on what it takes are advice, and its dynamic table is
// not used.
func checkSettings(payload []byte) *connError {
	var seen [64]uint64
	count := 0
	for len(payload) > 0 {
		id, n, err := quicvarint.Parse(payload)
		if err != nil {
			return errFrame
		}
		value, m, err := quicvarint.Parse(payload[n:])
		if err != nil {
			return errFrame
		}
		payload = payload[n+m:]
		for _, s := range seen[:count] {
			if s == id {
				return errSettings
			}
		}
		if count == len(seen) {
			return errSettingsLong
		}
		seen[count] = id
		count++
		switch id {
		case 0x0, 0x2, 0x3, 0x4, 0x5:
			return errSettings // those of HTTP/2, RFC 9114 section 7.2.4.1
		case settingEnableConnect, settingDatagram:
			if value > 1 {
				return errSettings
			}
		}
	}
	return nil
}

func appendGoAway(b []byte, id uint64) []byte {
	return quicvarint.Append(appendFrameHeader(b, frameGoAway, int64(quicvarint.Len(id))), id)
}
