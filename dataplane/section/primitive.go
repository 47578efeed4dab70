package section

import (
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/syntax"
)

// AppendInt appends an integer with a prefix of bits, below what kind has of
// the first byte: RFC 7541 section 5.1, RFC 9204 section 4.1.1.
func AppendInt(b []byte, kind byte, bits uint, n uint64) []byte {
	limit := uint64(1)<<bits - 1
	if n < limit {
		return append(b, kind|byte(n))
	}
	b = append(b, kind|byte(limit))
	for n -= limit; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// AppendName appends a name as a string literal, in lower case: RFC 7541
// section 5.2, RFC 9204 section 4.1.2. The bit above the prefix says whether it
// is compressed.
func AppendName(b []byte, kind byte, bits uint, name string) []byte {
	var scratch [128]byte
	return appendString(b, kind, bits, lowered(name, scratch[:0]))
}

// AppendValue is AppendName for a value. Bytes that must not stand in it become
// spaces.
func AppendValue(b []byte, kind byte, bits uint, value string) []byte {
	var scratch [128]byte
	if !syntax.CleanValue(bytesOf(value)) {
		value = cleaned(value, scratch[:0])
	}
	return appendString(b, kind, bits, value)
}

func appendString(b []byte, kind byte, bits uint, s string) []byte {
	n := hpack.HuffmanEncodeLength(s)
	if n >= uint64(len(s)) {
		b = AppendInt(b, kind, bits, uint64(len(s)))
		return append(b, s...)
	}
	b = AppendInt(b, kind|1<<bits, bits, n)
	return hpack.AppendHuffmanString(b, s)
}

func lowered(s string, scratch []byte) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			scratch = append(scratch, s...)
			for ; i < len(s); i++ {
				if c := s[i]; 'A' <= c && c <= 'Z' {
					scratch[i] = c + ('a' - 'A')
				}
			}
			return str(scratch)
		}
	}
	return s
}

func cleaned(s string, scratch []byte) string {
	scratch = append(scratch, s...)
	for i, c := range scratch {
		if syntax.Classes[c]&syntax.ValueChar == 0 {
			scratch[i] = ' '
		}
	}
	return str(scratch)
}

// str makes a view of bytes.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
