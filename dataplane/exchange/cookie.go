package exchange

import "strings"

// NextCookie cuts the first pair off a Cookie field's value, RFC 6265 section
// 4.2.1; pair is all of it. Quotes around a value are not part of it.
func NextCookie(cookies string) (pair, name, value, rest string) {
	pair, rest, _ = strings.Cut(cookies, ";")
	pair = strings.Trim(pair, " \t")
	name, value, _ = strings.Cut(pair, "=")
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return pair, name, value, rest
}

// Cookie returns the value of the first cookie with this name.
func (f Fields) Cookie(name string) (value string, ok bool) {
	for i := range f {
		if f[i].Key != KeyCookie {
			continue
		}
		for rest := f[i].Value; rest != ""; {
			var n, v string
			if _, n, v, rest = NextCookie(rest); n == name {
				return v, true
			}
		}
	}
	return "", false
}

// NewCookie is a cookie that the client is given with the response.
type NewCookie struct {
	Name, Value string
	// SetCookie is the field value of Set-Cookie, RFC 6265 section 4.1.
	SetCookie string
}

// EditCookies rewrites the Cookie lines so that they have only the pairs for
// which keep is true. A line of which nothing is left goes.
func (f *Fields) EditCookies(a *Arena, keep func(name, value string) bool) {
	kept := (*f)[:0]
	for _, line := range *f {
		if line.Key == KeyCookie {
			if line.Value = keepCookies(a, line.Value, keep); line.Value == "" {
				continue
			}
		}
		kept = append(kept, line)
	}
	*f = kept
}

func keepCookies(a *Arena, cookies string, keep func(name, value string) bool) string {
	return a.Append(func(dst []byte) []byte {
		start := len(dst)
		for rest := cookies; rest != ""; {
			var pair, name, value string
			pair, name, value, rest = NextCookie(rest)
			if pair == "" || !keep(name, value) {
				continue
			}
			if len(dst) > start {
				dst = append(dst, "; "...)
			}
			dst = append(dst, pair...)
		}
		return dst
	})
}
