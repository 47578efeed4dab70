package route

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// request makes an exchange from "METHOD /path?query" and header lines.
func request(line string, fields ...string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	method, target, _ := strings.Cut(line, " ")
	ex.In.Method = method
	ex.In.Path, ex.In.Query, ex.In.HasQuery = strings.Cut(target, "?")
	ex.In.Authority = "example.com"
	ex.In.Proto = exchange.HTTP11
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.Path = Normalize(ex.In.Path, &ex.Arena)
	return ex
}

var rule = &snapshot.Rule{Source: snapshot.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: "catalogue", Section: "0"}}

// routes makes routes from lines "Type value [method=M] [preflight] [h:Name=value] [h~Name=pattern] [q:…] [q~…]".
func routes(lines ...string) (list []*snapshot.Route) {
	for _, line := range lines {
		parts := strings.Fields(line)
		m := snapshot.Match{Path: snapshot.PathMatch{Type: parts[0], Value: parts[1]}}
		for _, p := range parts[2:] {
			name, value, _ := strings.Cut(p, "=")
			v := snapshot.ValueMatch{Type: "Exact", Value: value}
			switch name {
			case "method":
				m.Method = value
				continue
			case "preflight":
				m.Preflight = true
				continue
			}
			if name[1] == '~' {
				v.Type = "RegularExpression"
			}
			v.Name = name[2:]
			if name[0] == 'h' {
				m.Headers = append(m.Headers, v)
			} else {
				m.Query = append(m.Query, v)
			}
		}
		list = append(list, &snapshot.Route{Match: m, Rule: rule})
	}
	return list
}

