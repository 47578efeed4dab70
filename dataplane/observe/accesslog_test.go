package observe

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fullExchange() *exchange.Exchange {
	ex := &exchange.Exchange{
		Conn:      &exchange.Conn{Remote: netip.MustParseAddrPort("10.1.2.3:4567")},
		ClientIP:  netip.MustParseAddr("192.0.2.9"),
		RequestID: "4bf92f35",
		Consumer:  exchange.Consumer{Name: "alice"},
		Route: &exchange.RouteInfo{
			Kind: "HTTPRoute", Namespace: "shop", Name: "orders", Rule: "0", Listener: "shop/web/http",
		},
		Upstream: exchange.Upstream{
			Cluster: "Service/shop/orders/80", Endpoint: "10.0.0.7:8080", Tries: 2, Wait: 1500 * time.Microsecond,
		},
		Start: time.Date(2026, 11, 23, 20, 38, 18, 123456789, time.UTC),
		Sent:  42, Received: 7,
	}
	ex.In = exchange.Request{
		Method: "POST", Scheme: "https", Authority: "shop.example.com", Path: "/orders",
		Query: "api_key=secret", HasQuery: true, Proto: exchange.HTTP11,
	}
	ex.In.Fields.Add("User-Agent", `curl/8 "x"`)
	ex.In.Fields.Add("Referer", "https://shop.example.com/basket?token=secret")
	ex.Response.Status = 201
	return ex
}

func TestLines(t *testing.T) {
	cut := fullExchange()
	cut.Response.Status = 200
	local := &exchange.Exchange{Start: fullExchange().Start}
	local.In.Method, local.In.Path, local.In.Proto = "GET", "/no such", exchange.HTTP10
	local.Answer(404, "no_route", "")

	grpc := &exchange.Exchange{Start: fullExchange().Start}
	grpc.In.Method, grpc.In.Path, grpc.In.Proto = "POST", "/shop.Orders/Get", exchange.HTTP2
	grpc.In.Fields.Add("Content-Type", "application/grpc")
	grpc.Response.Status = 200
	grpc.Response.Trailers.Add("Grpc-Status", "5")

	for _, c := range []struct {
		name       string
		ex         *exchange.Exchange
		err        error
		json, text string
	}{
		{
			name: "full", ex: fullExchange(),
			json: `{"time":"2026-11-23T20:38:18.123456Z","remote":"10.1.2.3:4567","client":"192.0.2.9","request_id":"4bf92f35",` +
				`"method":"POST","scheme":"https","authority":"shop.example.com","path":"/orders","protocol":"HTTP/1.1","status":201,` +
				`"received_bytes":7,"sent_bytes":42,"duration_us":2000,"upstream_wait_us":1500,"listener":"shop/web/http",` +
				`"route":"HTTPRoute/shop/orders","rule":"0","cluster":"Service/shop/orders/80","endpoint":"10.0.0.7:8080","tries":2,` +
				`"consumer":"alice","user_agent":"curl/8 \"x\"","referer":"https://shop.example.com/basket","flags":["retried"]}`,
			text: `192.0.2.9 - alice [23/Nov/2026:20:38:18 +0000] "POST /orders HTTP/1.1" 201 42 "https://shop.example.com/basket" ` +
				`"curl/8 \x22x\x22" id=4bf92f35 host=shop.example.com route=HTTPRoute/shop/orders cluster=Service/shop/orders/80 ` +
				`endpoint=10.0.0.7:8080 us=2000 upstream_wait_us=1500 reason=- flags=retried`,
		},
		{
			name: "local", ex: local,
			json: `{"time":"2026-11-23T20:38:18.123456Z","method":"GET","path":"/no such","protocol":"HTTP/1.0","status":404,` +
				`"received_bytes":0,"sent_bytes":0,"duration_us":2000,"upstream_wait_us":0,"reason":"no_route","flags":["local"]}`,
			text: `- - - [23/Nov/2026:20:38:18 +0000] "GET /no\x20such HTTP/1.0" 404 0 "-" "-" id=- host=- route=- cluster=- ` +
				`endpoint=- us=2000 upstream_wait_us=0 reason=no_route flags=local`,
		},
		{
			name: "cut", ex: cut, err: &exchange.UpstreamError{Stage: exchange.Receiving, Reason: "reset", Err: io.ErrUnexpectedEOF},
			json: `{"time":"2026-11-23T20:38:18.123456Z","remote":"10.1.2.3:4567","client":"192.0.2.9","request_id":"4bf92f35",` +
				`"method":"POST","scheme":"https","authority":"shop.example.com","path":"/orders","protocol":"HTTP/1.1","status":200,` +
				`"received_bytes":7,"sent_bytes":42,"duration_us":2000,"upstream_wait_us":1500,"listener":"shop/web/http",` +
				`"route":"HTTPRoute/shop/orders","rule":"0","cluster":"Service/shop/orders/80","endpoint":"10.0.0.7:8080","tries":2,` +
				`"consumer":"alice","user_agent":"curl/8 \"x\"","referer":"https://shop.example.com/basket",` +
				`"reason":"upstream:reset","flags":["retried","cut"]}`,
			text: `192.0.2.9 - alice [23/Nov/2026:20:38:18 +0000] "POST /orders HTTP/1.1" 200 42 "https://shop.example.com/basket" ` +
				`"curl/8 \x22x\x22" id=4bf92f35 host=shop.example.com route=HTTPRoute/shop/orders cluster=Service/shop/orders/80 ` +
				`endpoint=10.0.0.7:8080 us=2000 upstream_wait_us=1500 reason=upstream:reset flags=retried,cut`,
		},
		{
			name: "gRPC", ex: grpc,
			json: `{"time":"2026-11-23T20:38:18.123456Z","method":"POST","path":"/shop.Orders/Get","protocol":"HTTP/2.0","status":200,` +
				`"grpc_status":"5","received_bytes":0,"sent_bytes":0,"duration_us":2000,"upstream_wait_us":0,"flags":[]}`,
			text: `- - - [23/Nov/2026:20:38:18 +0000] "POST /shop.Orders/Get HTTP/2.0" 200 0 "-" "-" id=- host=- route=- cluster=- ` +
				`endpoint=- grpc_status=5 us=2000 upstream_wait_us=0 reason=- flags=-`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.json+"\n", string(appendJSON(nil, c.ex, 2*time.Millisecond, c.err))); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.text+"\n", string(appendText(nil, c.ex, 2*time.Millisecond, c.err))); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCause(t *testing.T) {
	ex := &exchange.Exchange{}
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{&exchange.ClientError{Reason: "gone"}, "client:gone"},
		{errors.Join(io.EOF, &exchange.UpstreamError{Reason: "reset"}), "upstream:reset"},
		{io.ErrUnexpectedEOF, "error"},
	} {
		if side, reason := cause(ex, c.err); side+reason != c.want {
			t.Errorf("%v: %q, want %q", c.err, side+reason, c.want)
		}
	}
}

