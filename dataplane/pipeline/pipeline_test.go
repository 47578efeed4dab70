package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster that answers 200, or fails with err.
type fake struct {
	cfg *snapshot.Cluster
	err error
	out bool // it is not Available

	mu       sync.Mutex
	eps      *snapshot.Endpoints
	requests []string // "METHOD path content", then the fields, a line each
	updates  int
	closed   bool
	released int
	began    chan bool // if not nil, RoundTrip waits on it
}

func (f *fake) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	if f.began != nil {
		<-f.began
	}
	ex.Upstream.Cluster, ex.Upstream.Tries = f.cfg.Key, 1
	if f.err != nil {
		return nil, f.err
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s", ex.Out.Method, ex.Out.Path)
	if ex.Out.Body != nil {
		text.WriteByte(' ')
		for {
			part, err := ex.Out.Body.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, err
			}
			text.Write(part)
		}
	}
	for _, field := range ex.Out.Fields {
		fmt.Fprintf(&text, "\n%s: %s", field.Name, field.Value)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, text.String())
	ex.Response.Status, ex.Response.Proto, ex.Response.Length = 200, exchange.HTTP11, 0
	ex.Response.Fields.Add("Cluster", f.cfg.Key)
	return f, nil
}

func (f *fake) Release()                        { f.mu.Lock(); f.released++; f.mu.Unlock() }
func (f *fake) Update(cfg *snapshot.Cluster)    { f.cfg = cfg; f.updates++ }
func (f *fake) State() []upstream.EndpointState { return nil }
func (f *fake) Close()                          { f.closed = true }
func (f *fake) Circuit() *upstream.CircuitState { return nil }
func (f *fake) AllowRetry() bool                { return true }
func (f *fake) BeginRetry() bool                { return true }
func (f *fake) EndRetry()                       {}
func (f *fake) AllowHedge() bool                { return true }
func (f *fake) HedgeDelay(int) time.Duration    { return 0 }
func (f *fake) Answered(time.Duration)          {}
func (f *fake) Available(int) bool              { return !f.out }
func (f *fake) SetEndpoints(eps *snapshot.Endpoints) {
	f.mu.Lock()
	f.eps = eps
	f.mu.Unlock()
}

func (f *fake) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// step is a filter that writes down what happens to it.
type step struct {
	name  string
	log   *[]string
	limit int64
	// answer, if not 0, is what it answers; fail makes Build fail.
	answer int
	fail   bool
	bug    bool // panics on the way in,
	bugOut bool // on the way out
}

func (s *step) Kind() string { return s.name }

func (s *step) Build(*policy.Env) (policy.Filter, error) {
	if s.fail {
		return policy.Filter{}, errors.New("it is broken")
	}
	note := func(what string) { *s.log = append(*s.log, s.name+" "+what) }
	note("built")
	return policy.Filter{
		BodyLimit: s.limit,
		Request: func(ex *exchange.Exchange) exchange.Verdict {
			note("in")
			if s.bug {
				panic("a bug")
			}
			if s.answer != 0 {
				return ex.Answer(s.answer, s.name, "")
			}
			return exchange.Continue
		},
		Response: func(ex *exchange.Exchange) {
			note(fmt.Sprintf("out %d", ex.Response.Status))
			if s.bugOut {
				panic("a bug")
			}
		},
		Release: func() { note("released") },
	}, nil
}

// bench is a pipeline over fakes with one listener on "tcp/80".
type bench struct {
	*Pipeline
	t     *testing.T
	snap  snapshot.Snapshot
	fakes map[string]*fake
	log   []string
}

const gateway = "shop/gateway/http"

