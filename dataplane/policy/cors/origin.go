package cors

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// origin is a scheme, host and port, RFC 6454 section 4, or a pattern of those.
type origin struct {
	scheme, host string
	port         uint16
	// suffix says that host is what the origin's ends with, behind something else.
	suffix bool
}

// parsePattern reads an entry of allowOrigins.
func parsePattern(s string) (origin, error) {
	o, ok := parseOrigin(s)
	switch {
	case !ok:
		return o, fmt.Errorf("%q is no http or https origin", s)
	case strings.HasPrefix(o.host, "*"):
		o.host, o.suffix = o.host[1:], true
		if o.host != "" && (o.host[0] != '.' || o.host == ".") {
			return o, fmt.Errorf("%q: a wildcard stands for whole labels", s)
		}
	}
	if strings.Contains(o.host, "*") {
		return o, fmt.Errorf("%q: a wildcard stands at the left", s)
	}
	return o, nil
}

// parseOrigin reads what Origin says, or a pattern. Origins that are not of
// http or https, "null" among them, are none.
func parseOrigin(s string) (o origin, ok bool) {
	var rest string
	o.scheme, rest, ok = strings.Cut(s, "://")
	switch {
	case !ok:
		return o, false
	case exchange.EqualFold(o.scheme, "http"):
		o.port = 80
	case exchange.EqualFold(o.scheme, "https"):
		o.port = 443
	default:
		return o, false
	}
	host, port, ok := syntax.ParseAuthority(rest)
	o.host = host
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return o, false
		}
		o.port = uint16(n)
	}
	return o, ok
}

// matches reports whether the pattern means the origin.
func (o *origin) matches(other *origin) bool {
	if o.port != other.port || !exchange.EqualFold(o.scheme, other.scheme) {
		return false
	}
	if !o.suffix {
		return exchange.EqualFold(o.host, other.host)
	}
	before := len(other.host) - len(o.host)
	return before > 0 && exchange.EqualFold(other.host[before:], o.host)
}
