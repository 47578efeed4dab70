package pipeline

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/fault"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// newFallbackBench has backend "a", for which the clusters "b" and "c" stand in.
// Each does as written; what is not written answers 200.
func newFallbackBench(t *testing.T, f *snapshot.Fallback, tries map[string][]try, edit ...func(*snapshot.Route)) (*bench, map[string]*scripted) {
	clusters := map[string]*scripted{}
	b := newBench(t, func(o *Options) {
		o.NewCluster = func(cfg *snapshot.Cluster, _ *snapshot.Endpoints) Cluster {
			s := &scripted{tries: tries[cfg.Key]}
			if s.tries == nil {
				s.tries = []try{{status: 200, pull: -1}}
			}
			s.cfg = cfg
			clusters[cfg.Key] = s
			return s
		}
	})
	b.snap.Clusters = b.snap.Clusters.With("c", &snapshot.Cluster{Key: "c"})
	b.host(gateway, "*", to("a", append([]func(*snapshot.Route){func(r *snapshot.Route) { r.Rule.Backends[0].Fallback = f }}, edit...)...))
	b.must()
	return b, clusters
}

var unsentConditions = []string{"CircuitOpen", "ConnectFailure", "NoEndpoint"}

func standIns(keys ...string) *snapshot.Fallback {
	f := &snapshot.Fallback{Conditions: unsentConditions, MinHealthyPercent: 1}
	for _, key := range keys {
		f.Backends = append(f.Backends, snapshot.Backend{Cluster: key})
	}
	return f
}

func TestFallbackToBackends(t *testing.T) {
	refused, reset := try{err: failed(exchange.Dialing, "connect_refused")}, try{err: failed(exchange.Sending, "reset"), pull: -1}
	late := try{err: failed(exchange.Sending, "timeout"), pull: -1}
	all := append([]string{"Reset", "Timeout"}, unsentConditions...)
	for _, tt := range []struct {
		name       string
		method     string
		conditions []string
		codes      []int
		out        string // clusters that are not available
		tries      map[string][]try
		status     int
		went       string // clusters that had the request, in order
	}{
		{"all is well", "GET", nil, nil, "", nil, 200, "a"},
		{"none healthy", "POST", nil, nil, "a", nil, 200, "b"},
		{"none healthy, and the first that stands in neither", "GET", nil, nil, "ab", nil, 200, "c"},
		{"nobody healthy", "GET", nil, nil, "abc", nil, 200, "a"},
		{"not asked about health", "GET", []string{"Reset"}, nil, "a", nil, 200, "a"},
		{"connect failure", "POST", nil, nil, "", map[string][]try{"a": {refused}}, 200, "ab"},
		{"connect failure of both", "POST", nil, nil, "", map[string][]try{"a": {refused}, "b": {refused}}, 200, "abc"},
		{"connect failure of all", "POST", nil, nil, "", map[string][]try{"a": {refused}, "b": {refused}, "c": {refused}}, 502, "abc"},
		{"circuit open", "POST", nil, nil, "", map[string][]try{"a": {{err: failed(exchange.Dialing, "circuit_open")}}}, 200, "ab"},
		{"no endpoint", "POST", nil, nil, "", map[string][]try{"a": {{err: failed(exchange.Dialing, "no_endpoint")}}}, 200, "ab"},
		{"circuit open, not meant", "POST", []string{"NoEndpoint"}, nil, "", map[string][]try{"a": {{err: failed(exchange.Dialing, "circuit_open")}}}, 503, "a"},
		{"reset, not meant", "GET", nil, nil, "", map[string][]try{"a": {reset}}, 502, "a"},
		{"reset", "GET", all, nil, "", map[string][]try{"a": {reset}}, 200, "ab"},
		{"reset, with content", "PUT", all, nil, "", map[string][]try{"a": {reset}}, 200, "ab"},
		{"reset, not idempotent", "POST", all, nil, "", map[string][]try{"a": {reset}}, 502, "a"},
		{"late", "DELETE", all, nil, "", map[string][]try{"a": {late}}, 200, "ab"},
		{"a code", "POST", nil, []int{503}, "", map[string][]try{"a": {{status: 503, pull: -1}}}, 200, "ab"},
		{"a code of all", "POST", nil, []int{503}, "", map[string][]try{"a": {{status: 503, pull: -1}}, "b": {{status: 503, pull: -1}}, "c": {{status: 503, pull: -1}}}, 503, "abc"},
		{"a code, before all content was read", "POST", nil, []int{503}, "", map[string][]try{"a": {{status: 503, pull: 1}}}, 503, "a"},
		{"another code", "GET", nil, []int{503}, "", map[string][]try{"a": {{status: 500}}}, 500, "a"},
		{"the client's fault", "GET", all, nil, "", map[string][]try{"a": {{err: &exchange.ClientError{Status: 408, Reason: "slow", Err: io.EOF}}}}, 408, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := standIns("b", "c")
			if tt.conditions != nil {
				f.Conditions = tt.conditions
			}
			f.Codes = tt.codes
			b, clusters := newFallbackBench(t, f, tt.tries)
			for _, key := range tt.out {
				clusters[string(key)].out = true
			}
			ex := request(tt.method + " /")
			if tt.method == "POST" || tt.method == "PUT" {
				ex, _ = withBody(ex, 6, "abc", "def")
			}
			b.Serve(ex)
			went, responses, released := "", 0, 0
			for _, key := range []string{"a", "b", "c"} {
				s := clusters[key]
				for i, body := range s.bodies {
					went += key
					one := s.tries[min(i, len(s.tries)-1)]
					if one.err == nil {
						responses++
					}
					if ex.In.Body != nil && one.pull < 0 && body != "abcdef" {
						t.Errorf("%s was sent %q", key, body)
					}
				}
			}
			if ex.Response.Status != tt.status || went != tt.went || ex.Upstream.Fallback != (len(tt.went) > 1 || !strings.HasPrefix(tt.went, "a")) {
				t.Errorf("%d from %q, fallback %v; want %d from %q", ex.Response.Status, went, ex.Upstream.Fallback, tt.status, tt.went)
			}
			b.Done(ex, nil)
			for _, s := range clusters {
				released += s.released
			}
			if released != responses {
				t.Errorf("%d leases of %d were released", released, responses)
			}
		})
	}
}