func newBench(t *testing.T, edit ...func(*Options)) *bench {
	b := &bench{t: t, fakes: map[string]*fake{}}
	opts := Options{
		NewCluster: func(cfg *snapshot.Cluster, eps *snapshot.Endpoints) Cluster {
			f := &fake{cfg: cfg, eps: eps}
			b.fakes[cfg.Key] = f
			return f
		},
		Env:     &policy.Env{},
		Metrics: observe.NewMetrics(""),
	}
	for _, e := range edit {
		e(&opts)
	}
	b.Pipeline = New(opts)
	b.listen(&snapshot.Listener{Key: gateway, Port: 8080, Protocol: "HTTP"})
	for _, key := range []string{"a", "b"} {
		b.snap.Clusters = b.snap.Clusters.With(key, &snapshot.Cluster{Key: key, Source: snapshot.Ref{Kind: "Service", Namespace: "shop", Name: key}})
	}
	return b
}

func (b *bench) listen(listeners ...*snapshot.Listener) {
	b.snap.Ports = []*snapshot.Port{{Key: "tcp/80", Number: 80, Transport: "tcp", Listeners: listeners}}
}

func (b *bench) host(listener, hostname string, routes ...*snapshot.Route) {
	b.snap.Hosts = b.snap.Hosts.With(snapshot.HostKey(listener, hostname),
		&snapshot.VirtualHost{Listener: listener, Hostname: hostname, Routes: routes})
}

func (b *bench) apply() error {
	snap := b.snap
	return b.Apply(&snap, nil)
}

func (b *bench) must() {
	b.t.Helper()
	if err := b.apply(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) step(name string, edit ...func(*step)) *step {
	s := &step{name: name, log: &b.log}
	for _, e := range edit {
		e(s)
	}
	return s
}

// to is a route for everything, edited.
func to(cluster string, edit ...func(*snapshot.Route)) *snapshot.Route {
	r := &snapshot.Route{
		Match: snapshot.Match{Path: snapshot.PathMatch{Type: "PathPrefix", Value: "/"}},
		Rule: &snapshot.Rule{
			Source:   snapshot.Ref{Kind: "HTTPRoute", Namespace: "shop", Name: "route", Section: "0"},
			Backends: []snapshot.Backend{{Cluster: cluster, Weight: 1}},
		},
	}
	for _, e := range edit {
		e(r)
	}
	return r
}

func filters(list ...policy.Config) func(*snapshot.Route) {
	return func(r *snapshot.Route) { r.Rule.Filters = list }
}

// content is a body in parts.
type content struct {
	parts  []string
	err    error
	closed atomic.Bool
}

func (c *content) Next() ([]byte, error) {
	if len(c.parts) == 0 {
		if c.err != nil {
			return nil, c.err
		}
		return nil, io.EOF
	}
	part := c.parts[0]
	c.parts = c.parts[1:]
	return []byte(part), nil
}
func (c *content) Ready() bool { return true }
func (c *content) Close()      { c.closed.Store(true) }

// request makes an exchange; fields are "Name: value", "Host" the authority.
func request(line string, fields ...string) *exchange.Exchange {
	ex := &exchange.Exchange{Start: time.Now(), Client: exchange.Nobody{}, Conn: &exchange.Conn{
		Port: "tcp/80", Remote: netip.MustParseAddrPort("192.0.2.1:1234"),
	}}
	in := &ex.In
	var target string
	in.Method, target, _ = strings.Cut(line, " ")
	in.Path, in.Query, in.HasQuery = strings.Cut(target, "?")
	in.Scheme, in.Proto = "http", exchange.HTTP11
	in.Authority, in.Host = "example.com", "example.com"
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		if name == "Host" {
			in.SetAuthority(value)
			continue
		}
		in.Fields.Add(name, value)
	}
	return ex
}

func withBody(ex *exchange.Exchange, length int64, parts ...string) (*exchange.Exchange, *content) {
	body := &content{parts: parts}
	ex.In.Body, ex.In.Length = body, length
	return ex, body
}

// do serves the exchange and returns its response's status and LocalReason.
func (b *bench) do(ex *exchange.Exchange) (int, string) {
	b.t.Helper()
	b.Serve(ex)
	status, reason := ex.Response.Status, ex.Response.LocalReason
	b.Done(ex, nil)
	if n := b.InFlight(); n != 0 {
		b.t.Errorf("%d in flight after the last is done", n)
	}
	return status, reason
}

