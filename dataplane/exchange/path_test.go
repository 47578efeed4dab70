package exchange_test

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

func TestSetAuthority(t *testing.T) {
	for authority, host := range map[string]string{
		"a.example":          "a.example",
		"a.example:8080":     "a.example",
		"a.example.":         "a.example",
		"a.example.:80":      "a.example",
		"192.0.2.1:80":       "192.0.2.1",
		"192.0.2.1":          "192.0.2.1",
		"[2001:db8::1]":      "[2001:db8::1]",
		"[2001:db8::1]:8443": "[2001:db8::1]",
		"a":                  "a",
		"":                   "",
	} {
		var r exchange.Request
		r.SetAuthority(authority)
		if r.Authority != authority || r.Host != host {
			t.Errorf("%q: authority %q, host %q, want %q", authority, r.Authority, r.Host, host)
		}
	}
}

// FuzzReplacePrefix holds ReplacePrefix against its definition by path elements.
func FuzzReplacePrefix(f *testing.F) {
	f.Add("/foo", "/bar/", "/xyz/")
	f.Add("", "", "")
	f.Add("/", "/foo", "")
	f.Fuzz(func(t *testing.T, prefix, rest, with string) {
		if !strings.HasPrefix(prefix, "/") || rest != "" && !strings.HasPrefix(rest, "/") && !strings.HasSuffix(prefix, "/") ||
			with != "" && with[0] != '/' {
			t.Skip()
		}
		ex := &exchange.Exchange{Path: prefix + rest, MatchedPrefix: len(prefix)}
		got := ex.ReplacePrefix(with)
		bare := strings.TrimSuffix(prefix, "/")
		want := strings.TrimSuffix(with, "/") + strings.TrimPrefix(prefix+rest, bare)
		if want == "" {
			want = "/"
		}
		if got != want {
			t.Errorf("%q in %q by %q: got %q, want %q", prefix, prefix+rest, with, got, want)
		}
		if got[0] != '/' {
			t.Errorf("%q is no path", got)
		}
	})
}

func FuzzCheckPath(f *testing.F) {
	f.Add("/a%20b/c;d=e@:,")
	f.Add("/a\r\n")
	f.Fuzz(func(t *testing.T, path string) {
		if exchange.CheckPath(path) == nil && (path[0] != '/' || strings.ContainsAny(path, " ?#\r\n\x00\"<>\\")) {
			t.Errorf("%q was accepted", path)
		}
		if exchange.CheckHostname(path) == nil && strings.ContainsAny(path, " /?#\r\n\x00@\\") {
			t.Errorf("%q was accepted as a host", path)
		}
	})
}
