package schema

import (
	"strconv"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// Step is one part of a field path: a field or key by name, or a list's item.
type Step struct {
	Name  string
	Index int // -1 if the step has a name
}

// Steps splits a path such as "spec.rules[0].labels[a.b/c]". A number in
// brackets is an item's index, or a key where there is no list. It never fails:
// what is odd in the path becomes a name that nothing has.
func Steps(path string) []Step {
	var steps []Step
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			inner, rest, ok := strings.Cut(path[1:], "]")
			if !ok {
				return append(steps, Step{Name: path, Index: -1})
			}
			step := Step{Name: inner, Index: -1}
			if n, err := strconv.Atoi(inner); err == nil && n >= 0 {
				step.Index = n
			}
			steps, path = append(steps, step), rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			steps, path = append(steps, Step{Name: path[:end], Index: -1}), path[end:]
		}
	}
	return steps
}

// Key finds the longest run of steps that names a key, as keys may hold dots:
// "data.tls.crt" may be data, tls.crt. It returns the key and the number of
// steps, or 0 if there is no such key.
func Key(steps []Step, has func(key string) bool) (string, int) {
	for n := len(steps); n > 0; n-- {
		names := make([]string, n)
		for i := range n {
			names[i] = steps[i].Name
		}
		if key := strings.Join(names, "."); has(key) {
			return key, n
		}
	}
	return "", 0
}

// get returns the value at a path.
func get(v any, steps []Step) (any, bool) {
	for len(steps) > 0 {
		switch container := v.(type) {
		case map[string]any:
			key, n := Key(steps, func(key string) bool { _, ok := container[key]; return ok })
			if n == 0 {
				return nil, false
			}
			v, steps = container[key], steps[n:]
		case []any:
			if i := steps[0].Index; i >= 0 && i < len(container) {
				v, steps = container[i], steps[1:]
				continue
			}
			return nil, false
		default:
			return nil, false
		}
	}
	return v, true
}

// at returns the schema at a path, or nil.
func (k *Kind) at(steps []Step) *structural.Structural {
	s := k.root
	if len(steps) > 0 && steps[0].Name == "metadata" {
		s, steps = metaKind().root, steps[1:]
	}
	for len(steps) > 0 {
		if s.Items != nil && steps[0].Index >= 0 {
			s, steps = s.Items, steps[1:]
			continue
		}
		if p, ok := s.Properties[steps[0].Name]; ok {
			s, steps = &p, steps[1:]
			continue
		}
		if s.AdditionalProperties == nil || s.AdditionalProperties.Structural == nil {
			return nil
		}
		s, steps = s.AdditionalProperties.Structural, steps[1:]
	}
	return s
}
