package observe

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mirror compares what a mirror answers with what the client was answered. Its
// labels are those of the route, with the mirror as the cluster. It is safe for
// concurrent use.
type Mirror struct {
	labels          RouteLabels
	outcomes        reasons
	primary, mirror atomic.Pointer[histogram]
	m               *Metrics
	users           int // guarded by m.mu
}

// Reply is what came of a request, at a backend or at its mirror.
type Reply struct {
	// Status is 0 if there was no response, or one that broke off.
	Status int
	// Length is the content's length in bytes, -1 if it is not known.
	Length int64
	// Took is from sending the request to the response's head.
	Took time.Duration
}

// Mirror returns the handle for these labels. Every handle that was got is given
// back with Release.
func (m *Metrics) Mirror(labels RouteLabels) *Mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.mirrors[labels]
	if r == nil {
		r = &Mirror{labels: labels, m: m}
		m.mirrors[labels] = r
	}
	r.users++
	return r
}

// Release gives the handle back. Copies in flight may still use it.
func (r *Mirror) Release() {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if r.users--; r.users == 0 {
		delete(r.m.mirrors, r.labels)
	}
}

// Dropped counts a copy that was not sent.
func (r *Mirror) Dropped() { r.outcomes.count("dropped") }

// Compared counts a copy by what became of it and of the request that it is of.
func (r *Mirror) Compared(primary, mirror Reply) {
	r.outcomes.count(outcomeOf(primary, mirror))
	if primary.Status != 0 && mirror.Status != 0 {
		observe(&r.primary, totalBounds[:], int64(primary.Took))
		observe(&r.mirror, totalBounds[:], int64(mirror.Took))
	}
}

func outcomeOf(primary, mirror Reply) string {
	switch {
	case mirror.Status == 0:
		return "failed"
	case primary.Status == 0:
		return "primary_failed"
	case primary.Status != mirror.Status:
		return "status_differs"
	case primary.Length != mirror.Length && primary.Length >= 0 && mirror.Length >= 0:
		return "length_differs"
	}
	return "same"
}

var (
	mirrorRequestsDesc = desc("mirror_requests_total",
		"Copies of requests for mirrors, by what became of them beside the requests that they are of.",
		"listener", "route", "cluster", "outcome")
	mirrorDurationDesc = desc("mirror_response_duration_seconds",
		"Time from sending a request to its response's head, of requests that were mirrored and of their copies.",
		"listener", "route", "cluster", "response")
)

func (r *Mirror) collect(ch chan<- prometheus.Metric) {
	l := r.labels
	r.outcomes.collect(ch, mirrorRequestsDesc, l.Listener, l.Route, l.Cluster)
	for response, took := range map[string]*atomic.Pointer[histogram]{"primary": &r.primary, "mirror": &r.mirror} {
		var h tally
		if h.add(took); h.count > 0 {
			h.collect(ch, mirrorDurationDesc, totalBounds[:], l.Listener, l.Route, l.Cluster, response)
		}
	}
}
