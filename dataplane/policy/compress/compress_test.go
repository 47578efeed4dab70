package compress

import (
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

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

func TestChoose(t *testing.T) {
	all := []coding{zstandard, brotlied, gzipped}
	for _, tt := range []struct {
		accepted  []string
		preferred []coding
		want      coding
	}{
		{nil, all, identity}, // anything would do, but this is safe
		{[]string{""}, all, identity},
		{[]string{"gzip"}, all, gzipped},
		{[]string{"GZIP"}, all, gzipped},
		{[]string{"x-gzip"}, all, gzipped},
		{[]string{"gzip, deflate, br, zstd"}, all, zstandard},
		{[]string{"gzip, deflate, br"}, all, brotlied},
		{[]string{"gzip, deflate, br, zstd"}, []coding{gzipped, brotlied}, gzipped},
		{[]string{"zstd"}, []coding{gzipped, brotlied}, identity},
		{[]string{"deflate"}, all, identity},
		{[]string{"gzip;q=1.0, br;q=0.9"}, all, gzipped},
		{[]string{"gzip;q=0.001"}, all, gzipped},
		{[]string{"gzip;q=0"}, all, identity},
		{[]string{"gzip;q=0.000"}, all, identity},
		{[]string{"*"}, all, zstandard},
		{[]string{"*;q=0"}, all, identity}, // nothing is acceptable: rather as it is than 406
		{[]string{"zstd;q=0, *"}, all, brotlied},
		{[]string{"gzip;q=0.5, *;q=0.1"}, all, gzipped},
		{[]string{"gzip;q=0.3, *;q=0.5"}, []coding{gzipped, brotlied}, brotlied},
		{[]string{"identity, gzip"}, all, gzipped},
		{[]string{"identity;q=1, gzip;q=0.5"}, all, identity},
		{[]string{"identity;q=0.5, gzip;q=0.5"}, all, gzipped},
		{[]string{"identity;q=0, gzip;q=0.1"}, all, gzipped},
		{[]string{"identity;q=0"}, all, identity},
		{[]string{"gzip", "br"}, all, brotlied}, // lines are one list
		{[]string{"gzip;q=0, gzip"}, all, identity},
		{[]string{"gzip ; q=0.5"}, all, gzipped},
		{[]string{"gzip;Q=0.5"}, all, gzipped},
		{[]string{" , ,gzip,"}, all, gzipped},
		// Not as the grammar has it: not accepted.
		{[]string{"gzip;q=2"}, all, identity},
		{[]string{"gzip;q=1.001"}, all, identity},
		{[]string{"gzip;q=0.1234"}, all, identity},
		{[]string{"gzip;q=-1"}, all, identity},
		{[]string{"gzip;q="}, all, identity},
		{[]string{"gzip;q=0,5"}, all, identity},
		{[]string{"gzip;level=9"}, all, identity},
		{[]string{"gzip;"}, all, identity},
		{[]string{"gzip br"}, all, identity},
		{[]string{"gzip;q=x, br"}, all, brotlied},
	} {
		var f exchange.Fields
		for _, line := range tt.accepted {
			f.Add("Accept-Encoding", line)
		}
		if got := choose(f, tt.preferred); got != tt.want {
			t.Errorf("%q: %s, want %s", tt.accepted, codingNames[got], codingNames[tt.want])
		}
	}
}

// FuzzAcceptEncoding holds the choice to what the client said: what it did not
// name it does not get, nor what it excluded.
func FuzzAcceptEncoding(f *testing.F) {
	for _, seed := range []string{"gzip, br;q=0.5", "*;q=0.3, zstd;q=0", "identity;q=0", "gzip;q=1.000,,x-gzip", ";q=1", "gzip;q=0.", "*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		request := exchange.Fields{exchange.NewField("Accept-Encoding", value)}
		got := choose(request, []coding{zstandard, brotlied, gzipped})
		if got == identity {
			return
		}
		lower := strings.ToLower(value)
		if !strings.Contains(lower, codingNames[got]) && !strings.Contains(lower, "*") {
			t.Errorf("%q: %s", value, codingNames[got])
		}
		for _, c := range []coding{zstandard, brotlied, gzipped} {
			if only := choose(request, []coding{c}); c == got && only != c {
				t.Errorf("%q: %s among others, but not alone", value, codingNames[c])
			}
		}
		excluded := exchange.Fields{exchange.NewField("Accept-Encoding", codingNames[got]+";q=0, "+value)}
		if again := choose(excluded, []coding{got}); again != identity && (got != gzipped) {
			t.Errorf("%q: %s although it is excluded", value, codingNames[got])
		}
	})
}

