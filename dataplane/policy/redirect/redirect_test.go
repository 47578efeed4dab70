package redirect

import (
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

func ptr(s string) *string { return &s }

// request is an exchange as the pipeline has it when a redirect runs.
func request(scheme, host, path, query string, matched int) *exchange.Exchange {
	ex := &exchange.Exchange{
		Conn: &exchange.Conn{Local: netip.MustParseAddrPort("192.0.2.7:10080")},
		Path: path, MatchedPrefix: matched,
	}
	ex.In = exchange.Request{Method: "GET", Scheme: scheme, Authority: host, Host: host, Path: path, Query: query, HasQuery: query != ""}
	return ex
}

func run(t testing.TB, c *Config, ex *exchange.Exchange) (status int, location string) {
	t.Helper()
	f, err := c.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := f.Request(ex); v != exchange.Answered {
		t.Fatalf("verdict %v", v)
	}
	location, _ = ex.Response.Fields.Get("Location")
	return ex.Response.Status, location
}

func TestRedirect(t *testing.T) {
	for _, tc := range []struct {
		name   string
		config Config
		ex     *exchange.Exchange
		status int
		want   string
	}{
		{"hostname", Config{Hostname: "example.org", ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "http://example.org/x"},
		{"hostname and status", Config{Hostname: "example.org", StatusCode: 301, ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 301, "http://example.org/x"},
		{"303", Config{StatusCode: 303, ListenerPort: 80}, request("http", "a.example", "/", "", 0), 303, "http://a.example/"},
		{"307", Config{StatusCode: 307, ListenerPort: 80}, request("http", "a.example", "/", "", 0), 307, "http://a.example/"},
		{"308", Config{StatusCode: 308, ListenerPort: 80}, request("http", "a.example", "/", "", 0), 308, "http://a.example/"},

		// The port, as HTTPRequestRedirectFilter.Port says.
		{"scheme https", Config{Scheme: "https", ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "https://a.example/x"},
		{"scheme https from an odd port", Config{Scheme: "https", ListenerPort: 8080},
			request("http", "a.example", "/x", "", 0), 302, "https://a.example/x"},
		{"scheme http from https", Config{Scheme: "http", ListenerPort: 443},
			request("https", "a.example", "/x", "", 0), 302, "http://a.example/x"},
		{"scheme and port", Config{Scheme: "https", Port: 8443, ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "https://a.example:8443/x"},
		{"scheme http and port 80", Config{Scheme: "http", Port: 80, ListenerPort: 8080},
			request("http", "a.example", "/x", "", 0), 302, "http://a.example/x"},
		{"scheme https and port 443", Config{Scheme: "https", Port: 443, ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "https://a.example/x"},
		{"scheme https and port 80", Config{Scheme: "https", Port: 80, ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "https://a.example:80/x"},
		{"no scheme, listener port", Config{ListenerPort: 8080},
			request("http", "a.example", "/x", "", 0), 302, "http://a.example:8080/x"},
		{"no scheme, listener port 80", Config{ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "http://a.example/x"},
		{"no scheme, https listener port 443", Config{ListenerPort: 443},
			request("https", "a.example", "/x", "", 0), 302, "https://a.example/x"},
		{"no scheme, https listener port 80", Config{ListenerPort: 80},
			request("https", "a.example", "/x", "", 0), 302, "https://a.example:80/x"},
		{"no scheme, port", Config{Port: 9000, ListenerPort: 80},
			request("http", "a.example", "/x", "", 0), 302, "http://a.example:9000/x"},
		{"no scheme, port 443 on https", Config{Port: 443, ListenerPort: 8443},
			request("https", "a.example", "/x", "", 0), 302, "https://a.example/x"},
		{"bound port where none is declared", Config{},
			request("http", "a.example", "/x", "", 0), 302, "http://a.example:10080/x"},

		{"query stays", Config{Hostname: "example.org", ListenerPort: 80},
			request("http", "a.example", "/x", "a=1&b=%20?", 0), 302, "http://example.org/x?a=1&b=%20?"},
		{"full path", Config{FullPath: ptr("/new"), ListenerPort: 80},
			request("http", "a.example", "/x/y", "q", 0), 302, "http://a.example/new?q"},
		{"prefix", Config{Prefix: ptr("/xyz/"), ListenerPort: 80},
			request("http", "a.example", "/foo/bar", "", 4), 302, "http://a.example/xyz/bar"},
		{"empty prefix", Config{Prefix: ptr(""), ListenerPort: 80},
			request("http", "a.example", "/foo", "", 4), 302, "http://a.example/"},
		{"IPv6 host", Config{ListenerPort: 80},
			request("http", "[2001:db8::1]", "/", "", 0), 302, "http://[2001:db8::1]/"},
		{"no host", Config{ListenerPort: 80},
			request("http", "", "//evil.example/", "", 0), 302, "http://192.0.2.7//evil.example/"},
		{"asterisk", Config{ListenerPort: 80},
			request("http", "a.example", "*", "", 0), 302, "http://a.example/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, location := run(t, &tc.config, tc.ex)
			if status != tc.status || location != tc.want {
				t.Errorf("got %d %q, want %d %q", status, location, tc.status, tc.want)
			}
			if !tc.ex.Response.Local || tc.ex.Response.LocalReason != "redirect" {
				t.Error("it is not Headgate's own response")
			}
		})
	}
}

// TestInjection holds that nothing in a request leaves its place in Location.
func TestInjection(t *testing.T) {
	for _, host := range []string{"a.example\r\nX: y", "a.example/", "evil.example#", "a@b", "a:b", "a?b", "a b", "a\\b", "[::1", "[]", "a\x00"} {
		if status, location := run(t, &Config{ListenerPort: 80}, request("http", host, "/", "", 0)); status != 400 || location != "" {
			t.Errorf("host %q: %d %q", host, status, location)
		}
	}
	ex := request("http", "a.example", "/a\r\nb?c#d\"<>\x80 e%41", "q=\r\n#\x00 ü", 0)
	_, location := run(t, &Config{ListenerPort: 80}, ex)
	if want := "http://a.example/a%0D%0Ab%3Fc%23d%22%3C%3E%80%20e%41?q=%0D%0A%23%00%20%C3%BC"; location != want {
		t.Errorf("got  %q\nwant %q", location, want)
	}
}

func FuzzLocation(f *testing.F) {
	f.Add("a.example", "/x", "q", 1)
	f.Add("a\r\nb", "//x", "\r\n", 0)
	f.Fuzz(func(t *testing.T, host, path, query string, matched int) {
		if matched < 0 || matched > len(path) {
			t.Skip()
		}
		ex := request("http", host, path, query, matched)
		status, location := run(t, &Config{Prefix: ptr("/p"), ListenerPort: 80}, ex)
		if status == 400 && location == "" {
			return
		}
		if strings.ContainsFunc(location, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			t.Fatalf("%q", location)
		}
		want := host
		if want == "" {
			want = "192.0.2.7"
		}
		if rest, ok := strings.CutPrefix(location, "http://"+want); !ok || rest == "" || rest[0] != '/' || strings.Contains(location, "#") {
			t.Fatalf("%q leads elsewhere than %q", location, want)
		}
		if u, err := url.Parse(location); err == nil && u.Host != want {
			t.Fatalf("%q is read as host %q", location, u.Host)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []Config{
		{Scheme: "ftp"}, {StatusCode: 200}, {StatusCode: 304}, {Hostname: "a b"}, {Hostname: "a:80"}, {FullPath: ptr("")}, {FullPath: ptr("//a\r\n")},
		{Prefix: ptr("x")}, {FullPath: ptr("/a"), Prefix: ptr("/")},
	} {
		if err := c.Check(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
		if _, err := c.Build(nil); err == nil {
			t.Errorf("%+v was built", c)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	f, err := (&Config{Scheme: "https", Port: 8443, Prefix: ptr("/xyz")}).Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex := request("http", "a.example", "/foo/bar", "a=b", 4)
	in, conn := ex.In, ex.Conn
	if n := testing.AllocsPerRun(200, func() {
		ex.Reset()
		ex.In, ex.Conn, ex.Path, ex.MatchedPrefix = in, conn, "/foo/bar", 4
		f.Request(ex)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
