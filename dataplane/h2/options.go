package h2

import "time"

// ServerOptions bound what a client may make the server side do. The zero
// value of a field means the default that stands beside it. Options are
// read-only once a connection uses them.
type ServerOptions struct {
	// MaxStreams is how many streams a client may have open at once (128). As
	// many again may be served that the client has given up.
	MaxStreams int
	// MaxPath is the longest :path in bytes (8 KiB); beyond it 414.
	MaxPath int
	// MaxHeaderBytes is the largest header section, as
	// SETTINGS_MAX_HEADER_LIST_SIZE counts (64 KiB); beyond it 431.
	MaxHeaderBytes int
	// MaxHeaderCount is the greatest number of fields, crumbs of Cookie not
	// counted (128); beyond it 431.
	MaxHeaderCount int
	// MaxBody is the longest content in bytes (no bound); beyond it 413.
	MaxBody int64
	// MaxRequests is with how many requests a connection is drained (no bound).
	// Those that are on their way by then are served.
	MaxRequests int
	// StreamWindow is how much content of one request is held at first (64
	// KiB), MaxStreamWindow how much at most, once the path has proved to be
	// long and fat enough (1 MiB). A connection's windows are four times theirs.
	StreamWindow, MaxStreamWindow int32

	// HeaderTimeout is how long a header section may take (10 s).
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may be without a request (75 s).
	IdleTimeout time.Duration
	// RestAfter is after how much of IdleTimeout Serve returns, see
	// ServerConn.Resting (never).
	RestAfter time.Duration
	// BodyTimeout is how long a request's content, or a frame, may pause (30 s).
	BodyTimeout time.Duration
	// WriteTimeout is how long one write may wait for the client to read, or a
	// stream for the client to raise its window (30 s).
	WriteTimeout time.Duration
	// TunnelTimeout is how long a tunnel may be silent both ways (1 h).
	TunnelTimeout time.Duration

	// Resets is how many streams a client may reset, or make us reset, at once
	// (200), and Frames how many frames it may send that carry nothing (1,000);
	// a fourth and a tenth of these are added every second.
	Resets, Frames int

	// AllowConnect hands CONNECT to the handler; without it CONNECT is answered
	// 501. It does not concern WebSocket, RFC 8441.
	AllowConnect bool
	// RefuseUnderscores ends requests with "_" in a field name, which CGI-like
	// upstreams cannot tell from "-". By default they pass as they are.
	RefuseUnderscores bool
	// Poison overwrites buffers as soon as what was lent of them is no longer
	// valid. It is for tests.
	Poison bool

	complete bool // see Complete
}

func or[T int | int32 | int64 | time.Duration](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

// Complete returns the options with all defaults filled in. They are read-only
// from then on: connections that are given them share them.
func (o *ServerOptions) Complete() *ServerOptions {
	var v ServerOptions
	if o != nil {
		if o.complete {
			return o
		}
		v = *o
	}
	v.MaxStreams = or(v.MaxStreams, 128)
	v.MaxPath = or(v.MaxPath, 8<<10)
	v.MaxHeaderBytes = or(v.MaxHeaderBytes, 64<<10)
	v.MaxHeaderCount = or(v.MaxHeaderCount, 128)
	v.StreamWindow = or(v.StreamWindow, 64<<10)
	v.MaxStreamWindow = max(or(v.MaxStreamWindow, 1<<20), v.StreamWindow)
	v.HeaderTimeout = or(v.HeaderTimeout, 10*time.Second)
	v.IdleTimeout = or(v.IdleTimeout, 75*time.Second)
	v.BodyTimeout = or(v.BodyTimeout, 30*time.Second)
	v.WriteTimeout = or(v.WriteTimeout, 30*time.Second)
	v.TunnelTimeout = or(v.TunnelTimeout, time.Hour)
	v.Resets = or(v.Resets, 200)
	v.Frames = or(v.Frames, 1000)
	v.complete = true
	return &v
}
