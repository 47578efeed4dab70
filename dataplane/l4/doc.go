// Package l4 passes connections and datagrams on to the endpoints of clusters
// without reading them: TCP, TLS by server name or already decrypted, and UDP.
//
// What a connection or flow was sent to when it began it keeps to its end,
// whatever is configured meanwhile.
package l4

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
)

// Cluster is what connections go to.
type Cluster interface {
	// Connect makes a TCP connection to an endpoint for a client's. Whoever got it closes it and
	// then calls release, once.
	Connect(from *exchange.Conn) (c net.Conn, release func(), err error)
	// Datagrams makes a UDP socket that is connected to an endpoint, the same way.
	Datagrams(client netip.Addr) (c net.Conn, release func(), err error)
	// Available reports whether the next connection is for this cluster, of which at
	// least percent are to be healthy, rather than for what stands in for it.
	Available(percent int) bool
}

// Options bound what is passed on. The zero value means the defaults.
type Options struct {
	// IdleTimeout ends a connection that carries nothing either way for so long,
	// give or take a quarter; 0 means 1 h. A listener may have its own.
	IdleTimeout time.Duration
	// DrainTimeout is how long a connection may go on when its listener is gone;
	// 0 means 30 s.
	DrainTimeout time.Duration
	// FlowTimeout ends a UDP flow without datagrams either way; 0 means 60 s. A
	// listener may have its own.
	FlowTimeout time.Duration
	// MaxFlows bounds the UDP flows of a port; datagrams of further clients are
	// dropped. 0 means 65,536.
	MaxFlows int
	Log      logr.Logger
	// Env is what filters are built with; without one, targets with filters are refused.
	Env *policy.Env
	// Metrics defaults to metrics that nobody reads.
	Metrics *observe.Metrics
	// AccessLog may be nil.
	AccessLog *observe.AccessLog
}

// Proxy knows where each listener's connections go. It is safe for concurrent use.
type Proxy struct {
	opts  Options
	table atomic.Pointer[table]
	apply sync.Mutex // serialises Apply
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
	if opts.Metrics == nil {
		opts.Metrics = observe.NewMetrics("")
	}
	p := &Proxy{opts: opts}
	p.table.Store(&table{})
	return p
}

// reset closes a connection so that its peer sees a reset: something is missing.
func reset(c net.Conn) {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn() // without the word that would make it an end like others
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// closer closes once, from whichever goroutine comes first.
type closer struct {
	once  sync.Once
	conns []net.Conn
	// tunnel is what filters have made of the second; nil if there are none that do.
	tunnel exchange.Tunnel
}

func (c *closer) close() {
	c.once.Do(func() {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		c.closeTunnel()
	})
}

func (c *closer) reset() {
	c.once.Do(func() {
		for _, conn := range c.conns {
			reset(conn)
		}
		c.closeTunnel()
	})
}

// closeTunnel ends the waiting of what is slowed down.
func (c *closer) closeTunnel() {
	if c.tunnel != nil {
		_ = c.tunnel.Close()
	}
}
