package h2

import "fmt"

// ErrCode is an error code of RST_STREAM and GOAWAY, RFC 9113 section 7.
type ErrCode uint32

// The error codes.
const (
	NoError            ErrCode = 0x0
	ProtocolError      ErrCode = 0x1
	InternalError      ErrCode = 0x2
	FlowControlError   ErrCode = 0x3
	SettingsTimeout    ErrCode = 0x4
	StreamClosed       ErrCode = 0x5
	FrameSizeError     ErrCode = 0x6
	RefusedStream      ErrCode = 0x7
	Cancel             ErrCode = 0x8
	CompressionError   ErrCode = 0x9
	ConnectError       ErrCode = 0xa
	EnhanceYourCalm    ErrCode = 0xb
	InadequateSecurity ErrCode = 0xc
	HTTP11Required     ErrCode = 0xd
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
	"FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the code's name in the RFC.
func (c ErrCode) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error code 0x%x", uint32(c))
}

// connError ends the connection with GOAWAY, RFC 9113 section 5.4.1. Reason is
// one word for logs and metrics. They are constants, so that none is allocated.
type connError struct {
	code   ErrCode
	reason string
}

func (e *connError) Error() string { return "h2: " + e.code.String() + ": " + e.reason }

// streamError ends one stream with RST_STREAM, RFC 9113 section 5.4.2.
type streamError struct {
	code   ErrCode
	reason string
}

func (e *streamError) Error() string { return "h2: stream: " + e.code.String() + ": " + e.reason }

// What ends a connection, with the sections of RFC 9113 that say so.
var (
	errPreface       = &connError{ProtocolError, "preface"}               // section 3.4
	errFrameSize     = &connError{FrameSizeError, "frame_size"}           // section 4.2
	errFrameStream   = &connError{ProtocolError, "frame_on_wrong_stream"} // section 6: 0 or not 0
	errPadding       = &connError{ProtocolError, "padding"}               // section 6.1
	errIdleStream    = &connError{ProtocolError, "idle_stream"}           // section 5.1
	errStreamID      = &connError{ProtocolError, "stream_id"}             // section 5.1.1
	errStreamClosed  = &connError{StreamClosed, "stream_closed"}          // section 5.1
	errContinuation  = &connError{ProtocolError, "continuation"}          // section 6.10
	errPush          = &connError{ProtocolError, "push_promise"}          // section 8.4
	errSettings      = &connError{ProtocolError, "settings"}              // section 6.5.2
	errWindowSetting = &connError{FlowControlError, "initial_window"}     // section 6.5.2
	errWindow        = &connError{FlowControlError, "window"}             // section 6.9.1
	errWindowZero    = &connError{ProtocolError, "window_increment"}      // section 6.9
	errCompression   = &connError{CompressionError, "compression"}        // section 4.3
	errPriorityFrame = &connError{ProtocolError, "priority_update"}       // RFC 9218 section 7.1
	errDependency    = &connError{ProtocolError, "depends_on_itself"}     // RFC 7540 section 5.3.1
)

// What ends a connection because the peer wants more than its share.
var (
	errHeaderFlood   = &connError{EnhanceYourCalm, "header_block_too_large"}
	errHeaderBomb    = &connError{EnhanceYourCalm, "header_bomb"}
	errContinuations = &connError{EnhanceYourCalm, "continuation_flood"}
	errResetFlood    = &connError{EnhanceYourCalm, "rapid_reset"}
	errProvoked      = &connError{EnhanceYourCalm, "provoked_resets"} // CVE-2025-8671
	errFrameFlood    = &connError{EnhanceYourCalm, "frame_flood"}
	errQueueFlood    = &connError{EnhanceYourCalm, "unread_answers"}
	errStalled       = &connError{EnhanceYourCalm, "stalled_windows"}
	errSlowRead      = &connError{EnhanceYourCalm, "slow_read"}
	errSlowHeader    = &connError{EnhanceYourCalm, "header_timeout"}
	errSlowFrame     = &connError{EnhanceYourCalm, "frame_timeout"}
)
