// Package listener owns the sockets: it binds ports, accepts connections,
// terminates TLS, and hands each connection to the codec that it asked for.
//
// Sockets are kept by the port's key and outlive changes of what is served on
// them. Certificates are chosen at each handshake from what was applied last,
// so that they change without a connection noticing. What is removed drains:
// its connections end after the exchange that they are at.
package listener

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/quic-go/quic-go"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/l4"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/quota"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/staple"
)

// Session is a connection in the hands of a codec. Drain and Close may be
// called from any goroutine, more than once.
type Session interface {
	// Serve serves the connection to its end and closes it.
	Serve()
	// Drain ends it after the exchange in progress, at once if there is none.
	Drain()
	// Close ends it at once.
	Close() error
}

// Announcer is a Session that can tell its client that it will end, while it
// goes on. Announce may be called from any goroutine, more than once.
type Announcer interface {
	Session
	// Announce has it end after its next exchange, and not before only because
	// there is none: who is just sending a request has it answered.
	Announce()
}

// Rester is a Session that may return from Serve only because its client has
// had nothing to say for a while. Resting is for how long it may go on waiting
// then, 0 if it has ended; Serve is called again when there is something to
// read, the time has passed, or the session is drained or closed.
type Rester interface {
	Session
	Resting() time.Duration
}

// Codec makes sessions for one protocol.
type Codec struct {
	// ALPN is the protocol's name in TLS, RFC 7301: "http/1.1".
	ALPN string
	// New takes the connection over. clients are the settings of the listeners
	// that the connection may turn out to be for, nil for defaults: one behind
	// TLS, else all of the port.
	New func(c net.Conn, info *exchange.Conn, clients []*snapshot.Client) Session
}

// Options are what a Set cannot know from snapshots. Codecs and Metrics are required.
type Options struct {
	// Addresses are the IP addresses to bind at; empty means all.
	Addresses []string
	// Codecs are in order of preference. The last one serves connections
	// without TLS, and those that negotiate nothing.
	Codecs []Codec
	// QUIC serves listeners with HTTP/3; nil refuses them.
	QUIC *QUIC
	// Raw takes what is passed on without being read: listeners of TCP, TLS and
	// UDP. nil refuses it all.
	Raw *l4.Proxy
	// MaxConnections bounds the open connections of all ports; beyond it, new
	// ones wait in the kernel's queue. 0 means 65,536.
	MaxConnections int
	// HandshakeTimeout bounds a TLS handshake; 0 means 10 s.
	HandshakeTimeout time.Duration
	// RetryInterval is how often a port that could not be bound is tried
	// again; 0 means 1 s.
	RetryInterval time.Duration
	// OCSP posts a request to a responder, as staple.Options.Fetch says; nil
	// means that none is asked.
	OCSP    func(ctx context.Context, url string, request []byte) ([]byte, error)
	Metrics *observe.Metrics
	Log     logr.Logger
}

// Status is the state of one address of one port.
type Status struct {
	// Port is the port's key, Address what is bound or was meant to be.
	Port, Address string
	// Err is nil if it is bound.
	Err error
}

// Set is all sockets. It is safe for concurrent use.
type Set struct {
	opts   Options
	lastID atomic.Uint64
	// room has an element for each open connection.
	room    chan struct{}
	staples *staple.Keeper
	parking parking

	mu    sync.Mutex
	ports map[string]*port
	// transports are the UDP sockets of QUIC, by address.
	transports map[string]*transport
	gone       sync.WaitGroup // ports that were removed, until they are drained
	drains     map[*port]bool // the same, to be closed by Shutdown
	retry      *time.Timer    // nil unless a socket waits to be bound
	closed     bool
	// announcing is set by Drain.
	announcing atomic.Bool
	// expiries speaks of certificates again, expiriesSaid is what was said since it last did.
	expiries     *time.Timer
	expiriesSaid map[string]bool
}

// NewSet returns a Set without sockets.
func NewSet(opts Options) *Set {
	if len(opts.Addresses) == 0 {
		opts.Addresses = []string{""}
	}
	if opts.MaxConnections <= 0 {
		opts.MaxConnections = 1 << 16
	}
	if opts.HandshakeTimeout <= 0 {
		opts.HandshakeTimeout = 10 * time.Second
	}
	if opts.Raw == nil {
		opts.Raw = l4.New(l4.Options{Log: opts.Log})
	}
	if opts.RetryInterval <= 0 {
		opts.RetryInterval = time.Second
	}
	return &Set{
		opts:   opts,
		room:   make(chan struct{}, opts.MaxConnections),
		ports:  map[string]*port{},
		drains: map[*port]bool{},

		transports:   map[string]*transport{},
		staples:      staple.NewKeeper(staple.Options{Fetch: opts.OCSP, Log: opts.Log}),
		expiriesSaid: map[string]bool{},
	}
}

// ErrShutdown says that the Set was shut down.
var ErrShutdown = errors.New("listener: shut down")

// Apply makes ports what is listened on. Ports that stay keep their sockets and
// connections; those that are gone drain in the background. The error names
// what could not be bound, which is tried again, and certificates that could
// not be used; everything else serves.
func (s *Set) Apply(ports []*snapshot.Port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrShutdown
	}
	var errs []error
	wanted := map[string]bool{}
	for _, cfg := range ports {
		wanted[cfg.Key] = true
		if cfg.Transport != "tcp" && cfg.Transport != "udp" {
			errs = append(errs, fmt.Errorf("port %s: transport %q is not known: want tcp or udp", cfg.Key, cfg.Transport))
			continue
		}
		p := s.ports[cfg.Key]
		if p != nil && p.quic != isQUIC(cfg) {
			s.remove(p)
			p = nil
		}
		if p == nil {
			p = newPort(s, cfg)
		}
		// What is served is known before the first connection comes.
		p.raw.Store(newRaw(cfg))
		errs = append(errs, p.update(cfg))
		s.ports[cfg.Key] = p
	}
	for key, p := range s.ports {
		if !wanted[key] {
			delete(s.ports, key)
			s.remove(p)
		}
	}
	s.retainStaples()
	s.noteExpiries()
	errs = append(errs, s.bind())
	return errors.Join(errs...)
}