func TestLoggingAllocatesNothing(t *testing.T) {
	ex := fullExchange()
	for _, format := range []Format{JSON, Text} {
		l := NewAccessLog(io.Discard, format)
		line := func() { l.Log(ex, time.Millisecond, nil) }
		for range 20_000 { // both buffers have grown
			line()
		}
		if n := testing.AllocsPerRun(1000, line); n >= 1 && !raceEnabled {
			t.Errorf("format %d: %v allocations a line", format, n)
		}
		l.Close()
	}
}

func TestNilLogsNothing(t *testing.T) {
	var l *AccessLog
	l.Log(fullExchange(), 0, nil)
	if l.Dropped() != 0 || l.Close() != nil {
		t.Error("a nil log is not quiet")
	}
}

// A line appears without Close, and whole.
func TestLinesAreFlushedInTime(t *testing.T) {
	r, w := io.Pipe()
	l := NewAccessLog(w, JSON)
	ex := fullExchange()
	lines := bufio.NewScanner(r)
	for i := range 3 {
		l.Log(ex, time.Millisecond, nil)
		if !lines.Scan() {
			t.Fatalf("line %d did not come", i)
		}
		if !json.Valid(lines.Bytes()) {
			t.Errorf("not JSON: %s", lines.Bytes())
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// stuckWriter blocks until released, and fails from then on if err is set.
type stuckWriter struct {
	release chan struct{}
	err     error
	mu      sync.Mutex
	got     bytes.Buffer
}

func (w *stuckWriter) Write(b []byte) (int, error) {
	<-w.release
	if w.err != nil {
		return 0, w.err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got.Write(b)
}

func TestSlowWriterDropsAndCounts(t *testing.T) {
	w := &stuckWriter{release: make(chan struct{})}
	l := NewAccessLog(w, Text)
	ex := fullExchange()
	line := len(appendText(nil, ex, time.Millisecond, nil))
	n := 3 * maxBuffered / line
	for range n { // never waits for the writer
		l.Log(ex, time.Millisecond, nil)
	}
	dropped := l.Dropped()
	if dropped < uint64(n)/4 {
		t.Errorf("%d of %d lines dropped: the buffer is not bounded", dropped, n)
	}
	close(w.release)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := bytes.Count(w.got.Bytes(), newline); got != n-int(dropped) {
		t.Errorf("%d lines written and %d dropped of %d", got, dropped, n)
	}
	if w.got.Len()%line != 0 {
		t.Error("a line was written in part")
	}
	l.Log(ex, 0, nil)
	if l.Dropped() != dropped+1 {
		t.Error("a line logged after Close is not counted as dropped")
	}
}

func TestFailedWritesAreCounted(t *testing.T) {
	w := &stuckWriter{release: make(chan struct{}), err: errors.New("disk full")}
	close(w.release)
	l := NewAccessLog(w, Text)
	l.Log(fullExchange(), 0, nil)
	l.Log(fullExchange(), 0, nil)
	if err := l.Close(); err == nil || err.Error() != "disk full" {
		t.Errorf("Close: %v", err)
	}
	if l.Dropped() != 2 {
		t.Errorf("%d dropped, want 2", l.Dropped())
	}
}

func TestParseFormat(t *testing.T) {
	for s, want := range map[string]Format{"json": JSON, "text": Text} {
		if got, err := ParseFormat(s); got != want || err != nil {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	if _, err := ParseFormat("xml"); err == nil {
		t.Error("xml is no format")
	}
}

// Whatever a client sends, a JSON line is one line of valid JSON from which the
// value can be had back, and a text line is one line of printable ASCII whose
// quotes pair up.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{
		"", "plain", `"quoted" \back\`, "two\nlines\r\n", "\x00\x1b[31m\x7f", "\xff\xfe broken \xc3", "ünïcödé \u2028\u2029\u0085", `\x22`,
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		ex := fullExchange()
		ex.In.Path, ex.In.Method, ex.In.Authority = a, b, a
		ex.RequestID, ex.Consumer.Name = b, a
		ex.In.Fields.Set("User-Agent", b)
		ex.In.Fields.Set("Referer", a)

		line := appendJSON(nil, ex, time.Millisecond, nil)
		if n := bytes.Count(line, newline); n != 1 || line[len(line)-1] != '\n' {
			t.Fatalf("%d newlines: %q", n, line)
		}
		if !utf8.Valid(line) {
			t.Fatalf("not UTF-8: %q", line)
		}
		var got struct {
			Path      string `json:"path"`
			UserAgent string `json:"user_agent"`
			Consumer  string `json:"consumer"`
			Status    int    `json:"status"`
		}
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		want := strings.ToValidUTF8(a, "\ufffd")
		if utf8.ValidString(a) && (got.Path != want || got.Consumer != want) {
			t.Fatalf("path %q, consumer %q, want %q", got.Path, got.Consumer, want)
		}
		if utf8.ValidString(b) && got.UserAgent != b {
			t.Fatalf("user agent %q, want %q", got.UserAgent, b)
		}
		if got.Status != 201 {
			t.Fatalf("status %d: the line was broken into", got.Status)
		}

		text := appendText(nil, ex, time.Millisecond, nil)
		for i, c := range text[:len(text)-1] {
			if c < 0x20 || c >= 0x7f {
				t.Fatalf("byte %#x at %d: %q", c, i, text)
			}
		}
		if n := bytes.Count(text, []byte{'"'}); n != 6 {
			t.Fatalf("%d quotes: %q", n, text)
		}
		if !bytes.HasSuffix(text, []byte(" upstream_wait_us=1500 reason=- flags=retried\n")) {
			t.Fatalf("the line was broken into: %q", text)
		}
	})
}

func BenchmarkLine(b *testing.B) {
	for name, format := range map[string]Format{"json": JSON, "text": Text} {
		b.Run(name, func(b *testing.B) {
			l := NewAccessLog(io.Discard, format)
			defer l.Close()
			ex := fullExchange()
			b.ReportAllocs()
			for b.Loop() {
				l.Log(ex, time.Millisecond, nil)
			}
		})
	}
}
