// Package proxyproto reads and writes the header by which a proxy says for
// whom it has made a connection: HAProxy's PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, "the
// specification" below).
//
// It guarantees that nothing is taken from a connection but the header, and
// that a header with two readings is an error. Its caller decides which peers
// may send one, and bounds the time by a deadline of the connection: a header
// is believed, whoever wrote it.
package proxyproto

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strconv"
)

// Header is what a proxy says of a connection.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Local says that the connection is the sender's own, such as a health
	// check: its real ends count. Version 1 cannot say that.
	Local bool
	// Source and Destination are the ends of the client's connection. They are
	// the zero value if there are none that are IP addresses: of a local
	// connection, of version 1's UNKNOWN, and of version 2's AF_UNSPEC and AF_UNIX.
	Source, Destination netip.AddrPort
	// SourcePath and DestinationPath are the paths of AF_UNIX, up to the first NUL.
	SourcePath, DestinationPath string
	// TLVs is what version 2 says beside the addresses, without checksum and
	// padding. It is empty for a local connection.
	TLVs TLVs
}

const (
	// MaxSize bounds a header of version 2 in bytes. One with all TLVs that are
	// defined and a client's certificate is less than that.
	MaxSize = 8 << 10
	// maxLine is the longest that a line of version 1 may be, with its end.
	maxLine = 107
	// fixed is the size of version 2's fixed part.
	fixed = 16
)

const (
	prefix    = "PROXY "
	signature = "\r\n\r\n\x00\r\nQUIT\n"
)

// Address families of version 2, in the high half of its fourteenth byte; the
// low half is the transport.
const (
	unspec = iota
	inet
	inet6
	unix
)

// stream is the transport of connections. It is what Append writes, as
// receivers know no other, whatever the client speaks.
const stream = 1

// Errors of headers. ErrNone says that what was received is not the beginning
// of any.
var (
	ErrNone = errors.New("proxyproto: the connection does not begin with a PROXY protocol header")

	errLine     = errors.New("proxyproto: malformed header of version 1")
	errLongLine = errors.New("proxyproto: the header of version 1 is longer than 107 bytes")
	errVersion  = errors.New("proxyproto: neither version 1 nor 2")
	errCommand  = errors.New("proxyproto: unknown command")
	errFamily   = errors.New("proxyproto: unknown address family or transport")
	errLength   = errors.New("proxyproto: the header is too short for its addresses")
	errSize     = errors.New("proxyproto: the header is longer than 8 KiB")
	errTLV      = errors.New("proxyproto: malformed TLV")
	errChecksum = errors.New("proxyproto: the CRC32c checksum does not match")
)

// Append appends the header to b. Where an end is missing it says that the
// ends are not known; IPv4 beside IPv6 is written as IPv6.
func (h *Header) Append(b []byte) []byte {
	source, destination := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	family := byte(unspec)
	switch {
	case h.Local || !source.IsValid() || !destination.IsValid():
	case source.Is4() && destination.Is4():
		family = inet
	default:
		family = inet6
	}
	if h.Version == 1 {
		return h.appendLine(b, family, source, destination)
	}
	start := len(b)
	command := byte(1)
	if h.Local {
		command = 0
	}
	b = append(b, signature...)
	b = append(b, 2<<4|command, family<<4|stream, 0, 0)
	switch family {
	case unspec:
		b[start+13] = 0
	case inet:
		b = append(append(b, source.AsSlice()...), destination.AsSlice()...)
	case inet6:
		from, to := source.As16(), destination.As16()
		b = append(append(b, from[:]...), to[:]...)
	}
	if family != unspec {
		b = binary.BigEndian.AppendUint16(b, h.Source.Port())
		b = binary.BigEndian.AppendUint16(b, h.Destination.Port())
		for kind, value := range h.TLVs.All() {
			if len(b)-start+3+len(value) <= MaxSize {
				b = TLVs(b).With(kind, value)
			}
		}
	}
	binary.BigEndian.PutUint16(b[start+14:], uint16(len(b)-start-fixed))
	return b
}

// appendLine appends a line of version 1, section 2.1 of the specification.
func (h *Header) appendLine(b []byte, family byte, source, destination netip.Addr) []byte {
	b = append(b, prefix...)
	if family == unspec {
		return append(b, "UNKNOWN\r\n"...)
	}
	if family == inet {
		b = append(b, "TCP4 "...)
	} else {
		b = append(b, "TCP6 "...)
		source, destination = netip.AddrFrom16(source.As16()), netip.AddrFrom16(destination.As16())
	}
	b = append(source.AppendTo(b), ' ')
	b = append(destination.AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(h.Source.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(h.Destination.Port()), 10)
	return append(b, "\r\n"...)
}
