package h1

import (
	"net/netip"

	"github.com/headgate/headgate/dataplane/exchange"
)

// requestHead is what a request's head says beyond exchange.Request.
type requestHead struct {
	message
	kind       framing
	persistent bool
}

// parseRequest fills ex.In from a complete head, whose lines end at ends. What
// it accepts can be read in one way only.
func parseRequest(head []byte, ends []int32, ex *exchange.Exchange, h *requestHead, opts *ServerOptions) *refusal {
	*h = requestHead{}
	req := &ex.In
	target, err := parseRequestLine(head[:ends[0]], req)
	if err != nil {
		return err
	}
	if err := parseFields(head, ends, &req.Fields, &h.message); err != nil {
		return err
	}
	if h.underscore && opts.RefuseUnderscores {
		return errUnderscore
	}
	if err := parseTarget(target, req, h, opts); err != nil {
		return err
	}
	if err := parseHost(ex, h); err != nil {
		return err
	}
	if h.kind, err = h.framing(req.Proto); err != nil {
		return err
	}
	switch h.kind {
	case framedLength:
		req.Length = h.length
	case framedChunked:
		req.Length = -1
	}
	if opts.MaxBody > 0 && req.Length > opts.MaxBody {
		return errBodyLong
	}
	h.persistent = h.message.persistent(req.Proto)
	return parseIntent(req, h)
}

// parseIntent reads what the client wants beyond an answer: another protocol,
// or a word before it sends the content.
func parseIntent(req *exchange.Request, h *requestHead) *refusal {
	// An HTTP/1.0 client cannot ask for either, RFC 9110 sections 7.8 and 10.1.1.
	if req.Proto == exchange.HTTP10 {
		return nil
	}
	// h2c by Upgrade is obsolete, RFC 9113 section 3.1, and ignored: some
	// clients ask for it with every first request.
	if h.upgrades && h.upgrade != "" && !exchange.EqualFold(h.upgrade, "h2c") {
		if h.kind != framedNone {
			return errUpgradeBody
		}
		req.Upgrade = h.upgrade
	}
	if h.expect != "" {
		if !exchange.EqualFold(h.expect, "100-continue") {
			return errExpect
		}
		req.ExpectContinue = h.kind != framedNone
	}
	return nil
}

// parseRequestLine reads method SP target SP version, RFC 9112 section 3. It
// takes exactly one space: the section permits leniency, and warns of it.
func parseRequestLine(line []byte, req *exchange.Request) (target []byte, err *refusal) {
	i := 0
	for i < len(line) && classes[line[i]]&tchar != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return nil, errMethod
	}
	req.Method = str(line[:i])
	line = line[i+1:]

	for i = 0; i < len(line) && classes[line[i]]&targetChar != 0; {
		i++
	}
	switch {
	case i == len(line):
		return nil, errRequestLine // no version: HTTP/0.9, or nonsense
	case i == 0 || line[i] != ' ':
		return nil, errTarget
	}
	target, version := line[:i], line[i+1:]

	switch string(version) {
	case "HTTP/1.1":
		req.Proto = exchange.HTTP11
	case "HTTP/1.0":
		req.Proto = exchange.HTTP10
	default:
		if len(version) == 8 && string(version[:5]) == "HTTP/" && digit(version[5]) && version[6] == '.' && digit(version[7]) {
			return nil, errVersionUnknown
		}
		if len(version) > 0 && !all(version, targetChar) {
			return nil, errTarget // a space in the target, most likely
		}
		return nil, errVersion
	}
	return target, nil
}

func digit(b byte) bool { return '0' <= b && b <= '9' }

// parseTarget reads the four forms of RFC 9112 section 3.2. Its bytes have been
// checked to be visible ASCII without "#".
func parseTarget(target []byte, req *exchange.Request, h *requestHead, opts *ServerOptions) *refusal {
	t := str(target)
	switch {
	case req.Method == "CONNECT":
		return parseConnect(t, req, h, opts)
	case t[0] == '/':
	case t == "*":
		if req.Method != "OPTIONS" {
			return errTarget
		}
		req.Path = t
		return nil
	default:
		var ok bool
		if t, ok = cutScheme(t); !ok {
			return errTarget
		}
		end := 0
		for end < len(t) && t[end] != '/' && t[end] != '?' {
			end++
		}
		req.Authority, t = t[:end], t[end:]
		if _, _, ok := parseAuthority(req.Authority); !ok {
			return errTarget
		}
		if t == "" && req.Method == "OPTIONS" {
			req.Path = "*" // section 3.2.4
			return nil
		}
	}
	for i := range len(t) {
		switch t[i] {
		case '?':
			req.Path, req.Query, req.HasQuery = t[:i], t[i+1:], true
		case '\\':
			// Some servers take it for a slash; it is not allowed unencoded, RFC 3986 section 3.3.
			return errTarget
		default:
			continue
		}
		break
	}
	if !req.HasQuery {
		req.Path = t
	}
	if req.Path == "" {
		req.Path = "/"
	}
	return nil
}

func parseConnect(t string, req *exchange.Request, h *requestHead, opts *ServerOptions) *refusal {
	_, port, ok := parseAuthority(t)
	if !ok || port == "" {
		return errTarget
	}
	if !opts.AllowConnect {
		return errConnect
	}
	if h.lengths > 0 || h.encodings > 0 {
		return errUpgradeBody
	}
	req.Authority = t
	return nil
}

func cutScheme(t string) (rest string, ok bool) {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(t) > len(scheme) && exchange.EqualFold(t[:len(scheme)], scheme) {
			return t[len(scheme):], true
		}
	}
	return "", false
}

// parseHost settles Authority and Host, RFC 9112 section 3.2 and RFC 9110
// section 7.2. The target's authority wins over Host in the RFC; here they
// must say the same, because not every server lets it win.
func parseHost(ex *exchange.Exchange, h *requestHead) *refusal {
	req := &ex.In
	switch {
	case h.hosts > 1:
		return errHostRepeated
	case h.hosts == 0 && req.Proto == exchange.HTTP11:
		return errHostMissing
	case h.hosts == 0 && req.Authority == "":
		return nil // HTTP/1.0 may do without
	}
	if h.hosts == 1 {
		host, port, ok := parseAuthority(h.host)
		if !ok {
			return errHost
		}
		if req.Authority == "" {
			req.Authority = h.host
		} else {
			h2, p2, _ := parseAuthority(req.Authority)
			if !exchange.EqualFold(host, h2) || !samePort(port, p2) {
				return errHostDiffers
			}
		}
	}
	host, _, _ := parseAuthority(req.Authority)
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	req.Host = lower(host, &ex.Arena)
	return nil
}

// samePort tells no port from none only if both are given: a default port is
// the same as none, and which is the default depends on who reads it.
func samePort(a, b string) bool {
	return a == b || isDefault(a) && isDefault(b)
}

func isDefault(port string) bool { return port == "" || port == "80" || port == "443" }

// parseAuthority splits host [ ":" port ], RFC 3986 section 3.2. It takes less
// than the grammar: no user information (deprecated, RFC 9110 section 4.2.4),
// no percent-encoding and no comma (in a host name, both mean different things
// to different servers), no empty host.
func parseAuthority(s string) (host, port string, ok bool) {
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
		for end < len(s) && classes[s[end]]&hostChar != 0 {
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
		if !digit(port[i]) {
			return "", "", false
		}
		n = n*10 + int(port[i]-'0')
	}
	return host, port, n <= 65535
}

// lower returns s in lower case, itself if it is.
func lower(s string, arena *exchange.Arena) string {
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