func TestAnswers(t *testing.T) {
	broken := func(r *snapshot.Route) { r.Rule.Broken = "an invalid AuthPolicy" }
	upstreamError := func(reason string) error {
		return &exchange.UpstreamError{Stage: exchange.Dialing, Reason: reason, Err: errors.New(reason)}
	}
	tests := []struct {
		name   string
		route  *snapshot.Route
		ex     *exchange.Exchange
		err    error
		status int
		reason string
	}{
		{"proxied", to("a"), request("GET /"), nil, 200, ""},
		{"no route", to("a", func(r *snapshot.Route) { r.Match.Method = "PUT" }), request("GET /"), nil, 404, "no_route"},
		{"broken", to("a", broken), request("GET /"), nil, 500, "broken_rule"},
		{"no backend", to("a", func(r *snapshot.Route) { r.Rule.Backends = nil }), request("GET /"), nil, 500, "no_backend"},
		{"no weight", to("a", func(r *snapshot.Route) { r.Rule.Backends[0].Weight = 0 }), request("GET /"), nil, 500, "no_backend"},
		{"unresolved", to(""), request("GET /"), nil, 500, "unresolved_backend"},
		{"refused", to("a"), request("GET /"), upstreamError("connect_refused"), 502, "connect_refused"},
		{"reset", to("a"), request("GET /"), upstreamError("reset"), 502, "reset"},
		{"malformed", to("a"), request("GET /"), upstreamError("malformed_response"), 502, "malformed_response"},
		{"unknown", to("a"), request("GET /"), errors.New("what?"), 502, "upstream_error"},
		{"connect timeout", to("a"), request("GET /"), upstreamError("connect_timeout"), 504, "connect_timeout"},
		{"timeout", to("a"), request("GET /"), upstreamError("timeout"), 504, "timeout"},
		{"no endpoint", to("a"), request("GET /"), upstreamError("no_endpoint"), 503, "no_endpoint"},
		{"client", to("a"), request("GET /"), &exchange.ClientError{Status: 408, Reason: "slow", Err: io.EOF}, 408, "slow"},
		{"client gone", to("a"), request("GET /"), &exchange.ClientError{Reason: "gone", Err: io.EOF}, 400, "gone"},
		{"OPTIONS *", to("a"), request("OPTIONS *"), nil, 200, "options"},
		{"TRACE", to("a"), request("TRACE /"), nil, 405, "trace_refused"},
		{"TRACE by name", to("a", func(r *snapshot.Route) { r.Match.Method = "TRACE" }), request("TRACE /"), nil, 200, ""},
		{"last hop", to("a"), request("OPTIONS /", "Max-Forwards: 0"), nil, 200, "max_forwards"},
		{"last hop of TRACE", to("a", func(r *snapshot.Route) { r.Match.Method = "TRACE" }), request("TRACE /", "max-forwards: 0"), nil, 405, "max_forwards"},
		{"no number", to("a"), request("OPTIONS /", "Max-Forwards: -1"), nil, 400, "max_forwards"},
		{"Max-Forwards of others", to("a"), request("GET /", "Max-Forwards: 0"), nil, 200, ""},
		{"bad pattern", to("a", func(r *snapshot.Route) { r.Match.Path = snapshot.PathMatch{Type: "RegularExpression", Value: "("} }), request("GET /"), nil, 500, "broken_host"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.host(gateway, "*", tt.route)
			if err := b.apply(); (err != nil) != (tt.name == "bad pattern") {
				t.Fatal(err)
			}
			b.fakes["a"].err = tt.err
			b.Serve(tt.ex)
			if got := tt.ex.Response; got.Status != tt.status || got.LocalReason != tt.reason || got.Local != (tt.reason != "") {
				t.Errorf("got %d %q, want %d %q", got.Status, got.LocalReason, tt.status, tt.reason)
			}
			if after := tt.ex.Response.Fields.Value(exchange.KeyRetryAfter); (after != "") != (tt.status == 503) {
				t.Errorf("Retry-After: %q", after)
			}
			b.Done(tt.ex, nil)
			if tt.status == 200 && tt.reason == "" && b.fakes["a"].released != 1 {
				t.Error("the lease was not released")
			}
		})
	}
	t.Run("decremented", func(t *testing.T) {
		b := newBench(t)
		b.host(gateway, "*", to("a"))
		b.must()
		b.do(request("OPTIONS /x", "Max-Forwards: 7"))
		if got := b.fakes["a"].seen()[0]; !strings.Contains(got, "Max-Forwards: 6\n") {
			t.Error(got)
		}
	})
}

