// Package template makes header and query values from an exchange: text in
// which "${NAME}" stands for a variable and "$$" for one dollar sign.
//
// A template is compiled once; what it makes costs no allocation beyond the
// exchange's Arena. A variable that the exchange does not have is empty.
// Control characters in a variable's value become spaces, so that no value can
// end a header line, whatever a client, a token or a Secret says.
package template

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
)

// Scope says where a template is used.
type Scope uint8

const (
	// Request templates are used on the way in.
	Request Scope = iota
	// Response templates are used on the way out, where the response is known too.
	Response
)

// Template is compiled text. It is immutable.
type Template struct {
	parts []part
}

// part is literal text if it has no variable.
type part struct {
	text     string
	variable *variable
	// key and text are the argument of a variable that takes one.
	key exchange.Key
}

// variable is what a name stands for.
type variable struct {
	// name; one that ends with "." takes an argument, which is what follows it.
	name     string
	response bool
	// view returns the value where it exists as a string, else append makes it.
	view   func(ex *exchange.Exchange, p *part) string
	append func(dst []byte, ex *exchange.Exchange, p *part) []byte
}

// variables is all there is, sorted by name.
var variables = []variable{
	{name: "client.ip", append: func(dst []byte, ex *exchange.Exchange, _ *part) []byte {
		if !ex.ClientIP.IsValid() {
			return dst
		}
		return ex.ClientIP.AppendTo(dst)
	}},
	{name: "consumer.claims.", view: func(ex *exchange.Exchange, p *part) string {
		if ex.Consumer.Claims == nil {
			return ""
		}
		value, _ := ex.Consumer.Claims.Claim(p.text)
		return value
	}},
	{name: "consumer.method", view: func(ex *exchange.Exchange, _ *part) string {
		if ex.Consumer.Name == "" {
			return ""
		}
		return ex.Consumer.Method
	}},
	{name: "consumer.name", view: func(ex *exchange.Exchange, _ *part) string { return ex.Consumer.Name }},
	{name: "request.headers.", view: func(ex *exchange.Exchange, p *part) string { return field(ex.In.Fields, p) }},
	{name: "request.host", view: func(ex *exchange.Exchange, _ *part) string { return ex.In.Host }},
	{name: "request.id", view: func(ex *exchange.Exchange, _ *part) string { return ex.RequestID }},
	{name: "request.method", view: func(ex *exchange.Exchange, _ *part) string { return ex.In.Method }},
	{name: "request.path", view: func(ex *exchange.Exchange, _ *part) string { return ex.Path }},
	{name: "request.query", view: func(ex *exchange.Exchange, _ *part) string { return ex.In.Query }},
	{name: "request.query.", append: func(dst []byte, ex *exchange.Exchange, p *part) []byte {
		written, _ := query.Get(ex.In.Query, p.text)
		return query.AppendDecoded(dst, written, true)
	}},
	{name: "request.scheme", view: func(ex *exchange.Exchange, _ *part) string { return ex.In.Scheme }},
	{name: "response.headers.", response: true, view: func(ex *exchange.Exchange, p *part) string { return field(ex.Response.Fields, p) }},
	{name: "response.status", response: true, append: func(dst []byte, ex *exchange.Exchange, _ *part) []byte {
		s := ex.Response.Status
		return append(dst, byte('0'+s/100%10), byte('0'+s/10%10), byte('0'+s%10))
	}},
	{name: "route.kind", view: routeValue(func(r *exchange.RouteInfo) string { return r.Kind })},
	{name: "route.name", view: routeValue(func(r *exchange.RouteInfo) string { return r.Name })},
	{name: "route.namespace", view: routeValue(func(r *exchange.RouteInfo) string { return r.Namespace })},
	{name: "route.rule", view: routeValue(func(r *exchange.RouteInfo) string { return r.Rule })},
}

