package watch

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
)

// staleness knows for how long the changes of each kind have not been seen,
// because the API server is away or refuses to tell. It is found out from the
// watches themselves, as requests over the wire: an informer does not say when
// it has recovered.
type staleness struct {
	log logr.Logger

	mu      sync.Mutex
	kinds   map[string]string    // by resource, such as httproutes
	open    map[string]int       // watches, by resource
	since   map[string]time.Time // by resource: when the last watch ended
	cause   error                // what the last attempt failed with, or the first watch ended with
	told    bool                 // that some are stale
	oldest  time.Time            // when the first of those became so
	timer   *time.Timer          // nil unless there is something to tell soon
	stopped bool
}

// staleAfter is how long a watch may be lost before that is worth a line:
// every one ends after some minutes, and is begun again.
const staleAfter = 3 * time.Second

const (
	// retryAfter is how long a watch waits, on average, before it asks again an
	// API server that could not be reached.
	retryAfter = time.Second
	// dialTimeout bounds an attempt to connect to it: one that waits for long
	// would miss that it is back.
	dialTimeout = 5 * time.Second
)

func newStaleness(log logr.Logger) *staleness {
	return &staleness{log: log, kinds: map[string]string{}, open: map[string]int{}, since: map[string]time.Time{}}
}

// follow adds a kind, by the name of its resource.
func (s *staleness) follow(resource, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds[resource] = kind
}

// stop ends the telling.
func (s *staleness) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// wrap is rest.Config.WrapTransport.
func (s *staleness) wrap(next http.RoundTripper) http.RoundTripper {
	return watching{next, s}
}

type watching struct {
	next      http.RoundTripper
	staleness *staleness
}

// RoundTrip implements http.RoundTripper. A watch waits for an API server that is
// away: an informer would try again ever later, up to a minute, and all that time
// after the API server is back its changes would not be seen.
func (w watching) RoundTrip(request *http.Request) (*http.Response, error) {
	if !strings.Contains(request.URL.RawQuery, "watch=") {
		return w.next.RoundTrip(request)
	}
	s, resource := w.staleness, path.Base(request.URL.Path)
	for {
		response, err := w.next.RoundTrip(request)
		if err != nil {
			s.lost(resource, err, 0)
			select {
			case <-request.Context().Done():
				return nil, err
			case <-time.After(retryAfter/2 + rand.N(retryAfter)):
				continue
			}
		}
		if response.StatusCode != http.StatusOK {
			s.lost(resource, fmt.Errorf("watch %s: %s", resource, response.Status), 0)
			return response, nil
		}
		s.opened(resource)
		response.Body = &watchBody{ReadCloser: response.Body, ended: func(err error) { s.lost(resource, err, 1) }}
		return response, nil
	}
}

// WrappedRoundTripper lets client-go find what is behind.
func (w watching) WrappedRoundTripper() http.RoundTripper { return w.next }

// watchBody is what a watch reads its events from.
type watchBody struct {
	io.ReadCloser
	once  sync.Once
	ended func(error)
}

func (b *watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() { b.ended(err) })
	}
	return n, err
}

func (b *watchBody) Close() error {
	b.once.Do(func() { b.ended(io.EOF) })
	return b.ReadCloser.Close()
}

// opened takes note of a watch that has begun.
func (s *staleness) opened(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds[resource] == "" {
		return
	}
	s.open[resource]++
	delete(s.since, resource)
	if len(s.since) > 0 {
		return
	}
	s.cause = nil
	if s.told && !s.stopped {
		s.told = false
		s.log.Info("Changes in the cluster are seen again", "after", time.Since(s.oldest).Round(time.Second).String())
	}
}

// lost takes note of as many watches that have ended, or of an attempt that failed.
func (s *staleness) lost(resource string, cause error, watches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kinds[resource] == "" || s.stopped {
		return
	}
	if watches == 0 || s.cause == nil { // an attempt says more than an end
		s.cause = cause
	}
	if s.open[resource] -= watches; s.open[resource] > 0 || !s.since[resource].IsZero() {
		return
	}
	s.since[resource] = time.Now()
	if !s.told && s.timer == nil {
		s.timer = time.AfterFunc(staleAfter, s.tell)
	}
}

// tell says that some kinds are stale, if they have been for long enough.
func (s *staleness) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	if len(s.since) == 0 || s.told || s.stopped {
		return
	}
	s.oldest = slices.MinFunc(slices.Collect(maps.Values(s.since)), time.Time.Compare)
	if wait := staleAfter - time.Since(s.oldest); wait > 0 {
		s.timer = time.AfterFunc(wait, s.tell)
		return
	}
	s.told = true
	var kinds []string
	for resource := range s.since {
		kinds = append(kinds, s.kinds[resource])
	}
	slices.Sort(kinds)
	s.log.Error(s.cause, "Changes in the cluster are not seen; serving what there was", "kinds", strings.Join(kinds, ","))
}

var staleDesc = prometheus.NewDesc("headgate_watch_stale_seconds",
	"For how long changes of the kind in the cluster have not been seen; 0 while it is watched.", []string{"kind"}, nil)

// Describe implements prometheus.Collector.
func (s *staleness) Describe(ch chan<- *prometheus.Desc) { ch <- staleDesc }

// Collect implements prometheus.Collector.
func (s *staleness) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for resource, kind := range s.kinds {
		age := time.Duration(0)
		if since := s.since[resource]; !since.IsZero() {
			age = time.Since(since)
		}
		ch <- prometheus.MustNewConstMetric(staleDesc, prometheus.GaugeValue, age.Seconds(), kind)
	}
}
