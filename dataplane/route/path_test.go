package route

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

func TestNormalize(t *testing.T) {
	tests := []struct{ path, want string }{
		{"", ""},
		{"*", "*"},
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"//a///b//", "//a///b//"},
		{"/a/b/c/./../../g", "/a/g"}, // RFC 3986 section 5.2.4
		{"/mid/content=5/../6", "/mid/6"},
		{"/.", "/"},
		{"/..", "/"},
		{"/../../etc", "/etc"},
		{"/a/.", "/a/"},
		{"/a/..", "/"},
		{"/a/b/..", "/a/"},
		{"/a/b/../", "/a/"},
		{"/a//../b", "/a/b"},
		{"//..", "/"},
		{"//../..//x", "//x"},
		{"/a/%2e%2E/b", "/b"},
		{"/a/.%2e/b", "/b"},
		{"/a/%2e", "/a/"},
		{"/a/%252e%252e/b", "/a/%252e%252e/b"},
		{"/...", "/..."},
		{"/.a/..b/c..", "/.a/..b/c.."},
		{"/a/..;/b", "/a/..;/b"},
		{"/%41%5f%7e", "/A_~"},
		{"/a%2fb", "/a%2Fb"},
		{"/a%2f..%2fb", "/a%2F..%2Fb"},
		{"/%zz/%4", "/%zz/%4"},
		{"/%", "/%"},
		{"/%00", "/%00"},
	}
	for _, tt := range tests {
		if got := Normalize(tt.path, new(exchange.Arena)); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.path, got, tt.want)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"/a/../b", "/%2e%2e/", "//.//..", "/%25%32%65", "/a/./%2e./..", "/%2F..%2f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		arena := new(exchange.Arena)
		arena.Concat("/before/") // what is in the arena already is not ours to go back into
		once := Normalize(path, arena)
		if path == "" || path[0] != '/' {
			if once != path {
				t.Fatalf("%q became %q", path, once)
			}
			return
		}
		if once == "" || once[0] != '/' {
			t.Fatalf("%q became %q, which is no path", path, once)
		}
		for segment := range strings.SplitSeq(once, "/") {
			switch strings.ToLower(strings.ReplaceAll(segment, "%2e", ".")) {
			case ".", "..":
				t.Fatalf("%q became %q, which has a dot segment", path, once)
			}
		}
		if twice := Normalize(once, arena); twice != once {
			t.Fatalf("%q became %q, and that %q", path, once, twice)
		}
		if len(once) > len(path)+1 {
			t.Fatalf("%q grew to %q", path, once)
		}
	})
}