// TestFallbackRetries: each backend has retries of its own, and begins with none behind it.
func TestFallbackRetries(t *testing.T) {
	reset := try{err: failed(exchange.Sending, "reset")}
	f := standIns("b")
	f.Conditions = []string{"Reset"}
	f.Backends[0].Retry = &snapshot.Retry{Attempts: 1}
	b, clusters := newFallbackBench(t, f, map[string][]try{"a": {reset}, "b": {reset, {status: 200}}}, func(r *snapshot.Route) {
		r.Rule.Backends[0].Retry = &snapshot.Retry{Attempts: 2, PerTryTimeout: time.Hour}
	})
	if status, _ := b.do(request("GET /")); status != 200 || len(clusters["a"].bodies) != 3 || len(clusters["b"].bodies) != 2 {
		t.Errorf("%d after %d and %d tries", status, len(clusters["a"].bodies), len(clusters["b"].bodies))
	}
	if first := clusters["b"].avoid[0]; len(first) != 0 {
		t.Errorf("b begins with %q behind it", first)
	}
	if limit := clusters["b"].limits[0]; !limit.IsZero() {
		t.Errorf("b has until %v", limit)
	}
	for key, s := range clusters {
		if s.again != 0 {
			t.Errorf("%d retries to %s have not ended", s.again, key)
		}
	}
}