func TestMatch(t *testing.T) {
	awkward := []string{
		"Exact /shop/cart h:canary=yes",
		"PathPrefix /shop/cart method=POST",
		"PathPrefix /shop",
		"PathPrefix / q:debug=1",
	}
	preflights := []string{"PathPrefix / method=POST preflight", "PathPrefix / method=PUT preflight", "PathPrefix / method=DELETE"}
	const origin = "Origin: https://example.com"
	tests := []struct {
		name   string
		routes []string
		ex     *exchange.Exchange
		want   int
		prefix int
	}{
		{"exact", awkward, request("GET /shop/cart", "Canary: yes"), 0, 0},
		{"longest prefix", awkward, request("POST /shop/cart/1"), 1, len("/shop/cart")},
		{"back to a shorter prefix", awkward, request("GET /shop/cart?debug=1"), 2, len("/shop")},
		{"back to the root", awkward, request("GET /shopping?debug=1"), 3, 0},
		{"nothing", awkward, request("GET /shopping"), -1, 0},

		{"prefix ends at a segment", []string{"PathPrefix /foo"}, request("GET /foobar"), -1, 0},
		{"prefix is the path", []string{"PathPrefix /foo"}, request("GET /foo"), 0, 4},
		{"prefix with a slash after it", []string{"PathPrefix /foo"}, request("GET /foo/"), 0, 4},
		{"trailing slash of a prefix", []string{"PathPrefix /foo/"}, request("GET /foo"), 0, 4},
		{"double slash", []string{"PathPrefix /foo/bar"}, request("GET /foo//bar"), -1, 0},
		{"exact has no trailing slash", []string{"Exact /foo"}, request("GET /foo/"), -1, 0},
		{"case matters", []string{"PathPrefix /foo"}, request("GET /Foo"), -1, 0},

		{"dot segments", []string{"Exact /admin"}, request("GET /public/%2e%2E/admin"), 0, 0},
		{"needlessly encoded", []string{"Exact /admin"}, request("GET /%61dmin"), 0, 0},
		{"encoded slash", []string{"PathPrefix /a/b"}, request("GET /a%2Fb"), -1, 0},
		{"encoded slash, other case", []string{"Exact /a%2fb"}, request("GET /a%2Fb"), 0, 0},

		{"pattern is the whole path", []string{"RegularExpression /v[0-9]+"}, request("GET /v1/x"), -1, 0},
		{"alternatives are anchored too", []string{"RegularExpression /a|/b"}, request("GET /b/c"), -1, 0},
		{"pattern", []string{"RegularExpression /v[0-9]+/.*"}, request("GET /v12/x"), 0, 0},
		{"exact before pattern before prefix", []string{"Exact /a", "RegularExpression /.*", "PathPrefix /a/b"}, request("GET /a/b"), 1, 0},

		{"any order is honoured", []string{"PathPrefix /", "Exact /a"}, request("GET /a"), 0, 0},
		{"asterisk form", []string{"PathPrefix /"}, request("OPTIONS *"), -1, 0},

		{"preflight", preflights, request("OPTIONS /", origin, "Access-Control-Request-Method: PUT"), 1, 0},
		{"preflight without a CORS filter", preflights, request("OPTIONS /", origin, "Access-Control-Request-Method: DELETE"), -1, 0},
		{"preflight for two methods", preflights, request("OPTIONS /", origin, "Access-Control-Request-Method: PUT", "Access-Control-Request-Method: POST"), -1, 0},
		{"OPTIONS of the same origin", preflights, request("OPTIONS /", "Access-Control-Request-Method: PUT"), -1, 0},
		{"OPTIONS that asks for nothing", preflights, request("OPTIONS /", origin), -1, 0},
		{"not OPTIONS", preflights, request("GET /", origin, "Access-Control-Request-Method: PUT"), -1, 0},

		{"header in any case", []string{"PathPrefix / h:x-env=Test"}, request("GET /", "X-ENV: Test"), 0, 0},
		{"header value's case", []string{"PathPrefix / h:x-env=test"}, request("GET /", "X-Env: Test"), -1, 0},
		{"lines are joined", []string{`PathPrefix / h~x-list=a,\sb,\sc`}, request("GET /", "X-List: a", "Y: z", "x-list: b", "X-List: c"), 0, 0},
		{"one line of several is not the value", []string{"PathPrefix / h:accept=a"}, request("GET /", "Accept: a", "Accept: b"), -1, 0},
		{"header pattern is the whole value", []string{"PathPrefix / h~accept=text/.+"}, request("GET /", "Accept: a, text/html"), -1, 0},
		{"host", []string{"PathPrefix / h:host=example.com"}, request("GET /"), 0, 0},
		{"first of two header matches counts", []string{"PathPrefix / h:a=1 h:A=2"}, request("GET /", "A: 1"), 0, 0},

		{"query", []string{"PathPrefix / q:a=1"}, request("GET /?b=2&a=1"), 0, 0},
		{"first value wins", []string{"PathPrefix / q:a=1"}, request("GET /?a=2&a=1"), -1, 0},
		{"query's case", []string{"PathPrefix / q:a=1"}, request("GET /?A=1"), -1, 0},
		{"query is decoded", []string{"PathPrefix / q:a~b=x=y"}, request("GET /?a%7Eb=x%3dy"), 0, 0},
		{"plus is a space", []string{"PathPrefix / q~q=two\\swords"}, request("GET /?q=two+words"), 0, 0},
		{"half an escape stays", []string{"PathPrefix / q:a=%4"}, request("GET /?a=%4"), 0, 0},
		{"empty value", []string{"PathPrefix / q:a="}, request("GET /?a"), 0, 0},
		{"no query", []string{"PathPrefix / q:a="}, request("GET /"), -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := Build(routes(tt.routes...))
			if err != nil {
				t.Fatal(err)
			}
			if got, prefix := x.Match(tt.ex); got != tt.want || prefix != tt.prefix {
				t.Errorf("got route %d, prefix %d; want %d, %d", got, prefix, tt.want, tt.prefix)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, line := range []string{
		"RegularExpression /(", "RegularExpression (?=x)", "Glob /*", "PathPrefix foo",
		"PathPrefix / h~a=(", "PathPrefix / q~a=[",
	} {
		if _, err := Build(routes(line)); err == nil {
			t.Errorf("%s: no error", line)
		} else if !strings.Contains(err.Error(), "HTTPRoute shop/catalogue, rule 0") {
			t.Errorf("%s: the error does not name the rule: %v", line, err)
		}
	}
}

// linear is what Match must agree with: the first route that matches, by the
// Gateway API's words.
func linear(list []*snapshot.Route, ex *exchange.Exchange) (int, int) {
	for i, r := range list {
		if prefix, ok := matches(&r.Match, ex); ok {
			return i, prefix
		}
	}
	return -1, 0
}

func matches(m *snapshot.Match, ex *exchange.Exchange) (prefix int, ok bool) {
	switch m.Path.Type {
	case "Exact":
		ok = ex.Path == m.Path.Value
	case "RegularExpression":
		ok = regexp.MustCompile("^(?:" + m.Path.Value + ")$").MatchString(ex.Path)
	case "PathPrefix":
		p := strings.TrimSuffix(m.Path.Value, "/")
		ok = ex.Path == p || strings.HasPrefix(ex.Path, p+"/")
		prefix = len(p)
	}
	ok = ok && (m.Method == "" || m.Method == ex.In.Method)
	for _, h := range m.Headers {
		var lines []string
		for _, f := range ex.In.Fields {
			if strings.EqualFold(f.Name, h.Name) {
				lines = append(lines, f.Value)
			}
		}
		ok = ok && lines != nil && strings.Join(lines, ", ") == h.Value
	}
	for _, q := range m.Query {
		i := slices.IndexFunc(strings.Split(ex.In.Query, "&"), func(pair string) bool {
			return strings.HasPrefix(pair, q.Name+"=")
		})
		ok = ok && i >= 0 && strings.Split(ex.In.Query, "&")[i] == q.Name+"="+q.Value
	}
	return prefix, ok
}

// generate makes routes and a request over a small alphabet, so that they meet.
func generate(r *rand.Rand) ([]*snapshot.Route, *exchange.Exchange) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	path := func() string {
		var p strings.Builder
		for range r.IntN(4) {
			p.WriteString(pick("/a", "/b", "/ab", "/"))
		}
		if p.Len() == 0 {
			return "/"
		}
		return p.String()
	}
	var lines []string
	for range r.IntN(12) {
		line := pick("Exact", "PathPrefix", "PathPrefix", "PathPrefix") + " " + path()
		if r.IntN(6) == 0 {
			line = "RegularExpression " + pick("/a.*", "/[ab]", ".*b", "/a|/b")
		}
		if r.IntN(4) == 0 {
			line += " method=" + pick("GET", "POST")
		}
		if r.IntN(4) == 0 {
			line += " h:" + pick("X", "Accept") + "=" + pick("1", "2")
		}
		if r.IntN(4) == 0 {
			line += " q:" + pick("p", "q") + "=" + pick("1", "2")
		}
		lines = append(lines, line)
	}
	var fields []string
	for range r.IntN(3) {
		fields = append(fields, pick("X", "Accept", "x")+": "+pick("1", "2"))
	}
	line := pick("GET", "POST") + " " + path()
	if r.IntN(2) == 0 {
		line += "?" + pick("p", "q") + "=" + pick("1", "2") + "&" + pick("p", "q") + "=" + pick("1", "2")
	}
	return routes(lines...), request(line, fields...)
}

func checkAgainstLinear(t *testing.T, seed uint64) {
	t.Helper()
	list, ex := generate(rand.New(rand.NewPCG(seed, 1)))
	x, err := Build(list)
	if err != nil {
		t.Fatal(err)
	}
	got, gotPrefix := x.Match(ex)
	want, wantPrefix := linear(list, ex)
	if got != want || gotPrefix != wantPrefix {
		var text strings.Builder
		for i, r := range list {
			fmt.Fprintf(&text, "%d %+v\n", i, r.Match)
		}
		t.Fatalf("seed %d: %s %s?%s %v\ngot %d, %d; want %d, %d\n%s",
			seed, ex.In.Method, ex.Path, ex.In.Query, ex.In.Fields, got, gotPrefix, want, wantPrefix, &text)
	}
}

func TestMatchAgreesWithLinearScan(t *testing.T) {
	for seed := range uint64(20_000) {
		checkAgainstLinear(t, seed)
	}
}

func FuzzMatchAgreesWithLinearScan(f *testing.F) {
	f.Add(uint64(1 << 40))
	f.Fuzz(checkAgainstLinear)
}

func TestMatchAllocatesNothing(t *testing.T) {
	x, err := Build(routes(
		"Exact /a/b/c h:x=1",
		"RegularExpression /x/[0-9]+",
		"PathPrefix /a/b h~accept=text/.* q:a=b q~c=d+",
		"PathPrefix /a",
	))
	if err != nil {
		t.Fatal(err)
	}
	ex := request("GET /a/b/%2e/c?a=b&c=d%64", "Accept: text/html", "Accept: text/plain")
	x.Match(ex) // grows the arena
	allocs := testing.AllocsPerRun(1000, func() {
		ex.Arena.Reset()
		ex.Path = Normalize(ex.In.Path, &ex.Arena)
		if n, _ := x.Match(ex); n != 2 {
			t.Fatalf("route %d", n)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a match", allocs)
	}
}

func BenchmarkMatch(b *testing.B) {
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("PathPrefix /api/service-%d/v1", i))
	}
	x, err := Build(routes(append(lines, "PathPrefix /")...))
	if err != nil {
		b.Fatal(err)
	}
	ex := request("GET /api/service-777/v1/orders/42", "Accept: text/html")
	b.ReportAllocs()
	for b.Loop() {
		ex.Path = Normalize(ex.In.Path, &ex.Arena)
		if n, _ := x.Match(ex); n != 777 {
			b.Fatal(n)
		}
	}
}
