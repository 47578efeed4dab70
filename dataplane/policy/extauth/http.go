package extauth

import (
	"github.com/headgate/headgate/dataplane/exchange"
)

// imitate makes the question a request like the client's, HTTPAuthConfig: of
// its method, host, path and query, its fields Authorization and those that are
// allowed, and its content if that is wanted. What it has of content is known,
// and said, also if it is none.
func (f *filter) imitate(c *call, ex *exchange.Exchange, content []byte) {
	from, to := &ex.Out, &c.ex.Out
	to.Method, to.Scheme, to.Authority, to.Host = from.Method, from.Scheme, from.Authority, from.Host
	to.Path, to.Query, to.HasQuery, to.Proto = from.Path, from.Query, from.HasQuery, from.Proto
	if f.Path != "" {
		to.Path = c.ex.Arena.Concat(f.Path, from.Path)
	}
	for i := range from.Fields {
		if field := &from.Fields[i]; field.Key == exchange.KeyAuthorization || named(f.RequestHeaders, field.Name) {
			to.Fields = append(to.Fields, *field)
		}
	}
	c.holds(content)
}

func named(names []string, name string) bool {
	for _, n := range names {
		if exchange.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// follow acts on the answer: 200 alone lets the request pass.
func (f *filter) follow(c *call, ex *exchange.Exchange) (verdict, error) {
	r := &c.ex.Response
	switch {
	case r.Status >= 500:
		return failed, errUnavailable
	case r.Status != 200:
		f.refuse(c, ex)
		return denied, nil
	}
	f.strip(ex)
	for i := range r.Fields {
		field := &r.Fields[i]
		if !f.tells(field) {
			continue
		}
		edit := exchange.Edit{Name: ex.Arena.Concat(field.Name), Value: ex.Arena.Concat(field.Value)}
		if repeats(r.Fields[:i], field) {
			edit.Action = exchange.Append // the first line has replaced what the client sent
		}
		ex.Out.Fields.Apply(&edit)
	}
	return allowed, nil
}

// tells reports whether the backend is told this field of an answer. Without
// a list it is all of them, HTTPAuthConfig.allowedResponseHeaders, but for those
// that are about the answer's own content and way: on the request, they would be
// untrue of its content, and of the way that it came.
func (f *filter) tells(field *exchange.Field) bool {
	if len(f.ResponseHeaders) > 0 {
		return named(f.ResponseHeaders, field.Name)
	}
	switch field.Key {
	case exchange.KeyContentType, exchange.KeyContentEncoding, exchange.KeyVia, exchange.KeyDate, exchange.KeyServer, exchange.KeyAltSvc:
		return false
	}
	return CheckHeader(field.Name) == nil
}

func repeats(before exchange.Fields, field *exchange.Field) bool {
	for i := range before {
		if exchange.EqualFold(before[i].Name, field.Name) {
			return true
		}
	}
	return false
}

// refuse passes the server's denial on, all of it.
func (f *filter) refuse(c *call, ex *exchange.Exchange) {
	r := &c.ex.Response
	deny(ex, r.Status, c.answer)
	if ex.Response.Body == nil {
		ex.Response.Length = max(r.Length, 0) // of HEAD: of the content that is not sent
	}
	for i := range r.Fields {
		if field := &r.Fields[i]; !field.Key.HopByHop() {
			ex.Response.Fields = append(ex.Response.Fields, exchange.Field{
				Key: field.Key, Name: ex.Arena.Concat(field.Name), Value: ex.Arena.Concat(field.Value)})
		}
	}
}
