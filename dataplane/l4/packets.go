package l4

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/observe"
)

// Packets passes on the datagrams of one UDP socket. Those of one client
// address and port are a flow, which has a socket to an endpoint of its own.
type Packets struct {
	p        *Proxy
	socket   *net.UDPConn
	listener func() string
	admit    func(client netip.Addr) (leave func(), reason string)

	mu     sync.Mutex
	flows  map[netip.AddrPort]*flow
	closed bool
	wg     sync.WaitGroup // flows
}

// flow is what one client sends and gets.
type flow struct {
	client   netip.AddrPort
	up       net.Conn
	release  func()
	leave    func()
	way      *way
	passage  *passage
	idle     time.Duration
	deadline deadline.Conn

	began          time.Time
	received, sent atomic.Int64
}

// Packets passes on what the socket receives to backends of the listener that
// the function names at the time when a flow begins. admit makes room for a flow
// of a client, or says why there is none; leave is called when the flow is over.
func (p *Proxy) Packets(socket *net.UDPConn, listener func() string, admit func(client netip.Addr) (leave func(), reason string)) *Packets {
	return &Packets{p: p, socket: socket, listener: listener, admit: admit, flows: map[netip.AddrPort]*flow{}}
}

// maxDatagram is above the largest payload of a UDP datagram.
const maxDatagram = 64 << 10

// Serve passes datagrams on until Close.
func (s *Packets) Serve() {
	buf := make([]byte, maxDatagram)
	for {
		n, client, err := s.socket.ReadFromUDPAddrPort(buf)
		if err == nil {
			s.receive(client, buf[:n])
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			break
		}
		// An error of an earlier datagram that was sent to somebody who is gone.
		if !errors.Is(err, syscall.ECONNREFUSED) {
			s.p.opts.Log.V(1).Info("Receiving failed", "socket", s.socket.LocalAddr().String(), "error", err.Error())
			time.Sleep(time.Millisecond)
		}
	}
	s.wg.Wait()
}

// receive sends one datagram on. It may be lost, as datagrams may.
func (s *Packets) receive(client netip.AddrPort, datagram []byte) {
	s.mu.Lock()
	f, n, closed := s.flows[client], len(s.flows), s.closed
	s.mu.Unlock()
	if f == nil {
		if closed {
			return
		}
		if f = s.begin(client, n); f == nil {
			return
		}
	}
	f.deadline.Read(f.idle)
	if n, err := f.up.Write(datagram); err == nil {
		f.received.Add(int64(n))
		f.way.metrics.Received(int64(n))
	}
}

// begin begins a flow beside n others, and returns nil if there is nowhere to
// go. What is refused is counted and has no line in the access log: there is
// one for each datagram, from whoever it says that it is.
func (s *Packets) begin(client netip.AddrPort, n int) *flow {
	name := s.listener()
	way := s.p.find(name, "")
	switch {
	case n >= s.p.opts.MaxFlows:
		way.metrics.Refused("flow_limit")
		return nil
	case way.cluster == nil:
		way.metrics.Refused(way.reason)
		return nil
	}
	leave, refused := s.admit(client.Addr().Unmap())
	if refused != "" {
		way.metrics.Refused(refused)
		return nil
	}
	passage, refused := way.filters.enter(nil, client.Addr().Unmap())
	if refused != "" {
		leave()
		way.metrics.Refused(refused)
		return nil
	}
	began := time.Now()
	way, up, release, err := way.reach(func(c Cluster) (net.Conn, func(), error) { return c.Datagrams(client.Addr().Unmap()) })
	if err != nil {
		passage.over()
		leave()
		s.p.opts.Log.V(1).Info("Flow refused", "client", client, "error", err.Error())
		way.metrics.Refused(reasonOf(err))
		return nil
	}
	f := &flow{client: client, up: up, release: release, leave: leave, way: way, passage: passage, idle: cmp.Or(way.idle, s.p.opts.FlowTimeout), began: began}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = up.Close()
		release()
		passage.over()
		leave()
		return nil
	}
	way.metrics.Begin()
	s.flows[client] = f
	f.deadline.Start(up)
	f.deadline.Read(f.idle)
	s.wg.Add(1)
	go s.answer(f)
	return f
}

// answer sends back what the endpoint sends, until the flow is idle for too long.
func (s *Packets) answer(f *flow) {
	defer s.wg.Done()
	reason := ""
	defer func() {
		s.mu.Lock()
		delete(s.flows, f.client)
		closed := s.closed
		s.mu.Unlock()
		f.deadline.Stop()
		endpoint := f.up.RemoteAddr().String()
		_ = f.up.Close()
		f.release()
		f.passage.over()
		f.leave()
		if closed {
			reason = reasonDrained
		}
		s.done(f, endpoint, reason)
	}()
	for {
		buf, n, err := f.receive()
		if err != nil {
			// Its time is over, nobody listens at the endpoint, or it was closed:
			// the client's next datagram begins anew, perhaps elsewhere.
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				reason = reasonUpstreamReset
			}
			return
		}
		f.deadline.Read(f.idle)
		_, err = s.socket.WriteToUDPAddrPort(buf[:n], f.client)
		buffers.Put(buf)
		if err == nil {
			f.sent.Add(int64(n))
			f.way.metrics.Sent(int64(n))
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// done tells of a flow that is over.
func (s *Packets) done(f *flow, endpoint, reason string) {
	f.way.metrics.Done(reason)
	if s.p.opts.AccessLog == nil {
		return
	}
	s.p.opts.AccessLog.LogConnection(&observe.Connection{
		Start: f.began, Protocol: f.way.protocol, Remote: netip.AddrPortFrom(f.client.Addr().Unmap(), f.client.Port()),
		Listener: f.way.labels.Listener, Route: f.way.labels.Route, Cluster: f.way.labels.Cluster, Endpoint: endpoint,
		Received: f.received.Load(), Sent: f.sent.Load(), Duration: time.Since(f.began), Reason: reason,
	})
}

var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// Drain is Close: whether a flow is over, nobody can tell.
func (s *Packets) Drain() { _ = s.Close() }

// Close ends the socket and all flows at once.
func (s *Packets) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, f := range s.flows {
		_ = f.up.Close() // the flow's goroutine does the rest
	}
	return s.socket.Close()
}
