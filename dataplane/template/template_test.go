package template_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/template"
)

type claims map[string]string

func (c claims) Claim(name string) (string, bool) { v, ok := c[name]; return v, ok }

func example() *exchange.Exchange {
	ex := &exchange.Exchange{Path: "/orders/7", RequestID: "r-1"}
	ex.In.Method, ex.In.Scheme, ex.In.Host = "GET", "https", "shop.example.com"
	ex.In.Query, ex.In.HasQuery = "q=a%0D%0Ab+c&n=1", true
	ex.In.Fields.Add("X-Y", "header")
	ex.In.Fields.Add("User-Agent", "curl")
	ex.ClientIP = netip.MustParseAddr("192.0.2.7")
	ex.Consumer = exchange.Consumer{Name: "alice", Method: "jwt", Claims: claims{"sub": "alice", "a.b": "x\r\nSet-Cookie: y"}}
	ex.Route = &exchange.RouteInfo{Kind: "HTTPRoute", Namespace: "shop", Name: "orders", Rule: "list"}
	ex.Response.Status = 201
	ex.Response.Fields.Add("ETag", `"e"`)
	return ex
}

func TestValue(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "",
		"plain":                                  "plain",
		"$$5":                                    "$5",
		"${request.method}":                      "GET",
		"${request.scheme}://${request.host}":    "https://shop.example.com",
		"${request.path}":                        "/orders/7",
		"${request.query}":                       "q=a%0D%0Ab+c&n=1",
		"${request.query.n}":                     "1",
		"${request.query.q}":                     "a  b c",
		"${request.query.absent}":                "",
		"${request.id}":                          "r-1",
		"${request.headers.x-y}":                 "header",
		"${request.headers.User-Agent}":          "curl",
		"<${request.headers.absent}>":            "<>",
		"${client.ip}":                           "192.0.2.7",
		"${consumer.name} by ${consumer.method}": "alice by jwt",
		"${consumer.claims.sub}":                 "alice",
		"${consumer.claims.a.b}":                 "x  Set-Cookie: y",
		"a${consumer.claims.a.b}z":               "ax  Set-Cookie: yz",
		"${route.kind}/${route.namespace}/${route.name}/${route.rule}": "HTTPRoute/shop/orders/list",
		"${response.status}":       "201",
		"${response.headers.etag}": `"e"`,
	} {
		compiled, err := template.Compile(text, template.Response)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := compiled.Value(example()); got != want {
			t.Errorf("%q = %q, want %q", text, got, want)
		}
		// What an exchange does not have is empty, and never a panic.
		compiled.Value(&exchange.Exchange{})
	}
}

func TestCompileRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"$x":                   "$$",
		"a$":                   "$$",
		"${request.method":     "no closing }",
		"${}":                  "does not exist",
		"${request.headers.}":  "does not exist",
		"${request.header.x}":  "request.headers.NAME",
		"${request.methods}":   "does not exist",
		"${response.status}":   "before there is a response",
		"a\r\nSet-Cookie: x=y": "control character",
		"a\x00":                "control character",
	} {
		if _, err := template.Compile(text, template.Request); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}

func TestValueAllocatesNothing(t *testing.T) {
	ex := example()
	for _, text := range []string{"plain", "${consumer.name}", "id=${request.id} ip=${client.ip} q=${request.query.q} s=${response.status}"} {
		compiled, err := template.Compile(text, template.Response)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { compiled.Value(ex); ex.Arena.Reset() }); n != 0 {
			t.Errorf("%q: %v allocations", text, n)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, text := range []string{"", "a", "$$", "$", "${", "${}", "${request.path}", "x${consumer.name}y$${client.ip}", "${request.headers.a b}"} {
		f.Add(text, "value\r\nX: y")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		compiled, err := template.Compile(text, template.Response)
		if err != nil {
			return
		}
		ex := example()
		ex.Path, ex.Consumer.Name, ex.In.Query = value, value, value
		ex.Consumer.Claims = claims{"sub": value}
		ex.In.Fields.Add("X-Z", value)
		if got := compiled.Value(ex); strings.ContainsAny(got, "\r\n\x00") {
			t.Fatalf("%q with %q makes %q", text, value, got)
		}
	})
}
