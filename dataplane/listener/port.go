package listener

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// port is what one key of a snapshot listens on, with its connections.
type port struct {
	set     *Set
	key     string
	handle  any // the key, as exchange.Conn.Port
	metrics *observe.Port
	udp     bool
	quic    bool // of udp: what comes is QUIC
	outer   *tls.Config
	table   atomic.Pointer[table]
	raw     atomic.Pointer[raw]
	trusted atomic.Pointer[trustedSources] // nil without PROXY protocol
	// admission bounds the connections.
	admission admission
	sockets   []*socket // guarded by set.mu
	// transports are what QUIC sockets are of, until the port is drained; guarded by set.mu.
	transports []*transport

	closing   chan struct{}  // closed when nothing more is to be accepted
	accepting sync.WaitGroup // accept loops
	busy      sync.WaitGroup // accept loops and connections

	mu    sync.Mutex
	conns map[*conn]struct{}
	ages  *time.Timer // nil unless one of them grows old
}

// conn is an open connection.
type conn struct {
	port    *port
	nc      io.Closer
	tcp     *net.TCPConn // nc, unless that is QUIC's
	info    *exchange.Conn
	since   time.Time
	session Session // nil before the handshake is over; guarded by port.mu
	// aging has how old it may become; nil if nothing says so.
	aging *snapshot.Client
	// Of parking, which guards them: the descriptor, and until when it may wait.
	fd    int32
	until time.Time

	counted bool  // admission.leaveClient must follow
	stage   uint8 // of its age; guarded by port.mu
}

const (
	// sweep is how long a socket goes on accepting when it is to be closed:
	// closing it resets what the kernel has queued.
	sweep = 2 * time.Millisecond
	// newcomer is how old a connection must be to be told that it ends, or to be
	// ended while it is idle: a younger one's first request is on its way.
	newcomer = time.Second
	// maxBackoff is the longest pause after a failed accept.
	maxBackoff = time.Second
)

// accept accepts connections until the port is stopped.
func (p *port) accept(ln *net.TCPListener) {
	defer p.busy.Done()
	defer p.accepting.Done()
	defer ln.Close()
	room := p.set.room
	backoff := time.Duration(0)
	for {
		// Room first: a connection that cannot be served is better off in the
		// kernel's queue, which is bounded.
		select {
		case room <- struct{}{}:
		case <-p.closing:
			return
		}
		nc, err := ln.AcceptTCP()
		if err == nil {
			backoff = 0
			if !p.admission.enter(addrPort(nc.RemoteAddr()).Addr()) {
				refuse(nc)
				<-room
				continue
			}
			p.busy.Add(1)
			go p.serve(nc)
			// What has begun goes on before more begins: where CPU is short, connections
			// then wait in the kernel's queue, and their clients can give up there at no
			// cost. Otherwise all would be taken at once, take turns, and be done too late.
			runtime.Gosched()
			continue
		}
		<-room
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of files or memory, most likely: it passes when connections end.
		backoff = min(max(2*backoff, 5*time.Millisecond), maxBackoff)
		p.set.opts.Log.Error(err, "cannot accept a connection", "port", p.key, "retryIn", backoff)
		select {
		case <-time.After(backoff):
		case <-p.closing:
			return
		}
	}
}

// stop ends the accept loops, closes the sockets and drains the connections.
// The port's number is free when it returns.
func (p *port) stop() {
	close(p.closing)
	for _, socket := range p.sockets {
		if socket.ln != nil {
			_ = socket.ln.SetDeadline(time.Now().Add(sweep))
		}
		if socket.packets != nil {
			socket.packets.Drain()
		}
		if socket.quic != nil {
			_ = socket.quic.Close()
		}
	}
	p.accepting.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ages != nil {
		p.ages.Stop()
		p.ages = nil
	}
	for c := range p.conns {
		c.drain()
	}
}

// announce tells the clients that their connections will end.
func (p *port) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.announce()
	}
}

// announce is called with port.mu held.
func (c *conn) announce() {
	if session, ok := c.session.(Announcer); ok {
		c.unlessNew(session.Announce)
	}
}

// drain is called with port.mu held.
func (c *conn) drain() {
	if c.session == nil {
		return // it comes back when its handshake is over
	}
	c.unlessNew(func() {
		c.session.Drain()
		c.wake()
	})
}

// unlessNew does something when the connection is no newcomer any more.
func (c *conn) unlessNew(do func()) {
	if wait := newcomer - time.Since(c.since); wait > 0 {
		time.AfterFunc(wait, do)
		return
	}
	do()
}

// greet does to a new session what happened to all others before it was there.
// It is called with port.mu held.
func (c *conn) greet() {
	switch {
	case c.port.stopped():
		c.drain()
	case c.port.set.announcing.Load():
		c.announce()
	}
	if c.aging != nil {
		c.port.watchAges()
	}
}

