package section

import (
	"crypto/sha1"
	"encoding/base64"
	"math/rand/v2"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// Limits are what a request is held to, beside the bounds of its section.
type Limits struct {
	// MaxPath is the longest :path in bytes; beyond it 414.
	MaxPath int
	// MaxBody is the longest content in bytes, 0 for no bound; beyond it 413.
	MaxBody int64
	// AllowConnect lets CONNECT pass; without it CONNECT is answered 501. It does
	// not concern WebSocket.
	AllowConnect bool
	// RefuseUnderscores finds requests malformed that have "_" in a field's name.
	RefuseUnderscores bool
}

// Accept fills in from a request's section; in.Fields is what the Reader has
// filled. body is the content, and end says that there is none. It returns a
// reason if the request is not to be served: with the status to answer, or 0 if
// it is malformed.
//
// Extended CONNECT, RFC 8441 and RFC 9220, becomes what HTTP/1.1 has for it: GET
// with Upgrade. The stream is a tunnel then, as it is for CONNECT.
func (s *Section) Accept(in *exchange.Request, arena *exchange.Arena, limits Limits, body exchange.Body, end bool) (tunnel bool, status int, reason string) {
	in.Method = s.Method
	if s.Malformed != "" {
		return false, 0, s.Malformed
	}
	if s.TooLarge {
		return false, 431, "header_too_large"
	}
	if limits.RefuseUnderscores && underscored(in.Fields) {
		return false, 0, "field_underscore"
	}
	if reason := s.acceptTarget(in, arena); reason != "" {
		return false, 0, reason
	}
	if len(s.Path) > limits.MaxPath {
		return false, 414, "path_too_long"
	}
	if s.Method == "CONNECT" {
		status, reason = s.acceptConnect(in, arena, limits)
		return true, status, reason
	}
	switch {
	case end && s.Length > 0:
		return false, 0, "content_length" // RFC 9113 section 8.1.1, RFC 9114 section 4.1.2
	case !end:
		in.Length, in.Body = s.Length, body
		if limits.MaxBody > 0 && s.Length > limits.MaxBody {
			return false, 413, "content_too_large"
		}
	}
	if s.Expect != "" {
		if !exchange.EqualFold(s.Expect, "100-continue") {
			return false, 417, "expectation" // RFC 9110 section 10.1.1
		}
		in.ExpectContinue = in.Body != nil
	}
	return false, 0, ""
}

func underscored(fields exchange.Fields) bool {
	for i := range fields {
		for j := range fields[i].Name {
			if fields[i].Name[j] == '_' {
				return true
			}
		}
	}
	return false
}

// acceptTarget reads the pseudo-header fields and Host, RFC 9113 section 8.3.1
// and RFC 9114 section 4.3.1.
func (s *Section) acceptTarget(in *exchange.Request, arena *exchange.Arena) (malformed string) {
	if !ValidName(s.Method) {
		return "method"
	}
	connect := s.Method == "CONNECT"
	switch {
	case s.Seen&HasProtocol != 0 && (!connect || !ValidName(s.Protocol)):
		return "protocol" // RFC 8441 section 4
	case connect && s.Protocol == "":
		if s.Seen&(HasScheme|HasPath) != 0 || s.Seen&HasAuthority == 0 {
			return "connect" // RFC 9113 section 8.5, RFC 9114 section 4.4
		}
	case s.Seen&(HasScheme|HasPath) != HasScheme|HasPath:
		return "pseudo_field_missing"
	case !exchange.EqualFold(s.Scheme, "http") && !exchange.EqualFold(s.Scheme, "https"):
		return "scheme"
	case s.Path == "*" && s.Method == "OPTIONS":
		in.Path = "*"
	case s.Path == "" || s.Path[0] != '/' || !syntax.All(s.Path, syntax.TargetChar):
		return "path"
	default:
		var ok bool
		if in.Path, in.Query, in.HasQuery, ok = syntax.SplitPath(s.Path); !ok {
			return "path"
		}
	}
	return s.acceptAuthority(in, arena)
}

// acceptAuthority settles Authority and Host: if both are there they must say
// the same, since not everybody behind us looks at the same one.
func (s *Section) acceptAuthority(in *exchange.Request, arena *exchange.Arena) (malformed string) {
	if s.hosts > 1 {
		return "host_repeated"
	}
	in.Authority = s.Authority
	if s.Seen&HasAuthority == 0 {
		if s.hosts == 0 {
			return "authority_missing"
		}
		in.Authority = s.Host
	}
	host, port, ok := syntax.ParseAuthority(in.Authority)
	if !ok || s.Method == "CONNECT" && s.Protocol == "" && port == "" {
		return "authority"
	}
	if s.hosts == 1 && !exchange.EqualFold(s.Host, in.Authority) {
		return "host_differs"
	}
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	in.Host = syntax.Lower(host, arena)
	return ""
}

// acceptConnect accepts CONNECT, if that is allowed, and extended CONNECT.
func (s *Section) acceptConnect(in *exchange.Request, arena *exchange.Arena, limits Limits) (status int, reason string) {
	switch {
	case s.Length >= 0:
		return 0, "connect" // what follows is no content, RFC 9113 section 8.5
	case s.Protocol == "" && !limits.AllowConnect:
		return 501, "connect"
	case s.Protocol != "" && !exchange.EqualFold(s.Protocol, "websocket"):
		return 501, "protocol_unknown" // RFC 8441 section 4 and RFC 9220 section 3
	case s.Protocol == "":
		return 0, ""
	}
	in.Method, in.Upgrade = "GET", "websocket"
	for i := range in.Fields {
		// RFC 8441 section 5: it is not used here, so it is not the client's to choose.
		if exchange.EqualFold(in.Fields[i].Name, "sec-websocket-key") {
			return 0, "websocket_key"
		}
	}
	var nonce [16]byte
	for i := 0; i < len(nonce); i += 8 {
		for n, j := rand.Uint64(), i; j < i+8; j, n = j+1, n>>8 {
			nonce[j] = byte(n)
		}
	}
	key := arena.Append(func(b []byte) []byte { return base64.StdEncoding.AppendEncode(b, nonce[:]) })
	in.Fields = append(in.Fields, exchange.Field{Name: "Sec-WebSocket-Key", Value: key})
	return 0, ""
}

// Upgrade makes the answer to a request that Accept called a tunnel what its
// client expects. It reports false if there is no tunnel after all;
// ex.Response is what to answer then.
func Upgrade(ex *exchange.Exchange) bool {
	r := &ex.Response
	if r.Tunnel == nil {
		if r.Status < 300 {
			// It would mean that there is a tunnel.
			ex.Answer(502, "upgrade_refused", "The service does not speak this protocol.\n")
		}
		return false
	}
	if ex.In.Upgrade != "" {
		key, _ := ex.In.Fields.Get("Sec-WebSocket-Key")
		if accept, ok := r.Fields.Get("Sec-WebSocket-Accept"); !ok || accept != WebSocketAccept(key) {
			_ = r.Tunnel.Close()
			ex.Answer(502, "websocket_accept", "The service does not speak WebSocket.\n")
			return false
		}
		r.Fields.Del("Sec-WebSocket-Accept")
		r.Fields.DelKey(exchange.KeyUpgrade)
		r.Status = 200
	}
	r.Length = -1
	return true
}

// WebSocketAccept answers a Sec-WebSocket-Key, RFC 6455 section 4.2.2. HTTP/2
// and HTTP/3 have neither, RFC 8441 section 5: it is for us to make and to
// answer a peer of HTTP/1.1.
func WebSocketAccept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}
