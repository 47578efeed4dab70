package compile

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/transform"
	"github.com/headgate/headgate/dataplane/template"
)

// change is a stanza of a TransformPolicy: all that it does to one header
// field or query parameter.
type change struct {
	to      func(*transform.Config) *transform.Changes
	changes transform.Changes
}

func compileTransformPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.TransformPolicy).Spec
	if spec.Request == nil && spec.Response == nil {
		c.invalid("spec", "it changes nothing", "request or response")
	}
	if r := spec.Request; r != nil {
		if r.Headers == nil && r.Query == nil {
			c.invalid("spec.request", "it changes nothing", "headers or query")
		}
		if h := r.Headers; h != nil {
			c.changes("request.headers", template.Request, headerChanges(h), transform.CheckHeader, strings.ToLower,
				func(t *transform.Config) *transform.Changes { return &t.RequestHeaders })
		}
		if q := r.Query; q != nil {
			c.changes("request.query", template.Request, queryChanges(q), checkQuery, strings.Clone,
				func(t *transform.Config) *transform.Changes { return &t.Query })
		}
	}
	if r := spec.Response; r != nil {
		if r.Headers == nil && r.Compression == nil {
			c.invalid("spec.response", "it changes nothing", "headers or compression")
		}
		if h := r.Headers; h != nil {
			c.changes("response.headers", template.Response, headerChanges(h), transform.CheckHeader, strings.ToLower,
				func(t *transform.Config) *transform.Changes { return &t.ResponseHeaders })
		}
		if r.Compression != nil {
			c.compression(r.Compression)
		}
	}
}

func headerChanges(h *v1alpha1.HeaderTransform) transform.Changes {
	return transform.Changes{
		Rename: mapAll(h.Rename, func(r v1alpha1.HeaderRename) transform.Rename {
			return transform.Rename{From: string(r.From), To: string(r.To)}
		}),
		Remove: mapAll(h.Remove, func(n gatewayv1.HeaderName) string { return string(n) }),
		Set:    mapAll(h.Set, headerValue),
		Add:    mapAll(h.Add, headerValue),
	}
}

func headerValue(v v1alpha1.HeaderValue) transform.Value {
	return transform.Value{Name: string(v.Name), Template: v.Value}
}

func queryChanges(q *v1alpha1.QueryTransform) transform.Changes {
	return transform.Changes{
		Rename: mapAll(q.Rename, func(r v1alpha1.QueryRename) transform.Rename {
			return transform.Rename{From: string(r.From), To: string(r.To)}
		}),
		Remove: mapAll(q.Remove, func(n v1alpha1.QueryName) string { return string(n) }),
		Set:    mapAll(q.Set, queryValue),
		Add:    mapAll(q.Add, queryValue),
	}
}

func queryValue(v v1alpha1.QueryValue) transform.Value {
	return transform.Value{Name: string(v.Name), Template: v.Value}
}

func checkQuery(name string) error {
	if name == "" {
		return fmt.Errorf("the name is empty")
	}
	return nil
}

func mapAll[A, B any](from []A, f func(A) B) []B {
	var to []B
	for _, a := range from {
		to = append(to, f(a))
	}
	return to
}

// changes divides what is done to a message's fields or parameters into
// stanzas, one per name.
func (c *policyCompiler) changes(at string, scope template.Scope, all transform.Changes,
	check func(string) error, fold func(string) string, to func(*transform.Config) *transform.Changes) {
	names := map[string]int{} // index into c.stanzas
	accept := func(field, name string) *transform.Changes {
		if err := check(name); err != nil {
			c.invalid(field, err.Error(), "another name")
			return nil
		}
		i, ok := names[fold(name)]
		if !ok {
			i = len(c.stanzas)
			names[fold(name)] = i
			c.sets(fmt.Sprintf("%s[%s]", at, fold(name)), &change{to: to})
		}
		return &c.stanzas[i].value.(*change).changes
	}
	values := func(verb string, from []transform.Value, into func(*transform.Changes) *[]transform.Value) {
		for i, v := range from {
			field := fmt.Sprintf("spec.%s.%s[%d]", at, verb, i)
			if _, err := template.Compile(v.Template, scope); err != nil {
				c.invalid(field+".value", err.Error(), "text with ${NAME} for variables and $$ for a dollar sign")
				continue
			}
			if to := accept(field+".name", v.Name); to != nil {
				*into(to) = append(*into(to), v)
			}
		}
	}
	for i, r := range all.Rename {
		field := fmt.Sprintf("spec.%s.rename[%d]", at, i)
		if err := check(r.To); err != nil {
			c.invalid(field+".to", err.Error(), "another name")
			continue
		}
		if to := accept(field+".from", r.From); to != nil {
			to.Rename = append(to.Rename, r)
		}
	}
	for i, name := range all.Remove {
		if to := accept(fmt.Sprintf("spec.%s.remove[%d]", at, i), name); to != nil {
			to.Remove = append(to.Remove, name)
		}
	}
	values("set", all.Set, func(t *transform.Changes) *[]transform.Value { return &t.Set })
	values("add", all.Add, func(t *transform.Changes) *[]transform.Value { return &t.Add })
}

// transformRequests and transformResponses make one filter each of the changes
// that hold at a place, in the order of the policies that make them.
func transformRequests(e effective) []policy.Config { return transformOf(e, false) }

// A response meets them in reverse: it is compressed last, with the fields
// that the changes gave it.
func transformResponses(e effective) []policy.Config {
	return append(compressionOf(e), transformOf(e, true)...)
}

func transformOf(e effective, responses bool) []policy.Config {
	config, empty := &transform.Config{}, true
	for _, w := range e {
		from, ok := w.stanza.value.(*change)
		if !ok {
			continue
		}
		to := from.to(config)
		if (to == &config.ResponseHeaders) != responses {
			continue
		}
		empty = false
		to.Rename = append(to.Rename, from.changes.Rename...)
		to.Remove = append(to.Remove, from.changes.Remove...)
		to.Set = append(to.Set, from.changes.Set...)
		to.Add = append(to.Add, from.changes.Add...)
	}
	if empty {
		return nil
	}
	return []policy.Config{config}
}
