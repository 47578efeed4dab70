package section

import (
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
)

// TunnelCloser is a tunnel as what an exchange waits for.
type TunnelCloser struct{ Tunnel exchange.Tunnel }

// Close implements exchange.Closer.
func (c TunnelCloser) Close() { _ = c.Tunnel.Close() }

// Upward carries what a client sends on its stream into a tunnel. It is a
// link.Task.
type Upward struct {
	content exchange.Body
	tunnel  exchange.Tunnel
	// Done has how it ended, once it has: nil if the client has ended its direction.
	Done chan error
}

// NewUpward returns what carries content into the tunnel.
func NewUpward(content exchange.Body, t exchange.Tunnel) *Upward {
	return &Upward{content: content, tunnel: t, Done: make(chan error, 1)}
}

// Run implements link.Task. It closes the tunnel if it cannot go on.
func (u *Upward) Run() {
	err := u.carry()
	if err != nil {
		_ = u.tunnel.Close()
	}
	u.Done <- err
}

func (u *Upward) carry() error {
	for {
		p, err := u.content.Next()
		if err == io.EOF {
			return u.tunnel.CloseWrite()
		}
		if err != nil {
			return err
		}
		if _, err := u.tunnel.Write(p); err != nil {
			return err
		}
	}
}
