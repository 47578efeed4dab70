package extauth

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// The messages of envoy.service.auth.v3, as far as they are used: field numbers
// by external_auth.proto, attribute_context.proto, config/core/v3/base.proto and
// address.proto of Envoy's API.
const (
	checkAttributes = 1 // CheckRequest

	attributesSource      = 1 // AttributeContext
	attributesDestination = 2
	attributesRequest     = 4
	attributesTLSSession  = 12

	peerAddress   = 1 // AttributeContext.Peer
	peerPrincipal = 4

	addressSocket = 1 // Address
	socketAddress = 2 // SocketAddress
	socketPort    = 3

	tlsSNI = 1 // AttributeContext.TLSSession

	requestTime = 1 // AttributeContext.Request
	requestHTTP = 2

	timeSeconds = 1 // google.protobuf.Timestamp
	timeNanos   = 2

	httpID       = 1 // AttributeContext.HttpRequest
	httpMethod   = 2
	httpHeaders  = 3
	httpPath     = 4
	httpHost     = 5
	httpScheme   = 6
	httpSize     = 9
	httpProtocol = 10
	httpBody     = 11
	httpRawBody  = 12

	pairKey   = 1 // map entries, HeaderValue, QueryParameter
	pairValue = 2

	responseStatus = 1 // CheckResponse
	responseDenied = 2
	responseOK     = 3
	responseError  = 5

	statusCode = 1 // google.rpc.Status, HttpStatus

	deniedStatus  = 1 // DeniedHttpResponse
	deniedHeaders = 2
	deniedBody    = 3

	okHeaders         = 2 // OkHttpResponse
	okHeadersToRemove = 5
	okResponseHeaders = 6
	okQueryToSet      = 7
	okQueryToRemove   = 8

	optionHeader = 1 // HeaderValueOption
	optionAppend = 2
	optionAction = 3

	headerRawValue = 3 // HeaderValue, beside pairKey and pairValue

	boolValue = 1 // google.protobuf.BoolValue
)

// encoder appends a message. The lengths of messages within are written in four
// bytes, the upper of which may say nothing: a varint may be longer than it must be.
type encoder struct{ b []byte }

const openLength = 4

// open begins a message within, and returns what close ends it with.
func (e *encoder) open(number protowire.Number) int {
	e.b = protowire.AppendTag(e.b, number, protowire.BytesType)
	e.b = append(e.b, 0, 0, 0, 0)
	return len(e.b)
}

func (e *encoder) close(start int) {
	n := uint32(len(e.b) - start)
	binary.LittleEndian.PutUint32(e.b[start-openLength:],
		n&0x7f|0x80|(n>>7&0x7f|0x80)<<8|(n>>14&0x7f|0x80)<<16|(n>>21&0x7f)<<24)
}

// text appends a string. What is not UTF-8, as strings here must be, becomes "!",
// as the API says.
func (e *encoder) text(number protowire.Number, s string) {
	if s == "" {
		return
	}
	start := e.open(number)
	e.utf8(s)
	e.close(start)
}

func (e *encoder) utf8(s string) {
	if utf8.ValidString(s) {
		e.b = append(e.b, s...)
		return
	}
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 {
			e.b = append(e.b, '!')
		} else {
			e.b = append(e.b, s[:size]...)
		}
		s = s[size:]
	}
}

func (e *encoder) number(number protowire.Number, n int64) {
	if n != 0 {
		e.b = protowire.AppendTag(e.b, number, protowire.VarintType)
		e.b = protowire.AppendVarint(e.b, uint64(n))
	}
}

