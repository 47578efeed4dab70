package pipeline

import (
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

func TestParseGRPCTimeout(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "4m": 4 * time.Millisecond, "5u": 5 * time.Microsecond,
		"99999999n": 99999999, "0n": 0,
	} {
		if got, ok := parseGRPCTimeout(value); got != want || !ok {
			t.Errorf("%q: %v, %v", value, got, ok)
		}
	}
	for _, value := range []string{"", "S", "1", "1s", "-1S", "1.5S", " 1S", "123456789S", "99999999H", "1 S", "１S"} {
		if got, ok := parseGRPCTimeout(value); ok {
			t.Errorf("%q is taken for %v", value, got)
		}
	}
}

func FuzzParseGRPCTimeout(f *testing.F) {
	f.Add("1S")
	f.Add("99999999H")
	f.Fuzz(func(t *testing.T, value string) {
		if d, ok := parseGRPCTimeout(value); ok && (d < 0 || len(value) > 9 || strings.Trim(value, "0123456789HMSmun") != "") {
			t.Errorf("%q: %v", value, d)
		}
	})
}

func TestAnswerGRPC(t *testing.T) {
	call := func(contentType string, proto exchange.Proto) *exchange.Exchange {
		ex := &exchange.Exchange{}
		ex.In.Proto = proto
		ex.In.Fields.Add("Content-Type", contentType)
		return ex
	}
	for _, c := range []struct {
		status       int
		reason, want string
	}{
		{400, "malformed", "13"}, {401, "no_credential", "16"}, {403, "forbidden", "7"}, {404, "no_route", "12"}, {405, "x", "2"},
		{408, "x", "4"}, {413, "content_too_large", "8"}, {421, "misdirected", "14"}, {429, "rate_limited", "14"}, {431, "x", "8"},
		{500, "broken_rule", "13"}, {500, "no_backend", "14"}, {500, "unresolved_backend", "14"}, {502, "reset", "14"},
		{503, "overloaded_cpu", "14"}, {504, "timeout", "4"},
	} {
		ex := call("application/grpc", exchange.HTTP2)
		ex.Answer(c.status, c.reason, "100% no,\n\tï.\n")
		ex.Response.Fields.Add("Retry-After", "1")
		answerGRPC(ex)
		r := &ex.Response
		message, _ := r.Fields.Get("grpc-message")
		if r.Status != 200 || r.GRPCStatus() != c.want || r.Body != nil || r.Length != 0 || !r.Local || r.LocalReason != c.reason ||
			message != "100%25 no,%0A%09%C3%AF." || r.Fields.Value(exchange.KeyContentType) != "application/grpc" || r.Fields.Value(exchange.KeyRetryAfter) != "1" {
			t.Errorf("%d %s: %+v", c.status, c.reason, r)
		}
	}
	for name, ex := range map[string]*exchange.Exchange{
		"gRPC-Web": call("application/grpc-web", exchange.HTTP2), "HTTP/1.1": call("application/grpc", exchange.HTTP11), "JSON": call("application/json", exchange.HTTP2),
	} {
		if ex.Answer(404, "no_route", "no"); ex.Response.GRPCStatus() != "" {
			t.Fatal("there is a status already")
		}
		if answerGRPC(ex); ex.Response.Status != 404 || ex.Response.GRPCStatus() != "" {
			t.Errorf("%s: %+v", name, ex.Response)
		}
	}
	redirected := call("application/grpc", exchange.HTTP2)
	redirected.Answer(302, "redirect", "")
	if answerGRPC(redirected); redirected.Response.Status != 302 {
		t.Error("a redirection became a gRPC status")
	}
	upstream := call("application/grpc", exchange.HTTP2)
	upstream.Response.Status = 503
	if answerGRPC(upstream); upstream.Response.Status != 503 {
		t.Error("an upstream's own answer was changed")
	}
}
