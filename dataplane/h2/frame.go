package h2

import "encoding/binary"

// Preface is what a client's connection begins with, RFC 9113 section 3.4.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frameType is the type of a frame, RFC 9113 section 6.
type frameType uint8

const (
	frameData           frameType = 0x0
	frameHeaders        frameType = 0x1
	framePriority       frameType = 0x2
	frameRSTStream      frameType = 0x3
	frameSettings       frameType = 0x4
	framePushPromise    frameType = 0x5
	framePing           frameType = 0x6
	frameGoAway         frameType = 0x7
	frameWindowUpdate   frameType = 0x8
	frameContinuation   frameType = 0x9
	framePriorityUpdate frameType = 0x10 // RFC 9218 section 7.1
)

// frameFlags are a frame's flags; what a bit means depends on the type.
type frameFlags uint8

const (
	flagEndStream  frameFlags = 0x1  // DATA, HEADERS
	flagAck        frameFlags = 0x1  // SETTINGS, PING
	flagEndHeaders frameFlags = 0x4  // HEADERS, CONTINUATION
	flagPadded     frameFlags = 0x8  // DATA, HEADERS
	flagPriority   frameFlags = 0x20 // HEADERS
)

func (f frameFlags) has(flag frameFlags) bool { return f&flag != 0 }

const (
	frameHeaderLen = 9
	// minFrameSize is the largest payload that every peer takes, and the
	// largest that we take: SETTINGS_MAX_FRAME_SIZE's initial value.
	minFrameSize = 16 << 10
	maxFrameSize = 1<<24 - 1
	maxStreamID  = 1<<31 - 1
	maxWindow    = 1<<31 - 1
	// initialWindow is every window's size before SETTINGS say more, section 6.9.2.
	initialWindow = 1<<16 - 1
)

// frameHeader is the nine bytes that every frame begins with, section 4.1.
type frameHeader struct {
	length uint32
	kind   frameType
	flags  frameFlags
	stream uint32
}

// parseFrameHeader reads the first nine bytes of b. The reserved bit is ignored.
func parseFrameHeader(b []byte) frameHeader {
	_ = b[frameHeaderLen-1]
	return frameHeader{
		length: uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]),
		kind:   frameType(b[3]),
		flags:  frameFlags(b[4]),
		stream: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

// check keeps the rules of section 6 that a header alone can break: sizes, and
// which frames are about a stream and which about the connection. limit is the
// SETTINGS_MAX_FRAME_SIZE that we sent. Unknown types pass.
func (h frameHeader) check(limit uint32) *connError {
	if h.length > limit {
		return errFrameSize
	}
	onStream, size := true, h.length
	switch h.kind {
	case frameData, frameHeaders, frameContinuation, framePushPromise:
		if h.flags.has(flagPadded) && h.kind != frameContinuation && h.length == 0 {
			return errFrameSize
		}
	case framePriority:
		size = 5
	case frameRSTStream:
		size = 4
	case frameSettings:
		onStream = false
		if h.length%6 != 0 || h.flags.has(flagAck) && h.length != 0 {
			return errFrameSize
		}
	case framePing:
		onStream, size = false, 8
	case frameGoAway:
		onStream = false
		if h.length < 8 {
			return errFrameSize
		}
	case framePriorityUpdate:
		onStream = false
		if h.length < 4 {
			return errFrameSize
		}
	case frameWindowUpdate:
		onStream, size = h.stream != 0, 4
	default:
		return nil
	}
	switch {
	case onStream != (h.stream != 0):
		return errFrameStream
	case h.length != size:
		return errFrameSize
	}
	return nil
}

// unpad returns the payload of a DATA or HEADERS frame without its padding.
func (h frameHeader) unpad(payload []byte) ([]byte, *connError) {
	if !h.flags.has(flagPadded) {
		return payload, nil
	}
	if len(payload) == 0 {
		return nil, errFrameSize
	}
	padding := int(payload[0])
	if payload = payload[1:]; padding > len(payload) {
		return nil, errPadding
	}
	return payload[:len(payload)-padding], nil
}

// priorityParam is what a PRIORITY frame, or HEADERS with the flag, says. Only
// the dependency is read: the scheme is deprecated, section 5.3.2.
func priorityParam(b []byte) (dependency uint32) {
	return binary.BigEndian.Uint32(b) & maxStreamID
}

