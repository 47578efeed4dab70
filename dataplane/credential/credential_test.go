package credential_test

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
)

// request makes an exchange from a query and header lines.
func request(query string, lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.In.Query, ex.In.HasQuery = query, query != ""
	ex.Out.Query, ex.Out.HasQuery = ex.In.Query, ex.In.HasQuery
	ex.Out.Fields = append(ex.Out.Fields, ex.In.Fields...)
	return ex
}

func lines(fields exchange.Fields) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.Name+": "+f.Value)
	}
	return strings.Join(all, "\n")
}

func TestFindAndRemove(t *testing.T) {
	bearer := credential.Source{Header: "Authorization", Prefix: "Bearer"}
	header := credential.Source{Header: "X-API-Key"}
	cookie := credential.Source{Cookie: "session"}
	param := credential.Source{Query: "api_key"}
	for _, c := range []struct {
		name      string
		source    credential.Source
		ex        *exchange.Exchange
		want      string
		out       string // header lines that go upstream
		wantQuery string
	}{
		{name: "header", source: header, ex: request("", "x-api-key: k1", "a: b"), want: "k1", out: "a: b"},
		{name: "header twice", source: header, ex: request("", "X-API-Key: k1", "X-API-Key: k2"), want: "k1"},
		{name: "header empty", source: header, ex: request("", "X-API-Key: "), want: ""},
		{name: "bearer", source: bearer, ex: request("", "authorization: bearer  t.o.k"), want: "t.o.k"},
		{name: "other scheme stays", source: bearer, ex: request("", "Authorization: Basic eA=="), want: "", out: "Authorization: Basic eA=="},
		{name: "scheme alone", source: bearer, ex: request("", "Authorization: Bearer"), want: "", out: "Authorization: Bearer"},
		{name: "scheme as a prefix", source: bearer, ex: request("", "Authorization: Bearerx y"), want: "", out: "Authorization: Bearerx y"},
		{name: "cookie", source: cookie, ex: request("", "Cookie: a=1; session=\"k\"; b=2", "Cookie: session=z"), want: "k", out: "Cookie: a=1; b=2"},
		{name: "cookie alone", source: cookie, ex: request("", "Cookie: session=k"), want: "k"},
		{name: "cookie by exact name", source: cookie, ex: request("", "Cookie: Session=k; xsession=j"), want: "", out: "Cookie: Session=k; xsession=j"},
		{name: "query", source: param, ex: request("a=1&api%5Fkey=k%2B1+2"), want: "k+1+2", wantQuery: "a=1"},
		{name: "none", source: param, ex: request("a=1"), want: "", wantQuery: "a=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sources := []credential.Source{{Header: "X-Absent"}, c.source}
			got, i, ok := credential.Find(c.ex, sources)
			if got != c.want || ok != (c.want != "") || ok && i != 1 {
				t.Errorf("Find = %q, %d, %v; want %q", got, i, ok, c.want)
			}
			credential.Remove(c.ex, sources)
			if got := lines(c.ex.Out.Fields); got != c.out {
				t.Errorf("upstream sees %q, want %q", got, c.out)
			}
			if c.ex.Out.Query != c.wantQuery || c.ex.Out.HasQuery != (c.wantQuery != "") {
				t.Errorf("upstream's query is %q (%v), want %q", c.ex.Out.Query, c.ex.Out.HasQuery, c.wantQuery)
			}
		})
	}
}

func TestStrip(t *testing.T) {
	ex := request("", "X-User: a", "x_user: b", "X-User-Id: c", "X_USER: d")
	credential.Strip(ex, "X-User")
	if got := lines(ex.Out.Fields); got != "X-User-Id: c" {
		t.Errorf("left: %q", got)
	}
}

// FuzzRemove holds that no credential goes upstream that could be found again.
func FuzzRemove(f *testing.F) {
	f.Add("a=1&key=x&k%65y=y", "a=1; key=x;key=\"y\"; b", "bearer x", "v")
	f.Add("key&key=1", ";;key=", "Bearer", "Bearer  ")
	f.Fuzz(func(t *testing.T, query, cookie, authorization, apiKey string) {
		ex := request(query, "Cookie: "+cookie, "Authorization: "+authorization, "X-Key: "+apiKey, "Cookie: "+cookie, "authorization: "+apiKey)
		sources := []credential.Source{{Query: "key"}, {Cookie: "key"}, {Header: "Authorization", Prefix: "Bearer"}, {Header: "X-Key"}}
		credential.Remove(ex, sources)
		ex.In.Query, ex.In.Fields = ex.Out.Query, ex.Out.Fields
		if value, source, found := credential.Find(ex, sources); found {
			t.Fatalf("%q is still there, in %+v: ?%s\n%s", value, sources[source], ex.Out.Query, lines(ex.Out.Fields))
		}
	})
}
