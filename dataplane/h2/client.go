package h2

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
)

// ClientOptions bound what an upstream may make the client side do. The zero
// value of a field means the default that stands beside it. Options are
// read-only once a connection uses them.
type ClientOptions struct {
	// MaxHeaderBytes is the longest response head, and trailer section, counted
	// as RFC 9113 section 6.5.2 does (64 KiB).
	MaxHeaderBytes int
	// MaxHeaderCount is the greatest number of field lines (256).
	MaxHeaderCount int
	// MaxStreams bounds the exchanges at a time, whatever the peer allows (1024).
	MaxStreams int
	// AssumedStreams is how many exchanges at a time the peer is assumed to take
	// before its SETTINGS say so (100, the least that RFC 9113 section 6.5.2 recommends).
	AssumedStreams int
	// StreamWindow is how much content a stream may hold that nobody has
	// pulled, in bytes (64 KiB). A stream that is pulled faster than it is sent
	// gets up to MaxStreamWindow (1 MiB), as long as what the streams of the
	// connection were given on top stays within WindowBudget (16 MiB).
	StreamWindow, MaxStreamWindow, WindowBudget int32
	// ReadTimeout is how long the upstream may be silent, before a response as
	// within it (5 min). The exchange's own deadlines come on top.
	ReadTimeout time.Duration
	// WriteTimeout is how long one write may wait for the upstream to read (30 s).
	WriteTimeout time.Duration
	// PingInterval is how long a connection with exchanges may be silent before
	// it is asked for a sign of life (15 s), and PingTimeout how long that may
	// take (15 s); after it the connection is given up.
	PingInterval, PingTimeout time.Duration
	// TunnelTimeout is how long a tunnel may be silent both ways (1 h).
	TunnelTimeout time.Duration
	// ContinueTimeout is how long to wait for 100 (Continue) before the content
	// is sent all the same (1 s), RFC 9110 section 10.1.1.
	ContinueTimeout time.Duration
}

func (o *ClientOptions) withDefaults() ClientOptions {
	var v ClientOptions
	if o != nil {
		v = *o
	}
	orDefault(&v.MaxHeaderBytes, 64<<10)
	orDefault(&v.MaxHeaderCount, 256)
	orDefault(&v.MaxStreams, 1024)
	orDefault(&v.AssumedStreams, 100)
	orDefault(&v.StreamWindow, 64<<10)
	orDefault(&v.MaxStreamWindow, max(1<<20, v.StreamWindow))
	orDefault(&v.WindowBudget, 16<<20)
	orDefault(&v.ReadTimeout, 5*time.Minute)
	orDefault(&v.WriteTimeout, 30*time.Second)
	orDefault(&v.PingInterval, 15*time.Second)
	orDefault(&v.PingTimeout, 15*time.Second)
	orDefault(&v.TunnelTimeout, time.Hour)
	orDefault(&v.ContinueTimeout, time.Second)
	return v
}

