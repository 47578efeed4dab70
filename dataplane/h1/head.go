package h1

import (
	"bytes"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// headScan finds the end of a head in bytes that come piece by piece, looking
// at each byte once. Offsets count from the head's first byte, so that the
// buffer may move in between.
type headScan struct {
	seen int     // where the search for the next line's end goes on
	line int     // where the line began
	ends []int32 // of the complete lines, without CRLF
}

// headLimits bound a head: its first line, its lines and all of it, in bytes or lines.
type headLimits struct {
	firstLine, bytes, lines int
}

func (s *headScan) reset() { *s = headScan{ends: s.ends[:0]} }

// scan looks at head, which begins with the head's first byte and ends with
// the last received. If the head is complete it returns its size, with the
// empty line; 0 if more must be read.
func (s *headScan) scan(head []byte, limits *headLimits) (size int, err *refusal) {
	for {
		i := bytes.IndexByte(head[s.seen:], '\n')
		if i < 0 {
			s.seen = len(head)
			return 0, s.bound(len(head)-1, limits) // the last may be CR
		}
		end := s.seen + i
		if end == s.line || head[end-1] != '\r' {
			return 0, errBareLF
		}
		s.seen = end + 1
		length := end - 1 - s.line
		if err := s.bound(end-1, limits); err != nil {
			return 0, err
		}
		if length == 0 && len(s.ends) > 0 {
			return end + 1, nil
		}
		s.ends = append(s.ends, int32(end-1))
		s.line = end + 1
		if len(s.ends) > limits.lines+1 {
			return 0, errFieldMany
		}
	}
}

// bound checks what has been received up to offset at.
func (s *headScan) bound(at int, limits *headLimits) *refusal {
	if len(s.ends) == 0 && at > limits.firstLine {
		return errLineLong
	}
	if at > limits.bytes {
		return errHeadLong
	}
	return nil
}

// message is what a head says about framing and about the connection, as far
// as requests and responses have it in common.
type message struct {
	length     int64 // of Content-Length; -1 if there is none
	lengths    int   // Content-Length lines
	encodings  int   // Transfer-Encoding lines
	encoding   string
	hosts      int
	host       string
	expect     string
	upgrade    string
	connection bool // there is a Connection line
	hop        bool // there are fields that must not be forwarded
	underscore bool // there is a name with "_"

	close, keepAlive, upgrades bool // options of Connection
}

// parseFields appends the field lines of a head, given where its lines end.
// Host, Content-Length and Transfer-Encoding go to m and not into fields.
func parseFields(head []byte, ends []int32, fields *exchange.Fields, m *message) *refusal {
	m.length = -1
	list := *fields
	for i := 1; i < len(ends); i++ {
		line := head[ends[i-1]+2 : ends[i]]
		colon := 0
		for colon < len(line) && syntax.Classes[line[colon]]&syntax.TChar != 0 {
			colon++
		}
		if colon == 0 || colon == len(line) || line[colon] != ':' {
			if line[0] == ' ' || line[0] == '\t' {
				return errFieldFold
			}
			return errFieldName
		}
		value := syntax.TrimOWS(line[colon+1:])
		if !syntax.CleanValue(value) {
			return errFieldValue
		}
		name := str(line[:colon])
		key := exchange.KeyOf(name)
		field := exchange.Field{Key: key, Name: name, Value: str(value)}
		switch key {
		case exchange.KeyOther:
			if !m.underscore && bytes.IndexByte(line[:colon], '_') >= 0 {
				m.underscore = true
			}
		case exchange.KeyHost:
			m.hosts++
			m.host = field.Value
			continue
		case exchange.KeyContentLength:
			var ok bool
			if m.length, ok = syntax.ParseLength(field.Value); !ok {
				return errLength
			}
			m.lengths++
			continue
		case exchange.KeyTransferEncoding:
			m.encodings++
			m.encoding = field.Value
			continue
		case exchange.KeyConnection:
			m.connection, m.hop = true, true
			m.options(field.Value)
		case exchange.KeyUpgrade:
			m.hop = true
			if m.upgrade == "" {
				m.upgrade, _ = exchange.NextItem(field.Value)
			}
		case exchange.KeyExpect:
			m.expect = field.Value
		case exchange.KeyKeepAlive, exchange.KeyProxyConnection, exchange.KeyProxyAuthenticate,
			exchange.KeyProxyAuthorization, exchange.KeyTE, exchange.KeyHTTP2Settings:
			m.hop = true
		}
		list = append(list, field)
	}
	*fields = list
	return nil
}

// options reads a Connection line, RFC 9112 section 9.3 and RFC 9110 section 7.8.
func (m *message) options(list string) {
	for list != "" {
		var option string
		option, list = exchange.NextItem(list)
		switch {
		case exchange.EqualFold(option, "close"):
			m.close = true
		case exchange.EqualFold(option, "keep-alive"):
			m.keepAlive = true
		case exchange.EqualFold(option, "upgrade"):
			m.upgrades = true
		}
	}
}

// persistent reports whether the sender keeps the connection open, RFC 9112 section 9.3.
func (m *message) persistent(proto exchange.Proto) bool {
	return !m.close && (proto != exchange.HTTP10 || m.keepAlive)
}

// framing decides how the content is framed as far as the fields say, RFC 9112
// section 6.3. It refuses whatever another recipient could read differently:
// both fields at once, a field twice, and codings that nobody should send.
func (m *message) framing(proto exchange.Proto) (kind framing, err *refusal) {
	if m.encodings > 0 {
		switch {
		case m.lengths > 0:
			return 0, errLengthAndTE
		case proto == exchange.HTTP10:
			return 0, errTEIn10
		case m.encodings > 1:
			return 0, errTE
		case exchange.EqualFold(m.encoding, "chunked"):
			return framedChunked, nil
		}
		return 0, refuseCoding(m.encoding)
	}
	switch {
	case m.lengths > 1:
		return 0, errLengthRepeated
	case m.length > 0:
		return framedLength, nil
	}
	return framedNone, nil
}

// refuseCoding tells codings that we do not know, which is no fault of the
// sender's, from lists that are wrong whatever they mean: chunked must be
// there once and last, RFC 9112 section 6.1.
func refuseCoding(list string) *refusal {
	unknown := false
	for rest := list; ; {
		var item string
		item, rest = exchange.NextItem(rest)
		if item == "" || !syntax.All(item, syntax.TChar) {
			return errTE
		}
		if exchange.EqualFold(item, "chunked") {
			if rest != "" || !unknown {
				return errTE
			}
			return errTEUnknown
		}
		unknown = true
		if rest == "" {
			return errTEUnknown
		}
	}
}

// endToEnd removes in place what AppendEndToEnd would not have copied.
func endToEnd(fields *exchange.Fields) {
	all := *fields
	nominated := false
	for i := range all {
		if all[i].Key == exchange.KeyConnection && nominates(all[i].Value) {
			nominated = true
		}
	}
	if nominated {
		// Connection lines must stay readable until all others are judged.
		kept := make(exchange.Fields, 0, len(all))
		kept.AppendEndToEnd(all)
		*fields = append(all[:0], kept...)
		return
	}
	kept := all[:0]
	for i := range all {
		if !all[i].Key.HopByHop() {
			kept = append(kept, all[i])
		}
	}
	*fields = kept
}

func nominates(options string) bool {
	for options != "" {
		var option string
		option, options = exchange.NextItem(options)
		if option != "" && !exchange.EqualFold(option, "close") && !exchange.KeyOf(option).HopByHop() {
			return true
		}
	}
	return false
}
