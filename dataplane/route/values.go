package route

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// header compares a header field.
type header struct {
	key  exchange.Key
	name string
	value
}

// parameter compares a query parameter.
type parameter struct {
	name string
	value
}

// value is what to compare with: a pattern, or else an exact text.
type value struct {
	text    string
	pattern *regexp.Regexp
}

// headers compiles matches. Of several with one name only the first counts,
// HTTPHeaderMatch.name.
func headers(matches []snapshot.ValueMatch) (compiled []header, err error) {
	for i := range matches {
		m := &matches[i]
		if named(matches[:i], m.Name, exchange.EqualFold) {
			continue
		}
		h := header{key: exchange.KeyOf(m.Name), name: m.Name}
		if h.value, err = compileValue(m); err != nil {
			return nil, fmt.Errorf("header %s: %w", m.Name, err)
		}
		compiled = append(compiled, h)
	}
	return compiled, nil
}

// parameters compiles matches. Of several with one name only the first counts,
// HTTPQueryParamMatch.name.
func parameters(matches []snapshot.ValueMatch) (compiled []parameter, err error) {
	for i := range matches {
		m := &matches[i]
		if named(matches[:i], m.Name, func(a, b string) bool { return a == b }) {
			continue
		}
		p := parameter{name: m.Name}
		if p.value, err = compileValue(m); err != nil {
			return nil, fmt.Errorf("query parameter %s: %w", m.Name, err)
		}
		compiled = append(compiled, p)
	}
	return compiled, nil
}

func named(matches []snapshot.ValueMatch, name string, equal func(a, b string) bool) bool {
	for i := range matches {
		if equal(matches[i].Name, name) {
			return true
		}
	}
	return false
}

func compileValue(m *snapshot.ValueMatch) (value, error) {
	switch m.Type {
	case "Exact":
		return value{text: m.Value}, nil
	case "RegularExpression":
		pattern, err := compile(m.Value)
		return value{pattern: pattern}, err
	}
	return value{}, fmt.Errorf("match type %q: want Exact or RegularExpression", m.Type)
}

func (h *header) holds(ex *exchange.Exchange) bool {
	got, ok := h.field(ex)
	if !ok {
		return false
	}
	if h.pattern != nil {
		return h.pattern.MatchString(got)
	}
	return got == h.text
}

// field returns the field's value; several lines of one name are joined as RFC
// 9110 section 5.3 says, and Cookie lines as RFC 9113 section 8.2.3 does.
func (h *header) field(ex *exchange.Exchange) (joined string, ok bool) {
	// What the codec moved out of the fields.
	switch h.key {
	case exchange.KeyHost:
		return ex.In.Authority, true
	case exchange.KeyContentLength:
		if ex.In.Body == nil || ex.In.Length < 0 {
			return "", false
		}
		return ex.Arena.Uint(uint64(ex.In.Length)), true
	case exchange.KeyTransferEncoding:
		return "chunked", ex.In.Body != nil && ex.In.Length < 0 && ex.In.Proto == exchange.HTTP11
	}
	separator := ", "
	if h.key == exchange.KeyCookie {
		separator = "; "
	}
	for i := range ex.In.Fields {
		f := &ex.In.Fields[i]
		if f.Key != h.key || (h.key == exchange.KeyOther && !exchange.EqualFold(f.Name, h.name)) {
			continue
		}
		if ok {
			joined = ex.Arena.Concat(joined, separator, f.Value)
		} else {
			joined, ok = f.Value, true
		}
	}
	return joined, ok
}

// holds compares the first parameter of the name, with name and value
// percent-decoded and "+" read as a space.
func (p *parameter) holds(ex *exchange.Exchange) bool {
	written, ok := query.Get(ex.In.Query, p.name)
	switch {
	case !ok:
		return false
	case p.pattern == nil:
		return query.Is(written, p.text)
	case strings.ContainsAny(written, "%+"):
		written = ex.Arena.Append(func(b []byte) []byte { return query.AppendDecoded(b, written, true) })
	}
	return p.pattern.MatchString(written)
}
