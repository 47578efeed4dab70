// Package dataplane is Headgate's data plane as a library: sockets, codecs,
// routing, policies and load balancing, driven by snapshots. It knows nothing
// of Kubernetes.
//
// A Proxy serves what it was last told to serve by Apply. Sockets, connections,
// pools, counters and limits outlive the tables that refer to them, so that
// applying a snapshot while requests are served fails none of them.
package dataplane

import (
	"context"
	"net/http"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
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
	// HTTP is what policies call out with, never for proxied requests; nil
	// means a client with a timeout of 10 s.
	HTTP *http.Client
}

// Proxy serves snapshots. Its methods are safe for concurrent use.
type Proxy struct{}

// PortStatus is the state of one address of one port.
type PortStatus struct {
	// Port is the port's key, Address what is bound or was meant to be ("[::]:80").
	Port    string `json:"port"`
	Address string `json:"address"`
	// Error says why the address could not be bound; "" if it serves. It is
	// tried again in the background and at the next Apply.
	Error string `json:"error,omitempty"`
}

// New returns a proxy that serves nothing until Apply.
func New(opts Options) *Proxy { return &Proxy{} }

// Apply makes snap what is served from now on; delta names what differs from
// the snapshot applied before, nil meaning that anything may. Requests in
// flight finish with the tables that they began with.
//
// It never stops half-way: what cannot be served (a port that cannot be bound,
// a filter that cannot be built) is left out, closed rather than open, and is
// named by the error; everything else serves. Calls are serialised.
func (p *Proxy) Apply(snap *snapshot.Snapshot, delta *snapshot.Delta) error { return nil }

// Shutdown stops accepting, lets the connections finish their exchanges and
// waits for them until ctx ends; then it closes what is left and returns ctx's
// error. Nothing can be applied afterwards.
func (p *Proxy) Shutdown(ctx context.Context) error { return nil }

// Snapshot returns what was last applied, nil before the first Apply.
func (p *Proxy) Snapshot() *snapshot.Snapshot { return nil }

// Ready reports whether a first snapshot serves and Shutdown was not called.
func (p *Proxy) Ready() bool { return false }

// Ports returns the state of all ports, sorted.
func (p *Proxy) Ports() []PortStatus { return nil }
