package extauth

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
)

// server is an authorization server: it fails with each of errs, and then answers.
type server struct {
	errs     []error
	asked    int
	content  []byte // of the last question
	status   int
	fields   exchange.Fields
	trailers exchange.Fields
	answer   content
	released int
}

func (s *server) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	s.asked++
	s.content = s.content[:0]
	for {
		part, err := ex.Out.Body.Next()
		if err == io.EOF {
			break
		}
		s.content = append(s.content, part...)
	}
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	s.answer.read = false
	ex.Response.Status, ex.Response.Length = s.status, int64(len(s.answer.bytes))
	ex.Response.Fields = append(ex.Response.Fields, s.fields...)
	ex.Response.Trailers = append(ex.Response.Trailers, s.trailers...)
	ex.Response.Body = &s.answer
	return s, nil
}

func (s *server) Release() { s.released++ }

func build(t testing.TB, c *Config, s *server) policy.Filter {
	t.Helper()
	c.Cluster, c.Timeout = "auth", 10*time.Second
	f, err := c.Build(&policy.Env{
		Metrics: observe.NewMetrics("test"), Context: context.Background(),
		Upstream: func(string) policy.Upstream { return s },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Release)
	return f
}

func request() *exchange.Exchange {
	ex := &exchange.Exchange{Conn: &exchange.Conn{Remote: netip.MustParseAddrPort("192.0.2.1:4000"), Local: netip.MustParseAddrPort("192.0.2.2:80")}}
	fill(ex)
	return ex
}

func fill(ex *exchange.Exchange) {
	ex.ClientIP = ex.Conn.Remote.Addr()
	ex.In.Proto = exchange.HTTP11
	out := &ex.Out
	out.Method, out.Scheme, out.Authority, out.Host, out.Path, out.Query, out.HasQuery = "POST", "http", "h.example.com", "h.example.com", "/a", "b=c", true
	out.Fields = append(out.Fields, exchange.NewField("Accept", "x"), exchange.NewField("Authorization", "me"),
		exchange.NewField("X-Many", "1"), exchange.NewField("x-many", "2"), exchange.NewField("X-User", "mallory"))
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func message(n protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(parts, nil))
}

// yes is a CheckResponse with a field for the request and one for the response.
func yes() *server {
	field := func(n protowire.Number, name string) []byte {
		return message(n, message(optionHeader, message(pairKey, []byte(name)), message(pairValue, []byte("alice"))))
	}
	return &server{status: 200, trailers: exchange.Fields{exchange.NewField("Grpc-Status", "0")}, answer: content{
		bytes: framed(bytes.Join([][]byte{message(responseStatus), message(responseOK, field(okHeaders, "X-User"), field(okResponseHeaders, "X-Seen"))}, nil))}}
}

// TestTriesAgain sends a question once more that a reused connection may not
// have carried, whatever its method, and gives up after that.
func TestTriesAgain(t *testing.T) {
	stale := &exchange.UpstreamError{Stage: exchange.Stale, Reason: "reset"}
	for _, tt := range []struct {
		name   string
		errs   []error
		asked  int
		status int
		reason string
	}{
		{"once", []error{stale}, 2, 0, ""},
		{"twice", []error{stale, stale}, 2, 503, "auth_unavailable"},
		{"begun", []error{&exchange.UpstreamError{Stage: exchange.Sending, Reason: "reset"}}, 1, 503, "auth_unavailable"},
		{"malformed", []error{&exchange.UpstreamError{Stage: exchange.Receiving, Reason: "malformed_response"}}, 1, 503, "auth_malformed"},
		{"other", []error{errors.New("x")}, 1, 503, "auth_unavailable"},
	} {
		s := yes()
		s.errs = tt.errs
		f := build(t, &Config{Protocol: GRPC}, s)
		ex := request()
		f.Request(ex)
		if s.asked != tt.asked || ex.Response.Status != tt.status || ex.Response.LocalReason != tt.reason || len(s.content) == 0 {
			t.Errorf("%s: asked %d times, answered %d %s", tt.name, s.asked, ex.Response.Status, ex.Response.LocalReason)
		}
		if user, _ := ex.Out.Fields.Get("X-User"); (user == "alice") != (tt.status == 0) {
			t.Errorf("%s: the user is %s", tt.name, user)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	env := &policy.Env{Metrics: observe.NewMetrics("test"), Upstream: func(cluster string) policy.Upstream {
		if cluster == "auth" {
			return &server{}
		}
		return nil
	}}
	for name, c := range map[string]*Config{
		"no protocol": {Cluster: "auth", Timeout: 1},
		"no timeout":  {Cluster: "auth", Protocol: HTTP},
		"no cluster":  {Cluster: "other", Protocol: HTTP, Timeout: 1},
		"path":        {Cluster: "auth", Protocol: HTTP, Timeout: 1, Path: "a"},
		"host":        {Cluster: "auth", Protocol: HTTP, Timeout: 1, ResponseHeaders: []string{"Host"}},
	} {
		if _, err := c.Build(env); err == nil {
			t.Errorf("%s: it was built", name)
		}
	}
}

func TestGRPCTimeout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Microsecond: "1S", 250 * time.Millisecond: "250m", time.Minute: "60000m", 48 * time.Hour: "172801S",
	} {
		if got := grpcTimeout(d); got != want {
			t.Errorf("%s is %s, want %s", d, got, want)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		config *Config
		server *server
		want   exchange.Verdict
	}{
		"HTTP": {&Config{Protocol: HTTP, RequestHeaders: []string{"accept"}, Path: "/check"},
			&server{status: 200, fields: exchange.Fields{exchange.NewField("X-User", "alice")}}, exchange.Continue},
		"HTTP, denied": {&Config{Protocol: HTTP},
			&server{status: 403, fields: exchange.Fields{exchange.NewField("Why", "so")}, answer: content{bytes: []byte("no")}}, exchange.Answered},
		"GRPC": {&Config{Protocol: GRPC}, yes(), exchange.Continue},
	} {
		f := build(t, tt.config, tt.server)
		ex := request()
		if n := testing.AllocsPerRun(200, func() {
			ex.Reset()
			fill(ex)
			if f.Request(ex) != tt.want {
				t.Fatalf("%s: %d %s", name, ex.Response.Status, ex.Response.LocalReason)
			}
			if f.Response != nil {
				f.Response(ex)
			}
		}); n > 0.5 && !raceEnabled { // the pool may be emptied meanwhile
			t.Errorf("%s: %v allocations", name, n)
		}
		if tt.server.released != tt.server.asked {
			t.Errorf("%s: asked %d times, released %d", name, tt.server.asked, tt.server.released)
		}
	}
}

// FuzzCheckResponse holds that whatever an answer says, what comes of it can be
// sent: no field that ends its line or frames the message.
func FuzzCheckResponse(f *testing.F) {
	f.Add(yes().answer.bytes[5:])
	f.Add(message(responseDenied, message(deniedHeaders, message(optionHeader, message(pairKey, []byte("a\r\n"))))))
	f.Add(message(responseOK, message(okQueryToSet, message(pairKey, []byte("a")))))
	f.Fuzz(func(t *testing.T, answer []byte) {
		s := &server{status: 200, trailers: exchange.Fields{exchange.NewField("Grpc-Status", "0")}, answer: content{bytes: framed(answer)}}
		ex := request()
		filter := build(t, &Config{Protocol: GRPC}, s)
		if filter.Request(ex) == exchange.Continue {
			filter.Response(ex)
		} else if ex.Response.Status < 300 {
			t.Errorf("answered %d", ex.Response.Status)
		}
		for _, fields := range []exchange.Fields{ex.Out.Fields, ex.Response.Fields} {
			for _, field := range fields {
				if err := checkField([]byte(field.Name), []byte(field.Value)); err != nil {
					t.Errorf("%q: %q: %v", field.Name, field.Value, err)
				}
			}
		}
	})
}

// FuzzCheckRequest holds that a question is a message whose strings are UTF-8,
// whatever the client has sent.
func FuzzCheckRequest(f *testing.F) {
	f.Add("/a", "b=c", "X-A", "caf\xe9", []byte("content"))
	f.Fuzz(func(t *testing.T, path, query, name, value string, body []byte) {
		ex := request()
		ex.Out.Path, ex.Out.Query = path, query
		ex.Out.Fields = append(ex.Out.Fields, exchange.Field{Name: name, Value: value}, exchange.Field{Name: name, Value: value})
		var e encoder
		e.checkRequest(ex, nil, body, true)
		var got string
		err := each(e.b, func(_ int, attributes []byte) error {
			return each(attributes, func(n int, request []byte) error {
				if n != attributesRequest {
					return nil
				}
				return each(request, func(n int, http []byte) error {
					if n != requestHTTP {
						return nil
					}
					return each(http, func(n int, v []byte) error {
						if n == httpPath {
							got = string(v)
						}
						return nil
					})
				})
			})
		})
		var want encoder
		want.utf8(path + "?" + query)
		if err != nil || got != string(want.b) {
			t.Errorf("%v, path %q, want %q", err, got, want.b)
		}
	})
}
