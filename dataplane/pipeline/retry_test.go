package pipeline

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// try is what becomes of one try.
type try struct {
	status int
	err    error
	// pull is how many parts of the content are read; -1 for all.
	pull int
	// closes gives the content up, as a codec does that was reading it.
	closes bool
	// fields are the response's, "Name: value".
	fields []string
}

func failed(stage exchange.Stage, reason string) error {
	return &exchange.UpstreamError{Stage: stage, Reason: reason, Err: io.ErrUnexpectedEOF}
}

// scripted is a cluster whose tries come out as written.
type scripted struct {
	fake
	tries  []try
	bodies []string // what each try read
	avoid  [][]string
	limits []time.Time
	after  func() // after each try
	// bounded is whether there is a budget, budget what is left of it, and
	// refused how many retries found nothing left.
	bounded         bool
	budget, refused int
	// most is how many may be retried at a time, 0 for any number, and again how
	// many are.
	most, again int
}

func (s *scripted) BeginRetry() bool {
	if s.most != 0 && s.again >= s.most {
		return false
	}
	s.again++
	return true
}

func (s *scripted) EndRetry() { s.again-- }

func (s *scripted) AllowRetry() bool {
	if !s.bounded || s.budget > 0 {
		s.budget--
		return true
	}
	s.refused++
	return false
}

func (s *scripted) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	n := len(s.bodies)
	one := s.tries[min(n, len(s.tries)-1)]
	ex.Upstream.Tries++
	ex.Upstream.Endpoint = "192.0.2." + string(rune('1'+n)) + ":80"
	s.avoid = append(s.avoid, slices.Clone(ex.Avoid))
	s.limits = append(s.limits, ex.TryDeadline)
	text := ""
	for i := 0; ex.Out.Body != nil && i != one.pull; i++ {
		part, err := ex.Out.Body.Next()
		if err != nil {
			if err != io.EOF {
				text += err.Error()
			}
			break
		}
		text += string(part)
	}
	if one.closes {
		ex.Out.Body.Close()
	}
	s.bodies = append(s.bodies, text)
	if s.after != nil {
		defer s.after()
	}
	if one.err != nil {
		return nil, one.err
	}
	ex.Response.Fields.Add("Try", string(rune('1'+n)))
	for _, f := range one.fields {
		name, value, _ := strings.Cut(f, ": ")
		ex.Response.Fields.Add(name, value)
	}
	ex.Response.Status, ex.Response.Body = one.status, &content{parts: []string{"sorry"}}
	return s, nil
}

// newScripted is a bench whose only backend does as written.
func newScripted(t *testing.T, retry *snapshot.Retry, tries []try, edit ...func(*snapshot.Route)) (*bench, *scripted) {
	s := &scripted{tries: tries}
	b := newBench(t, func(o *Options) {
		o.NewCluster = func(cfg *snapshot.Cluster, _ *snapshot.Endpoints) Cluster {
			if cfg.Key != "a" {
				return &fake{cfg: cfg}
			}
			s.cfg = cfg
			return s
		}
	})
	b.host(gateway, "*", to("a", append(edit, func(r *snapshot.Route) { r.Rule.Retry = retry })...))
	b.must()
	return b, s
}

