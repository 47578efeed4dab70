// Package dataplane is Headgate's data plane as a library: sockets, codecs,
// routing, policies and load balancing, driven by snapshots. It knows nothing
// of Kubernetes.
//
// A Proxy serves what it was last told to serve by Apply. Sockets, connections,
// pools, counters and limits outlive the tables that refer to them, so that
// applying a snapshot while requests are served fails none of them.
package dataplane

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/l4"
	"github.com/headgate/headgate/dataplane/listener"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/pipeline"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/upstream"
)

// Options are what a Proxy cannot know from snapshots. The zero value serves.
type Options struct {
	// BindAddresses are the IP addresses to bind every port at; empty means all
	// addresses, IPv4 and IPv6.
	BindAddresses []string
	// Name is this proxy's name in Via, RFC 9110 section 7.6.3; "" means "headgate".
	Name string
	// MaxConnections bounds the open downstream connections; beyond it, new ones
	// wait in the kernel's queue. 0 means 65,536.
	MaxConnections int
	// MaxRequests bounds the requests in flight; beyond it, requests are
	// answered 503 with Retry-After at once. 0 means 65,536.
	MaxRequests int
	// Overload says from when on requests are refused before that because CPU or
	// memory is short; the zero value refuses none. Its InFlight, MaxRequests and Log are those here.
	Overload overload.Options
	// MaxMirrors bounds the copies of requests in flight to mirrors; beyond it,
	// copies are dropped. 0 means 1,024.
	MaxMirrors int
	// HandshakeTimeout bounds a TLS handshake; 0 means 10 s.
	HandshakeTimeout time.Duration
	// Log defaults to no logs.
	Log logr.Logger
	// Metrics defaults to metrics that nobody reads.
	Metrics *observe.Metrics
	// AccessLog may be nil, which costs nothing. The Proxy does not close it.
	AccessLog *observe.AccessLog
	// HTTP is what policies call out with, and OCSP responders are asked with,
	// never for proxied requests; nil means a client with a timeout of 10 s.
	HTTP *http.Client
	// L4 bounds connections and flows that are passed on unread. Its Log, Metrics,
	// AccessLog and Env are those here.
	L4 l4.Options
	// Upstream is what all clusters share. Its Log defaults to Log.
	Upstream upstream.Options
}

// Proxy serves snapshots. Its methods are safe for concurrent use.
type Proxy struct {
	opts     Options
	manager  *upstream.Manager
	pipeline *pipeline.Pipeline
	raw      *l4.Proxy
	sockets  *listener.Set
	overload *overload.Monitor
	cancel   context.CancelFunc // ends policy.Env.Context and the monitor
	watch    sync.WaitGroup     // the monitor

	mu       sync.Mutex // serialises Apply and Shutdown
	snap     atomic.Pointer[snapshot.Snapshot]
	shutdown atomic.Bool
}

// New returns a proxy that serves nothing until Apply.
func New(opts Options) *Proxy {
	if opts.Log.GetSink() == nil {
		opts.Log = logr.Discard()
	}
	if opts.Upstream.Log.GetSink() == nil {
		opts.Upstream.Log = opts.Log
	}
	if opts.Metrics == nil {
		opts.Metrics = observe.NewMetrics("")
	}
	if opts.HTTP == nil {
		opts.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{opts: opts, manager: upstream.NewManager(opts.Upstream), cancel: cancel}
	opts.Overload.InFlight = func() int { return p.pipeline.InFlight() }
	opts.Overload.MaxRequests = cmp.Or(opts.MaxRequests, pipeline.DefaultMaxRequests)
	opts.Overload.Log = opts.Log
	p.overload = overload.New(opts.Overload)
	env := &policy.Env{
		State: policy.NewState(), Log: opts.Log, HTTP: opts.HTTP, Metrics: opts.Metrics, Now: time.Now, Context: ctx,
	}
	p.pipeline = pipeline.New(pipeline.Options{
		NewCluster: func(cfg *snapshot.Cluster, eps *snapshot.Endpoints) pipeline.Cluster {
			return p.manager.NewCluster(cfg, eps)
		},
		Env: env, Metrics: opts.Metrics, AccessLog: opts.AccessLog, Log: opts.Log,
		Name: opts.Name, MaxRequests: opts.MaxRequests, MaxMirrors: opts.MaxMirrors, Overload: p.overload,
	})
	p.watch.Go(func() { p.overload.Run(ctx.Done()) })
	opts.L4.Log, opts.L4.Metrics, opts.L4.AccessLog, opts.L4.Env = opts.Log, opts.Metrics, opts.AccessLog, env
	p.raw = l4.New(opts.L4)
	p.sockets = listener.NewSet(listener.Options{
		Addresses: opts.BindAddresses, Codecs: codecs(p.pipeline), QUIC: http3Codec(p.pipeline), Raw: p.raw,
		MaxConnections: opts.MaxConnections, HandshakeTimeout: opts.HandshakeTimeout,
		OCSP: func(ctx context.Context, url string, request []byte) ([]byte, error) {
			return askOCSP(ctx, opts.HTTP, url, request)
		},
		Metrics: opts.Metrics, Log: opts.Log,
	})
	opts.Metrics.SetEndpoints(p.endpoints)
	opts.Metrics.SetCircuits(p.circuits)
	opts.Metrics.SetOverload(p.overload.State)
	if opts.AccessLog != nil {
		opts.Metrics.SetAccessLog(opts.AccessLog)
	}
	return p
}

// Apply makes snap what is served from now on; delta names what differs from
// the snapshot applied before, nil meaning that anything may. Requests in
// flight finish with the tables that they began with.
//
// It never stops half-way: what cannot be served (a port that cannot be bound,
// a filter that cannot be built) is left out, closed rather than open, and is
// named by the error; everything else serves. Calls are serialised.
func (p *Proxy) Apply(snap *snapshot.Snapshot, delta *snapshot.Delta) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shutdown.Load() {
		return listener.ErrShutdown
	}
	// Tables before sockets: the first request of a new listener finds its
	// routes, and its certificate is served when they are there.
	err := p.pipeline.Apply(snap, delta)
	if delta == nil || delta.Ports || len(delta.Clusters) > 0 || p.snap.Load() == nil {
		err = errors.Join(err, p.applyRaw(snap))
	}
	if delta == nil || delta.Ports || p.snap.Load() == nil {
		err = errors.Join(err, p.sockets.Apply(snap.Ports))
	} else {
		p.sockets.Retry()
	}
	p.snap.Store(snap)
	p.opts.Metrics.Applied(time.Now())
	return err
}

