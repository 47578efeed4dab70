package observe

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/headgate/headgate/dataplane/overload"
)

var (
	shopLabels = RouteLabels{Listener: "shop/web/http", Route: "HTTPRoute/shop/catalogue", Cluster: "Service/shop/catalogue/80"}
	noCluster  = RouteLabels{Listener: "shop/web/http", Route: "HTTPRoute/shop/catalogue"}
)

func TestRouteIsCountedByClassAndLatency(t *testing.T) {
	m := NewMetrics("test")
	r := m.Route(shopLabels)
	for _, d := range []struct {
		status       int
		total, added time.Duration
	}{
		{200, 400 * time.Microsecond, 9 * time.Microsecond},
		{204, 500 * time.Microsecond, 10 * time.Microsecond}, // bounds belong to their bucket
		{404, time.Second, 30 * time.Microsecond},
		{0, 2 * time.Minute, -1},
		{999, time.Millisecond, 0},
	} {
		r.Begin()
		r.Done(d.status, d.total, d.added)
	}
	r.Begin()
	if lines := scrape(t, m); lines["headgate_http_retries_total{} 0"] {
		t.Error("a route without retries has a series for them")
	}
	r.Retried()

	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_http_requests_total{code_class="2xx"} 2`,
		`headgate_http_requests_total{code_class="4xx"} 1`,
		`headgate_http_requests_total{code_class="none"} 2`,
		`headgate_http_requests_in_flight{} 1`,
		`headgate_http_retries_total{} 1`,
		`headgate_http_request_duration_seconds_bucket{code_class="2xx",le="0.0005"} 2`,
		`headgate_http_request_duration_seconds_bucket{code_class="2xx",le="+Inf"} 2`,
		`headgate_http_request_duration_seconds_sum{code_class="2xx"} 0.0009`,
		`headgate_http_request_duration_seconds_bucket{code_class="4xx",le="0.5"} 0`,
		`headgate_http_request_duration_seconds_bucket{code_class="4xx",le="1"} 1`,
		`headgate_http_request_duration_seconds_bucket{code_class="none",le="60"} 1`,
		`headgate_http_request_duration_seconds_bucket{code_class="none",le="+Inf"} 2`,
		`headgate_http_added_latency_seconds_bucket{le="1e-05"} 3`,
		`headgate_http_added_latency_seconds_bucket{le="5e-05"} 4`,
		`headgate_http_added_latency_seconds_count{} 4`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

// scrape returns the exposition's lines, without the labels that every line of
// the test has.
func scrape(t *testing.T, m *Metrics) map[string]bool {
	t.Helper()
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				switch l.GetName() {
				case "listener", "route", "cluster":
				default:
					labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
				}
			}
			put := func(suffix string, value any, more ...string) {
				all := strings.Join(append(labels[:len(labels):len(labels)], more...), ",")
				lines[fmt.Sprintf("%s%s{%s} %v", f.GetName(), suffix, all, value)] = true
			}
			switch {
			case metric.Counter != nil:
				put("", metric.Counter.GetValue())
			case metric.Gauge != nil:
				put("", metric.Gauge.GetValue())
			case metric.Summary != nil:
				put("_count", metric.Summary.GetSampleCount())
				put("_sum", metric.Summary.GetSampleSum())
			case metric.Histogram != nil:
				for _, b := range metric.Histogram.Bucket {
					put("_bucket", b.GetCumulativeCount(), fmt.Sprintf(`le="%v"`, b.GetUpperBound()))
				}
				put("_bucket", metric.Histogram.GetSampleCount(), `le="+Inf"`)
				put("_count", metric.Histogram.GetSampleCount())
				put("_sum", metric.Histogram.GetSampleSum())
			}
		}
	}
	return lines
}

func TestRequestMayBeDoneOnAnotherClustersHandle(t *testing.T) {
	m := NewMetrics("test")
	none, chosen := m.Route(noCluster), m.Route(shopLabels)
	none.Begin()
	chosen.Done(200, time.Millisecond, 0)
	if !scrape(t, m)[`headgate_http_requests_in_flight{} 0`] {
		t.Error("the request is still in flight")
	}
}

func TestSeriesGoWithTheirLastHandle(t *testing.T) {
	m := NewMetrics("test")
	a, b := m.Route(shopLabels), m.Route(shopLabels)
	if a != b {
		t.Fatal("two handles for the same labels")
	}
	port := m.Port("tcp/80")
	port.Accepted()
	a.Begin()
	a.Done(200, 0, 0)

	series := func() (n int) {
		for line := range scrape(t, m) {
			if strings.HasPrefix(line, "headgate_http_") || strings.HasPrefix(line, "headgate_connections_") {
				n++
			}
		}
		return n
	}
	before := series()
	a.Release()
	if got := series(); got != before {
		t.Errorf("%d series after the first of two releases, want %d", got, before)
	}
	b.Release()
	port.Release()
	if got := series(); got != 0 {
		t.Errorf("%d series after the last release, want none", got)
	}

	// A request in flight may outlive its handle.
	a.Begin()
	a.Done(200, 0, 0)
}

func TestConnectionsRepliesAndMalformed(t *testing.T) {
	m := NewMetrics("test")
	p := m.Port("tcp/80")
	p.Accepted()
	p.Accepted()
	p.Closed()
	p.Rejected("tls_handshake")
	p.Malformed("bad_chunk")
	p.Malformed("bad_chunk")
	m.LocalReply("no_route")
	p.SetCertificates([]Certificate{{Listener: "shop/gw/https", Name: "shop/cert", NotAfter: time.Unix(1700000000, 0),
		StapleUntil: func() time.Time { return time.Unix(1600000000, 0) }}})
	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_connections_accepted_total{port="tcp/80"} 2`,
		`headgate_connections_active{port="tcp/80"} 1`,
		`headgate_connections_rejected_total{port="tcp/80",reason="tls_handshake"} 1`,
		`headgate_tls_certificate_expiry_timestamp_seconds{certificate="shop/cert"} 1.7e+09`,
		`headgate_tls_ocsp_staple_expiry_timestamp_seconds{certificate="shop/cert"} 1.6e+09`,
		`headgate_http_malformed_requests_total{port="tcp/80",reason="bad_chunk"} 2`,
		`headgate_http_local_replies_total{reason="no_route"} 1`,
		`headgate_build_info{version="test"} 1`,
		`headgate_access_log_dropped_total{} 0`,
		`headgate_snapshot_age_seconds{} 0`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

func TestReasonsAreBounded(t *testing.T) {
	m := NewMetrics("test")
	for i := range 3 * maxReasons {
		m.LocalReply(fmt.Sprintf("reason-%d", i))
	}
	if got, want := len(*m.local.counts.Load()), maxReasons+1; got != want {
		t.Errorf("%d reasons kept, want %d", got, want)
	}
	if got := (*m.local.counts.Load())[otherReason].Load(); got != 2*maxReasons {
		t.Errorf("%d counted as other, want %d", got, 2*maxReasons)
	}
}

func TestSnapshots(t *testing.T) {
	m := NewMetrics("test")
	m.Compiled(2 * time.Millisecond)
	m.Applied(time.Now().Add(-time.Minute))
	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_snapshots_applied_total{} 1`,
		`headgate_compile_duration_seconds_count{} 1`,
		`headgate_compile_duration_seconds_sum{} 0.002`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
	if age := m.snapshots.age(); age < 60 || age > 90 {
		t.Errorf("age %v s, want about 60", age)
	}
}

func TestCircuitsAreReadAtTheScrape(t *testing.T) {
	m := NewMetrics("test")
	m.SetCircuits(func(yield func(Circuit)) {
		yield(Circuit{
			Cluster: "Service/shop/catalogue/80", Queued: 3, Waits: 4, Waited: 2 * time.Second,
			Refused:     map[string]uint64{"queue_full": 5, "full": 0},
			MaxInFlight: 40, MinLatency: 5 * time.Millisecond,
		})
	})
	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_upstream_queue_length{} 3`,
		`headgate_upstream_queue_wait_seconds_count{} 4`,
		`headgate_upstream_queue_wait_seconds_sum{} 2`,
		`headgate_upstream_circuit_open_total{reason="queue_full"} 5`,
		`headgate_upstream_circuit_open_total{reason="full"} 0`,
		`headgate_upstream_max_requests_in_flight{} 40`,
		`headgate_upstream_min_latency_seconds{} 0.005`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

func TestOverloadIsReadAtTheScrape(t *testing.T) {
	m := NewMetrics("test")
	m.SetOverload(func() *overload.State {
		return &overload.State{
			Pressure: map[string]float64{"cpu": 1.5}, ShedRatio: .25,
			Shed: map[string]map[string]uint64{"Low": {"cpu": 7}},
		}
	})
	lines := scrape(t, m)
	for _, want := range []string{
		`headgate_overload_pressure{resource="cpu"} 1.5`,
		`headgate_overload_shed_ratio{} 0.25`,
		`headgate_overload_shed_requests_total{priority="Low",resource="cpu"} 7`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

func TestEndpointsAreReadAtTheScrape(t *testing.T) {
	m := NewMetrics("test")
	reads := 0
	m.SetEndpoints(func(yield func(Endpoint)) {
		reads++
		yield(Endpoint{
			Cluster: "Service/shop/catalogue/80", Address: "10.0.0.1:80",
			Healthy: true, InFlight: 3, Connections: 7, Idle: 4, Requests: 5, Failures: 1, ConnectFailures: 2, Ejections: map[string]uint64{"connect": 6},
			TLSFailures:  map[string]uint64{"tls_name_mismatch": 1},
			ChecksPassed: 9, ChecksFailed: 8,
		})
	})
	lines := scrape(t, m)
	if reads != 1 {
		t.Errorf("read %d times in one scrape", reads)
	}
	for _, want := range []string{
		`headgate_upstream_endpoint_healthy{endpoint="10.0.0.1:80"} 1`,
		`headgate_upstream_endpoint_draining{endpoint="10.0.0.1:80"} 0`,
		`headgate_upstream_endpoint_requests_in_flight{endpoint="10.0.0.1:80"} 3`,
		`headgate_upstream_endpoint_connections_idle{endpoint="10.0.0.1:80"} 4`,
		`headgate_upstream_endpoint_requests_total{endpoint="10.0.0.1:80"} 5`,
		`headgate_upstream_endpoint_failures_total{endpoint="10.0.0.1:80"} 1`,
		`headgate_upstream_endpoint_connections{endpoint="10.0.0.1:80"} 7`,
		`headgate_upstream_endpoint_connect_failures_total{endpoint="10.0.0.1:80"} 2`,
		`headgate_upstream_endpoint_tls_failures_total{endpoint="10.0.0.1:80",reason="tls_name_mismatch"} 1`,
		`headgate_upstream_endpoint_ejections_total{endpoint="10.0.0.1:80",reason="connect"} 6`,
		`headgate_upstream_endpoint_health_checks_total{endpoint="10.0.0.1:80",result="passed"} 9`,
		`headgate_upstream_endpoint_health_checks_total{endpoint="10.0.0.1:80",result="failed"} 8`,
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

// Metric names, types and help texts hold to Prometheus' conventions.
func TestNamesAreConventional(t *testing.T) {
	m := NewMetrics("test")
	m.Route(shopLabels).Done(200, 0, 0)
	p := m.Port("tcp/80")
	p.Malformed("x")
	p.Rejected("x")
	m.LocalReply("x")
	m.SetEndpoints(func(yield func(Endpoint)) { yield(Endpoint{Cluster: "c", Address: "a", ChecksPassed: 1}) })
	families, err := m.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "headgate_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := NewMetrics("test")
	r, p := m.Route(shopLabels), m.Port("tcp/80")
	request := func() {
		r.Begin()
		r.Done(200, time.Millisecond, 10*time.Microsecond)
		m.LocalReply("no_route")
		p.Accepted()
		p.Closed()
	}
	for range 100 * shardCount {
		request()
	}
	if n := testing.AllocsPerRun(1000, request); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	m := NewMetrics("test")
	r := m.Route(shopLabels)
	var wg sync.WaitGroup
	const each = 1000
	for range 4 {
		wg.Go(func() {
			for range each {
				r.Begin()
				r.Done(200, time.Millisecond, time.Microsecond)
				m.LocalReply("x")
				other := m.Route(noCluster)
				other.Begin()
				other.Done(404, 0, 0)
				other.Release()
			}
		})
	}
	for range 10 {
		if _, err := m.Registry().Gather(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	lines := scrape(t, m)
	for _, want := range []string{
		fmt.Sprintf(`headgate_http_requests_total{code_class="2xx"} %d`, 4*each),
		`headgate_http_requests_in_flight{} 0`,
		fmt.Sprintf(`headgate_http_local_replies_total{reason="x"} %d`, 4*each),
	} {
		if !lines[want] {
			t.Errorf("missing %s", want)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	r := NewMetrics("test").Route(shopLabels)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.Begin()
			r.Done(200, 300*time.Microsecond, 20*time.Microsecond)
		}
	})
}