func TestRetry(t *testing.T) {
	unsent := &exchange.UpstreamError{Stage: exchange.Stale, Reason: "refused", Unsent: true, Err: io.EOF}
	for _, tt := range []struct {
		name   string
		method string
		tries  []try
		status int
		count  int
	}{
		{"at once", "GET", []try{{status: 200}}, 200, 1},
		{"after two codes", "GET", []try{{status: 503}, {status: 500}, {status: 200}}, 200, 3},
		{"codes to the last", "GET", []try{{status: 503}}, 503, 4},
		{"another code", "GET", []try{{status: 502}}, 502, 1},
		{"a code is what the rule says, whatever the method", "POST", []try{{status: 503}, {status: 200}}, 200, 2},
		{"reset", "GET", []try{{err: failed(exchange.Sending, "reset")}, {status: 200}}, 200, 2},
		{"a head that breaks off", "PUT", []try{{err: failed(exchange.Receiving, "closed")}, {status: 200}}, 200, 2},
		{"timeout", "DELETE", []try{{err: failed(exchange.Sending, "timeout")}, {status: 200}}, 200, 2},
		{"errors to the last", "GET", []try{{err: failed(exchange.Sending, "reset")}}, 502, 4},
		{"a code, then an error", "GET", []try{{status: 503}, {err: failed(exchange.Sending, "timeout")}}, 504, 4},
		{"not idempotent", "POST", []try{{err: failed(exchange.Sending, "reset")}}, 502, 1},
		{"not idempotent, and not in time", "PATCH", []try{{err: failed(exchange.Sending, "timeout")}}, 504, 1},
		{"not idempotent, and not connected", "POST", []try{{err: failed(exchange.Dialing, "connect_refused")}, {status: 200}}, 200, 2},
		{"not idempotent, and not acted on", "POST", []try{{err: unsent}, {status: 200}}, 200, 2},
		{"no endpoint", "GET", []try{{err: failed(exchange.Dialing, "no_endpoint")}}, 503, 1},
		{"malformed", "GET", []try{{err: failed(exchange.Receiving, "malformed_response")}}, 502, 1},
		{"the client's fault", "GET", []try{{err: &exchange.ClientError{Status: 408, Reason: "slow", Err: io.EOF}}}, 408, 1},
		{"what is no error of the codec's", "GET", []try{{err: errors.New("what?")}}, 502, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, s := newScripted(t, &snapshot.Retry{Codes: []int{500, 503}, Attempts: 3}, tt.tries)
			ex := request(tt.method + " /")
			b.Serve(ex)
			if ex.Response.Status != tt.status || len(s.bodies) != tt.count {
				t.Errorf("%d after %d tries, want %d after %d", ex.Response.Status, len(s.bodies), tt.status, tt.count)
			}
			responses := 0
			for i := range tt.count {
				if s.tries[min(i, len(s.tries)-1)].err == nil {
					responses++
				}
				// Endpoints are left out in the order in which they failed.
				if got := s.avoid[i]; len(got) != i || i > 0 && got[i-1] != "192.0.2."+string(rune('0'+i))+":80" {
					t.Errorf("try %d avoids %q", i+1, got)
				}
			}
			if last := ex.Response.Fields.Value(exchange.KeyVia); last != "" && len(ex.Response.Fields) != 2 {
				t.Errorf("a discarded response has left something: %v", ex.Response.Fields)
			}
			b.Done(ex, nil)
			if s.released != responses {
				t.Errorf("%d leases of %d were released", s.released, responses)
			}
		})
	}
}

func TestRetryWithContent(t *testing.T) {
	large := strings.Repeat("x", snapshot.DefaultRetryContent)
	reset := failed(exchange.Sending, "reset")
	for _, tt := range []struct {
		name   string
		length int64
		parts  []string
		tries  []try
		status int
		bodies []string
	}{
		{"code", 6, []string{"abc", "def"}, []try{{status: 503, pull: -1}, {status: 503, pull: -1}, {status: 200, pull: -1}}, 200, []string{"abcdef", "abcdef", "abcdef"}},
		{"code, of unknown length", -1, []string{"abc", "def"}, []try{{status: 503, pull: -1}, {status: 200, pull: -1}}, 200, []string{"abcdef", "abcdef"}},
		{"the end was not asked for", 6, []string{"abc", "def"}, []try{{status: 503, pull: 2, closes: true}, {status: 200, pull: -1}}, 200, []string{"abcdef", "abcdef"}},
		{"code before the end", 6, []string{"abc", "def"}, []try{{status: 503, pull: 1}}, 503, []string{"abc"}},
		{"error before the end", 6, []string{"abc", "def"}, []try{{err: reset, pull: 1}, {err: reset, pull: 0}, {status: 200, pull: -1}}, 200, []string{"abc", "", "abcdef"}},
		{"error before the end, given up", 6, []string{"abc", "def"}, []try{{err: reset, pull: 1, closes: true}}, 502, []string{"abc"}},
		{"nothing was read", 6, []string{"abc", "def"}, []try{{err: reset}, {status: 200, pull: -1}}, 200, []string{"", "abcdef"}},
		{"as much as is kept", int64(len(large)), []string{large[1:], "x"}, []try{{status: 503, pull: -1}, {status: 200, pull: -1}}, 200, []string{large, large}},
		{"more than is kept", int64(len(large)) + 1, []string{large, "x"}, []try{{status: 503, pull: -1}}, 503, []string{large + "x"}},
		{"more than is kept, of which little was read", -1, []string{"x", large, "x"}, []try{{err: reset, pull: 1}, {err: reset, pull: 2}}, 502, []string{"x", "x" + large}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 5}, tt.tries)
			for range 2 { // the second time with what the first left
				s.bodies = nil
				ex, body := withBody(request("PUT /"), tt.length, tt.parts...)
				if status, _ := b.do(ex); status != tt.status || !slices.Equal(s.bodies, tt.bodies) {
					t.Fatalf("%d, read: %.60q, want %d, %.60q", status, s.bodies, tt.status, tt.bodies)
				}
				if !body.closed.Load() {
					t.Error("the content was not closed")
				}
			}
		})
	}
}