// applyRaw links the targets of connections that are passed on unread, to the
// clusters that requests use too.
func (p *Proxy) applyRaw(snap *snapshot.Snapshot) error {
	live := p.pipeline.Clusters()
	return p.raw.Apply(snap.Ports, func(key string) l4.Cluster {
		c, _ := live[key].(l4.Cluster)
		return c
	})
}

// Drain announces to all clients that their connections will end, those that
// come from now on included, and goes on serving: an HTTP/1.1 connection ends
// with its next response, and HTTP/2 and HTTP/3 clients are told to open no more
// streams. Clients go to another proxy then, if nobody sends them here any more.
// Shutdown may follow when they have had the time.
func (p *Proxy) Drain() { p.sockets.Drain() }

// Shutdown stops accepting, lets the connections finish their exchanges and
// waits for them until ctx ends; then it closes what is left and returns ctx's
// error. Nothing can be applied afterwards.
func (p *Proxy) Shutdown(ctx context.Context) error {
	if p.shutdown.Swap(true) {
		return listener.ErrShutdown
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := errors.Join(p.sockets.Shutdown(ctx), p.pipeline.Wait(ctx))
	p.pipeline.Close()
	p.manager.Close()
	p.cancel()
	p.watch.Wait()
	return err
}

// Snapshot returns what was last applied, nil before the first Apply.
func (p *Proxy) Snapshot() *snapshot.Snapshot { return p.snap.Load() }

// Ready reports whether a first snapshot serves and Shutdown was not called.
func (p *Proxy) Ready() bool { return p.snap.Load() != nil && !p.shutdown.Load() }

// InFlight returns the number of requests being served, tunnels included.
func (p *Proxy) InFlight() int { return p.pipeline.InFlight() }

// PortStatus is the state of one address of one port.
type PortStatus struct {
	// Port is the port's key, Address what is bound or was meant to be ("[::]:80").
	Port    string `json:"port"`
	Address string `json:"address"`
	// Error says why the address could not be bound; "" if it serves. It is
	// tried again in the background and at the next Apply.
	Error string `json:"error,omitempty"`
}

// Ports returns the state of all ports, sorted.
func (p *Proxy) Ports() []PortStatus {
	var all []PortStatus
	for _, s := range p.sockets.Statuses() {
		st := PortStatus{Port: s.Port, Address: s.Address}
		if s.Err != nil {
			st.Error = s.Err.Error()
		}
		all = append(all, st)
	}
	return all
}

// ClusterState is how a cluster's endpoints are doing, and its circuit breaker,
// if it has one.
type ClusterState struct {
	Cluster        string                   `json:"cluster"`
	Endpoints      []upstream.EndpointState `json:"endpoints"`
	CircuitBreaker *upstream.CircuitState   `json:"circuitBreaker,omitempty"`
}

// Clusters returns the state of all clusters, sorted.
func (p *Proxy) Clusters() []ClusterState {
	live := p.pipeline.Clusters()
	all := make([]ClusterState, 0, len(live))
	for key, c := range live {
		all = append(all, ClusterState{key, c.State(), c.Circuit()})
	}
	slices.SortFunc(all, func(a, b ClusterState) int { return strings.Compare(a.Cluster, b.Cluster) })
	return all
}

// circuits yields every circuit breaker for a scrape of the metrics.
func (p *Proxy) circuits(yield func(observe.Circuit)) {
	for key, c := range p.pipeline.Clusters() {
		if s := c.Circuit(); s != nil {
			yield(observe.Circuit{
				Cluster: key, Queued: s.Queued, Waits: s.Waits, Waited: s.Waited, Refused: s.Refused,
				MaxInFlight: s.MaxInFlight, MinLatency: s.MinLatency,
			})
		}
	}
}

// endpoints yields every endpoint for a scrape of the metrics.
func (p *Proxy) endpoints(yield func(observe.Endpoint)) {
	for key, c := range p.pipeline.Clusters() {
		for _, e := range c.State() {
			yield(observe.Endpoint{
				Cluster: key, Address: e.Address,
				Healthy: e.State != "ejected" && e.State != "unhealthy", Draining: e.State == "draining",
				InFlight: int(e.InFlight), Connections: e.Connections, Idle: e.Idle,
				Requests: e.Requests, Failures: e.Failures,
				ConnectFailures: e.ConnectFailures, TLSFailures: e.TLSFailures, Ejections: e.Ejections,
				ChecksPassed: e.ChecksPassed, ChecksFailed: e.ChecksFailed,
			})
		}
	}
}
