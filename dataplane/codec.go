package dataplane

import (
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/h2"
	"github.com/headgate/headgate/dataplane/h3"
	"github.com/headgate/headgate/dataplane/listener"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// codecs are the protocols that clients may speak, in order of preference; the
// last serves who negotiates none.
func codecs(h exchange.Handler) []listener.Codec {
	return []listener.Codec{
		{ALPN: "h2", New: func(c net.Conn, info *exchange.Conn, clients []*snapshot.Client) listener.Session {
			return h2.NewServerConn(c, info, h, boundsOf(clients).http2)
		}},
		{ALPN: "http/1.1", New: func(c net.Conn, info *exchange.Conn, clients []*snapshot.Client) listener.Session {
			b := boundsOf(clients)
			s := h1.NewServerConn(c, info, h, b.http1)
			if info.TLS != nil {
				return s
			}
			return &plaintext{spoken: s, nc: c, info: info, handler: h, bounds: b}
		}},
	}
}

// http3Codec serves listeners that have HTTP/3.
func http3Codec(h exchange.Handler) *listener.QUIC {
	return &listener.QUIC{
		ALPN:   "h3",
		Config: func(clients []*snapshot.Client) *quic.Config { return boundsOf(clients).http3().QUIC() },
		New: func(c *quic.Conn, info *exchange.Conn, client *snapshot.Client) listener.Session {
			return h3.NewServerConn(c, info, h, boundsOf([]*snapshot.Client{client}).http3())
		},
	}
}

// plaintext is a connection without TLS. Nothing is negotiated there: HTTP/2
// is spoken to who begins with its preface, RFC 9113 section 3.3.
type plaintext struct {
	nc      net.Conn
	info    *exchange.Conn
	handler exchange.Handler
	bounds  *bounds

	mu        sync.Mutex
	spoken    codecSession // HTTP/1.1 until it turns out to be HTTP/2
	announced bool
	draining  bool
	closed    bool
}

// codecSession is what h1 and h2 make of a connection.
type codecSession interface {
	listener.Announcer
	listener.Rester
}

// Serve implements listener.Session.
func (p *plaintext) Serve() {
	spoken := p.speaks()
	spoken.Serve()
	first, ok := spoken.(*h1.ServerConn)
	if !ok || first.Preface() == nil {
		return
	}
	s := h2.NewServerConn(p.nc, p.info, p.handler, p.bounds.http2)
	s.Unread(first.Preface())
	p.mu.Lock()
	p.spoken = s
	announced, draining, closed := p.announced, p.draining, p.closed
	p.mu.Unlock()
	switch {
	case closed:
		_ = s.Close()
	case draining:
		s.Drain()
	case announced:
		s.Announce()
	}
	s.Serve()
}

func (p *plaintext) speaks() codecSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoken
}

// Resting implements listener.Rester.
func (p *plaintext) Resting() time.Duration { return p.speaks().Resting() }

// Announce implements listener.Announcer.
func (p *plaintext) Announce() {
	p.mu.Lock()
	p.announced = true
	p.mu.Unlock()
	p.speaks().Announce()
}

// Drain implements listener.Session.
func (p *plaintext) Drain() {
	p.mu.Lock()
	p.draining = true
	p.mu.Unlock()
	p.speaks().Drain()
}

// Close implements listener.Session.
func (p *plaintext) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.speaks().Close()
}

// bounds are what a connection's client is held to, as each codec takes it.
type bounds struct {
	http1 *h1.ServerOptions
	http2 *h2.ServerOptions
}

func newBounds(o h1.ServerOptions) *bounds {
	return &bounds{o.Complete(), (&h2.ServerOptions{
		MaxHeaderBytes: o.MaxHeaderBytes,
		MaxHeaderCount: o.MaxHeaderCount,
		MaxRequests:    o.MaxRequests,
		HeaderTimeout:  o.HeaderTimeout,
		IdleTimeout:    o.IdleTimeout,
		RestAfter:      o.RestAfter,
		BodyTimeout:    o.BodyTimeout,
		WriteTimeout:   o.WriteTimeout,
	}).Complete()}
}