func orDefault[T int | int32 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

const (
	// connWindow is the connection's window. It is given back as content comes:
	// what waits for slow exchanges is bounded by the windows of their streams,
	// so that they hold up nobody else.
	connWindow = 4 << 20
	// answerLimit is how many bytes may wait for the peer to read, that are
	// answers to what it sends.
	answerLimit = 64 << 10
)

// ClientConn is one connection to an upstream, which carries many exchanges at
// a time, each on a ClientStream. It is safe for concurrent use.
//
// One goroutine reads, and waits for nobody but the peer: what an exchange has
// not pulled yet is kept with its stream, within the stream's window. Nobody
// owns the writing: who has something to send appends it, and writes all that
// is there unless another is at it.
type ClientConn struct {
	outbox
	opts    ClientOptions
	changed func()
	in      clientReader
	// heard is when the peer last sent something, on the clock of package deadline.
	heard atomic.Int64

	// All that follows is guarded by outbox.mu, and so is what streams share
	// with the reader.

	streams map[uint32]*ClientStream
	free    []*ClientStream
	open    int // streams between Open and Finish
	nextID  uint32
	served  uint64 // responses that began
	away    bool   // GOAWAY came
	drains  bool   // Drain was called
	budget  int32  // what is left of WindowBudget

	enc    encoder
	scheme string
	text   []byte // where a request target is put together

	// What the peer's SETTINGS say.
	settled    bool // they came
	maxStreams uint32
	maxFrame   int
	window     int64 // a stream's, to begin with
	connects   bool  // extended CONNECT, RFC 8441

	send sendWindow // the connection's
	recv recvWindow
	// blocked are streams whose content waits for the connection's window, or
	// for room in out.
	blocked []*ClientStream

	// resets counts the streams that we have reset and that the peer may still
	// count, until it answers a PING that came behind.
	resets, asked int

	tend    *time.Timer
	tending bool
	pinged  bool
}

var (
	errClosed  = errors.New("the connection is closed")
	errTimeout = errors.New("the time is over")
	// errRefused and errAway say that the peer has not acted on the request, RFC
	// 9113 section 8.7: it did not want it, or has stopped taking any before.
	errRefused = errors.New("the peer has refused the request")
	errAway    = errors.New("the peer has stopped taking requests on this connection")
	errSilent  = errors.New("the peer does not answer a PING")
	errUnread  = errors.New("the peer does not read answers to what it sends")
)

// NewClientConn makes the client side of a connection, which begins with
// Start. A nil opts means the defaults.
func NewClientConn(nc net.Conn, opts *ClientOptions) *ClientConn {
	c := &ClientConn{opts: opts.withDefaults(), streams: map[uint32]*ClientStream{}, nextID: 1, scheme: "http"}
	if _, ok := nc.(*tls.Conn); ok {
		c.scheme = "https"
	}
	c.maxStreams, c.maxFrame, c.window = uint32(c.opts.AssumedStreams), minFrameSize, initialWindow
	c.send, c.recv = initialWindow, newRecvWindow(connWindow)
	c.budget = c.opts.WindowBudget
	c.tend = time.AfterFunc(time.Hour, c.tendTo)
	c.tend.Stop()
	c.outbox.init(nc, c.opts.WriteTimeout, c.fail, c.unblock)
	c.in.init(c)
	c.out = append(c.out, Preface...)
	c.out = appendSettings(c.out,
		setting{settingEnablePush, 0},
		setting{settingInitialWindowSize, uint32(c.opts.StreamWindow)},
		setting{settingMaxHeaderListSize, uint32(c.opts.MaxHeaderBytes)})
	c.out = appendWindowUpdate(c.out, 0, connWindow-initialWindow)
	return c
}

// Start begins to speak and to read. changed, if not nil, is called from the
// connection's own goroutine when the connection may have come to take more
// exchanges than before, or none any more, and a last time when it has ended.
// Streams may be opened before.
func (c *ClientConn) Start(changed func()) {
	if changed == nil {
		changed = func() {}
	}
	c.changed = changed
	c.heard.Store(int64(deadline.Now()))
	go c.in.run()
	c.mu.Lock()
	c.flush()
	c.mu.Unlock()
}

// Open reserves a stream, or returns nil if the connection takes none now. The
// stream is the caller's until its Finish.
func (c *ClientConn) Open() *ClientStream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usable() || c.open+c.resets >= c.most() {
		return nil
	}
	c.open++
	var s *ClientStream
	if n := len(c.free); n > 0 {
		s = c.free[n-1]
		c.free = c.free[:n-1]
	} else {
		s = newClientStream(c)
	}
	s.open()
	if !c.tending {
		c.tending = true
		c.tend.Reset(c.tendPeriod())
	}
	return s
}

// usable reports whether new streams may be opened, now or later.
func (c *ClientConn) usable() bool {
	return c.err == nil && !c.away && !c.drains && c.nextID <= maxStreamID-2*uint32(c.opts.MaxStreams)
}

// most is how many streams may be open.
func (c *ClientConn) most() int { return int(min(c.maxStreams, uint32(c.opts.MaxStreams))) }

