// Package deadline bounds how long connections may take, without a timer call
// for every phase of every request.
//
// A connection is registered once. Each phase then stores when it must be over
// (one atomic operation); a janitor looks through the connections a few times
// a second and makes the blocked reads or writes of those that are late fail
// with os.ErrDeadlineExceeded. It is meant for timeouts of seconds: a phase
// ends up to Precision late, never early. Who needs milliseconds calls
// SetReadDeadline, in addition.
package deadline

import (
	"sync"
	"sync/atomic"
	"time"
)

// Precision is by how much a phase may outlast what it was given.
const Precision = 2 * period

const (
	// period is how often each connection is looked at, and the grain of the clock.
	period = 200 * time.Millisecond
	// Each tick looks at one shard, so that ten thousand connections are not
	// looked at in one go, and registering does not contend.
	shards = 8
	tick   = period / shards
)

// Deadliner is what the janitor needs of a net.Conn.
type Deadliner interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Conn is the deadlines of one connection, for its reads and its writes apart.
// The zero value is ready for Start. It must not be copied.
type Conn struct {
	// Ring, if set before Start, is what Alarm calls. It is called by the
	// janitor, which waits for it.
	Ring func()

	read, write atomic.Int64 // on the janitor's clock; 0 is never, or one of the below
	alarm       atomic.Int64 // likewise, but for expired
	conn        Deadliner
	shard       atomic.Pointer[shard] // nil unless registered
	index       int                   // within shard.conns; guarded by shard.mu
}

// expired is what the janitor leaves in place of a deadline that it has
// enforced. It stays: the connection is not usable any more, and a phase that
// began in the meantime learns it from Read or Write.
const expired = -1

// Start registers the connection with no deadline set. It must be followed by
// Stop; after that the Conn may be started again, for any connection.
func (c *Conn) Start(conn Deadliner) {
	c.conn = conn
	c.read.Store(0)
	c.write.Store(0)
	c.alarm.Store(0)
	theJanitor.add(c)
}

// Stop unregisters the connection: once it returned the janitor does not touch
// it. A second Stop does nothing. Stop may be called from any goroutine.
func (c *Conn) Stop() {
	if s := c.shard.Swap(nil); s != nil {
		theJanitor.remove(c, s)
	}
}

// Read says that the connection's reads must be over within d from now, in
// place of what was said before; d <= 0 lifts the bound. It reports false if
// the former bound had passed: reads fail from then on, whatever is set.
// It may be called from any goroutine.
func (c *Conn) Read(d time.Duration) bool { return set(&c.read, d) }

// Write is Read for the connection's writes.
func (c *Conn) Write(d time.Duration) bool { return set(&c.write, d) }

// Alarm has Ring called once, in d from now, in place of what was said before.
func (c *Conn) Alarm(d time.Duration) { c.alarm.Store(clock.Load() + int64(d+tick)) }

func set(at *atomic.Int64, d time.Duration) bool {
	var v int64
	if d > 0 {
		// The clock is up to a tick behind; rounding up makes it never early.
		v = clock.Load() + int64(d+tick)
	}
	for {
		old := at.Load()
		if old == expired {
			return false
		}
		if at.CompareAndSwap(old, v) {
			return true
		}
	}
}

// clock is the janitor's time in nanoseconds since the process began: coarse,
// and still while no connection is registered.
var clock atomic.Int64

var began = time.Now()

func advance() int64 {
	now := int64(time.Since(began)) + 1 // 0 means never
	clock.Store(now)
	return now
}

type janitor struct {
	shards [shards]shard
	next   atomic.Uint32

	mu      sync.Mutex
	conns   int // registered in all
	running bool
}

type shard struct {
	mu    sync.Mutex
	conns []*Conn
}

var theJanitor janitor

func (j *janitor) add(c *Conn) {
	s := &j.shards[j.next.Add(1)%shards]
	s.mu.Lock()
	c.index = len(s.conns)
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	c.shard.Store(s)

	j.mu.Lock()
	j.conns++
	if !j.running {
		j.running = true
		advance() // it stood still
		go j.run()
	}
	j.mu.Unlock()
}

func (j *janitor) remove(c *Conn, s *shard) {
	// Deadlines are enforced under this lock, so none is after it.
	s.mu.Lock()
	last := len(s.conns) - 1
	s.conns[c.index] = s.conns[last]
	s.conns[c.index].index = c.index
	s.conns[last] = nil
	s.conns = s.conns[:last]
	s.mu.Unlock()
	c.conn = nil

	j.mu.Lock()
	j.conns--
	j.mu.Unlock()
}

// run ends when no connection is left, so that a program that has closed its
// connections has no goroutine of ours.
func (j *janitor) run() {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for i := 0; ; i = (i + 1) % shards {
		<-ticker.C
		now := advance()
		j.mu.Lock()
		if j.conns == 0 {
			j.running = false
			j.mu.Unlock()
			return
		}
		j.mu.Unlock()
		j.shards[i].enforce(now)
	}
}

// past is a deadline that has passed whenever it is set.
var past = time.Unix(1, 0)

func (s *shard) enforce(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		// The swap settles the race with the connection beginning another
		// phase: either that phase's bound is in place and nothing happens,
		// or expired is, and the phase is told.
		if v := c.read.Load(); v > 0 && v < now && c.read.CompareAndSwap(v, expired) {
			_ = c.conn.SetReadDeadline(past)
		}
		if v := c.write.Load(); v > 0 && v < now && c.write.CompareAndSwap(v, expired) {
			_ = c.conn.SetWriteDeadline(past)
		}
		if v := c.alarm.Load(); v > 0 && v < now && c.alarm.CompareAndSwap(v, 0) {
			c.Ring()
		}
	}
}

// Now returns the time since the process began on the janitor's clock. It
// costs one load; it is up to 50 ms behind while a connection is registered,
// and stands still while none is.
func Now() time.Duration { return time.Duration(clock.Load()) }

// Unix returns the wall clock's second by the same clock, for Date fields.
func Unix() int64 { return beganUnix + int64(Now()+beganFraction)/int64(time.Second) }

var (
	beganUnix     = began.Unix()
	beganFraction = time.Duration(began.Nanosecond())
)
