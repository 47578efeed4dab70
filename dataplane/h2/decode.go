package h2

import (
	"golang.org/x/net/http2/hpack"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// blockKind is what a field block is of.
type blockKind uint8

const (
	requestBlock blockKind = iota
	responseBlock
	trailerBlock
)

// pseudo are the pseudo-header fields that a block had.
type pseudo uint8

const (
	hasMethod pseudo = 1 << iota
	hasScheme
	hasAuthority
	hasPath
	hasProtocol // RFC 8441
	hasStatus
)

// fieldBlock is a decoded header or trailer section. Its strings live as long
// as somebody holds them.
type fieldBlock struct {
	kind blockKind
	seen pseudo
	// The pseudo-header fields; those that were not there are empty.
	method, scheme, authority, path, protocol string
	status                                    int

	// host, length and expect are the fields that are not in the list. length
	// is -1 if there is none.
	host     string
	hosts    int
	length   int64
	expect   string
	priority string

	// malformed is why the message must not be used, RFC 9113 section 8.1.1, as
	// one word; "" if it may.
	malformed string
	// tooLarge says that the list is longer than it may be; it is not complete then.
	tooLarge bool
}

// decoder decodes the field blocks of one connection, one at a time, and keeps
// the rules that hold for a field whatever the message is.
//
// For each block call begin, add for the fragment in each frame, and end.
type decoder struct {
	hp       *hpack.Decoder // nil until the first block
	maxBytes int
	maxCount int

	fieldBlock
	fields *exchange.Fields
	arena  *exchange.Arena

	size, count  int // of the list, as SETTINGS_MAX_HEADER_LIST_SIZE counts
	wire, pieces int // bytes and frames of the block
	regular      bool
	cookie       int      // the Cookie line's place in fields, plus one
	crumbs       []string // the other Cookie lines
}

const (
	// bombFactor is by how much a block may exceed the list that is taken
	// before the peer is taken for an attacker.
	bombFactor = 4
	// maxContinuations is how many frames a block may come in beyond the
	// fullest possible ones.
	maxContinuations = 8
)

// begin starts a block whose fields are appended to fields. Strings that must
// be made are made in arena.
func (d *decoder) begin(kind blockKind, fields *exchange.Fields, arena *exchange.Arena) {
	if d.hp == nil {
		d.hp = hpack.NewDecoder(4096, d.emit)
		// Not to be reached before the bounds of the whole block are.
		d.hp.SetMaxStringLength(bombFactor * d.maxBytes)
	}
	d.fieldBlock = fieldBlock{kind: kind, length: -1}
	d.fields, d.arena = fields, arena
	d.size, d.count, d.wire, d.pieces = 0, 0, 0, 0
	d.regular, d.cookie = false, 0
	d.crumbs = d.crumbs[:0]
}

// add decodes the next fragment. Its errors are the connection's: the state of
// the compression is lost.
func (d *decoder) add(fragment []byte) *connError {
	d.pieces++
	d.wire += len(fragment)
	if d.pieces > maxContinuations+d.wire/(minFrameSize/2) {
		return errContinuations
	}
	if d.wire > 2*d.maxBytes {
		return errHeaderFlood
	}
	if _, err := d.hp.Write(fragment); err != nil {
		if err == hpack.ErrStringLength {
			return errHeaderFlood
		}
		return errCompression
	}
	if d.size > bombFactor*d.maxBytes {
		return errHeaderBomb
	}
	return nil
}

// end completes the block.
func (d *decoder) end() *connError {
	if err := d.hp.Close(); err != nil {
		return errCompression
	}
	d.hp.SetEmitEnabled(true)
	if len(d.crumbs) > 0 {
		// RFC 9113 section 8.2.3
		(*d.fields)[d.cookie-1].Value = d.arena.Append(func(b []byte) []byte {
			b = append(b, (*d.fields)[d.cookie-1].Value...)
			for _, crumb := range d.crumbs {
				b = append(b, "; "...)
				b = append(b, crumb...)
			}
			return b
		})
		clear(d.crumbs)
		if cap(d.crumbs) > 256 {
			d.crumbs = nil
		}
	}
	d.fields, d.arena = nil, nil
	return nil
}

// emit takes a decoded field.
func (d *decoder) emit(f hpack.HeaderField) {
	d.size += len(f.Name) + len(f.Value) + 32
	if d.size > bombFactor*d.maxBytes {
		d.hp.SetEmitEnabled(false) // the connection ends with this block
	}
	if d.size > d.maxBytes {
		d.tooLarge = true
	}
	if d.tooLarge {
		return
	}
	if d.malformed == "" {
		d.malformed = d.take(f.Name, f.Value)
	}
}

// take adds a field, or returns why the message is malformed.
func (d *decoder) take(name, value string) string {
	if name == "" {
		return "field_name"
	}
	if !syntax.CleanValue(bytesOf(value)) || value != "" && (blank(value[0]) || blank(value[len(value)-1])) {
		return "field_value" // section 8.2.1
	}
	if name[0] == ':' {
		if d.regular || d.kind == trailerBlock {
			return "pseudo_field_place" // section 8.3
		}
		return d.takePseudo(name, value)
	}
	d.regular = true
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
		return "connection_field" // section 8.2.2
	case exchange.KeyTE:
		if d.kind == responseBlock || !exchange.EqualFold(value, "trailers") {
			return "te"
		}
	case exchange.KeyHost:
		if d.kind == trailerBlock {
			return "trailer"
		}
		d.hosts++
		d.host = value
		return ""
	case exchange.KeyContentLength:
		if d.kind == trailerBlock {
			return "trailer"
		}
		n, ok := syntax.ParseLength(value)
		if !ok {
			return "content_length"
		}
		if d.length >= 0 {
			return "content_length_repeated"
		}
		d.length = n
		return ""
	case exchange.KeyExpect:
		d.expect = value
	case exchange.KeyCookie:
		if d.cookie > 0 && d.kind == requestBlock {
			d.crumbs = append(d.crumbs, value)
			return ""
		}
		d.cookie = len(*d.fields) + 1
	case exchange.KeyOther:
		if name == "priority" && d.priority == "" {
			d.priority = value
		}
	}
	if d.kind == trailerBlock && !syntax.MayTrail(key) {
		return ""
	}
	if d.count++; d.count > d.maxCount {
		d.tooLarge = true
		return ""
	}
	*d.fields = append(*d.fields, field)
	return ""
}

func (d *decoder) takePseudo(name, value string) string {
	var bit pseudo
	var to *string
	switch name {
	case ":method":
		bit, to = hasMethod, &d.method
	case ":scheme":
		bit, to = hasScheme, &d.scheme
	case ":authority":
		bit, to = hasAuthority, &d.authority
	case ":path":
		bit, to = hasPath, &d.path
	case ":protocol":
		bit, to = hasProtocol, &d.protocol
	case ":status":
		bit = hasStatus
	default:
		return "pseudo_field"
	}
	if d.seen&bit != 0 {
		return "pseudo_field_repeated"
	}
	d.seen |= bit
	if (bit == hasStatus) != (d.kind == responseBlock) {
		return "pseudo_field"
	}
	if bit == hasStatus {
		if len(value) != 3 || !syntax.Digit(value[0]) || !syntax.Digit(value[1]) || !syntax.Digit(value[2]) {
			return "status"
		}
		d.status = int(value[0]-'0')*100 + int(value[1]-'0')*10 + int(value[2]-'0')
		if d.status < 100 || d.status > 599 {
			return "status"
		}
		return ""
	}
	*to = value
	return ""
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

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
