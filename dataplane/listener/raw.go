package listener

import (
	"fmt"
	"net"
	"time"

	"github.com/headgate/headgate/dataplane/l4"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// raw is what a port passes on without reading it. It is immutable.
type raw struct {
	// whole is the key of the listener that takes all that comes, over TCP or
	// UDP; "" if there is none.
	whole string
	// names are the TLS listeners of the port, asked before the handshake if
	// one of them passes TLS through.
	names       route.Hosts[*snapshot.Listener]
	passthrough bool
	// terminated are the keys of those whose decrypted bytes are passed on.
	terminated map[string]bool
}

func newRaw(cfg *snapshot.Port) *raw {
	r := &raw{terminated: map[string]bool{}}
	for _, l := range cfg.Listeners {
		switch {
		case l.Protocol == "TCP" || l.Protocol == "UDP":
			r.whole = l.Key
		case l.Protocol == "TLS" && l.TLS != nil:
			r.terminated[l.Key] = true
		case l.Protocol == "TLS":
			r.passthrough = true
		}
		if _, taken := r.names.Get(l.Hostname); !taken {
			r.names = r.names.With(l.Hostname, l)
		}
	}
	return r
}

// sniff reads a ClientHello from stream, which is the connection with what was already read
// from it, and returns the session of the listener that passes it through, or
// else the connection with nothing taken from it.
func (p *port) sniff(r *raw, c *conn, stream net.Conn) (Session, net.Conn, error) {
	nc, info := c.tcp, c.info
	_ = nc.SetReadDeadline(time.Now().Add(p.set.opts.HandshakeTimeout))
	name, head, err := l4.ReadHello(stream)
	if err != nil {
		return nil, nil, err
	}
	_ = nc.SetReadDeadline(time.Time{})
	l, ok := r.names.Best(name)
	if !ok {
		return nil, nil, fmt.Errorf("no listener takes server name %q", name)
	}
	if l.TLS == nil {
		info.ServerName, c.aging = name, agingOf(l.Client)
		return p.set.opts.Raw.Stream(nc, info, l.Key, name, head), nil, nil
	}
	return nil, &unread{TCPConn: nc, head: head}, nil
}

// unread is a connection of which something was read already.
type unread struct {
	*net.TCPConn
	head []byte
}

// Read implements net.Conn.
func (u *unread) Read(b []byte) (int, error) {
	if len(u.head) == 0 {
		return u.TCPConn.Read(b)
	}
	n := copy(b, u.head)
	u.head = u.head[n:]
	return n, nil
}

// bindPackets opens a UDP socket and serves it.
func (k *socket) bindPackets(p *port) error {
	address, err := net.ResolveUDPAddr("udp", k.address)
	if err == nil {
		var conn *net.UDPConn
		if conn, err = net.ListenUDP("udp", address); err == nil {
			k.packets = p.set.opts.Raw.Packets(conn, func() string { return p.raw.Load().whole }, p.admission.flow)
			k.local, k.err = conn.LocalAddr(), nil
			p.busy.Add(1)
			go func(packets Session) {
				defer p.busy.Done()
				packets.Serve()
			}(k.packets)
			return nil
		}
	}
	k.err = fmt.Errorf("port %s cannot be bound: %w", p.key, err)
	return k.err
}
