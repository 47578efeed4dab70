package hashkey

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestHashOn compares what requests hash to.
func TestHashOn(t *testing.T) {
	type request struct {
		fields        []string // name, value, …
		query, path   string
		consumer      string
		client        string
		same, another bool // as the one before
		none          bool // there is no key
	}
	header := snapshot.HashKey{Type: "Header", Name: "X-User"}
	cookie := snapshot.HashKey{Type: "Cookie", Name: "sid"}
	client := snapshot.HashKey{Type: "ClientIP"}
	for _, tc := range []struct {
		name     string
		keys     []snapshot.HashKey
		requests []request
	}{
		{"header", []snapshot.HashKey{header, client}, []request{
			{fields: []string{"x-user", "a"}},
			{fields: []string{"Other", "1", "X-User", "a"}, client: "192.0.2.9", same: true},
			{fields: []string{"X-User", "b"}, client: "192.0.2.9", another: true},
			{client: "192.0.2.9", another: true},
			{client: "192.0.2.9", fields: []string{"X-User", ""}, same: true},
			{client: "192.0.2.8", another: true},
			{client: "::ffff:192.0.2.8", same: true},
		}},
		{"cookie", []snapshot.HashKey{cookie, header, client}, []request{
			{fields: []string{"Cookie", "a=b; sid=1"}},
			{fields: []string{"Cookie", "a=b", "Cookie", `sid="1"; sid=2`, "X-User", "a"}, same: true},
			{fields: []string{"Cookie", "sid=2"}, another: true},
			{fields: []string{"Cookie", "xsid=2"}, another: true},
			{fields: []string{"X-User", "a", "Cookie", "sid="}, another: true},
		}},
		{"query", []snapshot.HashKey{{Type: "QueryParam", Name: "user id"}, {Type: "Path"}}, []request{
			{query: "a=b&user+id=7"},
			{query: "user%20id=7", path: "/x", same: true},
			{query: "user%20id=8", another: true},
			{path: "/x", another: true},
			{path: "/x", query: "other=7", same: true},
			{path: "/y", another: true},
		}},
		{"consumer", []snapshot.HashKey{{Type: "Consumer"}, client}, []request{
			{consumer: "alice"}, {consumer: "alice", client: "192.0.2.9", same: true}, {consumer: "bob", another: true}, {client: "192.0.2.9", another: true},
		}},
		{"expression", []snapshot.HashKey{{Type: "Expression", Expression: `request.headers["x-user"] + request.path`}, header}, []request{
			{fields: []string{"X-User", "a"}, path: "/x"},
			{fields: []string{"X-User", "a/"}, path: "x", same: true},
			{fields: []string{"X-User", "b"}, path: "/x", another: true},
			{path: "/x", none: true},
		}},
		{"nothing", []snapshot.HashKey{header}, []request{{none: true}}},
	} {
		keys, err := New(tc.keys)
		if err != nil {
			t.Fatal(err)
		}
		var before uint64
		for i, r := range tc.requests {
			ex := &exchange.Exchange{}
			for k := 0; k < len(r.fields); k += 2 {
				ex.Out.Fields = append(ex.Out.Fields, exchange.NewField(r.fields[k], r.fields[k+1]))
			}
			if r.client != "" {
				ex.ClientIP = netip.MustParseAddr(r.client)
			}
			if r.path != "" {
				ex.Out.Path = r.path
			}
			ex.Out.Query, ex.Consumer.Name = r.query, r.consumer
			hash, ok := keys.Hash(ex)
			if ok == r.none {
				t.Errorf("%s: request %d has a key: %t", tc.name, i, ok)
			}
			if r.same && hash != before || r.another && hash == before {
				t.Errorf("%s: request %d has the hash %x, the one before %x", tc.name, i, hash, before)
			}
			before = hash
		}
	}
}

// TestNewCookie holds that a new client gets a cookie once, whoever asks how often,
// and is hashed by it at once.
func TestNewCookie(t *testing.T) {
	list := []snapshot.HashKey{{Type: "Cookie", Name: "sid", SetCookie: &snapshot.HashCookie{Path: "/"}}}
	one, err := New(list)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := New(list)
	ex := &exchange.Exchange{}
	first, _ := one.Hash(ex)
	again, ok := two.Hash(ex)
	if !ok || first != again || len(ex.NewCookies) != 1 {
		t.Fatalf("%x and then %x, %+v", first, again, ex.NewCookies)
	}
	c := ex.NewCookies[0]
	if c.Name != "sid" || balance.HashString(c.Value) != first || c.SetCookie != "sid="+c.Value+"; Path=/; HttpOnly; SameSite=Lax" {
		t.Errorf("%+v", c)
	}
	other, _ := New([]snapshot.HashKey{{Type: "Cookie", Name: "other", SetCookie: &snapshot.HashCookie{}}})
	if h, _ := other.Hash(ex); h == first || len(ex.NewCookies) != 2 {
		t.Errorf("another cookie: %x, %+v", h, ex.NewCookies)
	}
	ex.Reset()
	if next, _ := one.Hash(ex); next == first || len(ex.NewCookies) != 1 {
		t.Errorf("the next request: %x, %+v", next, ex.NewCookies)
	}
}

func TestNewRefuses(t *testing.T) {
	keys, err := New([]snapshot.HashKey{{Type: "Expression", Expression: "request."}, {Type: "ClientIP"}})
	if err == nil || !strings.Contains(err.Error(), "hashOn[0]: 1:9: ") || len(keys) != 1 {
		t.Errorf("%+v, %v", keys, err)
	}
}

func BenchmarkHash(b *testing.B) {
	for _, k := range []snapshot.HashKey{
		{Type: "Header", Name: "X-User"},
		{Type: "Cookie", Name: "sid"},
		{Type: "Expression", Expression: `request.headers["x-user"] + request.path`},
	} {
		b.Run(k.Type, func(b *testing.B) {
			keys, err := New([]snapshot.HashKey{k})
			if err != nil {
				b.Fatal(err)
			}
			ex := &exchange.Exchange{}
			ex.Out.Path = "/x"
			ex.Out.Fields.Add("X-User", "alice")
			ex.Out.Fields.Add("Cookie", "a=b; sid=123")
			b.ReportAllocs()
			for b.Loop() {
				keys.Hash(ex)
			}
		})
	}
}