// Retry tries at once to bind what could not be bound. It costs nothing if all is.
func (s *Set) Retry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retry != nil && !s.closed {
		_ = s.bind() // Statuses has what is still not right
	}
}

// bind binds the sockets that are not bound yet.
func (s *Set) bind() error {
	var errs []error
	for _, p := range s.ports {
		for _, socket := range p.sockets {
			if socket.local == nil {
				errs = append(errs, socket.bind(p))
			}
		}
	}
	err := errors.Join(errs...)
	if err != nil && s.retry == nil {
		s.retry = time.AfterFunc(s.opts.RetryInterval, s.rebind)
	}
	return err
}

func (s *Set) rebind() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.retry = nil
	if err := s.bind(); err == nil {
		s.opts.Log.Info("all ports are bound")
	}
}

// remove stops accepting at once, and lets the connections end.
func (s *Set) remove(p *port) {
	p.stop()
	s.drains[p] = true
	s.gone.Add(1)
	go func() {
		defer s.gone.Done()
		p.busy.Wait()
		p.metrics.Release()
		s.mu.Lock()
		for _, t := range p.transports {
			s.release(t)
		}
		delete(s.drains, p)
		s.mu.Unlock()
	}()
}

// Drain announces to all clients that their connections will end, also to those
// that come from now on, and goes on serving: what is closed by Shutdown later
// has been idle all the while.
func (s *Set) Drain() {
	s.announcing.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		p.announce()
	}
}

// Shutdown stops accepting, drains all connections and waits for them. If ctx
// ends before, it closes them and returns ctx's error.
func (s *Set) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.retry != nil {
		s.retry.Stop()
	}
	if s.expiries != nil {
		s.expiries.Stop()
	}
	s.closed = true
	for key, p := range s.ports {
		delete(s.ports, key)
		s.remove(p)
	}
	s.mu.Unlock()
	s.staples.Close()

	done := make(chan struct{})
	go func() {
		s.gone.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := make([]*port, 0, len(s.drains))
	for p := range s.drains {
		left = append(left, p)
	}
	s.mu.Unlock()
	for _, p := range left {
		p.closeAll()
	}
	// An exchange that waits for its upstream does not see its connection end.
	select {
	case <-done:
	case <-time.After(stuckTimeout):
	}
	return ctx.Err()
}

// stuckTimeout is how long Shutdown waits for connections that it has closed.
const stuckTimeout = 500 * time.Millisecond

// Statuses returns the state of every socket, sorted.
func (s *Set) Statuses() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for key, p := range s.ports {
		for _, socket := range p.sockets {
			st := Status{Port: key, Address: socket.address, Err: socket.err}
			if socket.local != nil {
				st.Address = socket.local.String()
			}
			all = append(all, st)
		}
	}
	slices.SortFunc(all, func(a, b Status) int {
		if c := strings.Compare(a.Port, b.Port); c != 0 {
			return c
		}
		return strings.Compare(a.Address, b.Address)
	})
	return all
}

// socket is one address of a port.
type socket struct {
	address string
	local   net.Addr // nil until it is bound
	err     error
	ln      *net.TCPListener // or packets or quic, if it is UDP
	packets Session
	quic    *quic.EarlyListener
}

// bind opens the socket. Go sets SO_REUSEADDR, so that connections of a former
// process in TIME_WAIT are no obstacle, the longest queue that the kernel
// allows (net.core.somaxconn), and TCP_NODELAY on what it accepts.
func (k *socket) bind(p *port) error {
	switch {
	case p.quic && p.set.opts.QUIC == nil:
		k.err = fmt.Errorf("port %s: HTTP/3 is not served here", p.key)
		return k.err
	case p.quic:
		return k.bindQUIC(p)
	case p.udp:
		return k.bindPackets(p)
	}
	ln, err := listen(k.address)
	if err != nil {
		k.err = fmt.Errorf("port %s cannot be bound: %w", p.key, err)
		return k.err
	}
	k.ln, k.local, k.err = ln.(*net.TCPListener), ln.Addr(), nil
	p.accepting.Add(1)
	p.busy.Add(1)
	go p.accept(k.ln)
	return nil
}

// isQUIC reports whether a port is of UDP for HTTP/3, and not to be passed on.
func isQUIC(cfg *snapshot.Port) bool {
	return cfg.Transport == "udp" && slices.ContainsFunc(cfg.Listeners, func(l *snapshot.Listener) bool { return l.HTTP3 != nil })
}

func newPort(s *Set, cfg *snapshot.Port) *port {
	p := &port{
		set: s, key: cfg.Key, handle: cfg.Key, udp: cfg.Transport == "udp", quic: isQUIC(cfg),
		metrics: s.opts.Metrics.Port(cfg.Key),
		closing: make(chan struct{}),
		conns:   map[*conn]struct{}{},
	}
	p.outer = p.newOuter()
	p.admission.port, p.admission.clients = p, quota.NewCounts()
	for _, address := range s.opts.Addresses {
		p.sockets = append(p.sockets, &socket{
			address: net.JoinHostPort(address, strconv.Itoa(int(cfg.Number))),
		})
	}
	return p
}
