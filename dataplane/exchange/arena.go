package exchange

import "unsafe"

// Arena holds the strings that are made while an exchange is served, so that
// making one allocates nothing once the arena has grown to its working size.
// It belongs to one exchange, is not safe for concurrent use, and what it
// returned is valid until its Reset.
type Arena struct {
	buf []byte
}

// Concat returns the parts one after the other.
func (a *Arena) Concat(parts ...string) string {
	start := len(a.buf)
	for _, p := range parts {
		a.buf = append(a.buf, p...)
	}
	return a.since(start)
}

// Append calls write with the arena's buffer to append to, and returns what
// write appended. It suits strconv.AppendInt and its like.
func (a *Arena) Append(write func([]byte) []byte) string {
	start := len(a.buf)
	a.buf = write(a.buf)
	return a.since(start)
}

// Uint returns n in decimal.
func (a *Arena) Uint(n uint64) string {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			break
		}
	}
	return a.Bytes(digits[i:])
}

// Bytes returns a copy of b.
func (a *Arena) Bytes(b []byte) string {
	start := len(a.buf)
	a.buf = append(a.buf, b...)
	return a.since(start)
}

// since returns what was appended. A later append may move the buffer; the
// string then still points at the old array, which never changes again.
func (a *Arena) since(start int) string {
	b := a.buf[start:]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Reset takes everything back. Buffers that one large exchange has grown are
// let go, so that they do not stay with every connection.
func (a *Arena) Reset() {
	if cap(a.buf) > 64<<10 {
		a.buf = nil
		return
	}
	a.buf = a.buf[:0]
}

// view returns the string's bytes, which must not be written to.
func view(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
