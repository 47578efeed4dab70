package watch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/prometheus/client_golang/prometheus"
)

// server answers watches, or does not.
type server struct {
	away   atomic.Pointer[error]
	status int
}

func (s *server) RoundTrip(*http.Request) (*http.Response, error) {
	if away := s.away.Load(); away != nil {
		return nil, *away
	}
	return &http.Response{StatusCode: s.status, Status: http.StatusText(s.status), Body: io.NopCloser(strings.NewReader("events"))}, nil
}

func TestStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		s := newStaleness(funcr.New(func(_, args string) { lines = append(lines, args) }, funcr.Options{}))
		s.follow("httproutes", "HTTPRoute")
		s.follow("services", "Service")
		api := &server{status: 200}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		transport := s.wrap(api)
		get := func(path string) io.ReadCloser {
			request, err := http.NewRequestWithContext(ctx, "GET", "https://cluster/prefix"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := transport.RoundTrip(request)
			if err != nil {
				return nil
			}
			return response.Body
		}
		routes := func() io.ReadCloser {
			return get("/apis/gateway.networking.k8s.io/v1/httproutes?allowWatchBookmarks=true&watch=true")
		}
		services := func() io.ReadCloser { return get("/api/v1/services?watch=true") }
		ages := func() map[string]float64 {
			registry := prometheus.NewRegistry()
			registry.MustRegister(s)
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			ages := map[string]float64{}
			for _, m := range families[0].Metric {
				ages[m.Label[0].GetValue()] = m.GetGauge().GetValue()
			}
			return ages
		}
		expect := func(what string, route, service float64, said ...string) {
			t.Helper()
			synctest.Wait()
			if got := ages(); got["HTTPRoute"] != route || got["Service"] != service {
				t.Errorf("%s: %v", what, got)
			}
			if !slices.EqualFunc(lines, said, strings.Contains) {
				t.Errorf("%s: said %q, want %q", what, lines, said)
			}
			lines = nil
		}

		r, sv := routes(), services()
		time.Sleep(time.Minute)
		expect("both are watched", 0, 0)

		// A watch that ends as all do, and the one after it.
		if _, err := io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
		time.Sleep(time.Second)
		r = routes()
		time.Sleep(time.Minute)
		expect("one was renewed", 0, 0)

		refused := errors.New("connection refused")
		api.away.Store(&refused)
		r.Close()
		time.Sleep(2 * time.Second)
		sv.Close()
		waiting := make(chan io.ReadCloser, 2)
		go func() { waiting <- routes() }()
		time.Sleep(2 * time.Second)
		expect("the API server is away", 4, 2, "connection refused")
		time.Sleep(10 * time.Minute)
		get("/api/v1/services?labelSelector=x")
		expect("it stays away", 604, 602)

		api.away.Store(nil)
		began := time.Now()
		r = <-waiting
		if took := time.Since(began); took > 2*retryAfter {
			t.Errorf("seen again only after %v", took)
		}
		sv = services()
		expect("both are watched again", 0, 0, "seen again")

		api.status = http.StatusForbidden
		r.Close()
		routes()
		time.Sleep(5 * time.Second)
		expect("one is forbidden", 5, 0, "Forbidden")

		// Who waits for an API server ends when its context does.
		api.away.Store(&refused)
		go func() { waiting <- services() }()
		time.Sleep(time.Minute)
		cancel()
		if body := <-waiting; body != nil {
			t.Error("a watch without an API server")
		}
		s.stop()
		sv.Close()
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(lines) > 0 {
			t.Errorf("it has ended, and said %q", lines)
		}
	})
}
