package syntax

import (
	"net/netip"

	"github.com/headgate/headgate/dataplane/exchange"
)

// ParseAuthority splits host [ ":" port ], RFC 3986 section 3.2. It takes less
// than the grammar: no user information (deprecated, RFC 9110 section 4.2.4),
// no percent-encoding and no comma (in a host name, both mean different things
// to different servers), no empty host.
func ParseAuthority(s string) (host, port string, ok bool) {
	end := 0
	if s != "" && s[0] == '[' {
		for end < len(s) && s[end] != ']' {
			end++
		}
		if end == len(s) {
			return "", "", false
		}
		addr, err := netip.ParseAddr(s[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "", "", false
		}
		end++
	} else {
		for end < len(s) && Classes[s[end]]&HostChar != 0 {
			end++
		}
	}
	host, rest := s[:end], s[end:]
	if host == "" || host == "." {
		return "", "", false
	}
	if rest == "" {
		return host, "", true
	}
	port = rest[1:]
	if rest[0] != ':' || len(port) > 5 {
		return "", "", false
	}
	n := 0
	for i := range len(port) {
		if !Digit(port[i]) {
			return "", "", false
		}
		n = n*10 + int(port[i]-'0')
	}
	return host, port, n <= 65535
}

// Lower returns s in lower case, itself if it is.
func Lower(s string, arena *exchange.Arena) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return arena.Append(func(b []byte) []byte {
				for i := range len(s) {
					c := s[i]
					if 'A' <= c && c <= 'Z' {
						c += 'a' - 'A'
					}
					b = append(b, c)
				}
				return b
			})
		}
	}
	return s
}

// Digit reports whether b is a decimal digit.
func Digit(b byte) bool { return '0' <= b && b <= '9' }

// ParseLength reads 1*DIGIT that fit into an int64, RFC 9110 section 8.6.
func ParseLength(s string) (n int64, ok bool) {
	if s == "" || len(s) > 19 {
		return 0, false
	}
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, n >= 0 // 19 digits overflow once at most
}

// TrimOWS returns b without the optional white space around it.
func TrimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// MayTrail reports whether a field may be in a trailer section. Those for
// routing, authentication, request modifiers, response control and the
// processing of content may not, RFC 9110 section 6.5.1; they are dropped.
func MayTrail(key exchange.Key) bool {
	switch key {
	case exchange.KeyAccept, exchange.KeyAcceptEncoding, exchange.KeyAge, exchange.KeyAuthorization,
		exchange.KeyCacheControl, exchange.KeyContentEncoding, exchange.KeyContentType, exchange.KeyCookie,
		exchange.KeyDate, exchange.KeyExpect, exchange.KeyForwarded, exchange.KeyIfModifiedSince,
		exchange.KeyIfNoneMatch, exchange.KeyLocation, exchange.KeyOrigin, exchange.KeyRange,
		exchange.KeyRetryAfter, exchange.KeySetCookie, exchange.KeyTrailer, exchange.KeyVary, exchange.KeyVia,
		exchange.KeyWWWAuthenticate, exchange.KeyXForwardedFor, exchange.KeyXForwardedHost,
		exchange.KeyXForwardedPort, exchange.KeyXForwardedProto, exchange.KeyXRealIP, exchange.KeyXRequestID:
		return false
	}
	return !key.HopByHop()
}

// SplitPath splits what stands behind the authority in a request target into
// path and query. It reports false for what must not stand in a path unencoded
// and some servers take for a slash, RFC 3986 section 3.3.
func SplitPath(t string) (path, query string, hasQuery, ok bool) {
	for i := range len(t) {
		switch t[i] {
		case '?':
			return t[:i], t[i+1:], true, true
		case '\\':
			return "", "", false, false
		}
	}
	return t, "", false, true
}
