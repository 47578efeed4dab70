// Package query reads and rewrites the query part of a request target as the
// parameters that servers read from it: pairs between "&", percent-encoded. It
// keeps the parameters that it does not change byte for byte, and allocates
// nothing but from the exchange's Arena.
package query

import (
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
)

// Cut splits the first parameter off a query: its name and value as they are
// written, and what follows the next "&". A parameter without "=" has an empty value.
func Cut(query string) (name, value, rest string) {
	param, rest, _ := strings.Cut(query, "&")
	name, value, _ = strings.Cut(param, "=")
	return name, value, rest
}

// Get returns the value, as it is written, of the first parameter with this
// name, which is given as it is meant.
func Get(query, name string) (value string, ok bool) {
	for query != "" {
		var n, v string
		n, v, query = Cut(query)
		if Is(n, name) {
			return v, true
		}
	}
	return "", false
}

// Is reports whether a name as it is written means name: percent-encoded
// bytes and "+" for a space are read as HTML forms write them.
func Is(written, name string) bool {
	i := 0
	for written != "" {
		var c byte
		c, written = next(written, true)
		if i == len(name) || name[i] != c {
			return false
		}
		i++
	}
	return i == len(name)
}

// AppendDecoded appends what a value as it is written means. plus says that
// "+" is a space, as in HTML forms; without it "+" is itself, as in tokens
// that clients forgot to encode. A "%" without two hexadecimal digits is itself.
func AppendDecoded(dst []byte, written string, plus bool) []byte {
	for written != "" {
		var c byte
		c, written = next(written, plus)
		dst = append(dst, c)
	}
	return dst
}

// next decodes one byte.
func next(s string, plus bool) (byte, string) {
	switch {
	case s[0] == '+' && plus:
		return ' ', s[1:]
	case s[0] == '%' && len(s) >= 3:
		hi, lo := unhex[s[1]], unhex[s[2]]
		if hi < 16 && lo < 16 {
			return hi<<4 | lo, s[3:]
		}
	}
	return s[0], s[1:]
}

var unhex = func() (table [256]byte) {
	for i := range table {
		table[i] = 0xff
	}
	for i := byte(0); i < 10; i++ {
		table['0'+i] = i
	}
	for i := byte(0); i < 6; i++ {
		table['a'+i], table['A'+i] = 10+i, 10+i
	}
	return table
}()

// AppendEncoded appends s so that it can stand as a name or value: all but the
// unreserved characters of RFC 3986 section 2.3 are percent-encoded.
func AppendEncoded(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := 0; i < len(s); i++ {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			c == '-' || c == '.' || c == '_' || c == '~' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

// Remove returns the query without the parameters of this name.
func Remove(a *exchange.Arena, query, name string) string {
	if _, ok := Get(query, name); !ok {
		return query
	}
	return a.Append(func(dst []byte) []byte {
		first := true
		for rest := query; rest != ""; {
			var param string
			param, rest, _ = strings.Cut(rest, "&")
			if n, _, _ := Cut(param); !Is(n, name) {
				dst = appendParam(dst, &first, param)
			}
		}
		return dst
	})
}

// Add returns the query with a parameter more; name and value are given as
// they are meant.
func Add(a *exchange.Arena, query, name, value string) string {
	return a.Append(func(dst []byte) []byte {
		dst = append(dst, query...)
		if query != "" {
			dst = append(dst, '&')
		}
		dst = append(AppendEncoded(dst, name), '=')
		return AppendEncoded(dst, value)
	})
}

// Set returns the query with one parameter of this name, at the place of the
// first if there was one; name and value are given as they are meant.
func Set(a *exchange.Arena, query, name, value string) string {
	if _, ok := Get(query, name); !ok {
		return Add(a, query, name, value)
	}
	return a.Append(func(dst []byte) []byte {
		first, done := true, false
		for rest := query; rest != ""; {
			var param string
			param, rest, _ = strings.Cut(rest, "&")
			n, _, _ := Cut(param)
			switch {
			case !Is(n, name):
				dst = appendParam(dst, &first, param)
			case !done:
				done = true
				dst = append(appendParam(dst, &first, n), '=')
				dst = AppendEncoded(dst, value)
			}
		}
		return dst
	})
}

// Rename returns the query with the parameters named from under the name to.
// Those that were named to before are removed, unless there is none to rename.
func Rename(a *exchange.Arena, query, from, to string) string {
	if _, ok := Get(query, from); !ok || from == to {
		return query
	}
	return a.Append(func(dst []byte) []byte {
		first := true
		for rest := query; rest != ""; {
			var param string
			param, rest, _ = strings.Cut(rest, "&")
			n, _, _ := Cut(param)
			switch {
			case Is(n, from):
				dst = appendParam(dst, &first, "")
				dst = append(AppendEncoded(dst, to), param[len(n):]...)
			case !Is(n, to):
				dst = appendParam(dst, &first, param)
			}
		}
		return dst
	})
}

func appendParam(dst []byte, first *bool, param string) []byte {
	if !*first {
		dst = append(dst, '&')
	}
	*first = false
	return append(dst, param...)
}
