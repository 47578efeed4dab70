package observe

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ExternalAuth counts what an authorization server says on behalf of one
// policy. It is safe for concurrent use.
type ExternalAuth struct {
	policy   string
	outcomes reasons
	took     atomic.Pointer[histogram]
	m        *Metrics
	users    int // guarded by m.mu
}

// ExternalAuth returns the handle for a policy, "AuthPolicy/namespace/name" or
// the route whose filter it is. Every handle that was got is given back with
// Release.
func (m *Metrics) ExternalAuth(policy string) *ExternalAuth {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.externalAuth[policy]
	if a == nil {
		a = &ExternalAuth{policy: policy, m: m}
		m.externalAuth[policy] = a
	}
	a.users++
	return a
}

// Release gives the handle back. Requests in flight may still use it.
func (a *ExternalAuth) Release() {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.users--; a.users == 0 {
		delete(a.m.externalAuth, a.policy)
	}
}

// Done counts a question by its outcome, one word, and by how long it took.
func (a *ExternalAuth) Done(outcome string, took time.Duration) {
	a.outcomes.count(outcome)
	observe(&a.took, totalBounds[:], int64(took))
}

var (
	externalAuthDesc = desc("external_auth_requests_total",
		"Requests that an authorization server was asked about, by outcome.",
		"policy", "outcome")
	externalAuthDurationDesc = desc("external_auth_duration_seconds",
		"Time from asking an authorization server to its answer, or to the end of waiting for it.",
		"policy")
)

func (a *ExternalAuth) collect(ch chan<- prometheus.Metric) {
	a.outcomes.collect(ch, externalAuthDesc, a.policy)
	var h tally
	if h.add(&a.took); h.count > 0 {
		h.collect(ch, externalAuthDurationDesc, totalBounds[:], a.policy)
	}
}