// Load is how much a connection has to do and may have.
type Load struct {
	// Open counts the streams in use, Most is how many there may be. Usable is
	// false once the connection takes no new ones for good.
	Open, Most int
	Usable     bool
	// Settled says that the peer's SETTINGS came, which bound Most.
	Settled bool
	// Ended says that the connection is closed.
	Ended bool
}

// Load returns how much the connection has to do.
func (c *ClientConn) Load() Load {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Load{Open: c.open, Most: c.most(), Usable: c.usable(), Settled: c.settled, Ended: c.err != nil}
}

// Drain lets open streams finish, those included whose request is yet to be sent,
// and takes no new ones; then the connection closes.
func (c *ClientConn) Drain() {
	c.mu.Lock()
	c.drains = true
	c.closeIfDone()
	c.mu.Unlock()
}

// Close cuts the connection off; exchanges on it fail.
func (c *ClientConn) Close() {
	c.mu.Lock()
	c.fail(errClosed)
	c.mu.Unlock()
}

// closeIfDone closes a connection that takes no more streams and has none.
func (c *ClientConn) closeIfDone() {
	if (c.away || c.drains) && c.open == 0 && c.err == nil {
		c.answer(appendGoAway(nil, 0, NoError, ""))
		c.flush()
		c.fail(errClosed)
	}
}

// fail ends the connection: its reader, and every exchange on it.
func (c *ClientConn) fail(err error) {
	if c.err != nil {
		return
	}
	c.outbox.close(err)
	c.tend.Stop()
	for _, s := range c.streams {
		s.fail(err)
	}
	for _, s := range c.free {
		s.timer.Stop() // it would keep the connection until it fires
	}
	c.unblock()
}

// refuse ends the connection because the peer has broken a rule.
func (c *ClientConn) refuse(err *connError) {
	if c.err == nil {
		c.out = appendGoAway(c.out, 0, err.code, err.reason)
		c.flush()
	}
	c.fail(err)
}

// answer appends what the peer has provoked.
func (c *ClientConn) answer(frame []byte) {
	if len(c.out) > answerLimit+roomLimit {
		c.fail(errUnread)
		return
	}
	c.out = append(c.out, frame...)
}

// tendPeriod is how often a connection with exchanges is looked at.
func (c *ClientConn) tendPeriod() time.Duration {
	return max(min(c.opts.PingInterval, c.opts.PingTimeout)/4, time.Millisecond)
}

// tendTo asks a connection that is silent, although something is awaited, for
// a sign of life, and gives it up if there is none.
func (c *ClientConn) tendTo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	// That a reset was seen is awaited, too: a peer that is gone, and whose
	// streams all end by their timeouts, would otherwise never be found out.
	if c.err != nil || c.open == 0 && c.asked == 0 {
		c.tending, c.pinged = false, false
		return
	}
	silent := deadline.Now() - time.Duration(c.heard.Load())
	switch {
	case silent < c.opts.PingInterval:
		c.pinged = false
	case !c.pinged:
		c.pinged = true
		c.out = appendPing(c.out, false, pingAlive)
		c.flush()
	case silent > c.opts.PingInterval+c.opts.PingTimeout:
		c.fail(errSilent)
		return
	}
	c.tend.Reset(c.tendPeriod())
}

// What PINGs carry, to tell their answers apart.
var (
	pingAlive  = [8]byte{'a', 'l', 'i', 'v', 'e'}
	pingResets = [8]byte{'r', 'e', 's', 'e', 't', 's'}
)

// askAboutResets finds out when the peer has seen that streams were reset. Who
// counted them as gone before would open more than the peer allows.
func (c *ClientConn) askAboutResets() {
	if c.asked == 0 && c.resets > 0 && c.err == nil {
		c.asked = c.resets
		c.out = appendPing(c.out, false, pingResets)
	}
}

// unblock wakes those who wait for room, or for the connection's window.
func (c *ClientConn) unblock() {
	for i, s := range c.blocked {
		s.cond.Broadcast()
		c.blocked[i] = nil
	}
	c.blocked = c.blocked[:0]
}
