package transform_test

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/transform"
)

func request(query string, lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{Path: "/p", RequestID: "r-1"}
	ex.In.Method = "GET"
	ex.In.Query, ex.In.HasQuery = query, query != ""
	ex.In.Fields = fields(lines...)
	ex.Out.Query, ex.Out.HasQuery = ex.In.Query, ex.In.HasQuery
	ex.Out.Fields = append(ex.Out.Fields, ex.In.Fields...)
	ex.Consumer.Name = "alice"
	return ex
}

func fields(lines ...string) (f exchange.Fields) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		f.Add(name, value)
	}
	return f
}

func text(f exchange.Fields) string {
	var all []string
	for _, line := range f {
		all = append(all, line.Name+": "+line.Value)
	}
	return strings.Join(all, "\n")
}

func TestHeaders(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes transform.Changes
		before  []string
		after   string
	}{
		{"set new", transform.Changes{Set: []transform.Value{{Name: "X-Who", Template: "${consumer.name}"}}}, nil, "X-Who: alice"},
		{"set replaces all", transform.Changes{Set: []transform.Value{{Name: "X-Who", Template: "n"}}},
			[]string{"x-who: a", "B: c", "X-WHO: d"}, "x-who: n\nB: c"},
		{"add", transform.Changes{Add: []transform.Value{{Name: "Via-X", Template: "a-${request.method}"}}},
			[]string{"Via-X: b"}, "Via-X: b\nVia-X: a-GET"},
		{"remove", transform.Changes{Remove: []string{"User-Agent", "x-a"}}, []string{"user-agent: c", "X-A: 1", "X-A: 2", "X-B: 3"}, "X-B: 3"},
		{"rename", transform.Changes{Rename: []transform.Rename{{From: "X-A", To: "X-B"}}},
			[]string{"x-a: 1", "X-B: 2", "x-a: 3"}, "X-B: 1\nX-B: 3"},
		{"rename of nothing", transform.Changes{Rename: []transform.Rename{{From: "X-A", To: "X-B"}}}, []string{"X-B: 2"}, "X-B: 2"},
		{"rename to the same in another case", transform.Changes{Rename: []transform.Rename{{From: "x-a", To: "X-A"}}}, []string{"x-a: 2"}, "X-A: 2"},
		{"order", transform.Changes{
			Rename: []transform.Rename{{From: "A", To: "B"}}, Remove: []string{"B"},
			Set: []transform.Value{{Name: "C", Template: "1"}}, Add: []transform.Value{{Name: "C", Template: "2"}},
		}, []string{"A: x", "C: y"}, "C: 1\nC: 2"},
		{"templates see what was received", transform.Changes{Remove: []string{"X-A"}, Set: []transform.Value{{Name: "X-B", Template: "${request.headers.x-a}"}}},
			[]string{"X-A: 1"}, "X-B: 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			filter, err := (&transform.Config{RequestHeaders: c.changes}).Build(&policy.Env{})
			if err != nil {
				t.Fatal(err)
			}
			ex := request("", c.before...)
			if filter.Request(ex) != exchange.Continue || filter.Response != nil {
				t.Error("it does more than it should")
			}
			if got := text(ex.Out.Fields); got != c.after {
				t.Errorf("got\n%s\nwant\n%s", got, c.after)
			}
			if got := text(ex.In.Fields); got != strings.Join(c.before, "\n") {
				t.Errorf("the received request was edited: %s", got)
			}
		})
	}
}

func TestRenamedFieldIsFoundByItsKey(t *testing.T) {
	filter, _ := (&transform.Config{RequestHeaders: transform.Changes{Rename: []transform.Rename{{From: "X-Auth", To: "Authorization"}}}}).Build(&policy.Env{})
	ex := request("", "X-Auth: b")
	filter.Request(ex)
	if got := ex.Out.Fields.Value(exchange.KeyAuthorization); got != "b" {
		t.Errorf("Authorization is %q", got)
	}
}

