// Package upstream sends exchanges to the endpoints of clusters: it picks one,
// keeps connections to it, tries another where nothing was sent yet, and stays
// away from those that refuse connections or fail their health checks.
//
// A Cluster's configuration, endpoint set and balancer are one immutable value
// behind an atomic pointer: a round trip loads it once and keeps it to its
// end. What an endpoint has gathered (connections, counts, ejection) outlives
// the sets that it is in. The only lock of the request path is that of one
// endpoint's idle connections, and where requests wait for an endpoint with room,
// that of their queue.
package upstream

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/health"
	"github.com/headgate/headgate/dataplane/resolver"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Options are what all clusters of a Manager share. The zero value serves.
type Options struct {
	// Dial opens a connection in place of package net, whatever a cluster says of
	// its sockets; it is for tests. It is called with network "tcp" and "ip:port", or
	// with "unix" and a path, and keeps the context's deadline.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HTTP1 and HTTP2 are the codecs' bounds; nil means their defaults.
	HTTP1 *h1.ClientOptions
	HTTP2 *h2.ClientOptions
	// HealthChecks bounds the health checks at a time, over all clusters; what
	// is due beyond that waits. 0 means 512.
	HealthChecks int
	// Zone and Node are where this process runs, for clusters that prefer
	// endpoints near it; "" if that is not known.
	Zone, Node string
	// DNS says how hosts are resolved.
	DNS resolver.Config
	// Log gets ejections, changes of health and failing lookups. Its zero value discards.
	Log logr.Logger
	// Now is the clock of ejections and idle times; nil means time.Now.
	Now func() time.Time
	// SweepInterval is how often idle connections, intervals of outlier detection
	// and shares of slow start are looked at; 0 means 1 s. They are kept to within that.
	SweepInterval time.Duration
}

// Manager owns what clusters share: the sweeper of idle connections, the
// resolver and the health checker. It is safe for concurrent use.
type Manager struct {
	opts  Options
	start time.Time
	// coarse is the clock as of the last sweep, for what needs no better.
	coarse   atomic.Int64
	resolver *resolver.Resolver
	checker  *health.Checker
	warmer   warmer
	maxMuxes int

	mu       sync.Mutex
	clusters map[*Cluster]struct{}

	stop func()
	done chan struct{}
}

// NewManager returns a Manager, which runs until Close.
func NewManager(opts Options) *Manager {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.SweepInterval <= 0 {
		opts.SweepInterval = time.Second
	}
	if opts.Log.GetSink() == nil {
		opts.Log = logr.Discard()
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Manager{
		opts:     opts,
		start:    opts.Now().Add(-1), // so that no time is 0
		resolver: resolver.New(ctx, opts.DNS, opts.Log),
		checker:  health.NewChecker(opts.HealthChecks),
		maxMuxes: defaultMaxMuxes,
		clusters: map[*Cluster]struct{}{},
		stop:     stop,
		done:     make(chan struct{}),
	}
	m.warmer.ctx = ctx
	m.coarse.Store(m.now())
	go m.sweepUntil(ctx.Done())
	return m
}

// Close closes all clusters and ends the Manager's goroutines. Exchanges in
// flight keep their connections until they release them.
func (m *Manager) Close() {
	m.stop()
	<-m.done
	for _, c := range m.list() {
		c.Close()
	}
	m.warmer.close()
	m.checker.Close()
	m.resolver.Wait()
}

// NewCluster returns a live cluster. A nil eps means that there are no
// endpoints yet.
func (m *Manager) NewCluster(cfg *snapshot.Cluster, eps *snapshot.Endpoints) *Cluster {
	c := newCluster(m, cfg, eps)
	m.mu.Lock()
	m.clusters[c] = struct{}{}
	m.mu.Unlock()
	return c
}

func (m *Manager) forget(c *Cluster) {
	m.mu.Lock()
	delete(m.clusters, c)
	m.mu.Unlock()
}

func (m *Manager) list() []*Cluster {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Cluster, 0, len(m.clusters))
	for c := range m.clusters {
		list = append(list, c)
	}
	return list
}

// http2Options are those of the Manager, with a cluster's own keep-alive if it has any.
func (m *Manager) http2Options(keepalive *snapshot.HTTP2Keepalive) *h2.ClientOptions {
	opts := h2.ClientOptions{}
	if m.opts.HTTP2 != nil {
		opts = *m.opts.HTTP2
	}
	if keepalive != nil {
		opts.PingInterval = cmp.Or(keepalive.Interval, opts.PingInterval)
		opts.PingTimeout = cmp.Or(keepalive.Timeout, opts.PingTimeout)
	}
	return &opts
}

// now is the time since the Manager began, in nanoseconds, above 0.
func (m *Manager) now() int64 { return int64(m.opts.Now().Sub(m.start)) }

// sweepUntil closes connections that were idle for too long. There is one
// sweeper for all clusters, rather than a timer for each connection, which
// would be set and stopped with every request.
func (m *Manager) sweepUntil(stop <-chan struct{}) {
	defer close(m.done)
	ticker := time.NewTicker(m.opts.SweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
			m.sweep()
		}
	}
}

func (m *Manager) sweep() {
	now := m.now()
	m.coarse.Store(now)
	for _, c := range m.list() {
		c.lookForOutliers(now)
		c.setShares(now)
		c.serveQueue() // an ejection may be over
		st := c.state.Load()
		for i := range st.members {
			st.members[i].ep.sweep(st, now)
		}
		c.warmUp(st)
	}
}
