package cors

import (
	"net/url"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

// request is an exchange with these lines in its header.
func request(method string, lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	ex.In.Method, ex.In.Proto = method, exchange.HTTP11
	ex.In.Fields = fields(lines)
	return ex
}

func fields(lines []string) (f exchange.Fields) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		f.Add(name, value)
	}
	return f
}

func text(f exchange.Fields) string {
	var lines []string
	for _, field := range f {
		lines = append(lines, field.Name+": "+field.Value)
	}
	return strings.Join(lines, "\n")
}

func lines(l ...string) string { return strings.Join(l, "\n") }

// The filters of the conformance suite, httproute-cors.yaml.
var (
	several = Config{
		AllowOrigins: []string{"https://www.foo.com", "https://*.bar.com"}, AllowMethods: []string{"GET", "OPTIONS"},
		AllowHeaders: []string{"x-header-1", "x-header-2"}, ExposeHeaders: []string{"x-header-3", "x-header-4"},
		AllowCredentials: true, MaxAge: 3600,
	}
	anyMethod     = Config{AllowOrigins: []string{"https://www.foo.com"}, AllowMethods: []string{"*"}, MaxAge: 5}
	anyOrigin     = Config{AllowOrigins: []string{"*"}, AllowMethods: []string{"PUT"}, MaxAge: 5}
	anything      = Config{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}, MaxAge: 5}
	authenticated = Config{AllowOrigins: []string{"*"}, AllowMethods: []string{"*"}, AllowHeaders: []string{"*"}, ExposeHeaders: []string{"*"}, AllowCredentials: true, MaxAge: 5}
)