// wake has a parked connection run.
func (c *conn) wake() {
	if c.port.set.parking.take(c) {
		go c.port.run(c)
	}
}

// closeAll cuts all connections off.
func (p *port) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.wake()
		if c.session != nil {
			_ = c.session.Close()
		}
		_ = c.nc.Close()
	}
}

func (p *port) stopped() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// serve takes a connection in.
func (p *port) serve(nc *net.TCPConn) {
	c := &conn{port: p, nc: nc, tcp: nc, since: time.Now()}
	p.mu.Lock()
	p.conns[c] = struct{}{}
	p.mu.Unlock()
	p.metrics.Accepted()
	p.run(c)
}

// run is the life of a connection, to its end or until it is parked; it is
// called again then.
func (p *port) run(c *conn) {
	parked := false
	defer func() {
		if bug := recover(); bug != nil {
			p.set.opts.Log.Error(fmt.Errorf("panic: %v", bug), "serving a connection", "port", p.key, "stack", string(debug.Stack()))
		}
		if parked {
			return
		}
		if c.info != nil {
			c.info.End()
		}
		_ = c.nc.Close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
		p.metrics.Closed()
		if c.counted {
			p.admission.leaveClient(c.info.Remote.Addr())
		}
		p.admission.leave()
		<-p.set.room
		p.busy.Done()
	}()
	if c.session == nil && !p.open(c) {
		return
	}
	c.session.Serve()
	for rester, ok := c.session.(Rester); ok; {
		wait := rester.Resting()
		if wait <= 0 {
			return
		}
		// Once it is parked it may run already.
		p.mu.Lock()
		parked = !p.stopped() && p.set.parking.park(c, wait)
		p.mu.Unlock()
		if parked {
			return
		}
		c.session.Serve()
	}
}

// open makes the connection's session.
func (p *port) open(c *conn) bool {
	nc := c.tcp
	info := &exchange.Conn{
		ID: p.set.lastID.Add(1), Port: p.handle,
		Remote: addrPort(nc.RemoteAddr()), Local: addrPort(nc.LocalAddr()),
	}
	c.info = info
	rest, err := p.trusted.Load().identify(nc, info, p.set.opts.HandshakeTimeout)
	if err != nil {
		p.metrics.Rejected("proxy_protocol")
		p.set.opts.Log.V(1).Info("No PROXY protocol header", "port", p.key, "remote", info.Remote, "error", err.Error())
		return false
	}
	var refused string
	if c.counted, refused = p.admission.enterClient(info.Remote.Addr(), c.since); refused != "" {
		refuse(nc)
		return false
	}
	session, err := p.session(c, rest)
	if err != nil {
		p.metrics.Rejected("tls_handshake")
		p.set.opts.Log.V(1).Info("TLS handshake failed", "port", p.key, "remote", info.Remote, "error", err.Error())
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.session = session
	c.greet()
	return true
}

// refuse cuts off a connection that there is no room for. The kernel is to keep
// nothing of it either.
func refuse(nc *net.TCPConn) {
	_ = nc.SetLinger(0)
	_ = nc.Close()
}

// session puts a connection into the hands of who serves it, after a TLS
// handshake if it begins with one. head is what was already read from it.
func (p *port) session(c *conn, head []byte) (Session, error) {
	nc, info := c.tcp, c.info
	t, raw := p.table.Load(), p.raw.Load()
	c.aging = t.aging
	if raw.whole != "" {
		return p.set.opts.Raw.Stream(nc, info, raw.whole, "", head), nil
	}
	codecs := p.set.opts.Codecs
	codec, clients, stream := &codecs[len(codecs)-1], t.clients, net.Conn(nc)
	if len(head) > 0 {
		stream = &unread{TCPConn: nc, head: head}
	}
	if raw.passthrough {
		session, rest, err := p.sniff(raw, c, stream)
		if session != nil || err != nil {
			return session, err
		}
		stream = rest
	}
	if t.tls {
		secure, picked, err := p.handshake(stream, info)
		if err != nil {
			return nil, err
		}
		c.aging = agingOf(picked.client)
		if raw.terminated[picked.listener] {
			return p.set.opts.Raw.Stream(secure, info, picked.listener, info.TLS.ServerName, nil), nil
		}
		stream, clients = secure, []*snapshot.Client{picked.client}
		for i := range codecs {
			if codecs[i].ALPN == info.TLS.ALPN {
				codec = &codecs[i]
			}
		}
	}
	return codec.New(stream, info, clients), nil
}

func addrPort(a net.Addr) netip.AddrPort {
	at, ok := a.(interface{ AddrPort() netip.AddrPort }) // *net.TCPAddr or *net.UDPAddr
	if !ok {
		return netip.AddrPort{}
	}
	ap := at.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
