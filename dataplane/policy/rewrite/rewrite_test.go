package rewrite

import (
	"fmt"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

func ptr(s string) *string { return &s }

func run(t testing.TB, c *Config, ex *exchange.Exchange) {
	t.Helper()
	f, err := c.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := f.Request(ex); v != exchange.Continue {
		t.Fatalf("verdict %v", v)
	}
}

// TestPrefix has the table of HTTPPathModifier.ReplacePrefixMatch, and more.
func TestPrefix(t *testing.T) {
	for _, tc := range []struct{ path, match, replace, want string }{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},

		{"/foo/", "/foo/", "/xyz", "/xyz/"},
		{"/foo/bar", "/", "/xyz", "/xyz/foo/bar"},
		{"/foo/bar", "", "/xyz", "/xyz/foo/bar"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/", "/", "/", "/"},
		{"/foo//bar", "/foo", "/xyz", "/xyz//bar"},
		{"/foo/b%2Fr", "/foo", "/x%20z", "/x%20z/b%2Fr"},
		{"*", "", "/xyz", "*"},
		{"", "", "/xyz", ""},
	} {
		ex := &exchange.Exchange{Path: tc.path, MatchedPrefix: len(tc.match)}
		ex.Out.Path = tc.path
		ex.Out.Query, ex.Out.HasQuery = "q=1", true
		run(t, &Config{Prefix: &tc.replace}, ex)
		if ex.Out.Path != tc.want {
			t.Errorf("%q, match %q, replace %q: got %q, want %q", tc.path, tc.match, tc.replace, ex.Out.Path, tc.want)
		}
		if ex.Out.Query != "q=1" || ex.Path != tc.path {
			t.Errorf("%q: the query or the matched path changed", tc.path)
		}
	}
}

func TestHostAndFullPath(t *testing.T) {
	ex := &exchange.Exchange{Path: "/foo/bar", MatchedPrefix: 4}
	ex.Out = exchange.Request{Authority: "old.example:8080", Host: "old.example", Path: "/foo/bar"}
	run(t, &Config{Hostname: "new.example"}, ex)
	if ex.Out.Authority != "new.example" || ex.Out.Host != "new.example" || ex.Out.Path != "/foo/bar" {
		t.Errorf("hostname alone: %+v", ex.Out)
	}
	run(t, &Config{FullPath: ptr("/all/new")}, ex)
	if ex.Out.Authority != "new.example" || ex.Out.Path != "/all/new" {
		t.Errorf("full path alone: %+v", ex.Out)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []Config{
		{}, {Hostname: "a.example"}, {Hostname: "[2001:db8::1]"}, {Prefix: ptr("")}, {Prefix: ptr("/")}, {FullPath: ptr("/a;b=c/@d,e")},
	} {
		if err := c.Check(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	long := strings.Repeat("a", 254)
	for _, c := range []Config{
		{Hostname: "a b"}, {Hostname: "a/b"}, {Hostname: "A.example"}, {Hostname: "a:80"}, {Hostname: "[::1"}, {Hostname: "[]"}, {Hostname: "["}, {Hostname: long},
		{FullPath: ptr("")}, {FullPath: ptr("a")}, {FullPath: ptr("/a b")}, {FullPath: ptr("/a?b")}, {FullPath: ptr("/a#b")},
		{FullPath: ptr("/a\r\nX: y")}, {FullPath: ptr("/%4")}, {FullPath: ptr("/%zz")}, {FullPath: ptr("/\x00")}, {FullPath: ptr("/é")},
		{Prefix: ptr("a")}, {FullPath: ptr("/a"), Prefix: ptr("/b")},
	} {
		if err := c.Check(); err == nil {
			t.Errorf("%s was accepted", fmt.Sprint(c.Hostname, c.FullPath, c.Prefix))
		}
		if _, err := c.Build(nil); err == nil {
			t.Errorf("%s was built", fmt.Sprint(c.Hostname, c.FullPath, c.Prefix))
		}
	}
}

func TestNoAllocations(t *testing.T) {
	f, err := (&Config{Hostname: "new.example", Prefix: ptr("/xyz")}).Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex := &exchange.Exchange{}
	if n := testing.AllocsPerRun(200, func() {
		ex.Reset()
		ex.Path, ex.MatchedPrefix = "/foo/bar", 4
		f.Request(ex)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
