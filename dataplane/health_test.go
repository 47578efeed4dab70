package dataplane_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// TestHealthChecks has an endpoint fall ill and recover behind a proxy, with
// changes of routes and endpoints in between.
func TestHealthChecks(t *testing.T) {
	var ill atomic.Bool
	patient := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" && ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Backend", "patient")
	}))
	t.Cleanup(patient.Close)
	at := patient.Listener.Addr().String()
	metrics := observe.NewMetrics("")
	p := start(t, dataplane.Options{Metrics: metrics})
	w := &world{}
	w.port(plain()).cluster("a", backend(t, "other"), at).host(gateway, "*", to("/a", "a"))
	cluster, _ := w.snap.Clusters.Get("a")
	cluster.HealthCheck = &snapshot.HealthCheck{
		Interval: 10 * time.Millisecond, Timeout: 30 * time.Second, UnhealthyThreshold: 2,
		HTTP: &snapshot.HTTPHealthCheck{Path: "/healthz"},
	}
	w.apply(t, p)

	state := func() (state, why string) {
		for _, e := range p.Clusters()[0].Endpoints {
			if e.Address == at {
				return e.State, e.CheckFailure
			}
		}
		return "", ""
	}
	becomes := func(want string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			got, why := state()
			if got == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it is %s (%s), want %s", got, why, want)
			}
		}
	}
	c, url := client(t), "http://"+address(t, p)+"/a"
	served := func() (n int) {
		t.Helper()
		for range 10 {
			resp, _ := get(t, c, url)
			if resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
			if resp.Header.Get("Backend") == "patient" {
				n++
			}
		}
		return n
	}
	if n := served(); n != 5 {
		t.Errorf("it served %d of 10 requests while healthy", n)
	}
	ill.Store(true)
	becomes("unhealthy")
	if n := served(); n != 0 {
		t.Errorf("it served %d requests while unhealthy", n)
	}
	if _, why := state(); why != "status 503" {
		t.Errorf("why: %q", why)
	}
	scraped := httptest.NewRecorder()
	promhttp.HandlerFor(metrics.Registry(), promhttp.HandlerOpts{}).ServeHTTP(scraped, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`headgate_upstream_endpoint_healthy{cluster="a",endpoint="` + at + `"} 0`,
		`headgate_upstream_endpoint_health_checks_total{cluster="a",endpoint="` + at + `",result="failed"} `,
	} {
		if !strings.Contains(scraped.Body.String(), want) {
			t.Errorf("the metrics have no %s", want)
		}
	}

	w.host(gateway, "*", to("/a", "a"), to("/b", "a")).endpoints("a", backend(t, "third"), at).apply(t, p)
	if n := served(); n != 0 {
		t.Errorf("it served %d requests after a change", n)
	}
	ill.Store(false)
	becomes("ready")
	if n := served(); n != 5 {
		t.Errorf("it served %d of 10 requests when it had recovered", n)
	}
}