// framer cuts frames out of what was received. It owns no connection: who has
// one appends to it what was read.
type framer struct {
	// buf[r:w] is what was received and not yet cut.
	buf  []byte
	r, w int
	// limit is the largest payload that is taken.
	limit uint32
}

// next cuts the next frame off, or returns ok false if it is not complete. The
// payload is valid until more is read.
func (f *framer) next() (h frameHeader, payload []byte, ok bool, err *connError) {
	b := f.buf[f.r:f.w]
	if len(b) < frameHeaderLen {
		return h, nil, false, nil
	}
	h = parseFrameHeader(b)
	if err := h.check(f.limit); err != nil {
		return h, nil, false, err
	}
	end := frameHeaderLen + int(h.length)
	if len(b) < end {
		return h, nil, false, nil
	}
	f.r += end
	return h, b[frameHeaderLen:end:end], true, nil
}

// missing returns how many bytes the next frame still lacks, as far as is known.
func (f *framer) missing() int {
	b := f.buf[f.r:f.w]
	if len(b) < frameHeaderLen {
		return frameHeaderLen - len(b)
	}
	return frameHeaderLen + int(parseFrameHeader(b).length) - len(b)
}

// appendFrameHeader appends the header of a frame whose payload has n bytes.
func appendFrameHeader(b []byte, n int, kind frameType, flags frameFlags, stream uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags),
		byte(stream>>24), byte(stream>>16), byte(stream>>8), byte(stream))
}

func appendData(b []byte, stream uint32, payload []byte, end bool) []byte {
	var flags frameFlags
	if end {
		flags = flagEndStream
	}
	b = appendFrameHeader(b, len(payload), frameData, flags, stream)
	return append(b, payload...)
}

func appendRSTStream(b []byte, stream uint32, code ErrCode) []byte {
	b = appendFrameHeader(b, 4, frameRSTStream, 0, stream)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, stream, increment uint32) []byte {
	b = appendFrameHeader(b, 4, frameWindowUpdate, 0, stream)
	return binary.BigEndian.AppendUint32(b, increment)
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	var flags frameFlags
	if ack {
		flags = flagAck
	}
	b = appendFrameHeader(b, 8, framePing, flags, 0)
	return append(b, data[:]...)
}

func appendGoAway(b []byte, last uint32, code ErrCode, debug string) []byte {
	b = appendFrameHeader(b, 8+len(debug), frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, debug...)
}

func appendSettingsAck(b []byte) []byte {
	return appendFrameHeader(b, 0, frameSettings, flagAck, 0)
}

// setting is a parameter of SETTINGS, section 6.5.1.
type setting struct {
	id    settingID
	value uint32
}

type settingID uint16

const (
	settingHeaderTableSize      settingID = 0x1
	settingEnablePush           settingID = 0x2
	settingMaxConcurrentStreams settingID = 0x3
	settingInitialWindowSize    settingID = 0x4
	settingMaxFrameSize         settingID = 0x5
	settingMaxHeaderListSize    settingID = 0x6
	settingEnableConnect        settingID = 0x8 // RFC 8441 section 3
	settingNoPriorities         settingID = 0x9 // RFC 9218 section 2.1
)

func appendSettings(b []byte, settings ...setting) []byte {
	b = appendFrameHeader(b, 6*len(settings), frameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.id))
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}

// nextSetting cuts the first parameter off a SETTINGS payload, which is not empty.
func nextSetting(payload []byte) (s setting, rest []byte) {
	return setting{settingID(binary.BigEndian.Uint16(payload)), binary.BigEndian.Uint32(payload[2:])}, payload[6:]
}

// check keeps the bounds of section 6.5.2 and of RFC 8441 and 9218.
func (s setting) check() *connError {
	switch s.id {
	case settingEnablePush, settingEnableConnect, settingNoPriorities:
		if s.value > 1 {
			return errSettings
		}
	case settingInitialWindowSize:
		if s.value > maxWindow {
			return errWindowSetting
		}
	case settingMaxFrameSize:
		if s.value < minFrameSize || s.value > maxFrameSize {
			return errSettings
		}
	}
	return nil
}
