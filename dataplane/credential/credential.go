// Package credential finds credentials in requests and keeps them from
// backends, for the policies that authenticate.
package credential

import (
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
)

// Source is one place of a request where a credential may be. Exactly one of
// Header, Query and Cookie is set.
type Source struct {
	Header string `json:"header,omitempty"`
	// Prefix is what a header's value begins with before the credential, in
	// any case, followed by spaces: an authentication scheme, RFC 9110 section 11.4.
	Prefix string `json:"prefix,omitempty"`
	Query  string `json:"query,omitempty"`
	Cookie string `json:"cookie,omitempty"`
}

// Find returns the first credential among the sources, and which of them holds
// it. An empty one is none. It reads the request as received.
func Find(ex *exchange.Exchange, sources []Source) (value string, source int, ok bool) {
	for i := range sources {
		if value := sources[i].find(ex); value != "" {
			return value, i, true
		}
	}
	return "", 0, false
}

func (s *Source) find(ex *exchange.Exchange) string {
	switch {
	case s.Header != "":
		value, _ := ex.In.Fields.Get(s.Header)
		return s.trim(value)
	case s.Query != "":
		value, _ := query.Get(ex.In.Query, s.Query)
		if strings.IndexByte(value, '%') < 0 {
			return value
		}
		return ex.Arena.Append(func(dst []byte) []byte { return query.AppendDecoded(dst, value, false) })
	case s.Cookie != "":
		for i := range ex.In.Fields {
			if f := &ex.In.Fields[i]; f.Key == exchange.KeyCookie {
				for rest := f.Value; rest != ""; {
					var name, value string
					_, name, value, rest = exchange.NextCookie(rest)
					if name == s.Cookie && value != "" {
						return value
					}
				}
			}
		}
	}
	return ""
}

// trim takes the prefix off a header's value; "" if it does not have it.
func (s *Source) trim(value string) string {
	if s.Prefix == "" {
		return value
	}
	n := len(s.Prefix)
	if len(value) <= n || !exchange.EqualFold(value[:n], s.Prefix) || value[n] != ' ' {
		return ""
	}
	return strings.TrimLeft(value[n:], " ")
}

// Remove takes what the sources name out of the request that goes to the
// backend: whatever is there, also what was not the credential that counted.
func Remove(ex *exchange.Exchange, sources []Source) {
	for i := range sources {
		sources[i].remove(ex)
	}
}

func (s *Source) remove(ex *exchange.Exchange) {
	switch {
	case s.Header != "" && s.Prefix == "":
		ex.Out.Fields.Del(s.Header)
	case s.Header != "":
		kept := ex.Out.Fields[:0]
		for _, f := range ex.Out.Fields {
			if !exchange.EqualFold(f.Name, s.Header) || s.trim(f.Value) == "" {
				kept = append(kept, f)
			}
		}
		ex.Out.Fields = kept
	case s.Query != "":
		before := ex.Out.Query
		ex.Out.Query = query.Remove(&ex.Arena, before, s.Query)
		ex.Out.HasQuery = ex.Out.HasQuery && (ex.Out.Query != "" || before == "")
	case s.Cookie != "":
		ex.Out.Fields.EditCookies(&ex.Arena, func(name, _ string) bool { return name != s.Cookie })
	}
}

// Strip removes the fields of this name from the request that goes to the
// backend, so that no client can write what only Headgate may. "-" and "_"
// count as the same: servers that hand fields on as CGI variables cannot tell
// X-User from X_User.
func Strip(ex *exchange.Exchange, name string) {
	fields := ex.Out.Fields
	for i := range fields {
		if looksLike(fields[i].Name, name) {
			kept := fields[:i]
			for _, f := range fields[i+1:] {
				if !looksLike(f.Name, name) {
					kept = append(kept, f)
				}
			}
			ex.Out.Fields = kept
			return
		}
	}
}

func looksLike(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if a[i] != b[i] && fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	case c == '_':
		return '-'
	}
	return c
}
