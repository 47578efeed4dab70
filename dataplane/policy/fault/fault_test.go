package fault

import (
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

func request(fields ...exchange.Field) *exchange.Exchange {
	ex := &exchange.Exchange{}
	ex.In = exchange.Request{Method: "GET", Fields: fields}
	return ex
}

func run(t testing.TB, c *Config, ex *exchange.Exchange) exchange.Verdict {
	t.Helper()
	f, err := c.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	return f.Request(ex)
}

func TestAbort(t *testing.T) {
	ex := request()
	if run(t, &Config{Abort: &Abort{Status: 503, Percent: 100}}, ex) != exchange.Answered ||
		ex.Response.Status != 503 || ex.Response.LocalReason != "fault_abort" {
		t.Errorf("got %+v", ex.Response)
	}
}

func TestDelay(t *testing.T) {
	ex := request()
	began := time.Now()
	const delay = 20 * time.Millisecond
	if run(t, &Config{Delay: &Delay{Time: delay, Percent: 100}}, ex) != exchange.Continue || ex.Response.Status != 0 {
		t.Errorf("answered %+v", ex.Response)
	}
	if took := time.Since(began); took < delay || ex.Upstream.Wait < delay {
		t.Errorf("%v, of which %v waiting", took, ex.Upstream.Wait)
	}
}

// TestDelayAndAbort: what is late may be an error, too.
func TestDelayAndAbort(t *testing.T) {
	ex := request()
	c := &Config{Delay: &Delay{Time: time.Millisecond, Percent: 100}, Abort: &Abort{Status: 500, Percent: 100}}
	if run(t, c, ex) != exchange.Answered || ex.Response.Status != 500 || ex.Upstream.Wait < time.Millisecond {
		t.Errorf("got %+v after %v", ex.Response, ex.Upstream.Wait)
	}
}

// TestDelayBeyondTheDeadline: no request waits for longer than it may take.
func TestDelayBeyondTheDeadline(t *testing.T) {
	for name, left := range map[string]time.Duration{"during": 20 * time.Millisecond, "before": -time.Second} {
		t.Run(name, func(t *testing.T) {
			ex := request()
			ex.Deadline = time.Now().Add(left)
			if run(t, &Config{Delay: &Delay{Time: time.Hour, Percent: 100}}, ex) != exchange.Answered ||
				ex.Response.Status != 504 || ex.Response.LocalReason != "timeout" {
				t.Errorf("got %+v", ex.Response)
			}
			if time.Now().Before(ex.Deadline) {
				t.Error("answered before its time was over")
			}
		})
	}
}

// TestAbandoned: nobody is waited for who has gone.
func TestAbandoned(t *testing.T) {
	ex := request()
	go func(turn uint64) {
		time.Sleep(10 * time.Millisecond)
		ex.Abandon(turn)
	}(ex.Turn())
	c := &Config{Delay: &Delay{Time: time.Hour, Percent: 100}, Abort: &Abort{Status: 500, Percent: 100}}
	if run(t, c, ex) != exchange.Answered || ex.Response.LocalReason != exchange.ErrAbandoned.Reason {
		t.Errorf("got %+v", ex.Response)
	}
}

func TestHeaders(t *testing.T) {
	c := &Config{Abort: &Abort{Status: 500, Percent: 100}, Headers: []Header{{"X-Fault", "yes"}, {"x-tester", "Alice"}}}
	field := func(name, value string) exchange.Field { return exchange.Field{Name: name, Value: value} }
	for _, tc := range []struct {
		name   string
		fields []exchange.Field
		hit    bool
	}{
		{"none", nil, false},
		{"both", []exchange.Field{field("x-fault", "yes"), field("X-Tester", "Alice")}, true},
		{"on several lines", []exchange.Field{field("X-Fault", "no"), field("X-Tester", "Alice"), field("X-Fault", "yes")}, true},
		{"one of two", []exchange.Field{field("X-Fault", "yes")}, false},
		{"another value", []exchange.Field{field("X-Fault", "yes"), field("X-Tester", "alice")}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if hit := run(t, c, request(tc.fields...)) == exchange.Answered; hit != tc.hit {
				t.Errorf("hit: %t", hit)
			}
		})
	}
}

// TestShare: of 10,000 requests, 30 percent are within 5 standard deviations.
func TestShare(t *testing.T) {
	f, err := (&Config{Abort: &Abort{Status: 500, Percent: 30}}).Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	ex, hit := request(), 0
	for range 10_000 {
		if f.Request(ex) == exchange.Answered {
			hit++
		}
	}
	if hit < 3000-230 || hit > 3000+230 {
		t.Errorf("%d of 10,000", hit)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []Config{
		{Delay: &Delay{Time: 0, Percent: 1}}, {Delay: &Delay{Time: time.Second}}, {Delay: &Delay{Time: time.Second, Percent: 101}},
		{Abort: &Abort{Status: 200, Percent: 1}}, {Abort: &Abort{Status: 600, Percent: 1}}, {Abort: &Abort{Status: 500}},
	} {
		if _, err := c.Build(nil); err == nil {
			t.Errorf("accepted %+v", c)
		}
	}
}