func TestRetryKeepsTime(t *testing.T) {
	tries := []try{{status: 503}, {status: 200}}
	timeouts := func(request time.Duration) func(*snapshot.Route) {
		return func(r *snapshot.Route) { r.Rule.RequestTimeout, r.Rule.BackendTimeout = request, time.Minute }
	}
	t.Run("none left", func(t *testing.T) {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Hour}, tries, timeouts(30*time.Minute))
		if status, _ := b.do(request("GET /")); status != 503 || len(s.bodies) != 1 {
			t.Errorf("%d after %d tries", status, len(s.bodies))
		}
	})
	t.Run("of each try", func(t *testing.T) {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}, tries, timeouts(time.Hour))
		ex := request("GET /")
		b.Serve(ex)
		if len(s.limits) != 2 || s.limits[1].Sub(s.limits[0]) < time.Millisecond || ex.Upstream.Wait < time.Millisecond {
			t.Errorf("until %v, %v waited", s.limits, ex.Upstream.Wait)
		}
		b.Done(ex, nil)
	})
	t.Run("of the client", func(t *testing.T) {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Hour}, tries)
		ex := request("GET /")
		s.after = func() { go ex.Abandon(ex.Turn()) }
		if status, reason := b.do(ex); status != 499 || reason != "client_gone" || len(s.bodies) != 1 {
			t.Errorf("%d %s after %d tries", status, reason, len(s.bodies))
		}
	})
}

func TestBackoff(t *testing.T) {
	for n, want := range []time.Duration{1: 10, 2: 20, 3: 40, 4: 80, 5: 100, 6: 100, 100: 100} {
		if want == 0 {
			continue
		}
		for range 100 {
			if d := backoff(&snapshot.Retry{Backoff: 10 * time.Second}, n); d < want*time.Second || d > want*time.Second*5/4 {
				t.Errorf("%v behind try %d, want %v s", d, n, int64(want))
			}
		}
	}
	if d := backoff(&snapshot.Retry{}, 3); d != 0 {
		t.Errorf("%v for none", d)
	}
}

// TestRetryBudget holds that a refused retry is answered 503, whatever the last
// try came to, and that the response before it is given back.
func TestRetryBudget(t *testing.T) {
	for name, one := range map[string]try{"code": {status: 500}, "reset": {err: failed(exchange.Sending, "reset")}} {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{500}, Attempts: 5}, []try{one})
		s.bounded, s.budget = true, 2
		ex := request("GET /")
		b.Serve(ex)
		if ex.Response.Status != 503 || ex.Response.LocalReason != "retry_budget" || len(s.bodies) != 3 || s.refused != 1 {
			t.Errorf("%s: %d %s after %d tries, %d refused", name, ex.Response.Status, ex.Response.LocalReason, len(s.bodies), s.refused)
		}
		if ex.Response.Fields.Find(exchange.KeyRetryAfter) < 0 {
			t.Errorf("%s: %v", name, ex.Response.Fields)
		}
		b.Done(ex, nil)
		if one.err == nil && s.released != 3 {
			t.Errorf("%s: %d leases were released", name, s.released)
		}
		if n := gathered(t, b, "headgate_http_retries_refused_total"); n != 1 {
			t.Errorf("%s: the metric says %v", name, n)
		}
	}
}

