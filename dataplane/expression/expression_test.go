package expression

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

// claimed has the claims of a token.
type claimed map[string]string

func (c claimed) Claim(name string) (string, bool) {
	value, ok := c[name]
	return value, ok
}

func newExchange() *exchange.Exchange {
	ex := &exchange.Exchange{
		Path: "/a", ClientIP: netip.MustParseAddr("192.0.2.7"), RequestID: "id-1",
		Consumer: exchange.Consumer{Name: "alice", Method: "jwt", Claims: claimed{"tenant": "t1", "realm_access.roles": `["a"]`}},
	}
	ex.In = exchange.Request{Method: "GET", Scheme: "https", Host: "shop.example.com", Path: "/x/../a", Query: "q=a%20b&q=2&n=1", HasQuery: true}
	for _, line := range []string{"X-Tenant: blue", "X-Tenant: red", "Cookie: sid=1; theme=dark", "Cookie: last=9"} {
		name, value, _ := strings.Cut(line, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.Out = ex.In
	ex.Out.Path = "/rewritten"
	ex.Out.Fields = exchange.Fields{exchange.NewField("x-tenant", "green")}
	return ex
}

func TestEval(t *testing.T) {
	ex := newExchange()
	for text, want := range map[string]string{
		`"a" + 'b'`:                           "ab",
		`request.method + " " + request.path`: "GET /a",
		`request.scheme + "://" + request.host + request.target`: "https://shop.example.com/a?q=a%20b&q=2&n=1",
		`request.id`:                                                "id-1",
		`request.headers["X-Tenant"]`:                               "blue",
		`request.headers["x-tenant"] + request.path`:                "blue/a",
		`request.headers[?"x-none"].orValue("none")`:                "none",
		`request.headerValues["x-tenant"].join(",")`:                "blue,red",
		`"x-tenant" in request.headers ? "y" : "n"`:                 "y",
		`"x-none" in request.headerValues ? "y" : "n"`:              "n",
		`has(request.headers.cookie) ? "y" : "n"`:                   "y",
		`request.query.q`:                                           "a b",
		`request.query["n"]`:                                        "1",
		`string(size(request.query))`:                               "2",
		`request.cookies.theme + request.cookies["last"]`:           "dark9",
		`request.cookies.map(c, c).join("")`:                        "",
		`request.path.replace("a", "b")`:                            "/b",
		`string(base64.decode(base64.encode(bytes(request.path))))`: "/a",
		`client.ip`: "192.0.2.7",
		`string(cidr(client.ip + "/24").masked())`:                        "192.0.2.0/24",
		`ip(client.ip).family() == 4 ? "4" : "6"`:                         "4",
		`consumer.name + "/" + consumer.method`:                           "alice/jwt",
		`consumer.claims.tenant`:                                          "t1",
		`consumer.claims["realm_access.roles"]`:                           `["a"]`,
		`has(consumer.claims.sub) ? "y" : "n"`:                            "n",
		`"tenant" in consumer.claims ? "y" : "n"`:                         "y",
		`consumer.claims[?"sub"].orValue("nobody")`:                       "nobody",
		`request.path.startsWith("/a") ? request.host.split(".")[0] : ""`: "shop",
		`request.path.matches("^/[a-z]$") ? "y" : "n"`:                    "y",
		`request.headers.exists(h, h.startsWith("x-")) ? "y" : "n"`:       "y",
	} {
		e, err := Compile[string](text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, err := e.Eval(ex, &ex.In)
		if strings.Contains(text, "map(c") { // in no order
			if len(got) != len("sidthemelast") {
				t.Errorf("%s: %q, %v", text, got, err)
			}
			continue
		}
		if got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}

	e, err := Compile[string](`request.path + request.headers["x-tenant"]`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Eval(ex, &ex.Out); got != "/rewrittengreen" {
		t.Errorf("as it is sent: %q, %v", got, err)
	}
	b, err := Compile[bool](`consumer.claims.tenant == "t1" && request.method in ["GET", "HEAD"]`)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Eval(ex, &ex.In); !got || err != nil {
		t.Errorf("%t, %v", got, err)
	}
}

// TestEvalFails has expressions ask for what the exchange does not have.
func TestEvalFails(t *testing.T) {
	ex := newExchange()
	bare := &exchange.Exchange{}
	for _, text := range []string{
		`request.headers["x-none"]`,
		`request.query.none`,
		`request.cookies.none`,
		`consumer.claims.none`,
		`request.path.split("/")[7]`,
		`string(cidr(request.host))`,
		`consumer.claims.map(c, c)[0]`,
		`string(size(consumer.claims))`,
		`consumer.claims == consumer.claims ? "y" : "n"`,
		`string(int(request.host))`,
	} {
		e, err := Compile[string](text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for _, ex := range []*exchange.Exchange{ex, bare} {
			if got, err := e.Eval(ex, &ex.In); err == nil {
				t.Errorf("%s: %q, without an error", text, got)
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:            "1:1: Syntax error",
		`request.pth`: "1:1: undeclared reference to 'request.pth'",
		"request.path + \n \"ä\" + request.a.b[1]": "2:8: undeclared reference to 'request.a.b'",
		`nothing(request.path)`:                    "undeclared reference to 'nothing'",
		`request.path +`:                           "1:15: Syntax error",
		`request.path + 1`:                         "1:14: found no matching overload",
		"request.path +\n  nothing":                "2:3: undeclared reference to 'nothing'",
		`1`:                                        "its result is int, not string",
		`dyn(request.path)`:                        "its result is dyn, not string",
		`request.headers`:                          "its result is map(string, string), not string",
		`"` + strings.Repeat("a", MaxLen) + `"`:    "it has 1026 bytes, of at most 1024",
		`request.headers.map(a, request.headers.map(b, request.headers.map(c, a + b + c).join("")).join("")).join("")`: "it may cost ",
		`"%s".format([request.path])`:                                                          "it may cost any number of steps",
		`strings.quote(request.path)`:                                                          "it may cost any number of steps",
		`request.path` + strings.Repeat(`.replace("a", "aaaaaaaaaa")`, 5):                      "it may cost ",
		strings.Repeat(`base64.encode(bytes(`, 25) + `request.path` + strings.Repeat(`))`, 25): "it may cost ",
		`request.path.matches("(") ? "" : ""`:                                                  "error parsing regexp",
		strings.Repeat("(", 100) + `""` + strings.Repeat(")", 100):                             "recursion",
	} {
		if _, err := Compile[string](text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: %v; want %q", text, err, want)
		}
	}
}

// TestConcurrent has one expression evaluated over several exchanges at once.
func TestConcurrent(t *testing.T) {
	e, err := Compile[string](`request.headers["x-tenant"] + request.path`)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	for _, path := range []string{"/a", "/b", "/c", "/d"} {
		go func() {
			defer func() { done <- true }()
			ex := newExchange()
			ex.Path = path
			for range 1000 {
				if got, err := e.Eval(ex, &ex.In); got != "blue"+path || err != nil {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{`request.path`, `request.headers["a"] + "b"`, `request.query.map(k, k).join()`, `ip(client.ip).family() == 4 ? "a" : "b"`, `"\x`, `{`, `consumer.claims.a`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Compile[string](text)
		if err != nil {
			if e != nil || err.Error() == "" {
				t.Errorf("%q: %v, %v", text, e, err)
			}
			return
		}
		ex := newExchange()
		_, _ = e.Eval(ex, &ex.In)
	})
}

// TestCompileAgain holds that what is compiled already is shared, by text and
// type, and that no more is kept than may be.
func TestCompileAgain(t *testing.T) {
	one, _ := Compile[string](`"a" + request.id`)
	two, _ := Compile[string](`"a" + request.id`)
	if one.program != two.program {
		t.Error("the same expression is compiled twice")
	}
	if _, err := Compile[bool](`"a" + request.id`); err == nil {
		t.Error("an expression of another type was taken for this one")
	}
	for i := range maxPrograms + 10 {
		if _, err := Compile[string](fmt.Sprintf(`"%d"`, i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(programs.byKey); n > maxPrograms {
		t.Errorf("%d programs are kept", n)
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		clear(programs.byKey)
		if _, err := Compile[string](`request.headers["x-tenant"] + request.path`); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEval(b *testing.B) {
	for _, text := range []string{
		`request.path`,
		`request.headers["x-tenant"]`,
		`request.headers["x-tenant"] + request.path`,
		`consumer.claims.tenant`,
		`request.headers[?"x-none"].orValue(client.ip)`,
		`request.headers["x-none"]`,
	} {
		b.Run(text, func(b *testing.B) {
			e, err := Compile[string](text)
			if err != nil {
				b.Fatal(err)
			}
			ex := newExchange()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = e.Eval(ex, &ex.In)
				ex.Arena.Reset()
			}
		})
	}
}
