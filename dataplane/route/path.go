package route

import (
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
)

// Normalize returns a path in the one spelling that is matched and forwarded,
// so that no other spelling of it gets past a rule, RFC 3986 section 6.2.2:
// percent-encoded unreserved characters are decoded, other percent-encodings
// written in upper case, and dot segments resolved; a path that would climb
// above the root stays at the root. All else keeps its meaning and stays:
// encoded slashes encoded, double slashes double.
//
// What does not begin with "/" ("*", or nothing) is returned as it is. A new
// string is made in the arena.
func Normalize(path string, arena *exchange.Arena) string {
	if path == "" || path[0] != '/' || (strings.IndexByte(path, '%') < 0 && !strings.Contains(path, "/.")) {
		return path
	}
	return arena.Append(func(b []byte) []byte { return appendNormal(b, path) })
}

func appendNormal(out []byte, path string) []byte {
	root := len(out)
	for path != "" {
		var segment string
		segment, path = cutSegment(path)

		slash := len(out)
		out = append(out, '/')
		out = appendUnescaped(out, segment)
		switch string(out[slash+1:]) {
		case ".":
			out = out[:slash]
		case "..":
			// Back to before the previous segment's slash, if there is one.
			for out = out[:slash]; len(out) > root; {
				last := out[len(out)-1]
				out = out[:len(out)-1]
				if last == '/' {
					break
				}
			}
		default:
			continue
		}
		if path == "" { // "/a/." is "/a/"
			out = append(out, '/')
		}
	}
	return out
}

// appendUnescaped decodes what need not be encoded.
func appendUnescaped(out []byte, segment string) []byte {
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c != '%' || i+2 >= len(segment) || !isHex(segment[i+1]) || !isHex(segment[i+2]) {
			out = append(out, c)
			continue
		}
		if c = unhex(segment[i+1])<<4 | unhex(segment[i+2]); isUnreserved(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', upperHex[c>>4], upperHex[c&15])
		}
		i += 2
	}
	return out
}

const upperHex = "0123456789ABCDEF"

// isUnreserved is RFC 3986 section 2.3.
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}
