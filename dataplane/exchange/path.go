package exchange

import (
	"fmt"
	"net/netip"
	"strings"
)

// ReplacePrefix returns Path with the part that MatchedPrefix covers replaced,
// as the Gateway API's ReplacePrefixMatch wants it: by whole path elements, a
// trailing slash of either prefix counts for nothing, and what follows is kept.
// The result begins with a slash if prefix does or is empty; a path that does
// not (the "*" of OPTIONS) stays as it is. The string is made in the Arena.
func (ex *Exchange) ReplacePrefix(prefix string) string {
	path, matched := ex.Path, ex.MatchedPrefix
	if path == "" || path[0] != '/' || matched > len(path) {
		return path
	}
	if matched > 0 && path[matched-1] == '/' {
		matched--
	}
	if prefix != "" && prefix[len(prefix)-1] == '/' {
		prefix = prefix[:len(prefix)-1]
	}
	rest := path[matched:]
	switch {
	case prefix == "" && rest == "":
		return "/"
	case prefix == "":
		return rest
	case rest == "":
		return prefix
	}
	return ex.Arena.Concat(prefix, rest)
}

// SetAuthority replaces the authority, host and optional port in lower case, and
// with it Host.
func (r *Request) SetAuthority(authority string) {
	r.Authority, r.Host = authority, authority
	if end := hostEnd(authority); end >= 0 {
		r.Host = authority[:end]
	}
}

// hostEnd is where an authority's host ends: before the port, and before a
// trailing dot.
func hostEnd(authority string) int {
	end := len(authority)
	for i := end - 1; i >= 0; i-- {
		c := authority[i]
		if c == ':' {
			end = i
			break
		}
		if c < '0' || c > '9' {
			break
		}
	}
	if end > 0 && authority[end-1] == '.' {
		end--
	}
	return end
}

// CheckPath reports why a configured string is not an absolute path that can
// stand in a request target: RFC 3986 section 3.3, without query and fragment.
func CheckPath(path string) error {
	if path == "" || path[0] != '/' {
		return fmt.Errorf("path %q does not begin with a slash", path)
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2]) {
				return fmt.Errorf("path %q has a %% that two hexadecimal digits do not follow", path)
			}
			continue
		}
		if c != '/' && !isPathByte(c) {
			return fmt.Errorf("path %q contains %q, which must be percent-encoded", path, c)
		}
	}
	return nil
}

// CheckHostname reports why a configured string is not a precise host name or
// IP address in lower case.
func CheckHostname(host string) error {
	if host == "" || len(host) > 253 {
		return fmt.Errorf("host name %q has %d bytes, 1 to 253 are allowed", host, len(host))
	}
	if host[0] == '[' {
		if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && addr.Is6() && host[len(host)-1] == ']' {
			return nil
		}
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return fmt.Errorf("host name %q contains %q; lower-case letters, digits, - and . may be used", host, c)
		}
	}
	return nil
}

// CheckReplacement reports why what a redirect or a rewrite puts in place of a
// request's host and path cannot stand there. "" and nil replace nothing.
func CheckReplacement(hostname string, fullPath, prefix *string) error {
	if hostname != "" {
		if err := CheckHostname(hostname); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	if fullPath != nil && prefix != nil {
		return fmt.Errorf("a full path (%q) and a prefix (%q) exclude each other", *fullPath, *prefix)
	}
	if fullPath != nil {
		if err := CheckPath(*fullPath); err != nil {
			return fmt.Errorf("replaceFullPath: %w", err)
		}
	}
	if prefix != nil && *prefix != "" {
		if err := CheckPath(*prefix); err != nil {
			return fmt.Errorf("replacePrefixMatch: %w", err)
		}
	}
	return nil
}

// isPathByte reports whether c may stand in a path segment as it is: pchar of RFC 3986.
func isPathByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("-._~!$&'()*+,;=:@", c) >= 0
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