func TestFilterOrder(t *testing.T) {
	b := newBench(t)
	deny := func(s *step) { s.answer = 401 }
	route := to("a", filters(b.step("one"), b.step("two")))
	route.Rule.Backends[0].Filters = []policy.Config{b.step("backend")}
	b.host(gateway, "*", route)
	b.host(gateway, "denied.example.com", to("a", filters(b.step("one"), b.step("guard", deny), b.step("never"))))
	b.must()

	b.log = nil
	b.do(request("GET /"))
	want := []string{"one in", "two in", "backend in", "backend out 200", "two out 200", "one out 200"}
	if !slices.Equal(b.log, want) {
		t.Errorf("got %q, want %q", b.log, want)
	}
	b.log = nil
	if status, reason := b.do(request("GET /", "Host: denied.example.com")); status != 401 || reason != "guard" {
		t.Errorf("%d %s", status, reason)
	}
	// The guard did not let it pass, so the answer is not the guard's to see.
	if want := []string{"one in", "guard in", "one out 401"}; !slices.Equal(b.log, want) {
		t.Errorf("got %q, want %q", b.log, want)
	}
	if n := len(b.fakes["a"].seen()); n != 1 {
		t.Errorf("%d requests reached the backend", n)
	}
}

func TestBrokenFilterGuards(t *testing.T) {
	b := newBench(t)
	guard := b.step("guard", func(s *step) { s.fail = true })
	b.host(gateway, "*", to("a", filters(b.step("fine"), guard)))
	b.host(gateway, "open.example.com", to("a"))
	if err := b.apply(); err == nil || !strings.Contains(err.Error(), "HTTPRoute shop/route, rule 0: guard: it is broken") {
		t.Fatalf("%v", err)
	}
	if status, reason := b.do(request("GET /")); status != 500 || reason != "broken_rule" {
		t.Errorf("%d %s", status, reason)
	}
	if status, _ := b.do(request("GET /", "Host: open.example.com")); status != 200 {
		t.Errorf("the other host: %d", status)
	}
	guard.fail = false
	b.must() // it is tried again although nothing changed
	if status, _ := b.do(request("GET /")); status != 200 {
		t.Errorf("after the repair: %d", status)
	}
}

func TestPanicInFilter(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", to("a", filters(b.step("one"), b.step("bug", func(s *step) { s.bug = true }))))
	b.host(gateway, "out.example.com", to("a", filters(b.step("bug", func(s *step) { s.bugOut = true }))))
	b.must()
	for _, host := range []string{"example.com", "out.example.com"} {
		if status, reason := b.do(request("GET /", "Host: "+host)); status != 500 || reason != "panic" {
			t.Errorf("%s: %d %s", host, status, reason)
		}
	}
	if b.fakes["a"].released != 1 {
		t.Error("the lease was not released")
	}
}