// TestFallbackTimeouts: a backend's timeouts are not for what stands in for it.
func TestFallbackTimeouts(t *testing.T) {
	b, clusters := newFallbackBench(t, standIns("b"), map[string][]try{"a": {{err: failed(exchange.Dialing, "connect_refused")}}},
		func(r *snapshot.Route) { r.Rule.RequestTimeout = 2 * time.Hour })
	ex := request("GET /")
	clusters["a"].after = func() { // as package upstream does
		end := ex.Start.Add(time.Hour)
		ex.Deadline, ex.Timeouts = end, exchange.Timeouts{Idle: time.Minute, Tunnel: time.Minute, End: end}
	}
	clusters["b"].after = func() {
		if ex.Deadline != ex.Start.Add(2*time.Hour) || ex.Timeouts != (exchange.Timeouts{}) {
			t.Errorf("until %v, %+v", ex.Deadline, ex.Timeouts)
		}
	}
	if status, _ := b.do(ex); status != 200 || len(clusters["b"].bodies) != 1 {
		t.Errorf("%d, %d tries", status, len(clusters["b"].bodies))
	}
}

// TestFallbackOfFaults: what stands in fails on purpose as it does for others.
func TestFallbackOfFaults(t *testing.T) {
	f := standIns("b")
	f.Backends[0].Filters = []policy.Config{&fault.Config{Abort: &fault.Abort{Status: 501, Percent: 100}}}
	b, clusters := newFallbackBench(t, f, nil)
	clusters["a"].out = true
	if status, reason := b.do(request("GET /")); status != 501 || reason != "fault_abort" || len(clusters["b"].bodies) != 0 {
		t.Errorf("got %d %q", status, reason)
	}
}

// TestFallbackAndSessions: a strict session goes on nowhere else. Another does, and
// its client keeps the token that it has.
func TestFallbackAndSessions(t *testing.T) {
	for _, strict := range []bool{true, false} {
		b, clusters := newFallbackBench(t, standIns("b"), nil, func(r *snapshot.Route) {
			r.Rule.SessionPersistence = &snapshot.SessionPersistence{Name: "s", Cookie: &snapshot.SessionCookie{SameSite: "Lax"}, Strict: strict}
		})
		ex := request("GET /")
		b.Serve(ex)
		cookie, _, _ := strings.Cut(strings.Clone(ex.Response.Fields.Value(exchange.KeySetCookie)), ";")
		b.Done(ex, nil)
		if cookie == "" {
			t.Fatal("no session")
		}
		clusters["a"].out = true
		ex = request("GET /", "Cookie: "+cookie)
		b.Serve(ex)
		if got := ex.Response.Fields.Value(exchange.KeySetCookie); !strict && got != "" || (len(clusters["b"].bodies) == 0) != strict {
			t.Errorf("strict %v: Set-Cookie %q, %d requests to b", strict, got, len(clusters["b"].bodies))
		}
		b.Done(ex, nil)
	}
}