func routeValue(of func(*exchange.RouteInfo) string) func(*exchange.Exchange, *part) string {
	return func(ex *exchange.Exchange, _ *part) string {
		if ex.Route == nil {
			return ""
		}
		return of(ex.Route)
	}
}

func field(fields exchange.Fields, p *part) string {
	if p.key != exchange.KeyOther {
		return fields.Value(p.key)
	}
	value, _ := fields.Get(p.text)
	return value
}

// Compile reads a template. Its errors say what exists.
func Compile(text string, scope Scope) (*Template, error) {
	t := &Template{}
	var literal strings.Builder
	for rest := text; rest != ""; {
		i := strings.IndexByte(rest, '$')
		if i < 0 {
			i = len(rest)
		}
		if j := strings.IndexFunc(rest[:i], isControl); j >= 0 {
			return nil, fmt.Errorf("a control character (%q) cannot be part of a value", rest[j])
		}
		literal.WriteString(rest[:i])
		rest = rest[i:]
		switch {
		case rest == "":
		case strings.HasPrefix(rest, "$$"):
			literal.WriteByte('$')
			rest = rest[2:]
		case strings.HasPrefix(rest, "${"):
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				return nil, fmt.Errorf("%q has no closing }", rest)
			}
			p, err := compileVariable(rest[2:end], scope)
			if err != nil {
				return nil, err
			}
			if literal.Len() > 0 {
				t.parts = append(t.parts, part{text: literal.String()})
				literal.Reset()
			}
			t.parts = append(t.parts, p)
			rest = rest[end+1:]
		default:
			return nil, fmt.Errorf("%q: a dollar sign is written $$, a variable ${NAME}", rest)
		}
	}
	if literal.Len() > 0 {
		t.parts = append(t.parts, part{text: literal.String()})
	}
	return t, nil
}

func compileVariable(name string, scope Scope) (part, error) {
	for i := range variables {
		v := &variables[i]
		arg, takes := strings.CutPrefix(name, v.name)
		switch takes = takes && strings.HasSuffix(v.name, "."); {
		case takes && arg == "" || !takes && name != v.name:
			continue
		case v.response && scope != Response:
			return part{}, fmt.Errorf("${%s} is not known before there is a response", name)
		}
		p := part{variable: v}
		if takes {
			p.text, p.key = arg, exchange.KeyOf(arg)
		}
		return p, nil
	}
	return part{}, fmt.Errorf("${%s} does not exist; there are %s", name, strings.Join(Names(scope), ", "))
}

// Names returns the variables that exist in a scope, sorted.
func Names(scope Scope) []string {
	var names []string
	for _, v := range variables {
		if v.response && scope != Response {
			continue
		}
		if strings.HasSuffix(v.name, ".") {
			names = append(names, v.name+"NAME")
		} else {
			names = append(names, v.name)
		}
	}
	return slices.Clip(names)
}

// Value returns what the template makes of the exchange. The string is valid
// as long as the exchange's are.
func (t *Template) Value(ex *exchange.Exchange) string {
	if len(t.parts) == 0 {
		return ""
	}
	if p := &t.parts[0]; len(t.parts) == 1 {
		switch {
		case p.variable == nil:
			return p.text
		case p.variable.view != nil:
			if value := p.variable.view(ex, p); strings.IndexFunc(value, isControl) < 0 {
				return value
			}
		}
	}
	return ex.Arena.Append(func(dst []byte) []byte {
		for i := range t.parts {
			p := &t.parts[i]
			start := len(dst)
			switch {
			case p.variable == nil:
				dst = append(dst, p.text...)
				continue
			case p.variable.view != nil:
				dst = append(dst, p.variable.view(ex, p)...)
			default:
				dst = p.variable.append(dst, ex, p)
			}
			defuse(dst[start:])
		}
		return dst
	})
}

// isControl reports whether a character cannot be part of a field value, RFC
// 9110 section 5.5.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

func defuse(value []byte) {
	for i, c := range value {
		if isControl(rune(c)) {
			value[i] = ' '
		}
	}
}