func (b *bounds) http3() *h3.ServerOptions {
	o := b.http1
	return &h3.ServerOptions{
		MaxHeaderBytes: o.MaxHeaderBytes,
		MaxHeaderCount: o.MaxHeaderCount,
		MaxRequests:    o.MaxRequests,
		HeaderTimeout:  o.HeaderTimeout,
		IdleTimeout:    o.IdleTimeout,
		BodyTimeout:    o.BodyTimeout,
		WriteTimeout:   o.WriteTimeout,
	}
}

// defaults are the bounds of a listener that sets none, see snapshot.Client.
var defaults = newBounds(h1.ServerOptions{
	MaxHeaderBytes: 64 << 10,
	MaxHeaderCount: 128,
	HeaderTimeout:  10 * time.Second,
	IdleTimeout:    75 * time.Second,
	RestAfter:      listener.RestAfter,
	BodyTimeout:    30 * time.Second,
	WriteTimeout:   30 * time.Second,
	HTTP2:          true,
})

// boundsOf returns what a connection's client is held to. Where several listeners
// share a port without TLS, nobody knows yet which of them a request will be
// for: the loosest bounds hold here, and the pipeline keeps each listener's sizes.
func boundsOf(clients []*snapshot.Client) *bounds {
	if !slices.ContainsFunc(clients, func(c *snapshot.Client) bool { return c != nil }) {
		return defaults // as for most connections, which share them
	}
	loosest := optionsOf(clients[0])
	for _, c := range clients[1:] {
		o := optionsOf(c)
		loosest.MaxHeaderBytes = max(loosest.MaxHeaderBytes, o.MaxHeaderBytes)
		loosest.MaxHeaderCount = max(loosest.MaxHeaderCount, o.MaxHeaderCount)
		// The strictest of this one: the client merely connects again.
		if o.MaxRequests > 0 && (loosest.MaxRequests == 0 || o.MaxRequests < loosest.MaxRequests) {
			loosest.MaxRequests = o.MaxRequests
		}
		loosest.HeaderTimeout = max(loosest.HeaderTimeout, o.HeaderTimeout)
		loosest.IdleTimeout = max(loosest.IdleTimeout, o.IdleTimeout)
		loosest.BodyTimeout = max(loosest.BodyTimeout, o.BodyTimeout)
		loosest.WriteTimeout = max(loosest.WriteTimeout, o.WriteTimeout)
	}
	return sharedBounds.of(loosest)
}

// sharedBounds are those of policies that connections have met of late.
var sharedBounds boundsCache

// maxShared is how many different bounds are remembered. There are as many as
// policies set; beyond that, they are made anew.
const maxShared = 256

// boundsCache makes connections that are held to the same share what says so. It is
// safe for concurrent use.
type boundsCache struct {
	mu  sync.RWMutex
	all map[h1.ServerOptions]*bounds
}

func (c *boundsCache) of(o h1.ServerOptions) *bounds {
	c.mu.RLock()
	b := c.all[o]
	c.mu.RUnlock()
	if b != nil {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[o] == nil {
		if c.all == nil || len(c.all) == maxShared { // of settings that are long gone, perhaps
			c.all = map[h1.ServerOptions]*bounds{}
		}
		c.all[o] = newBounds(o)
	}
	return c.all[o]
}

func optionsOf(c *snapshot.Client) h1.ServerOptions {
	o := *defaults.http1
	if c == nil {
		return o
	}
	set(&o.MaxHeaderBytes, c.HeaderBytes)
	set(&o.MaxHeaderCount, c.Headers)
	set(&o.MaxRequests, c.MaxRequestsPerConnection)
	set(&o.HeaderTimeout, c.HeaderTimeout)
	set(&o.IdleTimeout, c.IdleTimeout)
	set(&o.BodyTimeout, c.BodyTimeout)
	set(&o.WriteTimeout, c.BodyTimeout)
	return o
}

func set[T int | time.Duration](to *T, value T) {
	if value > 0 {
		*to = value
	}
}