// checkRequest appends a CheckRequest about the request as it is sent on so far.
// names are the fields that are told, all if there are none; content is told if
// told says so.
func (e *encoder) checkRequest(ex *exchange.Exchange, names []string, content []byte, told bool) {
	out := &ex.Out
	attributes := e.open(checkAttributes)

	source := e.open(attributesSource)
	client := netip.AddrPortFrom(ex.ClientIP, 0)
	if remote := ex.Conn.Remote; remote.Addr().Unmap() == ex.ClientIP {
		client = netip.AddrPortFrom(ex.ClientIP, remote.Port())
	}
	e.address(client)
	e.text(peerPrincipal, principal(ex.Conn.TLS))
	e.close(source)

	destination := e.open(attributesDestination)
	e.address(ex.Conn.Local)
	e.close(destination)

	request := e.open(attributesRequest)
	at := e.open(requestTime)
	e.number(timeSeconds, ex.Start.Unix())
	e.number(timeNanos, int64(ex.Start.Nanosecond()))
	e.close(at)

	http := e.open(requestHTTP)
	e.text(httpID, ex.RequestID)
	e.text(httpMethod, out.Method)
	e.headers(out, names)
	path := e.open(httpPath)
	e.target(out)
	e.close(path)
	e.text(httpHost, out.Authority)
	e.text(httpScheme, out.Scheme)
	size := out.Length
	if out.Body == nil {
		size = 0
	}
	e.number(httpSize, size)
	e.text(httpProtocol, protocol(ex.In.Proto))
	if told && len(content) > 0 {
		number := protowire.Number(httpRawBody)
		if utf8.Valid(content) {
			number = httpBody
		}
		e.b = protowire.AppendTag(e.b, number, protowire.BytesType)
		e.b = protowire.AppendBytes(e.b, content)
	}
	e.close(http)
	e.close(request)

	if t := ex.Conn.TLS; t != nil && t.ServerName != "" {
		session := e.open(attributesTLSSession)
		e.text(tlsSNI, t.ServerName)
		e.close(session)
	}
	e.close(attributes)
}

// protocol is a version as Envoy writes it.
func protocol(p exchange.Proto) string {
	switch p {
	case exchange.HTTP2:
		return "HTTP/2"
	case exchange.HTTP3:
		return "HTTP/3"
	}
	return p.String()
}

// principal names a client by its certificate: a URI, else a DNS name, else the
// subject.
func principal(t *exchange.TLS) string {
	if t == nil || len(t.PeerCertificates) == 0 {
		return ""
	}
	switch leaf := t.PeerCertificates[0]; {
	case len(leaf.URIs) > 0:
		return leaf.URIs[0].String()
	case len(leaf.DNSNames) > 0:
		return leaf.DNSNames[0]
	default:
		return leaf.Subject.String()
	}
}

func (e *encoder) address(a netip.AddrPort) {
	if !a.Addr().IsValid() {
		return
	}
	address := e.open(peerAddress)
	socket := e.open(addressSocket)
	text := e.open(socketAddress)
	e.b = a.Addr().Unmap().AppendTo(e.b)
	e.close(text)
	e.number(socketPort, int64(a.Port()))
	e.close(socket)
	e.close(address)
}

// target appends path and query.
func (e *encoder) target(out *exchange.Request) {
	e.utf8(out.Path)
	if out.HasQuery {
		e.b = append(e.b, '?')
		e.utf8(out.Query)
	}
}

// headers appends the fields, lines of one name together. With all fields go
// the control data, as HTTP/2 names them.
func (e *encoder) headers(out *exchange.Request, names []string) {
	if len(names) == 0 {
		e.header(":method", out.Method)
		e.header(":authority", out.Authority)
		e.header(":scheme", out.Scheme)
		entry := e.open(httpHeaders)
		e.text(pairKey, ":path")
		path := e.open(pairValue)
		e.target(out)
		e.close(path)
		e.close(entry)
	}
	for i := range out.Fields {
		field := &out.Fields[i]
		if len(names) > 0 && !named(names, field.Name) || repeats(out.Fields[:i], field) {
			continue
		}
		separator := ", "
		if field.Key == exchange.KeyCookie {
			separator = "; " // RFC 9113 section 8.2.3
		}
		entry := e.open(httpHeaders)
		key := e.open(pairKey)
		for j := range len(field.Name) {
			c := field.Name[j]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			e.b = append(e.b, c)
		}
		e.close(key)
		value := e.open(pairValue)
		e.utf8(field.Value)
		for j := i + 1; j < len(out.Fields); j++ {
			if more := &out.Fields[j]; exchange.EqualFold(more.Name, field.Name) {
				e.b = append(e.b, separator...)
				e.utf8(more.Value)
			}
		}
		e.close(value)
		e.close(entry)
	}
}

func (e *encoder) header(name, value string) {
	entry := e.open(httpHeaders)
	e.text(pairKey, name)
	e.text(pairValue, value)
	e.close(entry)
}

var errWire = errors.New("malformed message")

// each calls f for the fields of a message whose values are bytes, and skips
// all others.
func each(b []byte, f func(number int, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return errWire
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return errWire
		}
		b = b[n:]
		if err := f(int(number), value); err != nil {
			return err
		}
	}
	return nil
}