func TestPreflight(t *testing.T) {
	const post = "Access-Control-Request-Method: POST"
	for _, tt := range []struct {
		name   string
		config Config
		lines  []string
		reason string
		want   string
	}{
		{"exact", several, []string{"Origin: https://www.foo.com", post, "access-control-request-headers: x-header-1, x-header-2"}, "cors_preflight", lines(
			"Vary: Origin", "Access-Control-Allow-Origin: https://www.foo.com", "Access-Control-Allow-Credentials: true",
			"Access-Control-Allow-Methods: GET, OPTIONS", "Access-Control-Allow-Headers: x-header-1, x-header-2",
			"Access-Control-Expose-Headers: x-header-3, x-header-4", "Access-Control-Max-Age: 3600")},
		{"wildcard in the host", several, []string{"Origin: https://xpto.www.bar.com", post}, "cors_preflight", lines(
			"Vary: Origin", "Access-Control-Allow-Origin: https://xpto.www.bar.com", "Access-Control-Allow-Credentials: true",
			"Access-Control-Allow-Methods: GET, OPTIONS", "Access-Control-Allow-Headers: x-header-1, x-header-2",
			"Access-Control-Expose-Headers: x-header-3, x-header-4", "Access-Control-Max-Age: 3600")},
		{"another origin", several, []string{"Origin: https://foobar.com", post}, "cors_origin", "Vary: Origin"},
		{"two origins", several, []string{"Origin: https://www.foo.com", "Origin: https://www.bar.com", post}, "cors_origin", "Vary: Origin"},
		{"no origin allowed", Config{MaxAge: 1}, []string{"Origin: https://www.foo.com", post}, "cors_origin", "Vary: Origin"},
		{"any method", anyMethod, []string{"Origin: https://www.foo.com", post, "Access-Control-Request-Headers: a"}, "cors_preflight", lines(
			"Vary: Origin", "Access-Control-Allow-Origin: https://www.foo.com", "Access-Control-Allow-Methods: POST", "Access-Control-Max-Age: 5")},
		{"any origin", anyOrigin, []string{"Origin: https://foobar.com:12345", post}, "cors_preflight", lines(
			"Access-Control-Allow-Origin: *", "Access-Control-Allow-Methods: PUT", "Access-Control-Max-Age: 5")},
		{"anything", anything, []string{"Origin: null", post, "Access-Control-Request-Headers: authorization,x-a"}, "cors_preflight", lines(
			"Access-Control-Allow-Origin: *", "Access-Control-Allow-Methods: POST", "Access-Control-Allow-Headers: authorization,x-a",
			"Access-Control-Expose-Headers: *", "Access-Control-Max-Age: 5")},
		{"anything with credentials", authenticated, []string{"Origin: https://other.foo.com", post, "Access-Control-Request-Headers: a, b"}, "cors_preflight", lines(
			"Vary: Origin", "Access-Control-Allow-Origin: https://other.foo.com", "Access-Control-Allow-Credentials: true",
			"Access-Control-Allow-Methods: POST", "Access-Control-Allow-Headers: a, b", "Access-Control-Max-Age: 5")},
		{"no headers asked for", authenticated, []string{"Origin: https://other.foo.com", post}, "cors_preflight", lines(
			"Vary: Origin", "Access-Control-Allow-Origin: https://other.foo.com", "Access-Control-Allow-Credentials: true",
			"Access-Control-Allow-Methods: POST", "Access-Control-Max-Age: 5")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.config.Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			ex := request("OPTIONS", tt.lines...)
			if f.Request(ex) != exchange.Answered || ex.Response.Status != 204 || ex.Response.LocalReason != tt.reason {
				t.Fatalf("%d %s", ex.Response.Status, ex.Response.LocalReason)
			}
			if got := text(ex.Response.Fields); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestNoPreflight(t *testing.T) {
	f, err := anything.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, ex := range []*exchange.Exchange{
		request("GET", "Origin: https://www.foo.com", "Access-Control-Request-Method: GET"),
		request("OPTIONS", "Access-Control-Request-Method: GET"),
		request("OPTIONS", "Origin: https://www.foo.com"),
		request("OPTIONS", "Origin: https://www.foo.com", "Access-Control-Request-Method: GET", "Access-Control-Request-Method: PUT"),
	} {
		if f.Request(ex) != exchange.Continue {
			t.Errorf("%s %v was answered", ex.In.Method, ex.In.Fields)
		}
	}
}

func TestResponse(t *testing.T) {
	for _, tt := range []struct {
		name        string
		config      Config
		lines, from []string
		want        string
	}{
		{"allowed", several, []string{"Origin: https://www.foo.com"}, []string{"A: 1"}, lines(
			"A: 1", "Vary: Origin", "Access-Control-Allow-Origin: https://www.foo.com", "Access-Control-Allow-Credentials: true",
			"Access-Control-Expose-Headers: x-header-3, x-header-4")},
		{"another origin", several, []string{"Origin: https://foobar.com"}, []string{"A: 1"}, lines("A: 1", "Vary: Origin")},
		{"of the same origin", several, nil, []string{"Vary: Accept"}, "Vary: Accept, Origin"},
		{"the backend has no say", several, []string{"Origin: https://foobar.com"}, []string{
			"access-control-allow-origin: *", "Access-Control-Allow-Credentials: true", "A: 1", "Access-Control-Allow-Methods: PUT",
			"Access-Control-Allow-Headers: a", "Access-Control-Expose-Headers: a", "Access-Control-Max-Age: 9",
		}, lines("A: 1", "Vary: Origin")},
		{"any origin", anyOrigin, []string{"Origin: https://foobar.com"}, nil, "Access-Control-Allow-Origin: *"},
		{"anything", anything, nil, nil, lines("Access-Control-Allow-Origin: *", "Access-Control-Expose-Headers: *")},
		{"anything with credentials", authenticated, []string{"Origin: https://other.foo.com"},
			[]string{"ETag: 1", "Set-Cookie: a=b", "X-A: 1", "x-a: 2", "Vary: *"}, lines(
				"ETag: 1", "Set-Cookie: a=b", "X-A: 1", "x-a: 2", "Vary: *", "Access-Control-Allow-Origin: https://other.foo.com",
				"Access-Control-Allow-Credentials: true", "Access-Control-Expose-Headers: ETag, X-A, Vary")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tt.config.Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			ex := request("GET", tt.lines...)
			if f.Request(ex) != exchange.Continue {
				t.Fatal("it was answered")
			}
			ex.Response.Fields = fields(tt.from)
			f.Response(ex)
			if got := text(ex.Response.Fields); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	for _, tt := range []struct {
		pattern, origin string
		want            bool
	}{
		{"https://www.foo.com", "https://www.foo.com", true},
		{"https://www.Foo.com", "https://www.foo.com", true},
		{"https://www.foo.com", "http://www.foo.com", false},
		{"https://www.foo.com", "https://foo.com", false},
		{"https://www.foo.com:443", "https://www.foo.com", true},
		{"http://www.foo.com", "http://www.foo.com:80", true},
		{"http://www.foo.com", "http://www.foo.com:443", false},
		{"https://www.foo.com", "https://www.foo.com:8443", false},
		{"https://www.foo.com:8443", "https://www.foo.com:8443", true},
		{"https://*.foo.com", "https://www.foo.com", true},
		{"https://*.foo.com", "https://a.b.c.foo.com", true},
		{"https://*.foo.com", "https://foo.com", false},
		{"https://*.foo.com", "https://.foo.com", false},
		{"https://*.foo.com", "https://evilfoo.com", false},
		{"https://*.foo.com", "https://evil.com/.foo.com", false},
		{"https://*.foo.com", "https://evil.com?.foo.com", false},
		{"https://*.foo.com", "https://evil.com:80.foo.com", false},
		{"https://*.foo.com", "https://evil.com@a.foo.com", false},
		{"https://*.foo.com", "https://www.foo.com.evil.com", false},
		{"https://*", "https://anything.example", true},
		{"https://*", "https://anything.example:8443", false},
		{"https://*:8443", "https://anything.example:8443", true},
		{"https://*", "http://anything.example", false},
		{"http://[::1]", "http://[::1]", true},
		{"http://[::1]:8080", "http://[::1]", false},
		{"http://*", "null", false},
		{"http://*", "", false},
		{"http://*", "http://", false},
		{"http://*", "http://a:0", false},
		{"http://*", "http://a:65616", false},
		{"http://*", "http://a b", false},
		{"http://*", "chrome-extension://a", false},
	} {
		f, err := (&Config{AllowOrigins: []string{"https://other.example", tt.pattern}, MaxAge: 1}).link()
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		if got := f.allows(tt.origin); got != tt.want {
			t.Errorf("%s allows %q: %v", tt.pattern, tt.origin, got)
		}
	}
}

// FuzzOrigin holds the reading of origins against net/url's: what is allowed is
// what a client means by it.
func FuzzOrigin(f *testing.F) {
	for _, s := range []string{"https://www.foo.com", "http://a.foo.com:8080", "https://evil.com/.foo.com", "null", "https://[::1]:1"} {
		f.Add(s)
	}
	filter, err := (&Config{AllowOrigins: []string{"https://*.foo.com", "http://exact.foo.com:8080"}, MaxAge: 1}).link()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !filter.allows(s) {
			return
		}
		u, err := url.Parse(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		host, port := strings.ToLower(u.Hostname()), u.Port()
		wild := u.Scheme == "https" && strings.HasSuffix(host, ".foo.com") && (port == "" || strings.TrimLeft(port, "0") == "443")
		exact := u.Scheme == "http" && host == "exact.foo.com" && strings.TrimLeft(port, "0") == "8080"
		if !wild && !exact || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q is allowed", s)
		}
	})
}

func TestCheck(t *testing.T) {
	for _, c := range []Config{
		{},
		{MaxAge: -1},
		{MaxAge: 1, AllowOrigins: []string{"*", "https://a"}},
		{MaxAge: 1, AllowOrigins: []string{"foo.com"}},
		{MaxAge: 1, AllowOrigins: []string{"ftp://foo.com"}},
		{MaxAge: 1, AllowOrigins: []string{"https://foo.com/"}},
		{MaxAge: 1, AllowOrigins: []string{"https://foo.com:0"}},
		{MaxAge: 1, AllowOrigins: []string{"https://foo.com:99999"}},
		{MaxAge: 1, AllowOrigins: []string{"https://*foo.com"}},
		{MaxAge: 1, AllowOrigins: []string{"https://a.*.com"}},
		{MaxAge: 1, AllowOrigins: []string{"https://*."}},
		{MaxAge: 1, AllowMethods: []string{"*", "GET"}},
		{MaxAge: 1, AllowMethods: []string{"G T"}},
		{MaxAge: 1, AllowHeaders: []string{"*", "a"}},
		{MaxAge: 1, AllowHeaders: []string{""}},
		{MaxAge: 1, ExposeHeaders: []string{"a\r\nb"}},
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
	f, err := authenticated.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex := request("GET", "Origin: https://other.foo.com")
	preflight := request("OPTIONS", "Origin: https://other.foo.com", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: a")
	for name, ex := range map[string]*exchange.Exchange{"response": ex, "preflight": preflight} {
		in := ex.In
		if n := testing.AllocsPerRun(200, func() {
			ex.Reset()
			ex.In = in
			if f.Request(ex) == exchange.Continue {
				ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: exchange.KeyETag, Name: "ETag", Value: "1"})
				f.Response(ex)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
