package schema

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// patterns are regular expressions of the Gateway API's and our CRDs, in words.
var patterns = map[string]string{
	`^([0-9]{1,5}(h|m|s|ms)){1,4}$`:                                                           "a duration such as 500ms, 10s or 1h30m",
	`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`:                "a host name in lower case, such as www.example.com or *.example.com",
	`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`:                       "a name of lower-case letters, digits, - and .",
	`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`:                                                         "a name of lower-case letters, digits and -",
	`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`:                                                   "a kind, such as Service",
	`^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`:                    `an API group, such as gateway.networking.k8s.io, or "" for core kinds`,
	`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*$`:     "a DNS name, such as www.example.com",
	`^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$`:     "a DNS name, such as www.example.com",
	`^[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?(\.[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)*$`: "the name of SRV records, such as _http._tcp.example.com",
	`^/[^\x00]*$`:                      "an absolute path, such as /run/shop.sock",
	`^/[!"$-\[\]-~]*$`:                 "a path that begins with /, and a query if need be: no blanks, no #, no backslash",
	`^/[!-:<-~]*$`:                     "a path that begins with /: no blanks, no semicolon",
	`^[2-5][0-9]{2}(-[2-5][0-9]{2})?$`: "a status code or a range of them, such as 200 or 200-299",
	`^[!-~]+([\t ]?[!-~]+)*$`:          "a header's value: visible characters of ASCII, with single blanks between them",
	`(^\*$)|(^(http(s)?):\/\/(((\*\.)?([a-zA-Z0-9\-]+\.)*[a-zA-Z0-9-]+|\*)(:([0-9]{1,5}))?)$)`: `an origin, such as https://www.example.com or https://*.example.com, or "*"`,
	`^https?://[^\s]+$`:                   "a URL that begins with http:// or https://",
	"^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$": "a header name: letters, digits and any of !#$%&'*+-.^_`|~",
}

// describe says in words what a schema takes; "" if it takes anything.
func describe(s *structural.Structural) string {
	if s == nil {
		return ""
	}
	v := s.ValueValidation
	if v == nil {
		v = &structural.ValueValidation{}
	}
	if len(v.Enum) > 0 {
		var values []string
		for _, e := range v.Enum {
			values = append(values, fmt.Sprint(e.Object))
		}
		if len(values) == 1 {
			return values[0]
		}
		return "one of " + strings.Join(values, ", ")
	}
	if s.XIntOrString {
		return "a number or text"
	}
	switch s.Type {
	case "integer":
		return "a whole number" + numberBounds(v)
	case "number":
		return "a number" + numberBounds(v)
	case "boolean":
		return "true or false"
	case "string":
		return describeString(v)
	case "array":
		text := "a list"
		if s.Items != nil && s.Items.Type == "object" && len(s.Items.Properties) > 0 {
			text = "a list of objects with " + fieldNames(s.Items)
		} else if item := describe(s.Items); item != "" {
			text = "a list, each item " + item
		}
		return text + count(v.MinItems, v.MaxItems, "item", "items")
	case "object":
		if len(s.Properties) > 0 {
			text := "an object with " + fieldNames(s)
			if least := v.MinProperties; least != nil && *least > int64(len(v.Required)) {
				text += count(least, nil, "field", "fields")
			}
			return text
		}
		return "an object" + count(v.MinProperties, v.MaxProperties, "key", "keys")
	}
	return ""
}

func describeString(v *structural.ValueValidation) string {
	text := "text"
	switch {
	case patterns[v.Pattern] != "":
		text = patterns[v.Pattern]
	case v.Pattern != "":
		text = "text that matches " + v.Pattern
	case v.Format == "date-time":
		text = "a time such as 2026-01-31T12:00:00Z"
	case v.Format == "byte":
		text = "base64"
	case v.Format != "":
		text = "text in the format " + v.Format
	}
	return text + count(v.MinLength, v.MaxLength, "character", "characters")
}

func numberBounds(v *structural.ValueValidation) string {
	switch {
	case v.Minimum != nil && v.Maximum != nil:
		return fmt.Sprintf(" from %v to %v", int64(*v.Minimum), int64(*v.Maximum))
	case v.Minimum != nil:
		return fmt.Sprintf(" of at least %v", *v.Minimum)
	case v.Maximum != nil:
		return fmt.Sprintf(" of at most %v", *v.Maximum)
	}
	return ""
}

func count(least, most *int64, one, many string) string {
	switch {
	case least != nil && *least > 0 && most != nil:
		return fmt.Sprintf(", %d to %s", *least, amount(*most, one, many))
	case least != nil && *least > 0:
		return ", at least " + amount(*least, one, many)
	case most != nil:
		return ", at most " + amount(*most, one, many)
	}
	return ""
}

func amount(n int64, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// fieldNames lists an object's fields: what it must have, or else what it may.
func fieldNames(s *structural.Structural) string {
	if v := s.ValueValidation; v != nil && len(v.Required) > 0 {
		return strings.Join(slices.Sorted(slices.Values(v.Required)), " and ")
	}
	names := slices.Sorted(maps.Keys(s.Properties))
	if len(names) > 12 {
		names = append(names[:12], "…")
	}
	return "any of " + strings.Join(names, ", ")
}

// suggestion says what was probably meant by an unknown name.
func suggestion(name string, known []string) string {
	if best := Nearest(name, known); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	if len(known) == 0 {
		return "leave it out"
	}
	slices.Sort(known)
	if len(known) > 12 {
		known = append(slices.Clip(known[:12]), "…")
	}
	return "one of " + strings.Join(known, ", ")
}

// Nearest returns the known name that is most like name, or "" if none is.
func Nearest(name string, known []string) string {
	best, least := "", len(name)/3+1
	for _, k := range slices.Sorted(slices.Values(known)) {
		d := distance(strings.ToLower(name), strings.ToLower(k))
		if d == 0 || d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to add, drop, change or swap with their
// neighbour (Damerau-Levenshtein, restricted).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
