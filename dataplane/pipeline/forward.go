package pipeline

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
)

// trusts reports whether the listener believes what this peer says about the
// requests that it passes on.
func (l *listener) trusts(peer netip.Addr) bool {
	for i := range l.trusted {
		if l.trusted[i].Contains(peer) {
			return true
		}
	}
	return false
}

// client returns the client's address: the peer, unless that is a trusted
// proxy; then the last address, from the peer backwards, that a trusted proxy
// has vouched for. X-Forwarded-For is asked before Forwarded: who sends both
// rarely means the latter.
func (l *listener) client(ex *exchange.Exchange, trusted bool) netip.Addr {
	peer := ex.Conn.Remote.Addr().Unmap()
	if !trusted {
		return peer
	}
	// From left to right: whoever is not trusted, or unreadable, makes what
	// stands left of it hearsay.
	client, seen := netip.Addr{}, false
	for i := range ex.In.Fields {
		if f := &ex.In.Fields[i]; f.Key == exchange.KeyXForwardedFor {
			for list := f.Value; list != ""; {
				var item string
				item, list = exchange.NextItem(list)
				client, seen = l.vouched(client, parseNode(item)), true
			}
		}
	}
	for i := range ex.In.Fields {
		if f := &ex.In.Fields[i]; f.Key == exchange.KeyForwarded && !seen {
			for list := f.Value; list != ""; {
				var node string
				node, list = nextForwardedFor(list)
				client = l.vouched(client, parseNode(node))
			}
		}
	}
	if !client.IsValid() {
		return peer
	}
	return client
}

// vouched is the client after one more address was read: that address, unless
// it is a trusted proxy which names somebody.
func (l *listener) vouched(client, next netip.Addr) netip.Addr {
	if next.IsValid() && l.trusts(next) && client.IsValid() {
		return client
	}
	return next
}

// parseNode reads an address with an optional port, RFC 7239 section 6; the
// result is invalid for anything else, such as "unknown".
func parseNode(node string) netip.Addr {
	if node == "" || len(node) > 64 {
		return netip.Addr{}
	}
	if node[0] == '[' {
		end := strings.IndexByte(node, ']')
		if end < 0 {
			return netip.Addr{}
		}
		node = node[1:end]
	} else if colon := strings.IndexByte(node, ':'); colon >= 0 && colon == strings.LastIndexByte(node, ':') {
		node = node[:colon]
	}
	addr, err := netip.ParseAddr(node)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Unmap().WithZone("")
}

// nextForwardedFor cuts the first element off a Forwarded value and returns its
// "for" parameter without quotes, RFC 7239 section 4; "" if it has none.
func nextForwardedFor(list string) (node, rest string) {
	quoted, start := false, 0
	for i := 0; i <= len(list); i++ {
		if i < len(list) && quoted {
			switch list[i] {
			case '\\':
				i++
			case '"':
				quoted = false
			}
			continue
		}
		if i < len(list) && list[i] == '"' {
			quoted = true
			continue
		}
		if i < len(list) && list[i] != ';' && list[i] != ',' {
			continue
		}
		name, value, _ := strings.Cut(strings.Trim(list[start:min(i, len(list))], " \t"), "=")
		if exchange.EqualFold(name, "for") {
			node = strings.Trim(value, `"`)
		}
		start = i + 1
		if i < len(list) && list[i] == ',' {
			return node, list[i+1:]
		}
	}
	return node, ""
}

// requestID returns the client's request ID if it looks like one, else a new one.
func requestID(ex *exchange.Exchange) string {
	if id := ex.In.Fields.Value(exchange.KeyXRequestID); isRequestID(id) {
		return id
	}
	var id [32]byte
	for i := 0; i < len(id); i += 16 {
		for n, j := rand.Uint64(), i; j < i+16; j++ {
			id[j] = "0123456789abcdef"[n&15]
			n >>= 4
		}
	}
	return ex.Arena.Bytes(id[:])
}

func isRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.:/+=@", c) >= 0) {
			return false
		}
	}
	return true
}

