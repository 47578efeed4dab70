package l4

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// Stream is one downstream connection that is passed on.
type Stream struct {
	p        *Proxy
	down     net.Conn
	info     *exchange.Conn
	listener string
	name     string
	head     []byte

	closer closer
	mu     sync.Mutex
	timer  *time.Timer  // set by Drain; guarded by mu
	ended  bool         // guarded by mu
	moved  atomic.Int64 // when bytes last moved, since began
	began  time.Time
}

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
	cluster := s.p.find(s.listener, s.name)
	if cluster == nil {
		s.p.opts.Log.V(1).Info("Connection refused: no backend", "listener", s.listener, "serverName", s.name, "remote", s.info.Remote)
		refuse(s.down)
		return
	}
	up, release, err := cluster.Connect(s.info)
	if err != nil {
		s.p.opts.Log.V(1).Info("Connection refused", "listener", s.listener, "remote", s.info.Remote, "error", err.Error())
		refuse(s.down)
		return
	}
	defer release()
	defer up.Close()
	s.mu.Lock()
	s.closer.conns = []net.Conn{s.down, up}
	ended := s.ended
	s.mu.Unlock()
	if ended {
		_ = s.down.Close()
		return
	}
	if len(s.head) > 0 {
		_ = up.SetWriteDeadline(time.Now().Add(s.p.opts.IdleTimeout))
		if _, err := up.Write(s.head); err != nil {
			refuse(s.down)
			return
		}
		s.head = nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.pass(s.down, up)
	}()
	s.pass(up, s.down)
	<-done
}

// pass copies from src to dst to its end, which it passes on. Any failure ends
// both directions.
//
// Between TCP connections the kernel moves the bytes (splice(2), by
// TCPConn.ReadFrom), so nobody sees them pass. Instead of a deadline that is
// renewed with each of them, a quarter of the idle timeout bounds each copy,
// after which it is known whether there were any.
func (s *Stream) pass(dst, src net.Conn) {
	idle := s.p.opts.IdleTimeout
	for {
		now := time.Now()
		_ = src.SetReadDeadline(now.Add(idle / 4))
		_ = dst.SetWriteDeadline(now.Add(idle + idle/4))
		n, err := io.Copy(dst, src)
		since := time.Since(s.began)
		if n > 0 {
			s.moved.Store(int64(since))
		}
		switch {
		case err == nil:
			if half, ok := dst.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
				s.closer.close()
			}
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && since-time.Duration(s.moved.Load()) < idle && time.Since(now) < idle+idle/4:
			// The read's deadline, not the write's: nothing is lost.
		default:
			s.closer.close()
			return
		}
	}
}

// Drain lets the connection go on for the drain timeout, and closes it then:
// where it could end well, only its two ends know.
func (s *Stream) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil && !s.ended {
		s.timer = time.AfterFunc(s.p.opts.DrainTimeout, func() { _ = s.Close() })
	}
}

// Close ends both connections at once.
func (s *Stream) Close() error {
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
