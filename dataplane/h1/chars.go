package h1

import "encoding/binary"

// class says where a byte may stand.
type class uint8

const (
	tchar      class = 1 << iota // in tokens: methods, field names; RFC 9110 section 5.6.2
	valueChar                    // in field values: HTAB, SP, VCHAR, obs-text; section 5.5
	targetChar                   // in request targets: VCHAR without "#"
	hostChar                     // in a host name, see parseAuthority
)

var classes = makeClasses()

func makeClasses() (t [256]class) {
	for c := range 256 {
		b := byte(c)
		alnum := '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z'
		if alnum || contains("!#$%&'*+-.^_`|~", b) {
			t[c] |= tchar
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			t[c] |= valueChar
		}
		if b > ' ' && b < 0x7f && b != '#' {
			t[c] |= targetChar
		}
		if alnum || contains("-._~!$&'()*+;=", b) {
			t[c] |= hostChar
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

// all reports whether every byte of s is of this class.
func all[T string | []byte](s T, is class) bool {
	for i := range len(s) {
		if classes[s[i]]&is == 0 {
			return false
		}
	}
	return true
}

// cleanValue reports whether every byte of b may stand in a field value. It
// looks at eight bytes at a time, since it looks at all that is received.
func cleanValue(b []byte) bool {
	n := len(b)
	if n < 8 {
		return all(b, valueChar)
	}
	for i := 0; ; i += 8 {
		if i > n-8 {
			i = n - 8 // again some that were seen, instead of one by one
		}
		if hasControl(binary.LittleEndian.Uint64(b[i:])) && !all(b[i:i+8], valueChar) {
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
