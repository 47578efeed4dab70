package exchange

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func TestKeyOf(t *testing.T) {
	for k := KeyOther + 1; k < keys; k++ {
		name := k.Name()
		if name == "" || name != strings.ToLower(name) {
			t.Errorf("key %d is called %q", k, name)
		}
		for _, spelling := range []string{name, strings.ToUpper(name), http.CanonicalHeaderKey(name)} {
			if got := KeyOf(spelling); got != k {
				t.Errorf("KeyOf(%q) = %d, want %d", spelling, got, k)
			}
		}
		for _, almost := range []string{name + "x", name[1:], "y" + name[1:], name[:len(name)-1] + "_", strings.ReplaceAll(name, "-", "_") + "_"} {
			if got := KeyOf(almost); got == k {
				t.Errorf("KeyOf(%q) = %q", almost, name)
			}
		}
	}
	for _, name := range []string{"", "x", "content_length", "Content-Lengthy", "\x00", strings.Repeat("a", 300)} {
		if got := KeyOf(name); got != KeyOther {
			t.Errorf("KeyOf(%q) = %d", name, got)
		}
	}
}

func FuzzKeyOf(f *testing.F) {
	f.Add("Content-Length")
	f.Add("te")
	f.Fuzz(func(t *testing.T, name string) {
		want := KeyOther
		for k := KeyOther + 1; k < keys; k++ {
			if len(name) == len(k.Name()) && asciiLower(name) == k.Name() {
				want = k
			}
		}
		if got := KeyOf(name); got != want {
			t.Errorf("KeyOf(%q) = %d, want %d", name, got, want)
		}
	})
}

func asciiLower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = lower(b[i])
	}
	return string(b)
}