// prepare makes Out from In: without the fields of the hop, with the normal
// path, and with what a proxy says about the request. What an untrusted client
// says in the proxies' place is not passed on.
func (p *Pipeline) prepare(ex *exchange.Exchange, l *listener, trusted bool) {
	in, out := &ex.In, &ex.Out
	out.Method, out.Scheme, out.Authority, out.Host = in.Method, in.Scheme, in.Authority, in.Host
	out.Path, out.Query, out.HasQuery, out.Proto = ex.Path, in.Query, in.HasQuery, in.Proto
	out.Length, out.Upgrade, out.ExpectContinue = in.Length, in.Upgrade, in.ExpectContinue
	if out.Body == nil { // else the listener bounds it
		out.Body = in.Body
	}

	out.Fields.AppendEndToEnd(in.Fields)
	said := takeForwarded(&out.Fields, &ex.Arena)
	peer := ex.Arena.Append(func(b []byte) []byte { return ex.Conn.Remote.Addr().Unmap().AppendTo(b) })
	forwarded := said.forwarded != ""
	if !trusted {
		said = proxySaid{}
	}
	if t := ex.Conn.TLS; t != nil && t.ForwardedCert != "" {
		if said.clientCert == "" {
			said.clientCert = t.ForwardedCert
		} else {
			said.clientCert = ex.Arena.Concat(said.clientCert, ",", t.ForwardedCert)
		}
	}

	forwardedFor := peer
	if said.xFor != "" {
		forwardedFor = ex.Arena.Concat(said.xFor, ", ", peer)
	}
	out.Fields = append(out.Fields,
		exchange.Field{Key: exchange.KeyXForwardedFor, Name: "X-Forwarded-For", Value: forwardedFor},
		exchange.Field{Key: exchange.KeyXForwardedProto, Name: "X-Forwarded-Proto", Value: or(said.xProto, in.Scheme)},
		exchange.Field{Key: exchange.KeyXForwardedHost, Name: "X-Forwarded-Host", Value: or(said.xHost, in.Authority)},
		exchange.Field{Key: exchange.KeyXForwardedPort, Name: "X-Forwarded-Port", Value: or(said.xPort, l.port)},
		exchange.Field{Key: exchange.KeyXRequestID, Name: "X-Request-ID", Value: ex.RequestID},
		exchange.Field{Key: exchange.KeyVia, Name: "Via", Value: p.via[in.Proto]},
	)
	if said.realIP != "" {
		out.Fields = append(out.Fields, exchange.Field{Key: exchange.KeyXRealIP, Name: "X-Real-IP", Value: said.realIP})
	}
	if said.clientCert != "" {
		out.Fields = append(out.Fields, exchange.Field{
			Key: exchange.KeyXForwardedClientCert, Name: "X-Forwarded-Client-Cert", Value: said.clientCert,
		})
	}
	if forwarded {
		out.Fields = append(out.Fields, exchange.Field{
			Key: exchange.KeyForwarded, Name: "Forwarded", Value: forwardedElement(ex, said.forwarded, peer),
		})
	}
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// proxySaid is what earlier proxies, or a client in their place, said about a request.
type proxySaid struct {
	xFor, xProto, xHost, xPort, realIP, forwarded, clientCert string
}

// takeForwarded removes the fields that proxies set, and returns their values.
func takeForwarded(fields *exchange.Fields, arena *exchange.Arena) (said proxySaid) {
	kept := (*fields)[:0]
	for _, f := range *fields {
		var value *string
		switch f.Key {
		case exchange.KeyXForwardedFor:
			value = &said.xFor
		case exchange.KeyXForwardedProto:
			value = &said.xProto
		case exchange.KeyXForwardedHost:
			value = &said.xHost
		case exchange.KeyXForwardedPort:
			value = &said.xPort
		case exchange.KeyXRealIP:
			value = &said.realIP
		case exchange.KeyForwarded:
			value = &said.forwarded
		case exchange.KeyXForwardedClientCert:
			value = &said.clientCert
		case exchange.KeyXRequestID:
			continue
		default:
			kept = append(kept, f)
			continue
		}
		if *value == "" {
			*value = f.Value
		} else {
			*value = arena.Concat(*value, ", ", f.Value)
		}
	}
	*fields = kept
	return said
}

// forwardedElement appends our element to what was said before, RFC 7239 section 4.
func forwardedElement(ex *exchange.Exchange, before, peer string) string {
	open, end, separator := "for=", ";proto=", ""
	if ex.Conn.Remote.Addr().Unmap().Is6() {
		open, end = `for="[`, `]";proto=`
	}
	if before != "" {
		separator = ", "
	}
	if strings.ContainsAny(ex.In.Authority, `"\`) {
		return ex.Arena.Concat(before, separator, open, peer, end, ex.In.Scheme)
	}
	return ex.Arena.Concat(before, separator, open, peer, end, ex.In.Scheme, `;host="`, ex.In.Authority, `"`)
}
