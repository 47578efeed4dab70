package proxyproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Size returns how long the header is that b begins with. It is 0 as long as
// more bytes are needed to tell; all of b belongs to the header then. The error
// is ErrNone if b is the beginning of none.
func Size(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if b[0] == prefix[0] {
		return sizeLine(b)
	}
	n := min(len(b), len(signature))
	if string(b[:n]) != signature[:n] {
		return 0, ErrNone
	}
	if len(b) > 12 && b[12]>>4 != 2 {
		return 0, errVersion
	}
	if len(b) < fixed {
		return 0, nil
	}
	size := fixed + int(binary.BigEndian.Uint16(b[14:]))
	if size > MaxSize {
		return 0, errSize
	}
	return size, nil
}

func sizeLine(b []byte) (int, error) {
	n := min(len(b), len(prefix))
	if string(b[:n]) != prefix[:n] {
		return 0, ErrNone
	}
	// Neither CR nor LF is part of anything but the line's end.
	at := bytes.IndexAny(b[:min(len(b), maxLine)], "\r\n")
	switch {
	case at < 0 && len(b) >= maxLine:
		return 0, errLongLine
	case at < 0:
		return 0, nil
	case b[at] == '\n':
		return 0, errLine
	case at+1 == maxLine:
		return 0, errLongLine
	case at+1 == len(b):
		return 0, nil
	case b[at+1] != '\n':
		return 0, errLine
	}
	return at + 2, nil
}

// Parse reads a whole header, as long as Size says. It keeps nothing of b.
func Parse(b []byte) (*Header, error) {
	size, err := Size(b)
	switch {
	case err != nil:
		return nil, err
	case size == 0 || size > len(b):
		return nil, errLength
	case b[0] == prefix[0]:
		return parseLine(string(b[len(prefix) : size-2]))
	}
	return parseBinary(b[:size])
}

// parseLine reads what stands between "PROXY " and the line's end, section 2.1
// of the specification.
func parseLine(line string) (*Header, error) {
	h := &Header{Version: 1}
	// Whatever follows UNKNOWN means nothing.
	if line == "UNKNOWN" || strings.HasPrefix(line, "UNKNOWN ") {
		return h, nil
	}
	part := strings.Split(line, " ")
	if len(part) != 5 || part[0] != "TCP4" && part[0] != "TCP6" {
		return nil, errLine
	}
	var ok [4]bool
	var source, destination netip.Addr
	var from, to uint16
	source, ok[0] = parseAddr(part[1], part[0] == "TCP4")
	destination, ok[1] = parseAddr(part[2], part[0] == "TCP4")
	from, ok[2] = parsePort(part[3])
	to, ok[3] = parsePort(part[4])
	if slices.Contains(ok[:], false) {
		return nil, errLine
	}
	h.Source, h.Destination = netip.AddrPortFrom(source, from), netip.AddrPortFrom(destination, to)
	return h, nil
}

// parseAddr reads an address of the one family or the other. Package netip
// takes no leading zeros.
func parseAddr(s string, v4 bool) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

// parsePort reads a port in decimal, without sign and leading zeros.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && (s[0] != '0' || len(s) == 1)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseBinary reads a header of version 2, section 2.2 of the specification.
func parseBinary(b []byte) (*Header, error) {
	h := &Header{Version: 2}
	switch b[12] & 15 {
	case 0:
		// All that follows is to be discarded, also its family.
		h.Local = true
		return h, nil
	case 1:
	default:
		return nil, errCommand
	}
	family, transport := b[13]>>4, b[13]&15
	if family > unix || transport > 2 {
		return nil, errFamily
	}
	rest := b[fixed:]
	need := [...]int{unspec: 0, inet: 12, inet6: 36, unix: 216}[family]
	if len(rest) < need {
		return nil, errLength
	}
	at, rest := rest[:need], rest[need:]
	switch family {
	case unspec:
		// How long its addresses are nobody knows, nor whether TLVs follow.
		return h, nil
	case unix:
		h.SourcePath, h.DestinationPath = path(at[:108]), path(at[108:])
	default:
		size := (need - 4) / 2
		source, _ := netip.AddrFromSlice(at[:size])
		destination, _ := netip.AddrFromSlice(at[size : 2*size])
		h.Source = netip.AddrPortFrom(source.Unmap(), binary.BigEndian.Uint16(at[2*size:]))
		h.Destination = netip.AddrPortFrom(destination.Unmap(), binary.BigEndian.Uint16(at[2*size+2:]))
	}
	if !TLVs(rest).well() {
		return nil, errTLV
	}
	sums, place := 0, len(b)-len(rest)
	for kind, value := range TLVs(rest).All() {
		place += 3
		switch kind {
		case checksum:
			if sums++; sums > 1 || len(value) != 4 {
				return nil, errTLV
			}
			if !sum(b, place) {
				return nil, errChecksum
			}
		case padding:
		case UniqueID:
			if len(value) > 128 {
				return nil, errTLV
			}
			h.TLVs = h.TLVs.With(kind, value)
		case SSL:
			if _, ok := ParseSSL(value); !ok {
				return nil, errTLV
			}
			h.TLVs = h.TLVs.With(kind, value)
		default:
			h.TLVs = h.TLVs.With(kind, value)
		}
		place += len(value)
	}
	return h, nil
}

// sum reports whether the checksum that is at a place of the header is that of
// the header with zeros in the checksum's place, section 2.2.3 of the specification.
func sum(b []byte, at int) bool {
	crc := crc32.Update(0, castagnoli, b[:at])
	crc = crc32.Update(crc, castagnoli, make([]byte, 4))
	crc = crc32.Update(crc, castagnoli, b[at+4:])
	return crc == binary.BigEndian.Uint32(b[at:])
}

func path(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
