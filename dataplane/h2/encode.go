package h2

import (
	"encoding/binary"
	"hash/maphash"
	"strconv"
	"unsafe"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
)

// encoder writes field blocks, RFC 7541. It is ours, with hpack's Huffman code,
// because hpack.Encoder keeps the strings it is given, and those of an exchange
// are views: each would have to be cloned.
//
// A field goes into the dynamic table when it is seen for the second time, so
// that what differs from message to message (ETags, lengths) does not push out
// what stays the same. The zero value is ready.
type encoder struct {
	slots []slot // by hash; nil until the first field, and after forget
	// entries are those of the peer's dynamic table, by number modulo their
	// count: what the oldest is, and the number that the next one gets.
	entries      []entry
	oldest, next uint32
	size         int
	// shrunk is by how much less than the initial size the table may have.
	shrunk   int
	announce bool // the peer is to be told the table's size
}

// slot is a field that was seen.
type slot struct {
	hash   uint64
	number uint32 // in the dynamic table, plus one; 0 if it is not there
	name   int    // the length of the name in text
	text   []byte // name and value
}

type entry struct {
	slot uint8
	size uint16
}

const (
	tableSize   = 4096 // the most that is used of the peer's table
	maxEntries  = tableSize / 32
	slotCount   = 64
	maxIndexed  = 256 // larger fields are not put into the table
	staticCount = 61
)

// setTableSize keeps the peer's SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) setTableSize(n uint32) {
	shrunk := tableSize - int(min(n, tableSize))
	if shrunk == e.shrunk {
		return
	}
	e.announce = true
	e.shrunk = shrunk
	e.evict(0)
}

// begin appends what a block must begin with.
func (e *encoder) begin(b []byte) []byte {
	if e.announce {
		// Empty first: whether the size went down and up again in between does
		// not matter then, RFC 7541 section 4.2.
		e.announce = false
		b = append(b, 0x20)
		shrunk := e.shrunk
		e.shrunk = tableSize
		e.evict(0)
		if e.shrunk = shrunk; shrunk < tableSize {
			b = section.AppendInt(b, 0x20, 5, uint64(tableSize-shrunk))
		}
	}
	return b
}

// forget gives the table up, with what it takes here, while nothing is to be
// written. If there is anything in it, the next block tells the peer that it is
// empty.
func (e *encoder) forget() {
	e.announce = e.announce || e.oldest != e.next
	e.slots, e.entries, e.oldest, e.size = nil, nil, e.next, 0
}

// evict makes room for n bytes in the table.
func (e *encoder) evict(n int) {
	for e.oldest != e.next && e.size+n > tableSize-e.shrunk {
		old := e.entries[e.oldest%maxEntries]
		if s := &e.slots[old.slot]; s.number == e.oldest+1 {
			s.number = 0
		}
		e.size -= int(old.size)
		e.oldest++
	}
}

var seed = maphash.MakeSeed()

// appendField appends a field line. The name is written in lower case; bytes
// that must not stand in the value become spaces.
func (e *encoder) appendField(b []byte, f *exchange.Field) []byte {
	name, index := f.Name, uint64(0)
	if f.Key != exchange.KeyOther {
		name, index = f.Key.Name(), uint64(staticNames[f.Key])
	} else if !section.ValidName(name) {
		return b
	}
	switch f.Key {
	case exchange.KeyAuthorization, exchange.KeyProxyAuthorization, exchange.KeyCookie, exchange.KeySetCookie:
		// Never to be indexed: guessing them by the size of what is sent must
		// not be possible, RFC 7541 section 7.1.3.
		return appendLiteral(b, 0x10, 4, index, name, f.Value)
	}
	size := len(name) + len(f.Value) + 32
	if size > maxIndexed {
		return appendLiteral(b, 0, 4, index, name, f.Value)
	}
	if e.slots == nil {
		e.slots, e.entries = make([]slot, slotCount), make([]entry, maxEntries)
	}
	hash := maphash.String(seed, name)*31 + maphash.String(seed, f.Value)
	at := hash % slotCount
	s := &e.slots[at]
	switch {
	case s.hash != hash:
		s.hash, s.number = hash, 0
		return appendLiteral(b, 0, 4, index, name, f.Value)
	case s.number != 0 && s.is(name, f.Value):
		return section.AppendInt(b, 0x80, 7, uint64(staticCount+e.next-s.number+1))
	case size > tableSize-e.shrunk:
		return appendLiteral(b, 0, 4, index, name, f.Value)
	}
	e.evict(size)
	e.entries[e.next%maxEntries] = entry{uint8(at), uint16(size)}
	e.next++
	e.size += size
	s.number, s.name = e.next, len(name)
	s.text = append(append(s.text[:0], name...), f.Value...)
	return appendLiteral(b, 0x40, 6, index, name, f.Value)
}