func TestHold(t *testing.T) {
	tests := []struct {
		name   string
		length int64
		parts  []string
		limits []int64
		err    error
		status int
		log    []string
	}{
		{"fits", 6, []string{"abc", "def"}, []int64{6}, nil, 200, []string{"f0 in", "f0 out 200"}},
		{"unknown length", -1, []string{"abc", "def"}, []int64{6}, nil, 200, []string{"f0 in", "f0 out 200"}},
		{"announced too large", 7, []string{"abcdefg"}, []int64{6}, nil, 413, nil},
		{"found too large", -1, []string{"abcdef", "g"}, []int64{6}, nil, 413, nil},
		{"a guard comes first", 6, []string{"abcdef"}, []int64{0, 3}, nil, 413, []string{"f0 in", "f0 out 413"}},
		{"two limits", 6, []string{"abcdef"}, []int64{9, 5}, nil, 413, []string{"f0 in", "f0 out 413"}},
		{"held once", 6, []string{"abcdef"}, []int64{6, 9}, nil, 200, []string{"f0 in", "f1 in", "f1 out 200", "f0 out 200"}},
		{"client fails", -1, []string{"abc"}, []int64{6}, &exchange.ClientError{Status: 408, Reason: "slow", Err: io.EOF}, 408, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			var list []policy.Config
			for i, limit := range tt.limits {
				list = append(list, b.step(fmt.Sprintf("f%d", i), func(s *step) { s.limit = limit }))
			}
			b.host(gateway, "*", to("a", filters(list...)))
			b.must()
			for range 2 { // the second time with what the first left
				ex, body := withBody(request("POST /"), tt.length, tt.parts...)
				body.err = tt.err
				b.log = nil
				if status, _ := b.do(ex); status != tt.status || !slices.Equal(b.log, tt.log) {
					t.Fatalf("got %d %q, want %d %q", status, b.log, tt.status, tt.log)
				}
				if !body.closed.Load() {
					t.Error("the body was not closed")
				}
			}
			for _, got := range b.fakes["a"].seen() {
				if !strings.HasPrefix(got, "POST / abcdef\n") {
					t.Errorf("the backend got %q", got)
				}
			}
		})
	}
}

func TestListenersOfAPort(t *testing.T) {
	b := newBench(t)
	b.listen(
		&snapshot.Listener{Key: "any", Port: 443, TLS: &snapshot.TLS{}},
		&snapshot.Listener{Key: "wild", Port: 443, Hostname: "*.example.com", TLS: &snapshot.TLS{}},
		&snapshot.Listener{Key: "exact", Port: 443, Hostname: "shop.example.com", TLS: &snapshot.TLS{}},
	)
	b.host("any", "*", to("a"))
	b.host("wild", "*.example.com", to("b"))
	b.host("exact", "shop.example.com", to("a", func(r *snapshot.Route) { r.Match.Path.Value = "/only" }))
	b.must()
	tests := []struct {
		accepted, host, path string
		status               int
		cluster              string
	}{
		{"any", "example.org", "/", 200, "a"},
		{"wild", "a.example.com", "/", 200, "b"},
		{"exact", "shop.example.com", "/only", 200, "a"},
		{"exact", "shop.example.com", "/", 404, ""}, // another listener's route would match: isolation
		{"exact", "a.example.com", "/", 421, ""},
		{"wild", "shop.example.com", "/only", 421, ""},
		{"any", "shop.example.com", "/only", 421, ""},
		{"", "example.org", "/", 421, ""}, // in plaintext
	}
	for _, tt := range tests {
		ex := request("GET "+tt.path, "Host: "+tt.host)
		if tt.accepted != "" {
			ex.Conn.TLS = &exchange.TLS{Listener: tt.accepted}
		}
		b.Serve(ex)
		if got := ex.Response; got.Status != tt.status || got.Fields != nil && tt.cluster != "" && got.Fields[0].Value != tt.cluster {
			t.Errorf("%+v: got %d %v", tt, got.Status, got.Fields)
		}
		b.Done(ex, nil)
	}
	ex := request("GET /")
	ex.Conn.Port = "tcp/81"
	if status, reason := b.do(ex); status != 404 || reason != "no_listener" {
		t.Errorf("a port that is gone: %d %s", status, reason)
	}
}

