package l4

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
)

// Packets passes on the datagrams of one UDP socket. Those of one client
// address and port are a flow, which has a socket to an endpoint of its own.
type Packets struct {
	p        *Proxy
	socket   *net.UDPConn
	listener func() string

	mu     sync.Mutex
	flows  map[netip.AddrPort]*flow
	closed bool
	wg     sync.WaitGroup // flows
}

// flow is what one client sends and gets.
type flow struct {
	up       net.Conn
	release  func()
	deadline deadline.Conn
}

// Packets passes on what the socket receives to backends of the listener that
// the function names at the time when a flow begins.
func (p *Proxy) Packets(socket *net.UDPConn, listener func() string) *Packets {
	return &Packets{p: p, socket: socket, listener: listener, flows: map[netip.AddrPort]*flow{}}
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
		if closed || n >= s.p.opts.MaxFlows {
			return
		}
		if f = s.begin(client); f == nil {
			return
		}
	}
	f.deadline.Read(s.p.opts.FlowTimeout)
	_, _ = f.up.Write(datagram)
}

// begin begins a flow, and returns nil if there is nowhere to go.
func (s *Packets) begin(client netip.AddrPort) *flow {
	cluster := s.p.find(s.listener(), "")
	if cluster == nil {
		return nil
	}
	up, release, err := cluster.Datagrams(client.Addr().Unmap())
	if err != nil {
		s.p.opts.Log.V(1).Info("Flow refused", "client", client, "error", err.Error())
		return nil
	}
	f := &flow{up: up, release: release}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = up.Close()
		release()
		return nil
	}
	s.flows[client] = f
	f.deadline.Start(up)
	f.deadline.Read(s.p.opts.FlowTimeout)
	s.wg.Add(1)
	go s.answer(client, f)
	return f
}

// answer sends back what the endpoint sends, until the flow is idle for too long.
func (s *Packets) answer(client netip.AddrPort, f *flow) {
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		delete(s.flows, client)
		s.mu.Unlock()
		f.deadline.Stop()
		_ = f.up.Close()
		f.release()
	}()
	for {
		buf, n, err := f.receive()
		if err != nil {
			// Nobody listens at the endpoint, its time is over, or it was closed:
			// the client's next datagram begins anew, perhaps elsewhere.
			return
		}
		f.deadline.Read(s.p.opts.FlowTimeout)
		_, err = s.socket.WriteToUDPAddrPort(buf[:n], client)
		buffers.Put(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
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