func (s *slot) is(name, value string) bool {
	return s.name == len(name) && string(s.text[:s.name]) == name && string(s.text[s.name:]) == value
}

// appendStatus appends :status.
func appendStatus(b []byte, status int) []byte {
	switch status {
	case 200:
		return append(b, 0x80|8)
	case 204:
		return append(b, 0x80|9)
	case 206:
		return append(b, 0x80|10)
	case 304:
		return append(b, 0x80|11)
	case 400:
		return append(b, 0x80|12)
	case 404:
		return append(b, 0x80|13)
	case 500:
		return append(b, 0x80|14)
	}
	b = append(b, 8, 3) // literal with the name of entry 8, three bytes
	return append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10))
}

// The static table's entries of a request's pseudo-header fields, for
// appendPseudo; :protocol has none.
const (
	staticAuthority = 1
	staticMethod    = 2 // GET
	staticPath      = 4 // /
	staticScheme    = 6 // http
)

// appendPseudo appends a pseudo-header field whose name the static entry has.
func appendPseudo(b []byte, static uint64, value string) []byte {
	exact := uint64(0)
	switch {
	case static == staticMethod && value == "GET":
		exact = 2
	case static == staticMethod && value == "POST":
		exact = 3
	case static == staticPath && value == "/":
		exact = 4
	case static == staticScheme && value == "http":
		exact = 6
	case static == staticScheme && value == "https":
		exact = 7
	}
	if exact != 0 {
		return append(b, 0x80|byte(exact))
	}
	return appendLiteral(b, 0, 4, static, "", value)
}

// appendLength appends content-length.
func (e *encoder) appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	return appendLiteral(b, 0, 4, uint64(staticNames[exchange.KeyContentLength]), "", str(text))
}

// appendLiteral appends a literal of the kind, whose index has a prefix of bits.
func appendLiteral(b []byte, kind byte, bits uint, index uint64, name, value string) []byte {
	b = section.AppendInt(b, kind, bits, index)
	if index == 0 {
		b = section.AppendName(b, 0, 7, name)
	}
	return section.AppendValue(b, 0, 7, value)
}

// beginHeaders appends room for the header of a HEADERS frame.
func beginHeaders(b []byte) []byte { return append(b, "123456789"...) }

// endHeaders makes a HEADERS frame of b[start:], which beginHeaders began, and
// CONTINUATION frames of what is beyond the peer's SETTINGS_MAX_FRAME_SIZE.
func endHeaders(b []byte, start int, stream uint32, end bool, limit int) []byte {
	var flags frameFlags
	if end {
		flags = flagEndStream
	}
	n := len(b) - start - frameHeaderLen
	if n <= limit {
		putFrameHeader(b[start:], n, frameHeaders, flags|flagEndHeaders, stream)
		return b
	}
	rest := append([]byte(nil), b[start+frameHeaderLen+limit:]...)
	b = b[:start+frameHeaderLen+limit]
	putFrameHeader(b[start:], limit, frameHeaders, flags, stream)
	for len(rest) > 0 {
		n, flags := min(len(rest), limit), frameFlags(0)
		if n == len(rest) {
			flags = flagEndHeaders
		}
		b = appendFrameHeader(b, n, frameContinuation, flags, stream)
		b = append(b, rest[:n]...)
		rest = rest[n:]
	}
	return b
}

func putFrameHeader(b []byte, n int, kind frameType, flags frameFlags, stream uint32) {
	b[0], b[1], b[2], b[3], b[4] = byte(n>>16), byte(n>>8), byte(n), byte(kind), byte(flags)
	binary.BigEndian.PutUint32(b[5:], stream)
}

// staticNames are the entries of RFC 7541 appendix A by name.
var staticNames = [256]uint8{
	exchange.KeyAccept: 19, exchange.KeyAcceptEncoding: 16, exchange.KeyAge: 21, exchange.KeyAuthorization: 23,
	exchange.KeyCacheControl: 24, exchange.KeyContentEncoding: 26, exchange.KeyContentLength: 28,
	exchange.KeyContentType: 31, exchange.KeyCookie: 32, exchange.KeyDate: 33, exchange.KeyETag: 34,
	exchange.KeyExpect: 35, exchange.KeyHost: 38, exchange.KeyIfModifiedSince: 40, exchange.KeyIfNoneMatch: 41,
	exchange.KeyLastModified: 44, exchange.KeyLocation: 46, exchange.KeyProxyAuthenticate: 48,
	exchange.KeyProxyAuthorization: 49, exchange.KeyRange: 50, exchange.KeyRetryAfter: 53, exchange.KeyServer: 54,
	exchange.KeySetCookie: 55, exchange.KeyTransferEncoding: 57, exchange.KeyUserAgent: 58, exchange.KeyVary: 59,
	exchange.KeyVia: 60, exchange.KeyWWWAuthenticate: 61,
}

// str makes a view of bytes.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