func TestListenerBounds(t *testing.T) {
	b := newBench(t)
	b.listen(&snapshot.Listener{Key: gateway, Port: 80, Client: &snapshot.Client{Headers: 3, HeaderBytes: 100, BodyBytes: 5}})
	b.host(gateway, "*", to("a"))
	b.must()
	known, _ := withBody(request("POST /"), 6, "abcdef")
	unknown, _ := withBody(request("POST /"), -1, "abc", "def")
	fits, _ := withBody(request("POST /"), -1, "abc", "de")
	for _, tt := range []struct {
		ex     *exchange.Exchange
		status int
	}{
		{request("GET /", "A: 1", "B: 2", "C: 3"), 200},
		{request("GET /", "A: 1", "B: 2", "C: 3", "D: 4"), 431},
		{request("GET /", "A: "+strings.Repeat("x", 100)), 431},
		{known, 413}, {unknown, 413}, {fits, 200},
	} {
		if status, reason := b.do(tt.ex); status != tt.status {
			t.Errorf("%v: %d %s, want %d", tt.ex.In.Fields, status, reason, tt.status)
		}
	}
}

func TestOverload(t *testing.T) {
	b := newBench(t, func(o *Options) { o.MaxRequests = 1 })
	b.host(gateway, "*", to("a"))
	b.must()
	first, second := request("GET /"), request("GET /")
	b.Serve(first)
	b.Serve(second)
	if got := second.Response; got.Status != 503 || got.Fields.Value(exchange.KeyRetryAfter) == "" {
		t.Errorf("%d %v", got.Status, got.Fields)
	}
	b.Done(second, nil)
	b.Done(first, nil)
	if status, _ := b.do(request("GET /")); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

// TestOverloadByPriority has almost as many requests in flight as there may be.
// Then those of a low priority are refused, before anything is done for them, and
// critical ones are served.
func TestOverloadByPriority(t *testing.T) {
	var inFlight atomic.Int64
	m := overload.New(overload.Options{InFlight: func() int { return int(inFlight.Load()) }, MaxRequests: 1000})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(stop) })
	defer wg.Wait()
	defer close(stop)
	b := newBench(t, func(o *Options) { o.Overload = m })
	low, critical := b.step("low"), b.step("critical")
	b.host(gateway, "low", to("a", func(r *snapshot.Route) { r.Rule.Priority, r.Rule.Filters = "Low", []policy.Config{low} }))
	b.host(gateway, "critical", to("a", func(r *snapshot.Route) { r.Rule.Priority, r.Rule.Filters = "Critical", []policy.Config{critical} }))
	b.must()
	ask := func(host string) (int, string) { return b.do(request("GET /", "Host: "+host)) }
	for _, host := range []string{"low", "critical"} {
		if status, _ := ask(host); status != 200 {
			t.Errorf("%s: %d at rest", host, status)
		}
	}
	inFlight.Store(950)
	deadline := time.Now().Add(time.Minute)
	for m.State().ShedRatio == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	before, served := len(b.log), 0
	refused := map[string]int{}
	for range 10 { // half of the requests are refused, all of the low ones
		for _, host := range []string{"low", "critical"} {
			switch status, reason := ask(host); {
			case status == 200:
				served++
			case status == 503 && reason == "overloaded_requests":
				refused[host]++
			default:
				t.Errorf("%s: %d %s", host, status, reason)
			}
		}
	}
	if refused["low"] < 5 || refused["critical"] > 3 { // chance has its share if the machine is slow
		t.Errorf("refused are %v", refused)
	}
	if got := len(b.log) - before; got != 2*served {
		t.Errorf("%d steps of filters were run for %d requests that were served", got, served)
	}
}

