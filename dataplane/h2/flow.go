package h2

import "time"

// sendWindow is how many bytes of DATA may be sent, on a stream or on all of a
// connection's. SETTINGS may make it negative, RFC 9113 section 6.9.2.
type sendWindow int64

// add raises (or, by SETTINGS, lowers) the window. It reports false if that
// makes it larger than a window may be, section 6.9.1.
func (w *sendWindow) add(n int64) bool {
	*w += sendWindow(n)
	return *w <= maxWindow
}

// take takes up to n bytes and returns how many.
func (w *sendWindow) take(n int) int {
	if *w <= 0 {
		return 0
	}
	n = int(min(int64(n), int64(*w)))
	*w -= sendWindow(n)
	return n
}

// recvWindow is how many bytes of DATA we let a peer send, on a stream or on
// all of a connection's. What it has announced and not got back bounds what has
// to be held.
type recvWindow struct {
	size int32 // how much may be outstanding and unread
	left int32 // what the peer may still send
	owed int32 // what was read, and the peer has not been told
}

func newRecvWindow(size int32) recvWindow { return recvWindow{size: size, left: size} }

// receive accounts for n bytes that came. It reports false if the peer had no
// right to send them.
func (w *recvWindow) receive(n int) bool {
	if int64(n) > int64(w.left) {
		return false
	}
	w.left -= int32(n)
	return true
}

// give accounts for n bytes that were read, and returns by how much to
// announce a larger window; 0 while that can wait.
func (w *recvWindow) give(n int) (increment uint32) {
	w.owed += int32(n)
	if w.owed < w.size/2 {
		return 0
	}
	return w.announce()
}

// grow makes the window larger and returns by how much to announce it at once.
func (w *recvWindow) grow(size int32) (increment uint32) {
	if size <= w.size {
		return 0
	}
	w.owed += size - w.size
	w.size = size
	return w.announce()
}

func (w *recvWindow) announce() uint32 {
	n := w.owed
	w.left, w.owed = w.left+n, 0
	return uint32(n)
}

// estimator finds out how large the windows must be for the path to be full:
// it counts what comes in between a PING and its answer, which is the
// bandwidth-delay product if the sender was not held up, and doubles the
// windows as long as it looks as if they had held it up.
type estimator struct {
	window, limit int32
	pinging       bool
	sent          time.Duration // on the clock of the caller
	received      int64
	best          float64 // bytes per second
	quiet         int     // answers in a row that gave no reason to grow
}

// receive accounts for n bytes of DATA and reports whether to send a PING now.
func (e *estimator) receive(n int, now time.Duration) (ping bool) {
	if e.pinging {
		e.received += int64(n)
		return false
	}
	if e.window >= e.limit || e.quiet >= 8 {
		return false // as large as it may be, or large enough for this peer
	}
	e.pinging, e.sent, e.received = true, now, int64(n)
	return true
}

// pong accounts for the PING's answer and returns the window from now on.
func (e *estimator) pong(now time.Duration) int32 {
	if !e.pinging {
		return e.window
	}
	e.pinging = false
	rtt := max(now-e.sent, 50*time.Microsecond)
	bandwidth := float64(e.received) / rtt.Seconds()
	if e.received*3 < int64(e.window)*2 || bandwidth < e.best {
		e.quiet++
		return e.window
	}
	e.quiet, e.best = 0, bandwidth
	e.window = int32(min(int64(e.window)*2, int64(e.limit)))
	return e.window
}
