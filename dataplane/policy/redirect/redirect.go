// Package redirect answers with a redirection: HTTPRoute's RequestRedirect.
package redirect

import (
	"fmt"
	"strconv"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Config says where to. What is not set is taken from the request. At most one
// of FullPath and Prefix is set.
type Config struct {
	// Scheme is "http" or "https"; "" means the request's.
	Scheme string `json:"scheme,omitempty"`
	// Hostname is in lower case; "" means the request's.
	Hostname string `json:"hostname,omitempty"`
	// Port is what the Location names. 0 means the well-known port of Scheme if
	// that is set, else ListenerPort. The port is left out where it is the
	// well-known one of the Location's scheme.
	Port uint16 `json:"port,omitempty"`
	// ListenerPort is the port that the Gateway declares for the listener which
	// the rule is compiled for: what clients see, which in a cluster is not the
	// bound port. 0 means the bound port.
	ListenerPort uint16 `json:"listenerPort,omitempty"`
	// FullPath replaces the whole path, ReplaceFullPath.
	FullPath *string `json:"fullPath,omitempty"`
	// Prefix replaces what the rule's prefix match covered, ReplacePrefixMatch;
	// it may be empty.
	Prefix *string `json:"prefix,omitempty"`
	// StatusCode is 301, 302, 303, 307 or 308; 0 means 302.
	StatusCode int `json:"statusCode,omitempty"`
}

// Kind returns "redirect".
func (*Config) Kind() string { return "redirect" }

// Build makes the filter.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	if err := c.Check(); err != nil {
		return policy.Filter{}, err
	}
	return policy.Filter{Request: c.request}, nil
}

func (c *Config) request(ex *exchange.Exchange) exchange.Verdict {
	scheme := c.Scheme
	if scheme == "" {
		scheme = ex.In.Scheme
	}
	host := c.Hostname
	if host == "" {
		host = ex.In.Host
	}
	if host == "" && ex.Conn != nil && ex.Conn.Local.IsValid() {
		// HTTP/1.0 needs no Host; a Location without one would be relative, and
		// a path that begins with two slashes would then name a host.
		host = localHost(ex)
	}
	if !isHost(host) {
		return ex.Answer(400, "redirect_host", "The request's host cannot be redirected.\n")
	}
	path := ex.Path
	switch {
	case c.FullPath != nil:
		path = *c.FullPath
	case c.Prefix != nil:
		path = ex.ReplacePrefix(*c.Prefix)
	}
	if path == "" || path[0] != '/' {
		path = "/" // of OPTIONS * or CONNECT
	}
	port := c.port(ex)
	location := ex.Arena.Append(func(b []byte) []byte {
		b = append(b, scheme...)
		b = append(b, "://"...)
		b = append(b, host...)
		if port != 0 && port != wellKnown(scheme) {
			b = append(b, ':')
			b = strconv.AppendUint(b, uint64(port), 10)
		}
		b = appendEscaped(b, path, false)
		if ex.In.HasQuery {
			b = append(b, '?')
			b = appendEscaped(b, ex.In.Query, true)
		}
		return b
	})
	status := c.StatusCode
	if status == 0 {
		status = 302
	}
	ex.Answer(status, "redirect", "")
	ex.Response.Fields = append(ex.Response.Fields,
		exchange.Field{Key: exchange.KeyLocation, Name: "Location", Value: location})
	return exchange.Answered
}

// port follows the rules of HTTPRequestRedirectFilter.Port.
func (c *Config) port(ex *exchange.Exchange) uint16 {
	switch {
	case c.Port != 0:
		return c.Port
	case c.Scheme != "":
		return wellKnown(c.Scheme)
	case c.ListenerPort != 0:
		return c.ListenerPort
	case ex.Conn != nil:
		return ex.Conn.Local.Port()
	}
	return 0
}

func wellKnown(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// localHost is the address that the client connected to.
func localHost(ex *exchange.Exchange) string {
	addr := ex.Conn.Local.Addr().Unmap().WithZone("")
	return ex.Arena.Append(func(b []byte) []byte {
		if addr.Is4() {
			return addr.AppendTo(b)
		}
		return append(addr.AppendTo(append(b, '[')), ']')
	})
}

// isHost reports whether host may stand in a Location: only what names and IP
// addresses are made of, so that nothing in it ends the authority.
func isHost(host string) bool {
	if host == "" {
		return false
	}
	bracketed := host[0] == '[' && host[len(host)-1] == ']'
	if bracketed {
		host = host[1 : len(host)-1]
	}
	for i := 0; i < len(host); i++ {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '.', c == '_', c == '~':
		case c == ':' && bracketed:
		default:
			return false
		}
	}
	return host != ""
}

// appendEscaped percent-encodes every byte that is not allowed in a path, RFC
// 3986 section 3.3, or in a query, section 3.4; what is percent-encoded already
// stays.
func appendEscaped(b []byte, s string, query bool) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		if c := s[i]; allowed[c>>5]&(1<<(c&31)) != 0 || c == '?' && query {
			b = append(b, c)
		} else {
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return b
}

// allowed is the set of pchar, "/" and "%".
var allowed = func() (set [8]uint32) {
	const bytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~!$&'()*+,;=:@/%"
	for i := 0; i < len(bytes); i++ {
		set[bytes[i]>>5] |= 1 << (bytes[i] & 31)
	}
	return set
}()

// Check reports what is wrong with the configuration; Build refuses the same.
func (c *Config) Check() error {
	switch c.Scheme {
	case "", "http", "https":
	default:
		return fmt.Errorf("scheme: %q is not http or https", c.Scheme)
	}
	switch c.StatusCode {
	case 0, 301, 302, 303, 307, 308:
	default:
		return fmt.Errorf("statusCode: %d is not 301, 302, 303, 307 or 308", c.StatusCode)
	}
	return exchange.CheckReplacement(c.Hostname, c.FullPath, c.Prefix)
}
