package l4

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
)

// Stream is one downstream connection that is passed on.
type Stream struct {
	p        *Proxy
	down     net.Conn
	info     *exchange.Conn
	listener string
	name     string
	head     []byte
	way      *way
	passage  *passage
	idle     time.Duration

	closer closer
	mu     sync.Mutex
	timer  *time.Timer  // set by Drain; guarded by mu
	ended  bool         // guarded by mu
	reason string       // why it ended, the first that is known; guarded by mu
	moved  atomic.Int64 // when bytes last moved, since began
	held   atomic.Int32 // directions in which relay has bytes that were read and not written
	began  time.Time

	received, sent atomic.Int64
}

// Why connections and flows end that have reached an endpoint, where they do not
// end well.
const (
	reasonClientReset   = "client_reset"
	reasonUpstreamReset = "upstream_reset"
	reasonReset         = "reset" // by one of them
	reasonIdle          = "idle_timeout"
	reasonDrained       = "drained"
	reasonClosed        = "closed" // by Headgate, which ends
	reasonMaxAge        = "max_age"
)

// Stream passes c on to a backend of the listener, by the server name that the
// client asked for, "" if there is none. head is what was already read from c.
func (p *Proxy) Stream(c net.Conn, info *exchange.Conn, listener, serverName string, head []byte) *Stream {
	return &Stream{p: p, down: c, info: info, listener: listener, name: serverName, head: head, began: time.Now()}
}

// Serve passes bytes on both ways until both ends have ended, one has failed,
// nothing has moved for the idle timeout, or Close. Where one end sends no
// more, the other is told so, and goes on sending.
func (s *Stream) Serve() {
	defer s.end()
	s.way = s.p.find(s.listener, s.name)
	if s.way.cluster == nil {
		s.refused(s.way.reason, 0)
		return
	}
	var refused string
	if s.passage, refused = s.way.filters.enter(s.info, s.info.Remote.Addr()); refused != "" {
		s.refused(refused, 0)
		return
	}
	defer s.passage.over()
	var up net.Conn
	var release func()
	var err error
	s.way, up, release, err = s.way.reach(func(c Cluster) (net.Conn, func(), error) { return c.Connect(s.info) })
	wait := time.Since(s.began)
	if err != nil {
		s.p.opts.Log.V(1).Info("Connection refused", "listener", s.listener, "remote", s.info.Remote, "error", err.Error())
		s.refused(reasonOf(err), wait)
		return
	}
	s.way.metrics.Begin()
	defer func() {
		_ = up.Close()
		release()
		s.done(up, wait)
	}()
	s.idle = cmp.Or(s.way.idle, s.p.opts.IdleTimeout)
	var tunnel exchange.Tunnel
	if s.passage.slows() {
		tunnel = s.passage.tunnel(&end{up, s, &s.received, s.way.metrics.Received})
	}
	s.mu.Lock()
	s.closer.conns, s.closer.tunnel = []net.Conn{s.down, up}, tunnel
	ended := s.ended
	s.mu.Unlock()
	if ended {
		_ = s.down.Close()
		return
	}
	if tunnel != nil {
		s.relayBoth(tunnel)
		return
	}
	if len(s.head) > 0 {
		_ = up.SetWriteDeadline(time.Now().Add(s.idle))
		n, err := up.Write(s.head)
		s.count(&s.received, s.way.metrics.Received, int64(n))
		if err != nil {
			s.because(reasonUpstreamReset)
			reset(s.down)
			return
		}
		s.head = nil
	}
	both(
		func() { s.pass(s.down, up, &s.sent, s.way.metrics.Sent) },
		func() { s.pass(up, s.down, &s.received, s.way.metrics.Received) })
}

// both runs one for each direction, until the two have ended.
func both(one, other func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		one()
	}()
	other()
	<-done
}

// maxCopy is how long bytes may be on their way without being counted.
const maxCopy = time.Minute

