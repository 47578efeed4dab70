// Package admin serves the admin address: health, readiness, metrics, and what
// Headgate currently does, as JSON. Key material never appears there, but what
// appears is not for everybody: the address is loopback unless told otherwise.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Sources are where the answers come from. All functions are called from many
// goroutines.
type Sources struct {
	// Version is shown on the index page.
	Version string
	// Ready reports whether the first snapshot serves, and if not, why not yet.
	Ready func() (bool, string)
	// Snapshot returns what serves, nil before the first.
	Snapshot func() *snapshot.Snapshot
	// Result returns what was compiled last, and when; nil before the first.
	Result func() (*compile.Result, time.Time)
	// Report returns everything that is not fine.
	Report func() []Entry
	// Endpoints returns the endpoints' live state.
	Endpoints func() []Endpoint
	// Ports returns the state of the listening sockets, as JSON will show it.
	Ports func() any
	// Metrics is what /metrics gathers.
	Metrics prometheus.Gatherer
	Log     logr.Logger
}

// Server serves admin addresses. Its methods are safe for concurrent use.
type Server struct {
	sources  Sources
	draining atomic.Bool
}

// New returns a server that listens nowhere yet.
func New(s Sources) *Server { return &Server{sources: s} }

// Drain makes readiness fail from now on, so that load balancers in front stop
// sending new connections.
func (s *Server) Drain() { s.draining.Store(true) }

// page is one entry of the index.
type page struct {
	path, about string
	probe       bool // also served at the probe address
	handler     http.HandlerFunc
}

func (s *Server) pages() []page {
	metrics := promhttp.HandlerFor(s.sources.Metrics, promhttp.HandlerOpts{})
	return []page{
		{"/healthz", "200 while the process lives", true, s.healthz},
		{"/readyz", "200 while requests are served, else 503 with the reason", true, s.readyz},
		{"/metrics", "metrics for Prometheus", true, metrics.ServeHTTP},
		{"/routes", "what is routed where, as JSON; `headgate routes` prints it as a table", false, s.routes},
		{"/endpoints", "the endpoints' live state, as JSON; `headgate endpoints` prints it as a table", false, s.endpoints},
		{"/statuses", "the objects' statuses and everything that is not fine, as JSON", false, s.statuses},
		{"/ports", "the listening sockets, as JSON", false, s.ports},
		{"/snapshot", "all that serves, as JSON; keys are redacted", false, s.snapshot},
		{"/debug/pprof/", "Go profiles", false, pprof.Index},
	}
}

// Handler serves everything.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range s.pages() {
		mux.HandleFunc("GET "+p.path, p.handler)
	}
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", s.index)
	return mux
}

// ProbeHandler serves what may be seen from outside the pod: health, readiness
// and metrics.
func (s *Server) ProbeHandler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range s.pages() {
		if p.probe {
			mux.HandleFunc("GET "+p.path, p.handler)
		}
	}
	return mux
}

// Serve answers at l until the context ends, then closes it. Requests under way
// have a second to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	}()
	if err := server.Serve(l); ctx.Err() == nil {
		s.sources.Log.Error(err, "The admin address is no longer served", "address", l.Addr().String())
		return
	}
	<-done
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<!doctype html>\n<title>Headgate</title>\n<h1>%s</h1>\n<table>\n", s.sources.Version)
	for _, p := range s.pages() {
		fmt.Fprintf(w, "<tr><td><a href=%q>%s</a></td><td>%s</td></tr>\n", p.path, p.path, p.about)
	}
	io.WriteString(w, "</table>\n")
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") }

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	ready, why := s.sources.Ready()
	if s.draining.Load() {
		ready, why = false, "draining"
	}
	if !ready {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ok\n")
}

func (s *Server) snapshot(w http.ResponseWriter, _ *http.Request) {
	s.json(w, s.sources.Snapshot())
}

func (s *Server) routes(w http.ResponseWriter, _ *http.Request) {
	s.json(w, Routes(s.sources.Snapshot()))
}

func (s *Server) endpoints(w http.ResponseWriter, _ *http.Request) {
	s.json(w, s.sources.Endpoints())
}

func (s *Server) ports(w http.ResponseWriter, _ *http.Request) { s.json(w, s.sources.Ports()) }

// Status is an object's status as it should be. Its conditions have no
// lastTransitionTime: that is known where it is written.
type Status struct {
	// Object is "Kind namespace/name".
	Object             string `json:"object"`
	ObservedGeneration int64  `json:"observedGeneration"`
	Status             any    `json:"status"`
}

// Statuses is the page /statuses.
type Statuses struct {
	// At is when the configuration that these are about was applied.
	At       time.Time `json:"at,omitzero"`
	Statuses []Status  `json:"statuses"`
	// Report is everything that is not fine.
	Report []Entry `json:"report"`
}

func (s *Server) statuses(w http.ResponseWriter, _ *http.Request) {
	page := Statuses{Statuses: []Status{}, Report: s.sources.Report()}
	result, at := s.sources.Result()
	if result != nil {
		page.At = at
		for _, status := range result.Statuses() {
			page.Statuses = append(page.Statuses, Status{status.Object.String(), status.Generation, status.Value})
		}
	}
	s.json(w, page)
}

func (s *Server) json(w http.ResponseWriter, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.sources.Log.Error(err, "An admin page cannot be written")
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(text, '\n'))
}
