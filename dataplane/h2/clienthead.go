package h2

import (
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/section"
	"github.com/headgate/headgate/dataplane/syntax"
)

// appendRequest appends a request's head, RFC 9113 section 8.3.1, and RFC 8441
// section 4 for upgrades. c.mu is held.
func (c *ClientConn) appendRequest(b []byte, id uint32, out *exchange.Request, websocket, expect, end bool) []byte {
	start := len(b)
	b = c.enc.begin(beginHeaders(b))
	method := out.Method
	if websocket {
		method = "CONNECT"
	}
	b = appendPseudo(b, staticMethod, method)
	if websocket {
		b = appendLiteral(b, 0, 4, 0, ":protocol", "websocket")
	}
	if method != "CONNECT" || websocket {
		b = appendPseudo(b, staticScheme, c.scheme)
		b = appendPseudo(b, staticPath, c.target(out))
	}
	b = appendPseudo(b, staticAuthority, out.Authority)
	for i := range out.Fields {
		if f := &out.Fields[i]; !section.Unsent[f.Key] && !(websocket && isWebSocketKey(f)) {
			b = c.enc.appendField(b, f)
		}
	}
	// These are expected to have content, RFC 9110 section 8.6.
	switch {
	case method == "CONNECT":
	case out.Body != nil && out.Length >= 0:
		b = c.enc.appendLength(b, out.Length)
	case out.Body == nil && (method == "POST" || method == "PUT" || method == "PATCH"):
		b = c.enc.appendLength(b, 0)
	}
	if expect {
		b = c.enc.appendField(b, &expectContinue)
	}
	// Trailers are forwarded, and gRPC asks for this.
	b = c.enc.appendField(b, &teTrailers)
	return endHeaders(b, start, id, end, c.maxFrame)
}

var (
	expectContinue = exchange.Field{Key: exchange.KeyExpect, Name: "Expect", Value: "100-continue"}
	teTrailers     = exchange.Field{Key: exchange.KeyTE, Name: "TE", Value: "trailers"}
)

// isWebSocketKey reports whether a field is one of those that the handshake
// has in HTTP/1.1 only, RFC 8441 section 5.
func isWebSocketKey(f *exchange.Field) bool {
	return f.Key == exchange.KeyOther && exchange.EqualFold(f.Name, "Sec-WebSocket-Key")
}

// target returns :path, which is valid until the next one is made.
func (c *ClientConn) target(out *exchange.Request) string {
	if out.Path == "" {
		c.text = append(c.text[:0], '/')
	} else {
		if !out.HasQuery && syntax.All(out.Path, syntax.TargetChar) {
			return out.Path
		}
		c.text = appendTarget(c.text[:0], out.Path)
	}
	if out.HasQuery {
		c.text = append(c.text, '?')
		c.text = appendTarget(c.text, out.Query)
	}
	return str(c.text)
}

// appendTarget appends a part of the request target. What was received has
// been checked; a rewrite may have put in bytes that must not stand there.
func appendTarget(b []byte, s string) []byte {
	if syntax.All(s, syntax.TargetChar) {
		return append(b, s...)
	}
	const upperHex = "0123456789ABCDEF"
	for i := range len(s) {
		if syntax.Classes[s[i]]&syntax.TargetChar != 0 {
			b = append(b, s[i])
		} else {
			b = append(b, '%', upperHex[s[i]>>4], upperHex[s[i]&15])
		}
	}
	return b
}

// appendTrailers appends a request's trailer section, which ends its stream.
// c.mu is held.
func (c *ClientConn) appendTrailers(b []byte, id uint32, trailers exchange.Fields) []byte {
	start := len(b)
	b = c.enc.begin(beginHeaders(b))
	for i := range trailers {
		if f := &trailers[i]; syntax.MayTrail(f.Key) && !section.Unsent[f.Key] {
			b = c.enc.appendField(b, f)
		}
	}
	return endHeaders(b, start, id, true, c.maxFrame)
}
