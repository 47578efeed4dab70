// Package section keeps the rules that HTTP/2 and HTTP/3 have in common for
// header and trailer sections: RFC 9113 section 8 and RFC 9114 section 4. Their
// codecs decompress field lines and hand them to a Reader; what comes out could
// be said in HTTP/1.1 in one way only, or is malformed.
package section

import (
	"unsafe"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// Kind is what a section is of.
type Kind uint8

// The kinds.
const (
	Request Kind = iota
	Response
	Trailers
)

// Pseudo are pseudo-header fields.
type Pseudo uint8

// The pseudo-header fields.
const (
	HasMethod Pseudo = 1 << iota
	HasScheme
	HasAuthority
	HasPath
	HasProtocol // RFC 8441 and RFC 9220
	HasStatus
)

// Section is a header or trailer section without the fields that went into a list.
type Section struct {
	Kind Kind
	// Seen are the pseudo-header fields that there were; others are empty.
	Seen                                      Pseudo
	Method, Scheme, Authority, Path, Protocol string
	Status                                    int

	// Host and Length are fields that are not in the list. Length is -1 if there
	// is none. Expect and Priority are also in it.
	Host     string
	Length   int64
	Expect   string
	Priority string
	hosts    int

	// Malformed is why the message must not be used, RFC 9113 section 8.1.1, as
	// one word; "" if it may.
	Malformed string
	// TooLarge says that the list is longer than it may be; it is not complete then.
	TooLarge bool
}

// Reader takes the field lines of one section after the other: call Begin, Add
// for each line, and End.
type Reader struct {
	// MaxBytes bounds a section as SETTINGS_MAX_HEADER_LIST_SIZE and
	// SETTINGS_MAX_FIELD_SECTION_SIZE count, MaxCount its number of lines.
	MaxBytes, MaxCount int

	Section
	// Size is that of the section so far, as MaxBytes counts.
	Size int

	fields  *exchange.Fields
	arena   *exchange.Arena
	count   int
	regular bool
	cookie  int      // the Cookie line's place in fields, plus one
	crumbs  []string // the other Cookie lines
}

// Begin starts a section whose fields are appended to fields. Strings that must
// be made are made in arena.
func (r *Reader) Begin(kind Kind, fields *exchange.Fields, arena *exchange.Arena) {
	r.Section = Section{Kind: kind, Length: -1}
	r.fields, r.arena = fields, arena
	r.Size, r.count = 0, 0
	r.regular, r.cookie = false, 0
	r.crumbs = r.crumbs[:0]
}

// Add takes a line. Its strings must live as long as the fields.
func (r *Reader) Add(name, value string) {
	r.Size += len(name) + len(value) + 32
	if r.Size > r.MaxBytes {
		r.TooLarge = true
	}
	if !r.TooLarge && r.Malformed == "" {
		r.Malformed = r.take(name, value)
	}
}

// End completes the section: crumbs of Cookie become one line, RFC 9113 section
// 8.2.3 and RFC 9114 section 4.2.1.
func (r *Reader) End() {
	if len(r.crumbs) > 0 {
		line := &(*r.fields)[r.cookie-1]
		line.Value = r.arena.Append(func(b []byte) []byte {
			b = append(b, line.Value...)
			for _, crumb := range r.crumbs {
				b = append(b, "; "...)
				b = append(b, crumb...)
			}
			return b
		})
		clear(r.crumbs)
		if cap(r.crumbs) > 256 {
			r.crumbs = nil
		}
	}
	r.fields, r.arena = nil, nil
}

// take adds a field, or returns why the message is malformed.
func (r *Reader) take(name, value string) string {
	if name == "" {
		return "field_name"
	}
	if !syntax.CleanValue(bytesOf(value)) || value != "" && (blank(value[0]) || blank(value[len(value)-1])) {
		return "field_value" // RFC 9113 section 8.2.1
	}
	if name[0] == ':' {
		if r.regular || r.Kind == Trailers {
			return "pseudo_field_place" // RFC 9113 section 8.3
		}
		return r.takePseudo(name, value)
	}
	r.regular = true
	key := exchange.KeyOf(name)
	if key == exchange.KeyOther {
		if !lowerName(name) {
			return "field_name"
		}
	} else if !lowerCase(name) {
		return "field_name"
	}
	field := exchange.Field{Key: key, Name: name, Value: value}
	switch key {
	case exchange.KeyConnection, exchange.KeyKeepAlive, exchange.KeyProxyConnection,
		exchange.KeyTransferEncoding, exchange.KeyUpgrade:
		return "connection_field" // RFC 9113 section 8.2.2, RFC 9114 section 4.2
	case exchange.KeyTE:
		if r.Kind == Response || !exchange.EqualFold(value, "trailers") {
			return "te"
		}
	case exchange.KeyHost:
		if r.Kind == Trailers {
			return "trailer"
		}
		r.hosts++
		r.Host = value
		return ""
	case exchange.KeyContentLength:
		if r.Kind == Trailers {
			return "trailer"
		}
		n, ok := syntax.ParseLength(value)
		if !ok {
			return "content_length"
		}
		if r.Length >= 0 {
			return "content_length_repeated"
		}
		r.Length = n
		return ""
	case exchange.KeyExpect:
		r.Expect = value
	case exchange.KeyCookie:
		if r.cookie > 0 && r.Kind == Request {
			r.crumbs = append(r.crumbs, value)
			return ""
		}
		r.cookie = len(*r.fields) + 1
	case exchange.KeyOther:
		if name == "priority" && r.Priority == "" {
			r.Priority = value
		}
	}
	if r.Kind == Trailers && !syntax.MayTrail(key) {
		return ""
	}
	if r.count++; r.count > r.MaxCount {
		r.TooLarge = true
		return ""
	}
	*r.fields = append(*r.fields, field)
	return ""
}

func (r *Reader) takePseudo(name, value string) string {
	var bit Pseudo
	var to *string
	switch name {
	case ":method":
		bit, to = HasMethod, &r.Method
	case ":scheme":
		bit, to = HasScheme, &r.Scheme
	case ":authority":
		bit, to = HasAuthority, &r.Authority
	case ":path":
		bit, to = HasPath, &r.Path
	case ":protocol":
		bit, to = HasProtocol, &r.Protocol
	case ":status":
		bit = HasStatus
	default:
		return "pseudo_field"
	}
	if r.Seen&bit != 0 {
		return "pseudo_field_repeated"
	}
	r.Seen |= bit
	if (bit == HasStatus) != (r.Kind == Response) {
		return "pseudo_field"
	}
	if bit == HasStatus {
		if len(value) != 3 || !syntax.Digit(value[0]) || !syntax.Digit(value[1]) || !syntax.Digit(value[2]) {
			return "status"
		}
		r.Status = int(value[0]-'0')*100 + int(value[1]-'0')*10 + int(value[2]-'0')
		if r.Status < 100 || r.Status > 599 {
			return "status"
		}
		return ""
	}
	*to = value
	return ""
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

// ValidName reports whether a name is a token, RFC 9110 section 5.6.2.
func ValidName(name string) bool { return name != "" && syntax.All(name, syntax.TChar) }

// lowerName reports whether a name is a token in lower case, RFC 9113 section 8.2.
func lowerName(name string) bool { return syntax.All(name, syntax.TChar) && lowerCase(name) }

func lowerCase(s string) bool {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return false
		}
	}
	return true
}

// bytesOf returns the string's bytes, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