func TestParseAccepted(t *testing.T) {
	for item, want := range map[string]int{
		"a": 1000, "a;q=1": 1000, "a;q=1.": 1000, "a;q=1.000": 1000, "a;q=0.5": 500, "a;q=0.05": 50, "a;q=0.005": 5, "a;q=0.": 0, "a;q=0": 0,
		"a; q=0.7": 700, "a;q=.5": 0, "a;q=01": 0, "a;q=1.1": 0, "a;q=0.5x": 0, "a;q =1": 0, "a;r=1": 0, "a;q=\"1\"": 0,
	} {
		if name, got := parseAccepted(item); name != "a" || got != want {
			t.Errorf("%q: %q %d, want %d", item, name, got, want)
		}
	}
}

func TestCheckType(t *testing.T) {
	for _, good := range []string{"text/html", "text/*", "*/*", "application/*+json", "application/vnd.x+json"} {
		if err := CheckType(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "text", "text/", "/html", "te*/html", "*/html", "text/h*", "text/*+", "text/*+*", "text/html;charset=utf-8", "text /html", "a/b/c"} {
		if CheckType(bad) == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func build(t testing.TB, edit ...func(*Config)) (policy.Filter, *encoders) {
	t.Helper()
	c := &Config{
		Algorithms: []string{"zstd", "br", "gzip"}, Level: "Balanced", MinSize: 10,
		ContentTypes: []string{"text/*", "application/json", "application/*+json", "application/grpc"},
	}
	for _, e := range edit {
		e(c)
	}
	env := &policy.Env{State: policy.NewState()}
	f, err := c.Build(env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Release)
	es, release := policy.Acquire(env.State, "compress", newEncoders)
	t.Cleanup(release)
	return f, es
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []Config{
		{Algorithms: []string{"deflate"}, Level: "Best"},
		{Algorithms: []string{"identity"}, Level: "Best"},
		{Algorithms: []string{"br"}, Level: "Most"},
		{Algorithms: []string{"br"}, Level: "Best", ContentTypes: []string{"text"}},
	} {
		if _, err := c.Build(&policy.Env{State: policy.NewState()}); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestWhatIsEncoded(t *testing.T) {
	const encoded, offered = "Content-Encoding: gzip", "Vary: Accept-Encoding"
	for _, tt := range []struct {
		name   string
		method string
		status int
		length int64
		ask    []string // beside Accept-Encoding
		fields []string
		want   string
	}{
		{"text", "GET", 200, 100, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html\n" + offered + "\n" + encoded},
		{"with parameters", "GET", 200, 100, nil, []string{"Content-Type: Text/HTML ; charset=utf-8"}, "Content-Type: Text/HTML ; charset=utf-8\n" + offered + "\n" + encoded},
		{"with a suffix", "GET", 200, 100, nil, []string{"Content-Type: application/problem+json"}, "Content-Type: application/problem+json\n" + offered + "\n" + encoded},
		{"an error", "GET", 404, 100, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html\n" + offered + "\n" + encoded},
		{"a POST", "POST", 201, -1, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html\n" + offered + "\n" + encoded},
		{"HEAD is as GET", "HEAD", 200, 100, nil, []string{"Content-Type: text/html", `ETag: "x"`}, "Content-Type: text/html\nETag: W/\"x\"\n" + offered + "\n" + encoded},
		{"HEAD of unknown length", "HEAD", 200, -1, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html\n" + offered + "\n" + encoded},
		{"HEAD of too little", "HEAD", 200, 9, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
		{"fields about bytes", "GET", 200, 100, nil, []string{"Content-Type: text/html", "Accept-Ranges: bytes", `ETag: W/"x"`}, "Content-Type: text/html\nETag: W/\"x\"\n" + offered + "\n" + encoded},
		{"vary is merged", "GET", 200, 100, nil, []string{"Content-Type: text/html", "vary: Cookie", "Vary: Origin"}, "Content-Type: text/html\nvary: Cookie\nVary: Origin, Accept-Encoding\n" + encoded},
		{"vary has it", "GET", 200, 100, nil, []string{"Content-Type: text/html", "Vary: accept-encoding, Origin"}, "Content-Type: text/html\nVary: accept-encoding, Origin\n" + encoded},
		{"vary has all", "GET", 200, 100, nil, []string{"Content-Type: text/html", "Vary: *"}, "Content-Type: text/html\nVary: *\n" + encoded},

		{"another type", "GET", 200, 100, nil, []string{"Content-Type: image/png"}, "Content-Type: image/png"},
		{"another suffix", "GET", 200, 100, nil, []string{"Content-Type: application/json-seq"}, "Content-Type: application/json-seq"},
		{"no type", "GET", 200, 100, nil, nil, ""},
		{"gRPC", "POST", 200, -1, nil, []string{"Content-Type: application/grpc"}, "Content-Type: application/grpc"},
		{"gRPC with a suffix", "POST", 200, -1, nil, []string{"Content-Type: application/grpc+json"}, "Content-Type: application/grpc+json"},
		{"too little", "GET", 200, 9, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
		{"encoded", "GET", 200, 100, nil, []string{"Content-Type: text/html", "Content-Encoding: deflate", `ETag: "x"`}, "Content-Type: text/html\nContent-Encoding: deflate\nETag: \"x\""},
		{"no-transform", "GET", 200, 100, nil, []string{"Content-Type: text/html", "Cache-Control: public, No-Transform"}, "Content-Type: text/html\nCache-Control: public, No-Transform"},
		{"no-transform asked for", "GET", 200, 100, []string{"Cache-Control: no-transform"}, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
		{"a part", "GET", 206, 100, nil, []string{"Content-Type: text/html", "Content-Range: bytes 0-99/200"}, "Content-Type: text/html\nContent-Range: bytes 0-99/200"},
		{"a digest", "GET", 200, 100, nil, []string{"Content-Type: text/html", "repr-digest: sha-256=:AA=:"}, "Content-Type: text/html\nrepr-digest: sha-256=:AA=:"},
		{"204", "GET", 204, 0, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
		{"205", "GET", 205, 0, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
		{"304", "GET", 304, 100, nil, []string{"Content-Type: text/html", `ETag: "x"`}, "Content-Type: text/html\nETag: \"x\""},
		{"304 for what was encoded here", "GET", 304, 0, []string{`If-None-Match: "a", W/"x"`}, []string{`ETag: "x"`}, "ETag: W/\"x\"\n" + offered},
		{"304 for what was not", "GET", 304, 0, []string{`If-None-Match: "x"`}, []string{`ETag: "x"`}, `ETag: "x"`},
		{"101", "GET", 101, 0, nil, []string{"Content-Type: text/html"}, "Content-Type: text/html"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, es := build(t)
			ex := exchangeOf(&parts{data: [][]byte{[]byte("x")}}, "gzip")
			ex.In.Method = tt.method
			ex.In.Fields = append(ex.In.Fields, fields(tt.ask...)...)
			r := &ex.Response
			if tt.method == "HEAD" || tt.status < 200 || tt.status == 204 || tt.status == 304 {
				r.Body = nil
			}
			r.Status, r.Length, r.Fields = tt.status, tt.length, fields(tt.fields...)
			f.Response(ex)
			if got := text(r.Fields); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			done := strings.HasSuffix(tt.want, encoded)
			if _, ours := r.Body.(*body); ours != (done && tt.method != "HEAD") {
				t.Errorf("the content is a %T", r.Body)
			}
			if wanted := tt.length; r.Length != -1 && (done || r.Length != wanted) {
				t.Errorf("length %d", r.Length)
			}
			if r.Body != nil {
				r.Body.Close()
			}
			if n := es.inUse.Load(); n != 0 {
				t.Errorf("%d bytes are still in use", n)
			}
		})
	}
	t.Run("not accepted", func(t *testing.T) {
		f, _ := build(t)
		ex := exchangeOf(&parts{}, "deflate")
		ex.Response.Fields.Add("ETag", `"x"`)
		f.Response(ex)
		if got := text(ex.Response.Fields); got != "Content-Type: text/plain\nETag: \"x\"\n"+offered {
			t.Errorf("got\n%s", got)
		}
	})
}

func TestMemoryBudget(t *testing.T) {
	f, es := build(t)
	es.inUse.Store(memoryBudget - methods[gzipped][balanced].memory)
	first, second := exchangeOf(&parts{}, "gzip"), exchangeOf(&parts{}, "gzip")
	f.Response(first)
	f.Response(second)
	if first.Response.Fields.Value(exchange.KeyContentEncoding) != "gzip" {
		t.Error("there was room for one")
	}
	if got := text(second.Response.Fields); got != "Content-Type: text/plain\nVary: Accept-Encoding" {
		t.Errorf("there was no room for another: %s", got)
	}
	first.Response.Body.Close()
	third := exchangeOf(&parts{}, "gzip")
	f.Response(third)
	if _, ok := third.Response.Body.(*body); !ok {
		t.Error("there is room again")
	}
}

// exchangeOf is a response of text to a client that accepts these codings.
func exchangeOf(b exchange.Body, accept string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	ex.In.Method = "GET"
	ex.In.Fields.Add("Accept-Encoding", accept)
	ex.Response = exchange.Response{Status: 200, Length: -1, Body: b}
	ex.Response.Fields.Add("Content-Type", "text/plain")
	return ex
}
