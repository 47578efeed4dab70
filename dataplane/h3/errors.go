package h3

import (
	"fmt"

	"github.com/quic-go/quic-go"
)

// ErrCode is an error code of a stream or of the connection, RFC 9114 section
// 8.1 and RFC 9204 section 6.
type ErrCode uint64

// The error codes.
const (
	NoError              ErrCode = 0x100
	GeneralProtocolError ErrCode = 0x101
	InternalError        ErrCode = 0x102
	StreamCreationError  ErrCode = 0x103
	ClosedCriticalStream ErrCode = 0x104
	FrameUnexpected      ErrCode = 0x105
	FrameError           ErrCode = 0x106
	ExcessiveLoad        ErrCode = 0x107
	IDError              ErrCode = 0x108
	SettingsError        ErrCode = 0x109
	MissingSettings      ErrCode = 0x10a
	RequestRejected      ErrCode = 0x10b
	RequestCancelled     ErrCode = 0x10c
	RequestIncomplete    ErrCode = 0x10d
	MessageError         ErrCode = 0x10e
	ConnectError         ErrCode = 0x10f
	VersionFallback      ErrCode = 0x110
	DecompressionFailed  ErrCode = 0x200
	EncoderStreamError   ErrCode = 0x201
	DecoderStreamError   ErrCode = 0x202
)

var codeNames = map[ErrCode]string{
	NoError: "H3_NO_ERROR", GeneralProtocolError: "H3_GENERAL_PROTOCOL_ERROR", InternalError: "H3_INTERNAL_ERROR",
	StreamCreationError: "H3_STREAM_CREATION_ERROR", ClosedCriticalStream: "H3_CLOSED_CRITICAL_STREAM",
	FrameUnexpected: "H3_FRAME_UNEXPECTED", FrameError: "H3_FRAME_ERROR", ExcessiveLoad: "H3_EXCESSIVE_LOAD",
	IDError: "H3_ID_ERROR", SettingsError: "H3_SETTINGS_ERROR", MissingSettings: "H3_MISSING_SETTINGS",
	RequestRejected: "H3_REQUEST_REJECTED", RequestCancelled: "H3_REQUEST_CANCELLED", RequestIncomplete: "H3_REQUEST_INCOMPLETE",
	MessageError: "H3_MESSAGE_ERROR", ConnectError: "H3_CONNECT_ERROR", VersionFallback: "H3_VERSION_FALLBACK",
	DecompressionFailed: "QPACK_DECOMPRESSION_FAILED", EncoderStreamError: "QPACK_ENCODER_STREAM_ERROR",
	DecoderStreamError: "QPACK_DECODER_STREAM_ERROR",
}

// String returns the code's name in the RFC.
func (c ErrCode) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("error code 0x%x", uint64(c))
}

// connError ends the connection, RFC 9114 section 8. Reason is one word for
// logs and metrics. They are constants, so that none is allocated.
type connError struct {
	code   ErrCode
	reason string
}

func (e *connError) Error() string { return "h3: " + e.code.String() + ": " + e.reason }

func (c ErrCode) stream() quic.StreamErrorCode    { return quic.StreamErrorCode(c) }
func (c ErrCode) conn() quic.ApplicationErrorCode { return quic.ApplicationErrorCode(c) }

// What ends a connection, with the sections of RFC 9114 that say so.
var (
	errFrameUnexpected = &connError{FrameUnexpected, "frame_unexpected"}            // section 7.2
	errFrameReserved   = &connError{FrameUnexpected, "frame_reserved"}              // section 7.2.8
	errFrame           = &connError{FrameError, "frame"}                            // section 7.1
	errSettings        = &connError{SettingsError, "settings"}                      // section 7.2.4
	errSettingsLong    = &connError{ExcessiveLoad, "settings_too_large"}            // section 7.2.4
	errMissingSettings = &connError{MissingSettings, "settings_missing"}            // section 6.2.1
	errStreamTwice     = &connError{StreamCreationError, "stream_twice"}            // section 6.2.1, RFC 9204 section 4.2
	errPushStream      = &connError{StreamCreationError, "push_stream"}             // section 6.2.2
	errCritical        = &connError{ClosedCriticalStream, "critical_stream_closed"} // section 6.2.1, RFC 9204 section 4.2
	errID              = &connError{IDError, "id"}                                  // sections 5.2, 7.2.3 and 7.2.7
	errPriority        = &connError{IDError, "priority_update"}                     // RFC 9218 section 7.2
	errCompression     = &connError{DecompressionFailed, "compression"}             // RFC 9204 section 2.2
	errEncoderStream   = &connError{EncoderStreamError, "encoder_stream"}           // RFC 9204 section 4.3
	errDecoderStream   = &connError{DecoderStreamError, "decoder_stream"}           // RFC 9204 section 4.4
)

// What ends a connection because the client wants more than its share.
var (
	errResetFlood = &connError{ExcessiveLoad, "rapid_reset"}
	errProvoked   = &connError{ExcessiveLoad, "provoked_resets"}
	errFrameFlood = &connError{ExcessiveLoad, "frame_flood"}
	errUnread     = &connError{ExcessiveLoad, "unread_answers"}
)
