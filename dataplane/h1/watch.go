package h1

import (
	"net"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/link"
)

// clientWatch sees the client go while its exchange waits for the upstream,
// and nobody reads from or writes to the client. It is a goroutine that only
// exchanges have which take long: before that, looking would cost more than
// the exchange.
type clientWatch struct {
	s    *ServerConn
	stop chan struct{} // closed by the connection's goroutine
	done chan struct{} // closed by the watch's
}

// due marks an exchange that will be watched when it has taken watchAfter.
var due = new(clientWatch)

// watchAfter is how long an exchange may take before its client is watched.
const watchAfter = 250 * time.Millisecond

// watchSoon has the client watched if the exchange takes long.
func (s *ServerConn) watchSoon() {
	s.watch.Store(due)
	s.DL.Alarm(watchAfter)
}

// late is called by the janitor.
func (s *ServerConn) late() {
	w := &clientWatch{s: s, stop: make(chan struct{}), done: make(chan struct{})}
	if s.watch.CompareAndSwap(due, w) {
		go w.run()
	}
}

// unwatch ends the watch: what the client sends is to be read again.
func (s *ServerConn) unwatch() {
	w := s.watch.Swap(nil)
	if w == due {
		return
	}
	close(w.stop)
	_ = s.NC.SetReadDeadline(link.LongAgo)
	<-w.done
	_ = s.NC.SetReadDeadline(time.Time{})
}

func (w *clientWatch) run() {
	defer close(w.done)
	raw := socketOf(w.s.NC)
	if raw == nil {
		return
	}
	work := w.s.work // which is the exchange's until unwatch
	turn := work.ex.Turn()
	if w.leavesAmidContent(raw, &work.body) || w.leaves(raw) {
		work.ex.Abandon(turn)
	}
}

// leavesAmidContent looks now and then whether the client has gone, until it
// has sent all: to wait for news would be in the way of who pulls the content,
// and mostly sees the client go by itself.
func (w *clientWatch) leavesAmidContent(raw syscall.RawConn, content *requestBody) bool {
	for !content.complete.Load() {
		gone := false
		err := raw.Control(func(fd uintptr) { gone = hangupOf(fd) == hangupBoth })
		if gone || err != nil {
			return true
		}
		select {
		case <-w.stop:
			return false
		case <-time.After(watchAfter):
		}
	}
	return false
}

// leaves waits until the client has gone, or the watch is to end. A client
// that has closed its direction may still be reading: it has HalfCloseTimeout
// to get its response.
func (w *clientWatch) leaves(raw syscall.RawConn) bool {
	gone, half := false, false
	err := raw.Read(func(fd uintptr) bool {
		switch hangupOf(fd) {
		case hangupBoth:
			gone = true
			return true
		case hangupHalf:
			if half {
				break
			}
			half = true
			_ = w.s.NC.SetReadDeadline(time.Now().Add(w.s.opts.HalfCloseTimeout))
			select {
			case <-w.stop: // whose deadline this has undone
				return true
			default:
			}
		}
		return false
	})
	select {
	case <-w.stop:
		return false
	default:
		return gone || err != nil
	}
}

// hangup is how much of a connection its peer has closed.
type hangup uint8

const (
	hangupNone hangup = iota
	hangupHalf        // it sends nothing more
	hangupBoth        // it has reset the connection
)

// socketOf returns the socket under a connection, or nil if it has none that is known.
func socketOf(nc net.Conn) syscall.RawConn {
	for {
		switch c := nc.(type) {
		case syscall.Conn:
			if raw, err := c.SyscallConn(); err == nil && hangupKnown {
				return raw
			}
			return nil
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return nil
		}
	}
}
