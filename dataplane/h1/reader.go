package h1

import (
	"io"
	"unsafe"

	"github.com/headgate/headgate/dataplane/link"
)

// reader is the receiving half of a connection: a buffer with unread bytes in
// buf[r:w]. While an exchange lasts, its head stays where it is, in buf[:floor]
// or in head, since the exchange's strings point there.
type reader struct {
	src   io.Reader
	buf   []byte
	r, w  int
	floor int
	// head is the buffer of the head once the content has moved to one of its own.
	head     []byte
	headUsed int
	poisoned bool
}

func (in *reader) buffered() []byte { return in.buf[in.r:in.w] }

// makeRoom sees to it that buf[w:] is not empty. Unread bytes may move; the
// slice that was handed out last may be overwritten.
func (in *reader) makeRoom(want int) {
	if in.r == in.w {
		in.r, in.w = in.floor, in.floor
	}
	if len(in.buf)-in.w >= want {
		return
	}
	unread := in.w - in.r
	if len(in.buf)-in.floor-unread >= want && in.r > in.floor {
		copy(in.buf[in.floor:], in.buf[in.r:in.w])
		in.r, in.w = in.floor, in.floor+unread
		return
	}
	size := max(unread+want, 2*unread)
	bigger := link.TakeBuffer(size)
	copy(bigger, in.buf[in.r:in.w])
	switch {
	case in.floor > 0:
		in.head, in.headUsed = in.buf, in.floor
	case in.buf != nil:
		in.retire(in.buf, in.w)
	}
	in.buf, in.floor, in.r, in.w = bigger, 0, 0, unread
}

// fill reads once. It reports io.EOF only if nothing was read.
func (in *reader) fill(want int) error {
	in.makeRoom(want)
	n, err := in.src.Read(in.buf[in.w:])
	in.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// keep marks everything before the unread bytes as the head.
func (in *reader) keep() { in.floor = in.r }

// forget ends the exchange: strings in the buffers are no longer valid. What
// is unread stays, for the next one.
func (in *reader) forget() {
	if in.head != nil {
		in.retire(in.head, in.headUsed)
		in.head = nil
	}
	if in.poisoned {
		link.Poison(in.buf[:in.r])
	}
	in.floor = 0
	if in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// release gives the buffer back, with whatever is in it.
func (in *reader) release() {
	in.forget()
	if in.buf != nil {
		in.retire(in.buf, in.w)
		in.buf = nil
	}
	in.r, in.w = 0, 0
}

func (in *reader) retire(buf []byte, used int) {
	if in.poisoned {
		link.Poison(buf[:used])
	}
	link.GiveBuffer(buf)
}

// str makes a view of bytes in the buffer.
func str(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// bytesOf returns the string's bytes, which must not be written to.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
