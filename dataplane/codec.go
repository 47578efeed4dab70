package dataplane

import (
	"net"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/h1"
	"github.com/headgate/headgate/dataplane/listener"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// codecs are the protocols that clients may speak, in order of preference; the
// last serves who negotiates none.
func codecs(h exchange.Handler) []listener.Codec {
	return []listener.Codec{
		{ALPN: "http/1.1", New: func(c net.Conn, info *exchange.Conn, clients []*snapshot.Client) listener.Session {
			return h1.NewServerConn(c, info, h, http1(clients))
		}},
	}
}

// defaults are the bounds of a listener that sets none, see snapshot.Client.
var defaults = h1.ServerOptions{
	MaxHeaderBytes: 64 << 10,
	MaxHeaderCount: 128,
	HeaderTimeout:  10 * time.Second,
	IdleTimeout:    75 * time.Second,
	BodyTimeout:    30 * time.Second,
	WriteTimeout:   30 * time.Second,
}

// http1 returns a connection's bounds. Where several listeners share a port
// without TLS, nobody knows yet which of them a request will be for: the
// loosest bounds hold here, and the pipeline keeps each listener's sizes.
func http1(clients []*snapshot.Client) *h1.ServerOptions {
	if len(clients) == 0 {
		return &defaults
	}
	loosest := http1For(clients[0])
	for _, c := range clients[1:] {
		o := http1For(c)
		loosest.MaxHeaderBytes = max(loosest.MaxHeaderBytes, o.MaxHeaderBytes)
		loosest.MaxHeaderCount = max(loosest.MaxHeaderCount, o.MaxHeaderCount)
		loosest.HeaderTimeout = max(loosest.HeaderTimeout, o.HeaderTimeout)
		loosest.IdleTimeout = max(loosest.IdleTimeout, o.IdleTimeout)
		loosest.BodyTimeout = max(loosest.BodyTimeout, o.BodyTimeout)
		loosest.WriteTimeout = max(loosest.WriteTimeout, o.WriteTimeout)
	}
	return &loosest
}

func http1For(c *snapshot.Client) h1.ServerOptions {
	o := defaults
	if c == nil {
		return o
	}
	set(&o.MaxHeaderBytes, c.HeaderBytes)
	set(&o.MaxHeaderCount, c.Headers)
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