// varint returns the last value of a field that is a number, 0 if there is none.
func varint(b []byte, wanted protowire.Number) (v uint64, err error) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, errWire
		}
		b = b[n:]
		if number == wanted {
			if kind != protowire.VarintType {
				return 0, errWire
			}
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return 0, errWire
			}
		} else if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return 0, errWire
		}
		b = b[n:]
	}
	return v, nil
}

// kind is which http_response a CheckResponse has.
type kind uint8

const (
	noResponse kind = iota
	okResponse
	deniedResponse
	errorResponse
)

// checkResponse is a CheckResponse: status says that it has one, whose code is
// code; response is the message of its kind.
type checkResponse struct {
	status   bool
	code     uint64
	kind     kind
	response []byte
}

func readCheckResponse(b []byte) (c checkResponse, err error) {
	err = each(b, func(number int, value []byte) (err error) {
		switch number {
		case responseStatus:
			c.status = true
			c.code, err = varint(value, statusCode)
		case responseDenied:
			c.kind, c.response = deniedResponse, value
		case responseOK:
			c.kind, c.response = okResponse, value
		case responseError:
			c.kind, c.response = errorResponse, value
		}
		return err
	})
	return c, err
}

// refusal is a DeniedHttpResponse.
type refusal struct {
	status   int
	body     []byte
	response []byte
}

// readDenied reads a DeniedHttpResponse; without one, a denial is 403 and no more.
func readDenied(b []byte, there bool) (r refusal, err error) {
	if !there {
		return refusal{status: 403}, nil
	}
	r = refusal{status: 403, response: b}
	err = each(b, func(number int, value []byte) error {
		switch number {
		case deniedStatus:
			code, err := varint(value, statusCode)
			if err != nil {
				return err
			}
			r.status = 403
			if code > 0 && code < 1000 {
				r.status = int(code)
			}
		case deniedBody:
			r.body = value
		}
		return nil
	})
	return r, err
}

// header is a HeaderValueOption.
type header struct {
	name, value []byte
	// said says that append is given at all.
	said, append bool
	action       uint64
}

// explicit is how a HeaderAppendAction other than its first value, which cannot be
// told from none, is read.
func (h header) explicit() (exchange.Action, bool) {
	switch h.action {
	case 1:
		return exchange.AddIfAbsent, true
	case 2:
		return exchange.Overwrite, true
	case 3:
		return exchange.OverwriteIfExists, true
	}
	return exchange.Append, false
}

// requestAction is what becomes of a request's field: append is false where it
// is not given, OkHttpResponse.headers.
func (h header) requestAction() exchange.Action {
	if h.append {
		return exchange.Append
	}
	action, ok := h.explicit()
	if h.said || !ok {
		return exchange.Overwrite
	}
	return action
}

// responseAction is what becomes of a response's field.
func (h header) responseAction() exchange.Action {
	switch action, _ := h.explicit(); {
	case !h.said:
		return action
	case h.append:
		return exchange.Append
	}
	return exchange.Overwrite
}

// eachHeader calls f for the HeaderValueOptions in one field of a message. It
// fails for what must not become a field line: one that would end its line, or
// that is not the server's to set.
func eachHeader(b []byte, wanted int, f func(header) error) error {
	return each(b, func(number int, value []byte) error {
		if number != wanted {
			return nil
		}
		h, err := readHeader(value)
		if err != nil {
			return err
		}
		return f(h)
	})
}

func readHeader(b []byte) (h header, err error) {
	if h.action, err = varint(b, optionAction); err != nil {
		return h, err
	}
	if h.action > 3 {
		return h, errWire // of a version to come: who knows what it means
	}
	err = each(b, func(number int, value []byte) (err error) {
		switch number {
		case optionHeader:
			h.name, h.value, err = readPair(value)
		case optionAppend:
			var v uint64
			h.said = true
			v, err = varint(value, boolValue)
			h.append = v != 0
		}
		return err
	})
	if err != nil {
		return h, err
	}
	if err := checkField(h.name, h.value); err != nil {
		return h, err
	}
	return h, nil
}

// readPair reads a HeaderValue or a QueryParameter.
func readPair(b []byte) (key, value []byte, err error) {
	err = each(b, func(number int, v []byte) error {
		switch number {
		case pairKey:
			key = v
		case pairValue, headerRawValue:
			value = v
		}
		return nil
	})
	return key, value, err
}

// checkField reports what must not become a field line.
func checkField(name, value []byte) error {
	if !syntax.CleanValue(value) {
		return errors.New("a field value with control characters")
	}
	return CheckHeader(unsafe.String(unsafe.SliceData(name), len(name)))
}
