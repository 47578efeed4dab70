package headers

import (
	"slices"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
)

func fields(lines ...string) (f exchange.Fields) {
	for i := 0; i < len(lines); i += 2 {
		f.Add(lines[i], lines[i+1])
	}
	return f
}

func TestEdit(t *testing.T) {
	for _, tc := range []struct {
		name     string
		edit     Edit
		in, want exchange.Fields
	}{
		// The examples of HTTPHeaderFilter.
		{"set", Edit{Set: []Field{{"my-header", "bar"}}}, fields("my-header", "foo"), fields("my-header", "bar")},
		{"add", Edit{Add: []Field{{"my-header", "bar,baz"}}}, fields("my-header", "foo"),
			fields("my-header", "foo", "my-header", "bar,baz")},
		{"remove", Edit{Remove: []string{"my-header1", "my-header3"}},
			fields("my-header1", "foo", "my-header2", "bar", "my-header3", "baz"), fields("my-header2", "bar")},

		{"set where there is none", Edit{Set: []Field{{"X-A", "1"}}}, fields("X-B", "2"), fields("X-B", "2", "X-A", "1")},
		{"set replaces all lines", Edit{Set: []Field{{"x-a", "9"}}}, fields("X-A", "1", "X-B", "2", "X-a", "3"), fields("X-A", "9", "X-B", "2")},
		{"names in any case", Edit{Remove: []string{"user-agent", "X-ODD"}}, fields("User-Agent", "u", "x-odd", "1"), nil},
		{"remove, then set, then add", Edit{Remove: []string{"X-A"}, Set: []Field{{"X-A", "1"}}, Add: []Field{{"X-A", "2"}}},
			fields("X-A", "0", "x-a", "00"), fields("X-A", "1", "X-A", "2")},
		{"an empty value", Edit{Set: []Field{{"X-A", ""}}}, fields("X-A", "0"), fields("X-A", "")},
		{"a known name gets its key", Edit{Set: []Field{{"Location", "/x"}}}, nil, fields("Location", "/x")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := (&Config{Request: tc.edit, Response: tc.edit}).Build(nil)
			if err != nil {
				t.Fatal(err)
			}
			ex := &exchange.Exchange{}
			ex.Out.Fields = slices.Clone(tc.in)
			ex.Response.Fields = slices.Clone(tc.in)
			f.Request(ex)
			f.Response(ex)
			if !slices.Equal(ex.Out.Fields, tc.want) {
				t.Errorf("request: got %v, want %v", ex.Out.Fields, tc.want)
			}
			if !slices.Equal(ex.Response.Fields, tc.want) {
				t.Errorf("response: got %v, want %v", ex.Response.Fields, tc.want)
			}
		})
	}
}

func TestOneDirection(t *testing.T) {
	f, err := (&Config{Request: Edit{Remove: []string{"X-A"}}}).Build(nil)
	if err != nil || f.Request == nil || f.Response != nil {
		t.Errorf("request alone: %+v, %v", f, err)
	}
	f, err = (&Config{Response: Edit{Remove: []string{"X-A"}}}).Build(nil)
	if err != nil || f.Request != nil || f.Response == nil {
		t.Errorf("response alone: %+v, %v", f, err)
	}
}

func TestHost(t *testing.T) {
	f, err := (&Config{Request: Edit{Set: []Field{{"host", "New.example:8080"}, {"X-A", "1"}}}}).Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex := &exchange.Exchange{}
	ex.Out.Authority, ex.Out.Host = "old.example", "old.example"
	f.Request(ex)
	if ex.Out.Authority != "new.example:8080" || ex.Out.Host != "new.example" {
		t.Errorf("authority %q, host %q", ex.Out.Authority, ex.Out.Host)
	}
	if want := fields("X-A", "1"); !slices.Equal(ex.Out.Fields, want) {
		t.Errorf("fields %v, want %v", ex.Out.Fields, want)
	}
}

func TestCheck(t *testing.T) {
	for _, name := range []string{"X-Test", "x", "Authorization", "Set-Cookie", "Server", "!#$%&'*+-.^_`|~1"} {
		if err := Check(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ":path", ":authority", "a b", "a:", "a\r\nb", "é", "a\x00", "(a)",
		"Host", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Keep-Alive",
		"Proxy-Connection", "TE", "Trailer", "Upgrade",
	} {
		if err := Check(name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	for _, value := range []string{"a\r\nb", "\n", "a\x00", "\x7f", " a", "a\t"} {
		if err := CheckField("X-A", value); err == nil {
			t.Errorf("value %q was accepted", value)
		}
	}
	for _, value := range []string{"", "a b\tc", "é"} {
		if err := CheckField("X-A", value); err != nil {
			t.Errorf("value %q: %v", value, err)
		}
	}
	for _, c := range []Config{
		{Request: Edit{Add: []Field{{"Host", "a"}}}},
		{Request: Edit{Remove: []string{"Host"}}},
		{Request: Edit{Set: []Field{{"Host", ""}}}},
		{Request: Edit{Set: []Field{{"Host", "a/b"}}}},
		{Request: Edit{Set: []Field{{"Host", "a b"}}}},
		{Request: Edit{Set: []Field{{"Content-Length", "1"}}}},
		{Response: Edit{Set: []Field{{"Host", "a"}}}},
		{Response: Edit{Add: []Field{{"Transfer-Encoding", "chunked"}}}},
		{Response: Edit{Remove: []string{"Content-Length"}}},
	} {
		if _, err := c.Build(nil); err == nil {
			t.Errorf("%+v was built", c)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	e := Edit{Set: []Field{{"X-A", "1"}, {"Server", "s"}}, Add: []Field{{"X-B", "2"}}, Remove: []string{"X-C"}}
	f, err := (&Config{Request: e, Response: e}).Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex := &exchange.Exchange{}
	if n := testing.AllocsPerRun(200, func() {
		ex.Reset()
		ex.Out.Fields.Add("X-C", "3")
		ex.Response.Fields.Add("X-A", "3")
		f.Request(ex)
		f.Response(ex)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