// TestMaxRetries holds that a retry beyond the circuit breaker's bound leaves
// the outcome as it is, and that each one which was allowed ends.
func TestMaxRetries(t *testing.T) {
	b, s := newScripted(t, &snapshot.Retry{Codes: []int{500}, Attempts: 3}, []try{{status: 500}})
	s.most = 1
	during := 0
	s.after = func() { during = max(during, s.again) }
	ex := request("GET /")
	b.Serve(ex)
	if ex.Response.Status != 500 || len(s.bodies) != 4 || during != 1 || s.again != 0 {
		t.Errorf("%d after %d tries; %d retries were under way, and %d still are", ex.Response.Status, len(s.bodies), during, s.again)
	}
	b.Done(ex, nil)

	s.again, s.bodies = 1, nil // another's
	ex = request("GET /")
	b.Serve(ex)
	if ex.Response.Status != 500 || len(s.bodies) != 1 || s.again != 1 {
		t.Errorf("beyond the bound: %d after %d tries, %d are under way", ex.Response.Status, len(s.bodies), s.again)
	}
	b.Done(ex, nil)
	if n := gathered(t, b, "headgate_http_retries_refused_total"); n != 1 {
		t.Errorf("the metric says %v", n)
	}
}

// TestCircuitOpen holds that a request which finds no room is answered, and not
// sent again.
func TestCircuitOpen(t *testing.T) {
	b, s := newScripted(t, &snapshot.Retry{Attempts: 3}, []try{{err: failed(exchange.Dialing, "circuit_open")}})
	ex := request("GET /")
	b.Serve(ex)
	if r := &ex.Response; r.Status != 503 || r.LocalReason != "circuit_open" || r.Fields.Value(exchange.KeyRetryAfter) != "1" || len(s.bodies) != 1 {
		t.Errorf("%d %s %v after %d tries", r.Status, r.LocalReason, r.Fields, len(s.bodies))
	}
	b.Done(ex, nil)
}

func gathered(t *testing.T, b *bench, name string) (sum float64) {
	t.Helper()
	families, err := b.opts.Metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestRetryConditions has what a BackendPolicy can say beyond a rule's retry.
func TestRetryConditions(t *testing.T) {
	on := func(conditions ...string) *snapshot.Retry {
		return &snapshot.Retry{Conditions: conditions, Attempts: 1}
	}
	unavailable := &snapshot.Retry{Conditions: []string{"ConnectFailure"}, GRPCCodes: []int{8, 14}, Attempts: 1}
	header := &snapshot.Retry{Headers: []snapshot.HeaderField{{Name: "X-Again"}, {Name: "X-State", Value: "busy"}}, Attempts: 1}
	refused := try{err: failed(exchange.Dialing, "connect_refused")}
	slow := try{err: failed(exchange.Dialing, "connect_timeout")}
	reset := try{err: failed(exchange.Sending, "reset")}
	late := try{err: failed(exchange.Sending, "timeout")}
	with := func(fields ...string) try { return try{status: 200, fields: fields} }
	for _, tt := range []struct {
		name   string
		retry  *snapshot.Retry
		method string
		first  try
		count  int
	}{
		{"connect failure", on("ConnectFailure"), "POST", refused, 2},
		{"connect failure, too late", on("ConnectFailure"), "POST", slow, 2},
		{"connect failure is not named", on("Reset", "Timeout"), "GET", refused, 1},
		{"reset", on("Reset"), "GET", reset, 2},
		{"reset is not named", on("ConnectFailure", "Timeout"), "GET", reset, 1},
		{"reset of what is not idempotent", on("Reset"), "POST", reset, 1},
		{"reset of what is not idempotent, all the same", &snapshot.Retry{Conditions: []string{"Reset"}, NonIdempotent: true, Attempts: 1}, "POST", reset, 2},
		{"timeout", on("Timeout"), "GET", late, 2},
		{"timeout is not named", on("ConnectFailure", "Reset"), "GET", late, 1},
		{"gRPC code", unavailable, "POST", with("Grpc-Status: 14"), 2},
		{"another gRPC code", unavailable, "POST", with("Grpc-Status: 5"), 1},
		{"no gRPC code", unavailable, "POST", with(), 1},
		{"header", header, "POST", with("x-again: "), 2},
		{"header with value", header, "POST", with("X-State: busy"), 2},
		{"header with another value", header, "POST", with("X-State: fine"), 1},
	} {
		b, s := newScripted(t, nil, []try{tt.first, {status: 200}}, func(r *snapshot.Route) { r.Rule.Backends[0].Retry = tt.retry })
		ex := request(tt.method+" /", "Content-Type: application/grpc")
		ex.In.Proto = exchange.HTTP2
		b.Serve(ex)
		b.Done(ex, nil)
		if len(s.bodies) != tt.count {
			t.Errorf("%s: %d tries, want %d", tt.name, len(s.bodies), tt.count)
		}
	}
}

// TestRuleRetryHolds holds that a rule's own retry is the one that holds.
func TestRuleRetryHolds(t *testing.T) {
	b, s := newScripted(t, &snapshot.Retry{Codes: []int{500}, Attempts: 1}, []try{{status: 503}}, func(r *snapshot.Route) {
		r.Rule.Backends[0].Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 5}
	})
	b.do(request("GET /"))
	if len(s.bodies) != 1 {
		t.Errorf("%d tries", len(s.bodies))
	}
}

