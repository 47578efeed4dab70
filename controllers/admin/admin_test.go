package admin

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testSnapshot() *snapshot.Snapshot {
	rule := &snapshot.Rule{
		Source:   snapshot.Ref{Kind: "HTTPRoute", Namespace: "default", Name: "shop", Section: "0"},
		Backends: []snapshot.Backend{{Cluster: "Service/default/shop/80", Weight: 3}, {Weight: 1}},
		Mirrors:  []snapshot.Mirror{{Cluster: "Service/default/copy/80", Numerator: 1, Denominator: 2}},
	}
	snap := &snapshot.Snapshot{Ports: []*snapshot.Port{{
		Key: "tcp/443", Number: 443, Transport: "tcp",
		Listeners: []*snapshot.Listener{{
			Key: "default/web/https",
			TLS: &snapshot.TLS{Certificates: []*snapshot.Certificate{{Chain: []byte("CHAIN"), Key: []byte("PRIVATE")}}},
		}},
	}}}
	snap.Hosts = snap.Hosts.With(snapshot.HostKey("default/web/https", "*"), &snapshot.VirtualHost{
		Listener: "default/web/https", Hostname: "*",
		Routes: []*snapshot.Route{
			{Match: snapshot.Match{Path: snapshot.PathMatch{Type: "Exact", Value: "/a"}, Method: "GET"}, Rule: rule},
			{Match: snapshot.Match{
				Path:    snapshot.PathMatch{Type: "RegularExpression", Value: "/b.*"},
				Query:   []snapshot.ValueMatch{{Name: "q", Type: "Exact", Value: "1"}},
				Headers: []snapshot.ValueMatch{{Name: "x", Type: "RegularExpression", Value: "y+"}},
			}, Rule: rule},
			{Match: snapshot.Match{Path: snapshot.PathMatch{Type: "PathPrefix", Value: "/"}}, Rule: rule},
		},
	})
	snap.Clusters = snap.Clusters.With("Service/default/shop/80", &snapshot.Cluster{})
	snap.Endpoints = snap.Endpoints.With("Service/default/shop/80", &snapshot.Endpoints{
		Endpoints: []snapshot.Endpoint{{Address: "fd00::1", Port: 80, Draining: true}},
		Hosts:     []snapshot.Host{{Name: "api.example.com", Port: 443, Weight: 2}},
	})
	return snap
}

func newServer(t *testing.T, snap *snapshot.Snapshot) *Server {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "test_total", Help: "A test's."})
	registry.MustRegister(counter)
	return New(Sources{
		Version: "headgate v0.0.0",
		Ready: func() (bool, string) {
			if snap == nil {
				return false, "no configuration serves yet"
			}
			return true, ""
		},
		Snapshot:  func() *snapshot.Snapshot { return snap },
		Result:    func() (*compile.Result, time.Time) { return nil, time.Time{} },
		Report:    func() []Entry { return []Entry{} },
		Endpoints: func() []Endpoint { return Endpoints(snap) },
		Ports:     func() any { return []string{} },
		Metrics:   registry,
		Log:       testr.New(t),
	})
}

func get(h http.Handler, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestReadiness(t *testing.T) {
	s := newServer(t, nil)
	if code, text := get(s.ProbeHandler(), "/readyz"); code != 503 || text != "no configuration serves yet\n" {
		t.Errorf("%d %q", code, text)
	}
	s = newServer(t, testSnapshot())
	if code, _ := get(s.ProbeHandler(), "/readyz"); code != 200 {
		t.Errorf("%d", code)
	}
	s.Drain()
	if code, text := get(s.Handler(), "/readyz"); code != 503 || text != "draining\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := get(s.Handler(), "/healthz"); code != 200 {
		t.Errorf("%d: draining is healthy", code)
	}
}

func TestEveryPageOnTheIndexAnswers(t *testing.T) {
	for _, snap := range []*snapshot.Snapshot{nil, testSnapshot()} {
		s := newServer(t, snap)
		_, index := get(s.Handler(), "/")
		for _, p := range s.pages() {
			code, text := get(s.Handler(), p.path)
			if want := p.path == "/readyz" && snap == nil; code != 200 && !want || text == "" {
				t.Errorf("%s: %d %q", p.path, code, text)
			}
			if !strings.Contains(index, `<a href="`+p.path+`">`) {
				t.Errorf("the index lacks %s", p.path)
			}
			for _, secret := range []string{"PRIVATE", "UFJJVkFURQ"} {
				if strings.Contains(text, secret) {
					t.Errorf("%s shows a key", p.path)
				}
			}
		}
	}
}

func TestTheProbeAddressShowsProbesOnly(t *testing.T) {
	s := newServer(t, testSnapshot())
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/metrics": 200,
		"/": 404, "/snapshot": 404, "/routes": 404, "/debug/pprof/": 404, "/debug/pprof/cmdline": 404,
	} {
		if code, _ := get(s.ProbeHandler(), path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestRows(t *testing.T) {
	rows := Routes(testSnapshot())
	var matches []string
	for _, r := range rows {
		matches = append(matches, MatchText(r.Match))
	}
	if got := strings.Join(matches, ", "); got != "GET =/a, ~/b.* ?q=1 x:~y+, /*" {
		t.Errorf("matches: %s", got)
	}
	if r := rows[0]; r.Route != "default/shop" || r.Rule != "0" || len(r.Backends) != 2 || r.Mirrors[0] != "Service/default/copy/80" {
		t.Errorf("%+v", r)
	}
	endpoints := Endpoints(testSnapshot())
	if len(endpoints) != 2 || endpoints[0].Address != "[fd00::1]:80" || endpoints[0].State != "draining" ||
		endpoints[1].Address != "api.example.com:443" || endpoints[1].State != "by DNS" || endpoints[1].Weight != 2 {
		t.Errorf("%+v", endpoints)
	}
	if len(Routes(nil)) != 0 || len(Endpoints(nil)) != 0 {
		t.Error("rows of nothing")
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	s := newServer(t, testSnapshot())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ctx, l, s.Handler())
	}()
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(text), "test_total 0") {
		t.Errorf("%v: %s", err, text)
	}
	cancel()
	<-done
	client.CloseIdleConnections()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}