func TestFallbackResponse(t *testing.T) {
	full := &snapshot.FallbackResponse{
		Status: 200, ContentType: "application/json", Body: `{"items":[]}`, Headers: []snapshot.HeaderField{{Name: "Cache-Control", Value: "no-store"}},
	}
	page := &snapshot.FallbackResponse{ContentType: "text/html", Body: "<h1>Back soon</h1>"}
	grpc := []string{"Content-Type: application/grpc"}
	refused := try{err: failed(exchange.Dialing, "connect_refused")}
	for _, tt := range []struct {
		name     string
		response *snapshot.FallbackResponse
		out      bool
		tries    []try
		fields   []string // of the request
		want     string   // "status reason; fields; content"
	}{
		{"none healthy", full, true, nil, nil, `200 no_endpoint; Content-Type: application/json, Cache-Control: no-store; {"items":[]}`},
		{"none healthy, with the failure's status", page, true, nil, nil, `503 no_endpoint; Content-Type: text/html, Retry-After: 5; <h1>Back soon</h1>`},
		{"circuit open", page, false, []try{{err: failed(exchange.Dialing, "circuit_open")}}, nil, `503 circuit_open; Content-Type: text/html, Retry-After: 1; <h1>Back soon</h1>`},
		{"connect failure", page, false, []try{refused}, nil, `502 connect_refused; Content-Type: text/html; <h1>Back soon</h1>`},
		{"not meant", page, false, []try{{err: failed(exchange.Sending, "timeout")}}, nil, "504 timeout; Content-Type: text/plain; charset=utf-8; The service did not answer in time.\n"},
		{"a code", page, false, []try{{status: 500, fields: []string{"Retry-After: 7", "X-Debug: secret"}}}, nil, `500 error_replaced; Content-Type: text/html, Retry-After: 7; <h1>Back soon</h1>`},
		{"no content", &snapshot.FallbackResponse{Status: 302, Headers: []snapshot.HeaderField{{Name: "Location", Value: "/sorry"}}}, true, nil, nil, `302 no_endpoint; Retry-After: 5, Location: /sorry; `},
		{"gRPC", page, true, nil, grpc, `200 no_endpoint; Retry-After: 5, Content-Type: application/grpc, Grpc-Status: 14, Grpc-Message: No instance of the service is available.; `},
		{"gRPC, no error", full, true, nil, grpc, `200 no_endpoint; Retry-After: 5, Content-Type: application/grpc, Grpc-Status: 14, Grpc-Message: No instance of the service is available.; `},
		{"gRPC, another error", &snapshot.FallbackResponse{Status: 504}, true, nil, grpc, `200 no_endpoint; Retry-After: 5, Content-Type: application/grpc, Grpc-Status: 4, Grpc-Message: No instance of the service is available.; `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &snapshot.Fallback{Conditions: unsentConditions, Codes: []int{500}, MinHealthyPercent: 1, Response: tt.response}
			b, clusters := newFallbackBench(t, f, map[string][]try{"a": tt.tries})
			clusters["a"].out = tt.out
			ex := request("GET /", tt.fields...)
			if tt.fields != nil {
				ex.In.Proto, ex.In.Method = exchange.HTTP2, "POST"
			}
			b.Serve(ex)
			r := &ex.Response
			var fields []string
			for _, f := range r.Fields {
				fields = append(fields, f.Name+": "+f.Value)
			}
			text := ""
			if r.Body != nil {
				part, _ := r.Body.Next()
				text = string(part)
			}
			if got := fmt.Sprintf("%d %s; %s; %s", r.Status, r.LocalReason, strings.Join(fields, ", "), text); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if ex.Upstream.Fallback != (tt.name != "not meant") {
				t.Errorf("fallback: %v", ex.Upstream.Fallback)
			}
			b.Done(ex, nil)
		})
	}
}

// TestFallbackIsSeen in metrics and in the access log.
func TestFallbackIsSeen(t *testing.T) {
	var out bytes.Buffer
	log := observe.NewAccessLog(&out, observe.JSON)
	metrics := observe.NewMetrics("")
	b := newBench(t, func(o *Options) { o.AccessLog, o.Metrics = log, metrics })
	f := standIns("b")
	f.Response = &snapshot.FallbackResponse{Status: 200}
	b.host(gateway, "*", to("a", func(r *snapshot.Route) { r.Rule.Backends[0].Fallback = f }))
	b.must()
	b.fakes["a"].out = true
	b.do(request("GET /backend"))
	b.fakes["b"].out = true
	b.do(request("GET /response"))
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		if !strings.Contains(line, `"fallback"`) {
			t.Errorf("no fallback in %s", line)
		}
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(metrics.Registry(), promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	const labels = `{cluster="a",listener="shop/gateway/http",route="HTTPRoute/shop/route",to=%q} 1`
	for _, want := range []string{
		"headgate_http_fallbacks_total" + fmt.Sprintf(labels, "backend"),
		"headgate_http_fallbacks_total" + fmt.Sprintf(labels, "response"),
		`headgate_http_requests_total{cluster="b",code_class="2xx",listener="shop/gateway/http",route="HTTPRoute/shop/route"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("want %s in\n%s", want, w.Body)
		}
	}
}
