package h3

import (
	"strconv"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// decoder decodes encoded field sections, RFC 9204 section 4.5, that refer to
// the static table only: the dynamic one has no capacity. It is ours since
// libraries make strings of all that they read; these are views into the arena.
type decoder struct {
	section.Reader
	arena   *exchange.Arena
	decoded string // by Write
}

// decode takes a section whole, and appends its fields to fields. It gives up
// as soon as more is there than is taken: nothing else depends on the rest.
func (d *decoder) decode(b []byte, kind section.Kind, fields *exchange.Fields, arena *exchange.Arena) *connError {
	d.Begin(kind, fields, arena)
	d.arena = arena
	defer func() {
		d.End()
		d.arena, d.decoded = nil, ""
	}()
	required, b, ok := readInt(b, 8)
	if !ok || required != 0 || len(b) == 0 || b[0]&0x80 != 0 {
		return errCompression // entries that there are not, or a base below 0
	}
	if _, b, ok = readInt(b, 7); !ok {
		return errCompression
	}
	for len(b) > 0 && !d.TooLarge {
		var name, value string
		switch c := b[0]; {
		case c&0xc0 == 0xc0: // indexed
			var i uint64
			if i, b, ok = readInt(b, 6); !ok || i >= uint64(len(staticTable)) {
				return errCompression
			}
			name, value = staticTable[i].name, staticTable[i].value
		case c&0xd0 == 0x50: // with the name of an entry
			var i uint64
			if i, b, ok = readInt(b, 4); !ok || i >= uint64(len(staticTable)) {
				return errCompression
			}
			name = staticTable[i].name
			if value, b, ok = d.readString(b, 7); !ok {
				return errCompression
			}
		case c&0xe0 == 0x20: // literal
			if name, b, ok = d.readString(b, 3); !ok {
				return errCompression
			}
			if value, b, ok = d.readString(b, 7); !ok {
				return errCompression
			}
		default:
			return errCompression // the dynamic table
		}
		d.Add(name, value)
	}
	return nil
}

// readInt reads an integer, RFC 9204 section 4.1.1, of at most 62 bits.
func readInt(b []byte, bits uint) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	limit := uint64(1)<<bits - 1
	if n = uint64(b[0]) & limit; n < limit {
		return n, b[1:], true
	}
	for i, shift := 1, uint(0); i < len(b) && shift < 62; i, shift = i+1, shift+7 {
		if n += uint64(b[i]&0x7f) << shift; n >= 1<<62 {
			return 0, nil, false
		}
		if b[i]&0x80 == 0 {
			return n, b[i+1:], true
		}
	}
	return 0, nil, false
}

// readString reads a string literal, RFC 9204 section 4.1.2.
func (d *decoder) readString(b []byte, bits uint) (s string, rest []byte, ok bool) {
	if len(b) == 0 {
		return "", nil, false
	}
	compressed := b[0]&(1<<bits) != 0
	n, b, ok := readInt(b, bits)
	if !ok || n > uint64(len(b)) {
		return "", nil, false
	}
	if !compressed {
		return d.arena.Bytes(b[:n]), b[n:], true
	}
	if _, err := hpack.HuffmanDecode(d, b[:n]); err != nil {
		return "", nil, false
	}
	return d.decoded, b[n:], true
}

// Write takes what was compressed from hpack.
func (d *decoder) Write(p []byte) (int, error) {
	d.decoded = d.arena.Bytes(p)
	return len(p), nil
}

// beginSection appends the prefix of a section that needs no dynamic table, RFC
// 9204 section 4.5.1.
func beginSection(b []byte) []byte { return append(b, 0, 0) }

// appendStatus appends :status.
func appendStatus(b []byte, status int) []byte {
	var digits [3]byte
	text := str(strconv.AppendInt(digits[:0], int64(status), 10))
	return appendLine(b, ":status", text, 0)
}

// appendLength appends content-length.
func appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	return appendLine(b, "content-length", str(strconv.AppendInt(digits[:0], n, 10)), 0)
}

// appendField appends a field line, or nothing if its name is no token. The
// name is written in lower case; bytes that must not stand in the value become
// spaces.
func appendField(b []byte, f *exchange.Field) []byte {
	name, never := f.Name, byte(0)
	switch f.Key {
	case exchange.KeyOther:
		if !section.ValidName(name) {
			return b
		}
	case exchange.KeyAuthorization, exchange.KeyProxyAuthorization, exchange.KeyCookie, exchange.KeySetCookie:
		never = 1 // to be indexed by who forwards it, RFC 9204 section 7.1.3
		name = f.Key.Name()
	default:
		name = f.Key.Name()
	}
	return appendLine(b, name, f.Value, never)
}

// appendLine appends a line of a field, or of a pseudo-header field.
func appendLine(b []byte, name, value string, never byte) []byte {
	var scratch [64]byte
	entries := staticNames[str(lower(scratch[:0], name))]
	if len(entries) == 0 {
		b = section.AppendName(b, 0x20|never<<4, 3, name)
		return section.AppendValue(b, 0, 7, value)
	}
	for _, i := range entries {
		if staticTable[i].value == value && never == 0 {
			return section.AppendInt(b, 0xc0, 6, uint64(i))
		}
	}
	b = section.AppendInt(b, 0x50|never<<5, 4, uint64(entries[0]))
	return section.AppendValue(b, 0, 7, value)
}

// lower appends the name in lower case, as far as it may be that of an entry.
func lower(b []byte, name string) []byte {
	for i := range min(len(name), cap(b)) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return b
}

// str makes a view of bytes.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
