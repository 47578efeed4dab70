// Package l4 passes connections and datagrams on to the endpoints of clusters
// without reading them: TCP, TLS by server name or already decrypted, and UDP.
//
// What a connection or flow was sent to when it began it keeps to its end,
// whatever is configured meanwhile.
package l4

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Cluster is what connections go to.
type Cluster interface {
	// Connect makes a TCP connection to an endpoint for a client's. Whoever got it closes it and
	// then calls release, once.
	Connect(from *exchange.Conn) (c net.Conn, release func(), err error)
	// Datagrams makes a UDP socket that is connected to an endpoint, the same way.
	Datagrams(client netip.Addr) (c net.Conn, release func(), err error)
}

// Options bound what is passed on. The zero value means the defaults.
type Options struct {
	// IdleTimeout ends a connection that carries nothing either way for so long,
	// give or take a quarter; 0 means 1 h.
	IdleTimeout time.Duration
	// DrainTimeout is how long a connection may go on when its listener is gone;
	// 0 means 30 s.
	DrainTimeout time.Duration
	// FlowTimeout ends a UDP flow without datagrams either way; 0 means 60 s.
	FlowTimeout time.Duration
	// MaxFlows bounds the UDP flows of a port; datagrams of further clients are
	// dropped. 0 means 65,536.
	MaxFlows int
	Log      logr.Logger
}

// Proxy knows where each listener's connections go. It is safe for concurrent use.
type Proxy struct {
	opts  Options
	table atomic.Pointer[map[string]*listener]
}

// New returns a Proxy that refuses everything until Apply.
func New(opts Options) *Proxy {
	set := func(d *time.Duration, value time.Duration) {
		if *d <= 0 {
			*d = value
		}
	}
	set(&opts.IdleTimeout, time.Hour)
	set(&opts.DrainTimeout, 30*time.Second)
	set(&opts.FlowTimeout, time.Minute)
	if opts.MaxFlows <= 0 {
		opts.MaxFlows = 1 << 16
	}
	if opts.Log.GetSink() == nil {
		opts.Log = logr.Discard()
	}
	p := &Proxy{opts: opts}
	p.table.Store(&map[string]*listener{})
	return p
}

// listener is the live counterpart of a snapshot.Listener with targets.
type listener struct {
	targets route.Hosts[*target]
}

type target struct {
	backends []backend
	weights  uint64
}

type backend struct {
	weight  uint32
	cluster Cluster // nil if the reference does not resolve
}

// Apply makes ports what new connections and flows go by. find returns a live
// cluster, nil if there is none: its share of the connections is refused.
func (p *Proxy) Apply(ports []*snapshot.Port, find func(key string) Cluster) {
	table := map[string]*listener{}
	for _, port := range ports {
		for _, cfg := range port.Listeners {
			if len(cfg.Targets) == 0 {
				continue
			}
			l := &listener{}
			for _, t := range cfg.Targets {
				if _, taken := l.targets.Get(t.Hostname); !taken {
					l.targets = l.targets.With(t.Hostname, newTarget(t, find))
				}
			}
			table[cfg.Key] = l
		}
	}
	p.table.Store(&table)
}

func newTarget(cfg *snapshot.Target, find func(key string) Cluster) *target {
	t := &target{}
	for _, b := range cfg.Backends {
		if b.Weight == 0 {
			continue
		}
		live := backend{weight: b.Weight}
		if b.Cluster != "" {
			live.cluster = find(b.Cluster)
		}
		t.backends = append(t.backends, live)
		t.weights += uint64(b.Weight)
	}
	return t
}

// find returns the cluster for a new connection, nil to refuse it.
func (p *Proxy) find(listener, serverName string) Cluster {
	l := (*p.table.Load())[listener]
	if l == nil {
		return nil
	}
	t, ok := l.targets.Best(serverName)
	if !ok || t.weights == 0 {
		return nil
	}
	n := rand.Uint64N(t.weights)
	for i := range t.backends {
		if b := &t.backends[i]; n < uint64(b.weight) {
			return b.cluster
		} else {
			n -= uint64(b.weight)
		}
	}
	return nil
}

// refuse closes a connection so that the client sees a reset: nothing took it.
func refuse(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// closer closes once, from whichever goroutine comes first.
type closer struct {
	once  sync.Once
	conns []net.Conn
}

func (c *closer) close() {
	c.once.Do(func() {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
	})
}
