package h2

import (
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/link"
)

// roomLimit is how many bytes may be gathered before who has more content
// waits for them to be written.
const roomLimit = 64 << 10

// outbox is the sending half of a connection that many goroutines share. Under
// mu, each appends whole frames to out and calls flush: who finds nobody
// writing writes all that is there, and what others append in the meantime.
//
// Nobody waits for the peer to read in flush, where the connection is a plain
// socket: what can't be written at once is left to a goroutine. Over TLS a
// flush may take as long as the timeout for writes; who can't wait for that
// leaves all of it to a goroutine, by flushAside.
type outbox struct {
	mu sync.Mutex
	// out is what is to be sent next. Who appends to it makes sure, by hasRoom,
	// that content does not pile up.
	out []byte
	// base is how many bytes were sent before out[0].
	base int64
	// err is why the connection ended.
	err error

	nc      net.Conn
	raw     syscall.RawConn // nil unless nc is a plain socket
	dl      deadline.Conn
	timeout time.Duration
	lost    func(error) // called with mu held when a write has failed
	room    func()      // called with mu held when something was written
	writing bool
	spare   []byte // the other buffer: one is gathered in while the other is written

	// of who writes
	part    []byte
	written int
	partErr error
	try     func(fd uintptr) bool // a method value made once
}

func (o *outbox) init(nc net.Conn, timeout time.Duration, lost func(error), room func()) {
	o.nc, o.raw, o.timeout, o.lost, o.room = nc, link.RawOf(nc), timeout, lost, room
	o.try = o.tryWrite
	o.dl.Start(nc)
}

// hasRoom reports whether more content may be appended.
func (o *outbox) hasRoom() bool { return len(o.out) < roomLimit }

// close ends the connection. mu is held.
func (o *outbox) close(err error) {
	o.err = err
	o.dl.Stop()
	if o.raw != nil {
		_ = o.nc.Close()
	} else {
		go o.nc.Close() // over TLS it says goodbye, and may wait for the peer to read it
	}
}

// rounds is how often one goroutine writes what others have appended, before
// it leaves that to one which has nothing else to do.
const rounds = 4

// flush sees to it that what was appended is written. mu is held, but not all
// the time.
func (o *outbox) flush() {
	if o.writing || len(o.out) == 0 || o.err != nil {
		return
	}
	o.writing = true
	for range rounds {
		buf := o.swap()
		o.mu.Unlock()
		n, err := o.writeNow(buf)
		o.mu.Lock()
		if err == nil && n < len(buf) {
			go o.write(buf[n:], buf)
			return
		}
		o.wrote(buf, err)
		if len(o.out) == 0 || o.err != nil {
			o.writing = false
			return
		}
	}
	go o.write(nil, nil)
}

// flushAside is flush for who must not wait for the peer in any case.
func (o *outbox) flushAside() {
	switch {
	case o.writing || len(o.out) == 0 || o.err != nil:
	case o.raw != nil:
		o.flush()
	default:
		o.writing = true
		go o.write(nil, nil)
	}
}

// gather lets goroutines that are ready to run append what they have before a
// flush: where many exchanges share a connection, and the reader has woken
// several, one write then carries the requests of all. mu is held, but not all
// the time.
func (o *outbox) gather() {
	if !o.writing {
		o.mu.Unlock()
		runtime.Gosched()
		o.mu.Lock()
	}
}

// write is flush for a goroutine of its own, which may wait for the peer. It
// begins with rest, the unwritten part of buf.
func (o *outbox) write(rest, buf []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.err == nil {
		if len(rest) > 0 {
			o.mu.Unlock()
			err := o.writeAll(rest)
			o.mu.Lock()
			o.wrote(buf, err)
			rest = nil
			continue
		}
		if len(o.out) == 0 {
			break
		}
		buf = o.swap()
		rest = buf
	}
	o.writing = false
}

func (o *outbox) swap() []byte {
	buf := o.out
	o.out = o.spare[:0]
	o.base += int64(len(buf))
	o.spare = nil
	return buf
}

// wrote takes a buffer back, and the outcome.
func (o *outbox) wrote(buf []byte, err error) {
	if cap(buf) <= 2*roomLimit {
		o.spare = buf[:0]
	}
	if err != nil {
		o.lost(err)
	}
	o.room()
}

// writeNow writes as much as goes without waiting, if nc is a plain socket.
func (o *outbox) writeNow(p []byte) (int, error) {
	if o.raw == nil {
		return len(p), o.writeAll(p)
	}
	o.part, o.written, o.partErr = p, 0, nil
	if err := o.raw.Write(o.try); err != nil {
		return 0, err
	}
	o.part = nil
	return o.written, o.partErr
}

func (o *outbox) tryWrite(fd uintptr) bool {
	n, err := link.RawWrite(fd, o.part)
	if err != nil && err != syscall.EAGAIN {
		o.partErr = os.NewSyscallError("write", err)
	}
	o.written = n
	return true
}

func (o *outbox) writeAll(p []byte) error {
	if !o.dl.Write(o.timeout) {
		return os.ErrDeadlineExceeded
	}
	_, err := o.nc.Write(p)
	if !o.dl.Write(0) && err == nil {
		err = os.ErrDeadlineExceeded
	}
	return err
}
