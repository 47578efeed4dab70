// Package transform changes header fields of requests and responses, and query
// parameters of requests, with values that templates make (package template).
package transform

import (
	"errors"
	"fmt"

	"golang.org/x/net/http/httpguts"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/query"
	"github.com/headgate/headgate/dataplane/template"
)

// Config is what a rule's messages are changed by.
type Config struct {
	RequestHeaders  Changes `json:"requestHeaders,omitzero"`
	Query           Changes `json:"query,omitzero"`
	ResponseHeaders Changes `json:"responseHeaders,omitzero"`
}

// Changes are made in this order.
type Changes struct {
	Rename []Rename `json:"rename,omitempty"`
	Remove []string `json:"remove,omitempty"`
	Set    []Value  `json:"set,omitempty"`
	Add    []Value  `json:"add,omitempty"`
}

// Rename gives everything of one name another. What had that name before is
// removed, unless there is nothing to rename.
type Rename struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Value is a name with the template of its value.
type Value struct {
	Name     string `json:"name"`
	Template string `json:"template"`
}

// CheckHeader returns why a header field of this name cannot be changed, nil
// if it can. Fields that frame a message, say where it goes or belong to one
// connection are the codecs' own: changing them could make one message two.
func CheckHeader(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is not a header field name", name)
	}
	switch key := exchange.KeyOf(name); {
	case key.HopByHop(), key == exchange.KeyContentLength, key == exchange.KeyTrailer, key == exchange.KeyExpect:
		return fmt.Errorf("%s frames the message or belongs to one connection, and cannot be changed", name)
	case key == exchange.KeyHost:
		return errors.New("the field Host is changed by HTTPRoute's URLRewrite filter")
	}
	return nil
}

// Kind implements policy.Config.
func (*Config) Kind() string { return "transform" }

// Build implements policy.Config.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	request, err := compile(&c.RequestHeaders, template.Request, CheckHeader)
	if err != nil {
		return policy.Filter{}, fmt.Errorf("transform: request headers: %w", err)
	}
	params, err := compile(&c.Query, template.Request, func(string) error { return nil })
	if err != nil {
		return policy.Filter{}, fmt.Errorf("transform: query: %w", err)
	}
	response, err := compile(&c.ResponseHeaders, template.Response, CheckHeader)
	if err != nil {
		return policy.Filter{}, fmt.Errorf("transform: response headers: %w", err)
	}
	var filter policy.Filter
	if request != nil || params != nil {
		filter.Request = func(ex *exchange.Exchange) exchange.Verdict {
			if request != nil {
				request.applyToFields(ex, &ex.Out.Fields)
			}
			if params != nil {
				params.applyToQuery(ex)
			}
			return exchange.Continue
		}
	}
	if response != nil {
		filter.Response = func(ex *exchange.Exchange) { response.applyToFields(ex, &ex.Response.Fields) }
	}
	return filter, nil
}

// changes are Changes with their templates compiled.
type changes struct {
	rename   []Rename
	remove   []string
	set, add []value
}

type value struct {
	name     string
	template *template.Template
}

// compile returns nil if there is nothing to change.
func compile(c *Changes, scope template.Scope, check func(name string) error) (*changes, error) {
	if len(c.Rename)+len(c.Remove)+len(c.Set)+len(c.Add) == 0 {
		return nil, nil
	}
	live := &changes{rename: c.Rename, remove: c.Remove}
	for _, r := range c.Rename {
		if err := check(r.From); err != nil {
			return nil, err
		}
		if err := check(r.To); err != nil {
			return nil, err
		}
	}
	for _, name := range c.Remove {
		if err := check(name); err != nil {
			return nil, err
		}
	}
	values := func(from []Value) (to []value, err error) {
		for _, v := range from {
			if err := check(v.Name); err != nil {
				return nil, err
			}
			t, err := template.Compile(v.Template, scope)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.Name, err)
			}
			to = append(to, value{v.Name, t})
		}
		return to, nil
	}
	var err error
	if live.set, err = values(c.Set); err != nil {
		return nil, err
	}
	live.add, err = values(c.Add)
	return live, err
}

func (c *changes) applyToFields(ex *exchange.Exchange, fields *exchange.Fields) {
	for i := range c.rename {
		rename(fields, c.rename[i].From, c.rename[i].To)
	}
	for _, name := range c.remove {
		fields.Del(name)
	}
	for i := range c.set {
		fields.Set(c.set[i].name, c.set[i].template.Value(ex))
	}
	for i := range c.add {
		fields.Add(c.add[i].name, c.add[i].template.Value(ex))
	}
}

func rename(fields *exchange.Fields, from, to string) {
	if _, ok := fields.Get(from); !ok {
		return
	}
	if !exchange.EqualFold(from, to) {
		fields.Del(to)
	}
	key := exchange.KeyOf(to)
	for i := range *fields {
		if f := &(*fields)[i]; exchange.EqualFold(f.Name, from) {
			f.Name, f.Key = to, key
		}
	}
}

func (c *changes) applyToQuery(ex *exchange.Exchange) {
	before := ex.Out.Query
	q := before
	for i := range c.rename {
		q = query.Rename(&ex.Arena, q, c.rename[i].From, c.rename[i].To)
	}
	for _, name := range c.remove {
		q = query.Remove(&ex.Arena, q, name)
	}
	for i := range c.set {
		q = query.Set(&ex.Arena, q, c.set[i].name, c.set[i].template.Value(ex))
	}
	for i := range c.add {
		q = query.Add(&ex.Arena, q, c.add[i].name, c.add[i].template.Value(ex))
	}
	ex.Out.Query = q
	ex.Out.HasQuery = q != "" || ex.Out.HasQuery && before == ""
}