func TestEqualFoldIsASCII(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {"a", "A", true}, {"Content-Type", "cONTENT-tYPE", true}, {"a", "b", false}, {"a", "aa", false},
		{"k", "\u212a", false}, // the Kelvin sign folds to k in Unicode
		{"[", "{", false}, {"@", "`", false}, {"\xc3\x84", "\xc3\xa4", false},
	} {
		if got := EqualFold(c.a, c.b); got != c.want {
			t.Errorf("EqualFold(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func list(lines ...string) (f Fields) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		f.Add(name, value)
	}
	return f
}

func TestFields(t *testing.T) {
	given := []string{"A: 1", "Cookie: x", "b: 2", "a: 3", "cookie: y"}
	for name, c := range map[string]struct {
		edit func(f *Fields)
		want []string
	}{
		"Add":                   {func(f *Fields) { f.Add("A", "4") }, []string{"A: 1", "Cookie: x", "b: 2", "a: 3", "cookie: y", "A: 4"}},
		"Set replaces":          {func(f *Fields) { f.Set("a", "4") }, []string{"A: 4", "Cookie: x", "b: 2", "cookie: y"}},
		"Set of a known name":   {func(f *Fields) { f.Set("COOKIE", "z") }, []string{"A: 1", "Cookie: z", "b: 2", "a: 3"}},
		"Set appends":           {func(f *Fields) { f.Set("C", "4") }, []string{"A: 1", "Cookie: x", "b: 2", "a: 3", "cookie: y", "C: 4"}},
		"Del":                   {func(f *Fields) { f.Del("A") }, []string{"Cookie: x", "b: 2", "cookie: y"}},
		"Del of a known name":   {func(f *Fields) { f.Del("cookie") }, []string{"A: 1", "b: 2", "a: 3"}},
		"DelKey":                {func(f *Fields) { f.DelKey(KeyCookie) }, []string{"A: 1", "b: 2", "a: 3"}},
		"Del of what is absent": {func(f *Fields) { f.Del("C"); f.DelKey(KeyHost) }, given},
		"Del of all":            {func(f *Fields) { f.Del("a"); f.Del("B"); f.Del("Cookie") }, nil},
	} {
		f := list(given...)
		c.edit(&f)
		if want := list(c.want...); len(f) != len(want) || len(f) > 0 && !reflect.DeepEqual(f, want) {
			t.Errorf("%s: %v, want %v", name, f, want)
		}
	}

	f := list(given...)
	if v, ok := f.Get("B"); v != "2" || !ok {
		t.Errorf("Get of another name: %q, %v", v, ok)
	}
	if v, ok := f.Get("COOKIE"); v != "x" || !ok {
		t.Errorf("Get of a known name: %q, %v", v, ok)
	}
	if v, ok := f.Get("c"); v != "" || ok {
		t.Errorf("Get of an absent name: %q, %v", v, ok)
	}
	if i, j := f.Find(KeyCookie), f.Find(KeyHost); i != 1 || j != -1 {
		t.Errorf("Find: %d, %d", i, j)
	}
	if v, w := f.Value(KeyCookie), f.Value(KeyHost); v != "x" || w != "" {
		t.Errorf("Value: %q, %q", v, w)
	}
}

func TestAppendEndToEnd(t *testing.T) {
	for name, c := range map[string]struct{ from, want []string }{
		"nothing to remove": {[]string{"A: 1", "Cookie: x"}, []string{"A: 1", "Cookie: x"}},
		"hop-by-hop": {[]string{"Connection: keep-alive", "Keep-Alive: 5", "Proxy-Connection: x", "TE: trailers", "Upgrade: x",
			"Transfer-Encoding: chunked", "Proxy-Authorization: x", "Proxy-Authenticate: x", "HTTP2-Settings: x", "Trailer: X-Sum", "A: 1"},
			[]string{"Trailer: X-Sum", "A: 1"}},
		"nominated":                   {[]string{"A: 1", "Connection: close, a,b", "B: 2", "C: 3"}, []string{"C: 3"}},
		"nominated on two lines":      {[]string{"Connection: A", "A: 1", "connection:  ,\tB", "b: 2", "C: 3"}, []string{"C: 3"}},
		"known names are nominated":   {[]string{"Connection: cookie", "Cookie: x", "A: 1"}, []string{"A: 1"}},
		"close is no field's name":    {[]string{"Connection: close", "Close: 1"}, []string{"Close: 1"}},
		"close is, if another one is": {[]string{"Connection: close, A", "A: 1", "B: 1"}, []string{"B: 1"}},
		"empty options":               {[]string{"Connection: ,, ,", "A: 1"}, []string{"A: 1"}},
	} {
		f := list("Kept: 1")
		f.AppendEndToEnd(list(c.from...))
		if want := list(append([]string{"Kept: 1"}, c.want...)...); !reflect.DeepEqual(f, want) {
			t.Errorf("%s: %v, want %v", name, f, want)
		}
	}
	from, to := list("Connection: keep-alive, X-A", "X-A: 1", "B: 2"), make(Fields, 0, 8)
	if n := testing.AllocsPerRun(100, func() { to = to[:0]; to.AppendEndToEnd(from) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNextItem(t *testing.T) {
	for s, want := range map[string][]string{
		"": nil, "a": {"a"}, " a\t,b ,c": {"a", "b", "c"}, ",": {""}, ",,a": {"", "", "a"}, "a,": {"a"}, "a b, c": {"a b", "c"}, " \t": {""},
	} {
		var got []string
		for rest := s; rest != ""; {
			var item string
			item, rest = NextItem(rest)
			got = append(got, item)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
	for _, c := range []struct {
		list, token string
		want        bool
	}{{"close", "close", true}, {"Keep-Alive, Close", "close", true}, {"closed", "close", false}, {"", "close", false}, {"a b", "a", false}} {
		if got := HasToken(c.list, c.token); got != c.want {
			t.Errorf("HasToken(%q, %q) = %v", c.list, c.token, got)
		}
	}
}

func FuzzNextItem(f *testing.F) {
	f.Add("a, b,c")
	f.Fuzz(func(t *testing.T, s string) {
		var got []string
		for rest := s; rest != ""; {
			var item string
			item, rest = NextItem(rest)
			got = append(got, item)
		}
		var want []string
		for _, item := range strings.Split(s, ",") {
			want = append(want, strings.Trim(item, " \t"))
		}
		// What follows a last comma is nothing, and not an element.
		if strings.HasSuffix(s, ",") || s == "" {
			want = want[:len(want)-1]
		}
		if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	})
}
