// Package syntax is the grammar that all versions of HTTP have in common,
// RFC 9110: which bytes may stand where, and what authorities, lengths and
// trailers look like.
package syntax

import "encoding/binary"

// Class says where a byte may stand.
type Class uint8

// The classes.
const (
	TChar      Class = 1 << iota // in tokens: methods, field names; RFC 9110 section 5.6.2
	ValueChar                    // in field values: HTAB, SP, VCHAR, obs-text; section 5.5
	TargetChar                   // in request targets: VCHAR without "#"
	HostChar                     // in a host name, see ParseAuthority
)

// Classes has the classes of each byte.
var Classes = makeClasses()

func makeClasses() (t [256]Class) {
	for c := range 256 {
		b := byte(c)
		alnum := '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if alnum || contains("!#$%&'*+-.^_`|~", b) {
			t[c] |= TChar
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= ValueChar
		}
		if b > ' ' && b < 0x7f && b != '#' {
			t[c] |= TargetChar
		}
		if alnum || contains("-._~!$&'()*+;=", b) {
			t[c] |= HostChar
		}
	}
	return t
}

func contains(s string, b byte) bool {
	for i := range len(s) {
		if s[i] == b {
			return true
		}
	}
	return false
}

// All reports whether every byte of s is of this class.
func All[T string | []byte](s T, is Class) bool {
	for i := range len(s) {
		if Classes[s[i]]&is == 0 {
			return false
		}
	}
	return true
}

// CleanValue reports whether every byte of b may stand in a field value. It
// looks at eight bytes at a time, since it looks at all that is received.
func CleanValue(b []byte) bool {
	n := len(b)
	if n < 8 {
		return All(b, ValueChar)
	}
	for i := 0; ; i += 8 {
		if i > n-8 {
			i = n - 8 // again some that were seen, instead of one by one
		}
		if hasControl(binary.LittleEndian.Uint64(b[i:])) && !All(b[i:i+8], ValueChar) {
			return false
		}
		if i == n-8 {
			return true
		}
	}
}

// hasControl reports whether one of eight bytes is below 0x20 or 0x7f. HTAB is
// among these, so a hit has to be looked at again.
func hasControl(x uint64) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	y := x ^ ones*0x7f
	return ((x-ones*0x20)&^x|(y-ones)&^y)&tops != 0
}
