package observe

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
)

// Format is how an access log writes its lines.
type Format uint8

const (
	// JSON is one object a line.
	JSON Format = iota + 1
	// Text is like nginx's and Apache's combined format, with more at its end.
	Text
)

// ParseFormat reads "json" or "text".
func ParseFormat(s string) (Format, error) {
	switch s {
	case "json":
		return JSON, nil
	case "text":
		return Text, nil
	}
	return 0, fmt.Errorf("access log format %q: want json or text", s)
}

var newline = []byte{'\n'}

const (
	// flushInterval bounds how long a line waits to be written.
	flushInterval = 100 * time.Millisecond
	// flushSize is how many bytes are written without waiting for more.
	flushSize = 64 << 10
	// maxBuffered bounds the bytes that wait to be written.
	maxBuffered = 4 << 20
	// maxLine is how large a line's buffer may be to be kept for the next.
	maxLine = 16 << 10
)

// AccessLog writes a line for each exchange, and for each connection that is
// passed on unread. Lines are gathered and written by one goroutine, at the
// latest 100 ms after they were logged unless the writer is slower. Lines beyond
// 4 MiB that wait are dropped and counted; a request never waits for the writer.
// It is safe for concurrent use. A nil *AccessLog logs nothing.
type AccessLog struct {
	w       io.Writer
	format  Format
	lines   sync.Pool // of *[]byte
	dropped atomic.Uint64

	mu      sync.Mutex
	pending []byte // whole lines
	closed  bool

	some chan struct{} // capacity 1: pending is no longer empty
	many chan struct{} // capacity 1: pending passed flushSize
	done chan struct{} // closed when the goroutine has ended
	err  error         // of the last write; readable after done
}

// NewAccessLog returns a log that writes to w until Close. Writes to w are
// whole lines.
func NewAccessLog(w io.Writer, format Format) *AccessLog {
	l := &AccessLog{
		w:      w,
		format: format,
		some:   make(chan struct{}, 1),
		many:   make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
	l.lines.New = func() any { return new([]byte) }
	go l.flush()
	return l
}

// Log writes the line of an exchange that is over, from Handler.Done: total is
// from the request's first byte to the response's last, err what Done was told.
// It keeps nothing of ex.
func (l *AccessLog) Log(ex *exchange.Exchange, total time.Duration, err error) {
	if l == nil {
		return
	}
	line := l.lines.Get().(*[]byte)
	if l.format == Text {
		*line = appendText((*line)[:0], ex, total, err)
	} else {
		*line = appendJSON((*line)[:0], ex, total, err)
	}
	l.add(*line)
	if cap(*line) <= maxLine {
		l.lines.Put(line)
	}
}

func (l *AccessLog) add(line []byte) {
	l.mu.Lock()
	before := len(l.pending)
	if l.closed || before+len(line) > maxBuffered {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.pending = append(l.pending, line...)
	after := len(l.pending)
	l.mu.Unlock()
	if before == 0 {
		wake(l.some)
	}
	if before < flushSize && after >= flushSize {
		wake(l.many)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// flush writes what is pending, until Close. While it writes one buffer the
// other is filled.
func (l *AccessLog) flush() {
	defer close(l.done)
	var writing []byte
	timer := time.NewTimer(flushInterval)
	defer timer.Stop()
	for {
		<-l.some
		timer.Reset(flushInterval)
		select {
		case <-timer.C:
		case <-l.many:
		}

		l.mu.Lock()
		writing, l.pending = l.pending, writing[:0]
		closed := l.closed
		l.mu.Unlock()

		if len(writing) > 0 {
			if n, err := l.w.Write(writing); err != nil {
				l.err = err
				l.dropped.Add(uint64(bytes.Count(writing[n:], newline)))
			}
		}
		if closed {
			return
		}
	}
}

// Dropped returns how many lines were dropped, those that could not be written included.
func (l *AccessLog) Dropped() uint64 {
	if l == nil {
		return 0
	}
	return l.dropped.Load()
}

// Close writes what is left and ends the goroutine; it waits for both. Lines
// logged later are dropped. The error is the last that writing met.
func (l *AccessLog) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	wake(l.some)
	wake(l.many)
	<-l.done
	return l.err
}