func TestWeights(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", to("a", func(r *snapshot.Route) {
		r.Rule.Backends = []snapshot.Backend{{Cluster: "a", Weight: 9}, {Cluster: "b", Weight: 0}, {Cluster: "", Weight: 1}}
	}))
	b.must()
	failed := 0
	const n = 10_000
	for range n {
		if status, _ := b.do(request("GET /")); status == 500 {
			failed++
		}
	}
	// 1 in 10, with a standard deviation of 30.
	if failed < n/10-200 || failed > n/10+200 {
		t.Errorf("%d of %d went to what does not resolve", failed, n)
	}
	if len(b.fakes["b"].seen()) != 0 {
		t.Error("weight 0 got a request")
	}
}

func TestTimeouts(t *testing.T) {
	b := newBench(t)
	b.host(gateway, "*", to("a", func(r *snapshot.Route) {
		r.Rule.RequestTimeout, r.Rule.BackendTimeout = time.Minute, time.Second
	}))
	b.must()
	ex := request("GET /")
	b.Serve(ex)
	if !ex.Deadline.Equal(ex.Start.Add(time.Minute)) || time.Until(ex.TryDeadline) > time.Second || ex.TryDeadline.IsZero() {
		t.Errorf("deadline %v, of a try %v", ex.Deadline, ex.TryDeadline)
	}
	b.Done(ex, nil)
}

func TestMirror(t *testing.T) {
	mirrored := func(r *snapshot.Route) {
		r.Rule.Mirrors = []snapshot.Mirror{{Cluster: "b", Numerator: 1, Denominator: 1}}
	}
	wait := func(t *testing.T, b *bench) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := b.Wait(ctx); err != nil || b.mirrored.Load() != 0 {
			t.Fatalf("%v, %d copies in flight", err, b.mirrored.Load())
		}
	}
	big := strings.Repeat("x", mirrorContent+1)
	tests := []struct {
		name   string
		length int64
		parts  []string
		err    error
		copies int
	}{
		{"no content", 0, nil, nil, 1},
		{"content", 6, []string{"abc", "def"}, nil, 1},
		{"unknown length", -1, []string{"abc", "def"}, nil, 1},
		{"announced too large", int64(len(big)), []string{big}, nil, 0},
		{"found too large", -1, []string{big[1:], "x"}, nil, 0},
		{"client fails", -1, []string{"abc"}, &exchange.ClientError{Status: 400, Reason: "gone", Err: io.EOF}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.host(gateway, "*", to("a", mirrored))
			b.must()
			ex := request("PUT /x", "A: 1")
			if tt.parts != nil {
				var body *content
				ex, body = withBody(ex, tt.length, tt.parts...)
				body.err = tt.err
			}
			b.do(ex)
			wait(t, b)
			got, want := b.fakes["b"].seen(), b.fakes["a"].seen()
			if len(got) != tt.copies || tt.copies == 1 && got[0] != want[0] {
				t.Errorf("the mirror got %d requests: %q, the backend %q", len(got), got, want)
			}
			if b.fakes["b"].released != tt.copies {
				t.Error("a mirror's lease was not released")
			}
		})
	}
	t.Run("of the backend", func(t *testing.T) {
		b := newBench(t)
		b.host(gateway, "*", to("a", mirrored, func(r *snapshot.Route) {
			r.Rule.Backends[0].Mirrors = r.Rule.Mirrors
			r.Rule.Backends = append(r.Rule.Backends, snapshot.Backend{Cluster: "b", Weight: 0})
		}))
		b.must()
		b.do(request("GET /"))
		wait(t, b)
		if n := len(b.fakes["b"].seen()); n != 2 {
			t.Errorf("%d copies, want the rule's and the backend's", n)
		}
	})
	t.Run("stuck", func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.MaxMirrors = 2 })
		b.host(gateway, "*", to("a", mirrored))
		b.must()
		stuck := b.fakes["b"]
		stuck.began = make(chan bool)
		for range 5 {
			if status, _ := b.do(request("GET /")); status != 200 {
				t.Errorf("the original: %d", status)
			}
		}
		close(stuck.began)
		wait(t, b)
		if n := len(stuck.seen()); n != 2 {
			t.Errorf("%d copies, want 2", n)
		}
	})
}
