package h1

import (
	"bytes"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
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
	for i < len(line) && syntax.Classes[line[i]]&syntax.TChar != 0 {
		i++
	}
	if i == 0 || i == len(line) || line[i] != ' ' {
		return nil, errMethod
	}
	req.Method = str(line[:i])
	line = line[i+1:]

	for i = 0; i < len(line) && syntax.Classes[line[i]]&syntax.TargetChar != 0; {
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
		if len(version) == 8 && string(version[:5]) == "HTTP/" && syntax.Digit(version[5]) && version[6] == '.' && syntax.Digit(version[7]) {
			return nil, errVersionUnknown
		}
		if len(version) > 0 && !syntax.All(version, syntax.TargetChar) {
			return nil, errTarget // a space in the target, most likely
		}
		if bytes.IndexByte(target, '/') < 0 && bytes.IndexByte(version, '/') < 0 {
			return nil, errNotHTTP
		}
		return nil, errVersion
	}
	return target, nil
}

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
		if _, _, ok := syntax.ParseAuthority(req.Authority); !ok {
			return errTarget
		}
		if t == "" && req.Method == "OPTIONS" {
			req.Path = "*" // section 3.2.4
			return nil
		}
	}
	var ok bool
	if req.Path, req.Query, req.HasQuery, ok = syntax.SplitPath(t); !ok {
		return errTarget
	}
	if req.Path == "" {
		req.Path = "/"
	}
	return nil
}

func parseConnect(t string, req *exchange.Request, h *requestHead, opts *ServerOptions) *refusal {
	_, port, ok := syntax.ParseAuthority(t)
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
		host, port, ok := syntax.ParseAuthority(h.host)
		if !ok {
			return errHost
		}
		if req.Authority == "" {
			req.Authority = h.host
		} else {
			h2, p2, _ := syntax.ParseAuthority(req.Authority)
			if !exchange.EqualFold(host, h2) || !samePort(port, p2) {
				return errHostDiffers
			}
		}
	}
	host, _, _ := syntax.ParseAuthority(req.Authority)
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	req.Host = syntax.Lower(host, &ex.Arena)
	return nil
}

// samePort tells no port from none only if both are given: a default port is
// the same as none, and which is the default depends on who reads it.
func samePort(a, b string) bool {
	return a == b || isDefault(a) && isDefault(b)
}

func isDefault(port string) bool { return port == "" || port == "80" || port == "443" }