func TestPerTryTimeout(t *testing.T) {
	for _, tt := range []struct{ rule, policy, want time.Duration }{
		{0, time.Hour, time.Hour}, {2 * time.Hour, time.Hour, 2 * time.Hour}, {0, 0, 0},
	} {
		b, s := newScripted(t, nil, []try{{status: 503}, {status: 200}}, func(r *snapshot.Route) {
			r.Rule.BackendTimeout = tt.rule
			r.Rule.Backends[0].Retry = &snapshot.Retry{Codes: []int{503}, Attempts: 1, PerTryTimeout: tt.policy}
		})
		before := time.Now()
		b.do(request("GET /"))
		for i, limit := range s.limits {
			if tt.want == 0 && !limit.IsZero() || tt.want > 0 && (limit.Before(before.Add(tt.want)) || limit.After(time.Now().Add(tt.want))) {
				t.Errorf("%+v: try %d has until %s", tt, i, limit)
			}
		}
	}
}

func TestMaxContent(t *testing.T) {
	for most, want := range map[int]int{10: 1, 11: 2} {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 1, MaxContent: most}, []try{{status: 503, pull: -1}, {status: 200, pull: -1}})
		ex, _ := withBody(request("PUT /"), -1, "hello ", "world")
		b.do(ex)
		if len(s.bodies) != want || s.bodies[want-1] != "hello world" {
			t.Errorf("%d bytes at most: %q", most, s.bodies)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	date := func(in time.Duration) string { return time.Now().Add(in).UTC().Format(httpDate) }
	for _, tt := range []struct {
		value string
		most  time.Duration
		count int
		least time.Duration
	}{
		{"", time.Minute, 2, 0},
		{"soon", time.Minute, 2, 0},
		{"0", time.Minute, 2, 0},
		{"1", time.Minute, 2, time.Second},
		{"61", time.Minute, 1, 0},
		{"99999999999", time.Minute, 1, 0},
		{"3600", 0, 2, 0},
		{date(time.Hour), time.Minute, 1, 0},
		{date(-time.Hour), time.Minute, 2, 0},
	} {
		b, s := newScripted(t, &snapshot.Retry{Codes: []int{503}, Attempts: 1, MaxRetryAfter: tt.most},
			[]try{{status: 503, fields: []string{"Retry-After: " + tt.value}}, {status: 200}})
		ex := request("GET /")
		b.Serve(ex)
		if len(s.bodies) != tt.count || ex.Upstream.Wait < tt.least {
			t.Errorf("%q, at most %s: %d tries after %s", tt.value, tt.most, len(s.bodies), ex.Upstream.Wait)
		}
		b.Done(ex, nil)
	}
}

func TestMaxBackoff(t *testing.T) {
	policy := &snapshot.Retry{Backoff: time.Second, MaxBackoff: 3 * time.Second}
	for n, want := range map[int]time.Duration{1: 1, 2: 2, 3: 3, 9: 3} {
		if d := backoff(policy, n); d < want*time.Second || d > want*time.Second*5/4 {
			t.Errorf("%s behind try %d", d, n)
		}
	}
}

// TestKeptWholeIsLeftAlone: a hedge copies what is kept while who sends the request
// asks for its end.
func TestKeptWholeIsLeftAlone(t *testing.T) {
	b := &replayBody{from: &content{parts: []string{"abc"}}, length: 3, most: 10}
	if _, err := b.Next(); err != nil || !b.whole.Load() {
		t.Fatalf("%v, whole %v", err, b.whole.Load())
	}
	copied := make(chan string)
	go func() { copied <- string(b.kept) }()
	if _, err := b.Next(); err != io.EOF {
		t.Error(err)
	}
	if got := <-copied; got != "abc" {
		t.Errorf("%q is kept", got)
	}
}