// pass copies from src to dst to its end, which it passes on. Any failure ends
// both directions.
//
// Between TCP connections the kernel moves the bytes (splice(2), by
// TCPConn.ReadFrom), so nobody sees them pass. Instead of a deadline that is
// renewed with each of them, a quarter of the idle timeout bounds each copy,
// after which it is known whether there were any.
func (s *Stream) pass(dst, src net.Conn, total *atomic.Int64, count func(int64)) {
	for {
		now := time.Now()
		_ = src.SetReadDeadline(now.Add(min(s.idle/4, maxCopy)))
		_ = dst.SetWriteDeadline(now.Add(s.idle + s.idle/4))
		n, err := io.Copy(dst, src)
		since := time.Since(s.began)
		if n > 0 {
			s.moved.Store(int64(since))
			s.count(total, count, n)
		}
		late := isLate(err)
		switch {
		case err == nil:
			// Who reads from an end that was reset passes on what that had sent, and then
			// the reset.
			if half, ok := dst.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil && !isReset(dst) {
				s.closer.close()
			}
			return
		case late && since-time.Duration(s.moved.Load()) < s.idle && time.Since(now) < s.idle+s.idle/4:
			// The read's deadline, not the write's: nothing is lost.
		default:
			s.fail(err)
			return
		}
	}
}

// fail ends both directions because one has failed.
func (s *Stream) fail(err error) {
	if isLate(err) {
		s.because(reasonIdle)
		s.closer.close()
		return
	}
	// The other end is not to take a part for all.
	s.because(s.culprit(err))
	s.closer.reset()
}

func isLate(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

func (s *Stream) count(total *atomic.Int64, count func(int64), bytes int64) {
	total.Add(bytes)
	count(bytes)
}

// culprit says which end has failed, when one has and neither is closed yet.
func (s *Stream) culprit(err error) string {
	s.mu.Lock()
	ends := s.closer.conns
	s.mu.Unlock()
	switch {
	// TLS, which only the client speaks, did not end as it should.
	case isReset(ends[0]), errors.Is(err, io.ErrUnexpectedEOF):
		return reasonClientReset
	case isReset(ends[1]):
		return reasonUpstreamReset
	}
	return reasonReset
}

// because says why the connection ends, unless that is known already.
func (s *Stream) because(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason = reason
	}
}

// refused is the end of a connection that reaches nobody.
func (s *Stream) refused(reason string, wait time.Duration) {
	reset(s.down)
	s.way.metrics.Refused(reason)
	s.log("", wait, reason)
}

// done is the end of one that has reached an endpoint.
func (s *Stream) done(up net.Conn, wait time.Duration) {
	s.mu.Lock()
	reason := s.reason
	s.mu.Unlock()
	s.way.metrics.Done(reason)
	s.log(endpointOf(up), wait, reason)
}

// endpointOf is the address of the endpoint at the other end.
func endpointOf(up net.Conn) string {
	if unix, ok := up.RemoteAddr().(*net.UnixAddr); ok {
		return exchange.UnixPrefix + unix.Name
	}
	return up.RemoteAddr().String()
}

func (s *Stream) log(endpoint string, wait time.Duration, reason string) {
	if s.p.opts.AccessLog == nil {
		return
	}
	s.p.opts.AccessLog.LogConnection(&observe.Connection{
		Start: s.began, Protocol: s.way.protocol, Remote: s.info.Remote, ServerName: s.name,
		Listener: s.listener, Route: s.way.labels.Route, Cluster: s.way.labels.Cluster, Endpoint: endpoint,
		Received: s.received.Load(), Sent: s.sent.Load(),
		Duration: time.Since(s.began), Wait: wait, Reason: reason,
	})
}

// reasonOf is why an endpoint could not be connected to.
func reasonOf(err error) string {
	if e, ok := errors.AsType[*exchange.UpstreamError](err); ok {
		return e.Reason
	}
	return "connect_failed"
}

// Drain lets the connection go on for the drain timeout, and closes it then:
// where it could end well, only its two ends know.
func (s *Stream) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.ended {
		s.timer = time.AfterFunc(s.p.opts.DrainTimeout, func() {
			s.because(reasonDrained)
			_ = s.Close()
		})
	}
}

// Expire is Close for a connection that has lasted as long as it may.
func (s *Stream) Expire() {
	s.because(reasonMaxAge)
	_ = s.Close()
}

// Close ends both connections at once.
func (s *Stream) Close() error {
	s.because(reasonClosed)
	s.mu.Lock()
	s.ended = true
	connected := s.closer.conns != nil
	s.mu.Unlock()
	if connected {
		s.closer.close()
	} else {
		_ = s.down.Close()
	}
	return nil
}

// end is the end of Serve.
func (s *Stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	_ = s.down.Close()
}
