package exchange

import (
	"errors"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestArena(t *testing.T) {
	var a Arena
	// Strings stay as they were while the buffer grows under them.
	var made, want []string
	for i := range 500 {
		s := strconv.Itoa(i)
		switch i % 4 {
		case 0:
			made = append(made, a.Concat("<", s, "", ">"))
			want = append(want, "<"+s+">")
		case 1:
			made = append(made, a.Uint(uint64(i)))
			want = append(want, s)
		case 2:
			b := []byte(s)
			made = append(made, a.Bytes(b))
			b[0] = 'x'
			want = append(want, s)
		default:
			made = append(made, a.Append(func(b []byte) []byte { return strconv.AppendInt(b, int64(-i), 10) }))
			want = append(want, "-"+s)
		}
	}
	for i := range made {
		if made[i] != want[i] {
			t.Errorf("string %d is %q, want %q", i, made[i], want[i])
		}
	}
	if a.Concat() != "" || a.Bytes(nil) != "" || a.Uint(0) != "0" || a.Uint(math.MaxUint64) != "18446744073709551615" {
		t.Error("the ends of the ranges")
	}
	if n := testing.AllocsPerRun(100, func() { a.Reset(); a.Concat("a", "b"); a.Uint(1 << 40) }); n != 0 {
		t.Errorf("%v allocations once it has grown", n)
	}
	a.Concat(strings.Repeat("x", 65<<10))
	if a.Reset(); cap(a.buf) != 0 {
		t.Errorf("%d bytes stay with it", cap(a.buf))
	}
}

func TestAnswer(t *testing.T) {
	var ex Exchange
	closed := 0
	ex.Response.Body = closing{&closed}
	ex.Response.Fields.Add("A", "1")
	ex.Response.Trailers.Add("B", "1")
	ex.Response.Length = 5
	if ex.Answer(403, "denied", "no") != Answered {
		t.Error("the verdict is not Answered")
	}
	r := &ex.Response
	if closed != 1 || r.Status != 403 || !r.Local || r.LocalReason != "denied" || r.Length != 2 || len(r.Fields) != 1 ||
		r.Fields[0].Key != KeyContentType || len(r.Trailers) != 0 {
		t.Errorf("closed %d, %+v", closed, r)
	}
	if !r.Body.Ready() {
		t.Error("not ready")
	}
	if p, err := r.Body.Next(); string(p) != "no" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
	if p, err := r.Body.Next(); len(p) > 0 || err != io.EOF {
		t.Errorf("%q, %v", p, err)
	}
	ex.Answer(204, "empty", "")
	if r.Body != nil || r.Length != 0 || len(r.Fields) != 0 {
		t.Errorf("%+v", r)
	}
	if n := testing.AllocsPerRun(100, func() { ex.Answer(403, "denied", "no") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

type closing struct{ n *int }

func (c closing) Next() ([]byte, error) { return nil, io.EOF }
func (c closing) Ready() bool           { return true }
func (c closing) Close()                { *c.n++ }

func TestResetForgetsTheExchangeButNotItsStorage(t *testing.T) {
	private := new(int)
	ex := Exchange{Private: private, Path: "/", ClientIP: netip.IPv6Loopback(), RequestID: "x", MatchedPrefix: 1, Route: &RouteInfo{},
		Consumer: Consumer{Name: "x"}, Upstream: Upstream{Tries: 1}, Start: time.Now(), Deadline: time.Now(), TryDeadline: time.Now(), Avoid: []string{"x"}}
	for _, r := range []*Request{&ex.In, &ex.Out} {
		*r = Request{Method: "GET", Scheme: "http", Authority: "a", Host: "a", Path: "/", Query: "x", HasQuery: true, Proto: HTTP11,
			Length: 1, Upgrade: "x", ExpectContinue: true}
		r.Fields.Add("A", "b")
		r.Trailers.Add("A", "b")
	}
	ex.Answer(200, "x", "y")
	ex.Arena.Concat("x")
	fields := cap(ex.In.Fields)
	ex.Reset()
	if ex.Private != private || cap(ex.In.Fields) != fields {
		t.Error("the handler's state or storage is gone")
	}
	for _, r := range []*Request{&ex.In, &ex.Out} {
		if r.Method+r.Scheme+r.Authority+r.Host+r.Path+r.Query+r.Upgrade != "" || r.HasQuery || r.Proto != 0 || r.Length != 0 ||
			r.ExpectContinue || r.Body != nil || len(r.Fields)+len(r.Trailers) != 0 {
			t.Errorf("%+v", r)
		}
	}
	if ex.Response.Status != 0 || ex.Response.Body != nil || len(ex.Response.Fields) != 0 || ex.Path != "" || ex.ClientIP.IsValid() ||
		ex.RequestID != "" || ex.MatchedPrefix != 0 || ex.Route != nil || ex.Consumer != (Consumer{}) || ex.Upstream != (Upstream{}) ||
		!ex.Start.IsZero() || !ex.Deadline.IsZero() || !ex.TryDeadline.IsZero() || len(ex.Avoid) != 0 {
		t.Errorf("%+v", &ex)
	}
}

func TestErrorsAreUnwrapped(t *testing.T) {
	for _, err := range []error{&UpstreamError{Reason: "reset", Err: io.EOF}, &ClientError{Reason: "reset", Err: io.EOF}} {
		if !errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "reset") {
			t.Errorf("%v", err)
		}
	}
}

func TestProtoNames(t *testing.T) {
	for p, want := range map[Proto]string{HTTP10: "HTTP/1.0", HTTP11: "HTTP/1.1", HTTP2: "HTTP/2.0", HTTP3: "HTTP/3.0", 0: "HTTP/?"} {
		if p.String() != want {
			t.Errorf("%d: %q", p, p)
		}
	}
}

func TestVaryBy(t *testing.T) {
	for _, c := range []struct{ from, want []string }{
		{nil, []string{"Vary: Origin"}},
		{[]string{"Vary: Cookie", "vary: Accept"}, []string{"Vary: Cookie", "vary: Accept, Origin"}},
		{[]string{"Vary: accept, origin", "Vary: Cookie"}, []string{"Vary: accept, origin", "Vary: Cookie"}},
		{[]string{"Vary: *"}, []string{"Vary: *"}},
	} {
		ex := &Exchange{}
		ex.Response.Fields = list(c.from...)
		ex.VaryBy("Origin")
		if want := list(c.want...); !slices.Equal(ex.Response.Fields, want) {
			t.Errorf("%v: %v, want %v", c.from, ex.Response.Fields, want)
		}
	}
}