func TestResponse(t *testing.T) {
	filter, err := (&transform.Config{ResponseHeaders: transform.Changes{
		Remove: []string{"Server"}, Set: []transform.Value{{Name: "X-Info", Template: "${response.status} ${request.id} ${response.headers.etag}"}},
	}}).Build(&policy.Env{})
	if err != nil || filter.Request != nil {
		t.Fatal(err, filter.Request != nil)
	}
	ex := request("")
	ex.Response.Status, ex.Response.Fields = 200, fields("Server: x", "ETag: e")
	filter.Response(ex)
	if got := text(ex.Response.Fields); got != "ETag: e\nX-Info: 200 r-1 e" {
		t.Errorf("got %q", got)
	}
}

func TestQuery(t *testing.T) {
	for _, c := range []struct {
		name    string
		changes transform.Changes
		before  string
		after   string
	}{
		{"all", transform.Changes{
			Rename: []transform.Rename{{From: "a", To: "b"}}, Remove: []string{"c"},
			Set: []transform.Value{{Name: "d", Template: "${consumer.name}&x"}}, Add: []transform.Value{{Name: "e f", Template: "1"}},
		}, "a=1&c=2&d=3&z=%20", "b=1&d=alice%26x&z=%20&e%20f=1"},
		{"nothing left", transform.Changes{Remove: []string{"a"}}, "a=1", ""},
		{"untouched", transform.Changes{Remove: []string{"a"}}, "&b=%zz", "&b=%zz"},
	} {
		t.Run(c.name, func(t *testing.T) {
			filter, err := (&transform.Config{Query: c.changes}).Build(&policy.Env{})
			if err != nil {
				t.Fatal(err)
			}
			ex := request(c.before)
			filter.Request(ex)
			if ex.Out.Query != c.after || ex.Out.HasQuery != (c.after != "") {
				t.Errorf("got %q (%v), want %q", ex.Out.Query, ex.Out.HasQuery, c.after)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, name := range []string{
		"Connection", "content-length", "Transfer-Encoding", "Host", "TE", "Trailer", "Upgrade", "Keep-Alive",
		"Proxy-Connection", "Expect", "", "a b", "a:", "a\r\nb", "ä",
	} {
		for verb, changes := range map[string]transform.Changes{
			"set":         {Set: []transform.Value{{Name: name}}},
			"add":         {Add: []transform.Value{{Name: name}}},
			"remove":      {Remove: []string{name}},
			"rename":      {Rename: []transform.Rename{{From: name, To: "X-B"}}},
			"rename into": {Rename: []transform.Rename{{From: "X-B", To: name}}},
		} {
			if _, err := (&transform.Config{RequestHeaders: changes}).Build(&policy.Env{}); err == nil {
				t.Errorf("%s %q in a request was accepted", verb, name)
			}
			if _, err := (&transform.Config{ResponseHeaders: changes}).Build(&policy.Env{}); err == nil {
				t.Errorf("%s %q in a response was accepted", verb, name)
			}
		}
	}
	bad := transform.Changes{Set: []transform.Value{{Name: "a", Template: "${nothing}"}}}
	for _, c := range []transform.Config{{RequestHeaders: bad}, {ResponseHeaders: bad}, {Query: bad}} {
		if _, err := c.Build(&policy.Env{}); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	filter, err := (&transform.Config{
		RequestHeaders: transform.Changes{
			Rename: []transform.Rename{{From: "X-A", To: "X-B"}}, Remove: []string{"X-C"},
			Set: []transform.Value{{Name: "X-D", Template: "${consumer.name}/${request.id}"}}, Add: []transform.Value{{Name: "X-E", Template: "e"}},
		},
		Query: transform.Changes{
			Rename: []transform.Rename{{From: "a", To: "b"}}, Remove: []string{"c"},
			Set: []transform.Value{{Name: "d", Template: "${consumer.name}"}}, Add: []transform.Value{{Name: "e", Template: "1"}},
		},
		ResponseHeaders: transform.Changes{Set: []transform.Value{{Name: "X-F", Template: "${response.status}"}}},
	}).Build(&policy.Env{})
	if err != nil {
		t.Fatal(err)
	}
	ex := request("a=1&c=2&d=3", "X-A: 1", "X-C: 2")
	if n := testing.AllocsPerRun(100, func() {
		ex.Out.Query = ex.In.Query
		ex.Out.Fields = append(ex.Out.Fields[:0], ex.In.Fields...)
		ex.Response.Fields = ex.Response.Fields[:0]
		filter.Request(ex)
		filter.Response(ex)
		ex.Arena.Reset()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
