package expression

import (
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
)

// variable is a name in expressions.
type variable struct {
	name  string
	kind  *cel.Type
	value func(*input) ref.Val
}

var byName = cel.MapType(cel.StringType, cel.StringType)

// variables is all there is, sorted by name. Those that templates have, too, are
// the same. docs/expressions.md lists them.
var variables = []variable{
	{"client.ip", cel.StringType, func(in *input) ref.Val {
		return types.String(in.ex.Arena.Append(func(dst []byte) []byte {
			if !in.ex.ClientIP.IsValid() {
				return dst
			}
			return in.ex.ClientIP.AppendTo(dst)
		}))
	}},
	{"consumer.claims", byName, func(in *input) ref.Val { return &in.claims }},
	{"consumer.method", cel.StringType, func(in *input) ref.Val { return types.String(in.ex.Consumer.Method) }},
	{"consumer.name", cel.StringType, func(in *input) ref.Val { return types.String(in.ex.Consumer.Name) }},
	{"request.cookies", byName, func(in *input) ref.Val { return &in.cookies }},
	{"request.headerValues", cel.MapType(cel.StringType, cel.ListType(cel.StringType)), func(in *input) ref.Val { return &in.headerValues }},
	{"request.headers", byName, func(in *input) ref.Val { return &in.headers }},
	{"request.host", cel.StringType, func(in *input) ref.Val { return types.String(in.request.Host) }},
	{"request.id", cel.StringType, func(in *input) ref.Val { return types.String(in.ex.RequestID) }},
	{"request.method", cel.StringType, func(in *input) ref.Val { return types.String(in.request.Method) }},
	{"request.path", cel.StringType, func(in *input) ref.Val { return types.String(in.path()) }},
	{"request.query", byName, func(in *input) ref.Val { return &in.query }},
	{"request.scheme", cel.StringType, func(in *input) ref.Val { return types.String(in.request.Scheme) }},
	{"request.target", cel.StringType, func(in *input) ref.Val {
		if !in.request.HasQuery {
			return types.String(in.path())
		}
		return types.String(in.ex.Arena.Concat(in.path(), "?", in.request.Query))
	}},
}

// Variables returns the names of all variables, sorted.
func Variables() []string {
	names := make([]string, len(variables))
	for i := range variables {
		names[i] = variables[i].name
	}
	return names
}

// input is what an evaluation reads: a cel.Activation that makes what it is
// asked for. Its maps read the exchange in place.
type input struct {
	ex      *exchange.Exchange
	request *exchange.Request

	headers, headerValues, query, cookies entries
	claims                                claims
}

func newInput() *input {
	in := &input{}
	in.headers = entries{in: in, find: findHeader, names: headerNames}
	in.headerValues = entries{in: in, find: findHeaderValues, names: headerNames}
	in.query = entries{in: in, find: findParam, names: paramNames}
	in.cookies = entries{in: in, find: findCookie, names: cookieNames}
	in.claims = claims{in: in}
	return in
}

// ResolveName implements cel.Activation.
func (in *input) ResolveName(name string) (any, bool) {
	for i := range variables {
		if v := &variables[i]; v.name == name {
			return v.value(in), true
		}
	}
	return nil, false
}

// Parent implements cel.Activation.
func (in *input) Parent() cel.Activation { return nil }

// path is the path that routes have matched, or the one that is sent.
func (in *input) path() string {
	if in.request == &in.ex.In {
		return in.ex.Path
	}
	return in.request.Path
}

// Of header lines with one name, headers has the first. Names are in lower case,
// but found in any.

func findHeader(in *input, name string) (ref.Val, bool) {
	value, ok := in.request.Fields.Get(name)
	return types.String(value), ok
}

func findHeaderValues(in *input, name string) (ref.Val, bool) {
	var values []string
	for i := range in.request.Fields {
		if f := &in.request.Fields[i]; exchange.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return types.DefaultTypeAdapter.NativeToValue(values), len(values) > 0
}

func headerNames(in *input, yield func(string)) {
	for i := range in.request.Fields {
		yield(strings.ToLower(in.request.Fields[i].Name))
	}
}

// Of parameters with one name, query has the first, decoded.

func findParam(in *input, name string) (ref.Val, bool) {
	written, ok := query.Get(in.request.Query, name)
	if !ok {
		return nil, false
	}
	return types.String(in.decoded(written)), true
}

func paramNames(in *input, yield func(string)) {
	for rest := in.request.Query; rest != ""; {
		var name string
		if name, _, rest = query.Cut(rest); name != "" {
			yield(in.decoded(name))
		}
	}
}

func (in *input) decoded(written string) string {
	if !strings.ContainsAny(written, "%+") {
		return written
	}
	return in.ex.Arena.Append(func(dst []byte) []byte { return query.AppendDecoded(dst, written, true) })
}

func findCookie(in *input, name string) (ref.Val, bool) {
	value, ok := in.request.Fields.Cookie(name)
	return types.String(value), ok
}

func cookieNames(in *input, yield func(string)) {
	for i := range in.request.Fields {
		if f := &in.request.Fields[i]; f.Key == exchange.KeyCookie {
			for rest := f.Value; rest != ""; {
				var name string
				if _, name, _, rest = exchange.NextCookie(rest); name != "" {
					yield(name)
				}
			}
		}
	}
}
