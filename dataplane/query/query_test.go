package query_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
)

func TestRewrite(t *testing.T) {
	var a exchange.Arena
	for _, c := range []struct{ name, got, want string }{
		{"remove first", query.Remove(&a, "a=1&b=2", "a"), "b=2"},
		{"remove last", query.Remove(&a, "a=1&b=2", "b"), "a=1"},
		{"remove all", query.Remove(&a, "a=1&a=2", "a"), ""},
		{"remove encoded", query.Remove(&a, "%61pi%5Fkey=1&b", "api_key"), "b"},
		{"remove none keeps bytes", query.Remove(&a, "&&a=1&", "x"), "&&a=1&"},
		{"remove is not by prefix", query.Remove(&a, "ab=1&a=2", "a"), "ab=1"},
		{"add to none", query.Add(&a, "", "a b", "c&d=é"), "a%20b=c%26d%3D%C3%A9"},
		{"add to some", query.Add(&a, "x", "a", ""), "x&a="},
		{"set in place", query.Set(&a, "x=1&a=2&y=3&a=4", "a", "n"), "x=1&a=n&y=3"},
		{"set new", query.Set(&a, "x=1", "a", "n"), "x=1&a=n"},
		{"set without value", query.Set(&a, "a&b", "a", "n"), "a=n&b"},
		{"rename", query.Rename(&a, "x=1&a=%31&b=9&a", "a", "b"), "x=1&b=%31&b"},
		{"rename none", query.Rename(&a, "b=9", "a", "b"), "b=9"},
		{"rename to itself", query.Rename(&a, "a=9", "a", "a"), "a=9"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
	if v, ok := query.Get("a=1&b=2&b=3", "b"); v != "2" || !ok {
		t.Errorf("Get = %q, %v", v, ok)
	}
	if _, ok := query.Get("a=1", "b"); ok {
		t.Error("Get found what is not there")
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "a=1", "a=1&b=2", "%", "%4", "%zz=%41", "a+b=c+d", "&&=", "a=b=c", "k=%26&k", "k;k=1"} {
		f.Add(s, "k", "v&=\r\n%")
	}
	f.Fuzz(func(t *testing.T, q, name, value string) {
		if name == "" {
			return
		}
		var a exchange.Arena
		{
			removed := query.Remove(&a, q, name)
			if _, ok := query.Get(removed, name); ok {
				t.Fatalf("%q is in %q after Remove", name, removed)
			}
		}
		set := query.Set(&a, q, name, value)
		got, ok := query.Get(set, name)
		if !ok || string(query.AppendDecoded(nil, got, true)) != value {
			t.Fatalf("Set(%q, %q, %q) = %q holds %q", q, name, value, set, got)
		}
		if n := strings.Count(set, "&"); n > strings.Count(q, "&")+1 {
			t.Fatalf("Set(%q, %q, %q) = %q has parameters that nobody set", q, name, value, set)
		}
		renamed := query.Rename(&a, q, name, name+"2")
		if _, ok := query.Get(renamed, name); ok {
			t.Fatalf("%q is in %q after Rename", name, renamed)
		}
		// What net/url accepts is read alike.
		if values, err := url.ParseQuery(q); err == nil && values.Has(name) {
			if got, _ := query.Get(q, name); string(query.AppendDecoded(nil, got, true)) != values.Get(name) {
				t.Fatalf("Get(%q, %q) = %q, net/url has %q", q, name, got, values.Get(name))
			}
		}
	})
}
