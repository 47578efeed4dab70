package observe

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/headgate/headgate/dataplane/overload"
)

// Metrics are all metrics of the process, on a registry of their own. It is
// safe for concurrent use. What has no labels, and the Go runtime's and the
// process's own metrics, are there from the start; the rest comes with the
// handles.
type Metrics struct {
	registry *prometheus.Registry

	mu     sync.Mutex
	shares map[shareLabels]*share
	ports  map[string]*Port
	l4     map[RouteLabels]*L4
	// externalAuth is by policy.
	externalAuth map[string]*ExternalAuth
	bandwidth    map[BandwidthLabels]*Bandwidth
	mirrors      map[RouteLabels]*Mirror

	local     reasons
	snapshots *snapshots
	endpoints atomic.Pointer[func(yield func(Endpoint))]
	circuits  atomic.Pointer[func(yield func(Circuit))]
	overload  atomic.Pointer[func() *overload.State]
	accessLog atomic.Pointer[AccessLog]
}

// NewMetrics returns metrics that count from zero. version is shown by
// headgate_build_info.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		shares:   map[shareLabels]*share{},
		ports:    map[string]*Port{},
		l4:       map[RouteLabels]*L4{},

		externalAuth: map[string]*ExternalAuth{},
		bandwidth:    map[BandwidthLabels]*Bandwidth{},
		mirrors:      map[RouteLabels]*Mirror{},
	}
	m.snapshots = newSnapshots(m.registry)
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(version),
		collector{m},
	)
	return m
}

// Registry returns the registry, to be gathered from and for other parts of
// the process to register their collectors with.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// LocalReply counts a response that Headgate itself made, by
// exchange.Response.LocalReason.
func (m *Metrics) LocalReply(reason string) { m.local.count(reason) }

// Compiled records how long a compile took, whether its result was swapped in or not.
func (m *Metrics) Compiled(took time.Duration) { m.snapshots.compile.Observe(took.Seconds()) }

// Applied records that a snapshot serves from now on.
func (m *Metrics) Applied(now time.Time) { m.snapshots.applied(now) }

// Endpoint is an endpoint of a cluster at the moment of a scrape.
type Endpoint struct {
	// Cluster is the cluster's key, Address "ip:port".
	Cluster, Address string
	// Healthy is false while the endpoint is ejected or unhealthy.
	Healthy bool
	// Draining endpoints take no new requests.
	Draining bool
	// InFlight counts the requests being served, Connections the open
	// connections, and Idle those of them that serve none.
	InFlight, Connections, Idle int
	// Requests counts the requests sent since the endpoint appeared, retries
	// included; Failures those of them, and of the attempts to connect, that
	// brought no response.
	Requests, Failures uint64
	// ConnectFailures counts the attempts to connect that failed.
	ConnectFailures uint64
	// TLSFailures are those of ConnectFailures that TLS is the reason of, by reason.
	TLSFailures map[string]uint64
	// Ejections count how often the endpoint was taken out of use, by reason.
	Ejections map[string]uint64
	// ChecksPassed and ChecksFailed count the endpoint's health checks.
	ChecksPassed, ChecksFailed uint64
}

// SetEndpoints says where to read the clusters' endpoints from at each scrape.
// It is called from the scrape's goroutine and must be safe for that.
func (m *Metrics) SetEndpoints(each func(yield func(Endpoint))) { m.endpoints.Store(&each) }

// Circuit is a cluster's circuit breaker at the moment of a scrape.
type Circuit struct {
	Cluster string
	// Queued requests wait for an endpoint with room. Waits counts those that
	// have waited, and Waited for how long.
	Queued int
	Waits  uint64
	Waited time.Duration
	// Refused counts what was refused, by reason.
	Refused map[string]uint64
	// MaxInFlight is how many requests may be in flight at the moment, 0 for any
	// number; MinLatency what adaptive concurrency goes by, 0 if that is not known.
	MaxInFlight int64
	MinLatency  time.Duration
}

// SetCircuits says where to read the clusters' circuit breakers from at each
// scrape. each may be called at any time and by several goroutines.
func (m *Metrics) SetCircuits(each func(yield func(Circuit))) { m.circuits.Store(&each) }

// SetOverload says where to read from at each scrape how the process is doing.
func (m *Metrics) SetOverload(state func() *overload.State) { m.overload.Store(&state) }

// SetAccessLog has the log's dropped lines exposed.
func (m *Metrics) SetAccessLog(l *AccessLog) { m.accessLog.Store(l) }
