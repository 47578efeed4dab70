package h1

import "time"

// ServerOptions bound what a client may make the server side do. The zero
// value of a field means the default that stands beside it. Options are
// read-only once a connection uses them.
type ServerOptions struct {
	// MaxRequestLine is the longest request line in bytes (8 KiB); beyond it 414.
	MaxRequestLine int
	// MaxHeaderBytes is the longest head, request line included, and the longest
	// trailer section, in bytes (64 KiB); beyond it 431.
	MaxHeaderBytes int
	// MaxHeaderCount is the greatest number of field lines (128); beyond it 431.
	MaxHeaderCount int
	// MaxBody is the longest content in bytes (no bound); beyond it 413.
	MaxBody int64
	// MaxRequests is how many requests a connection may carry (no bound); the
	// last answer says Connection: close.
	MaxRequests int

	// HeaderTimeout is how long a head may take from its first byte to its last,
	// however often a byte comes (10 s); beyond it 408.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may wait for a request (75 s).
	IdleTimeout time.Duration
	// RestAfter is after how much of IdleTimeout Serve returns, see
	// ServerConn.Resting (never).
	RestAfter time.Duration
	// BodyTimeout is how long a request's content may pause (30 s); beyond it 408.
	BodyTimeout time.Duration
	// WriteTimeout is how long one write may wait for the client to read (30 s).
	WriteTimeout time.Duration
	// TunnelTimeout is how long a tunnel may be silent both ways (1 h).
	TunnelTimeout time.Duration
	// HalfCloseTimeout is how long a client that has closed its direction may
	// wait for the response before the exchange is given up (5 s).
	HalfCloseTimeout time.Duration

	// HTTP2 ends Serve without closing a connection without TLS if that begins with the
	// preface of HTTP/2, RFC 9113 section 3.4; see ServerConn.Preface. If its
	// first line has neither a path nor a protocol's version, it is closed without an answer.
	HTTP2 bool
	// AllowConnect hands CONNECT to the handler; without it CONNECT is answered 501.
	AllowConnect bool
	// RefuseUnderscores answers 400 to field names with "_", which CGI-like
	// upstreams cannot tell from "-". By default they pass as they are.
	RefuseUnderscores bool
	// Poison overwrites read buffers as soon as the strings in them are no
	// longer valid. It is for tests: who keeps a view sees garbage at once.
	Poison bool

	complete bool // see Complete
}

// ClientOptions bound what an upstream may make the client side do. The zero
// value of a field means the default that stands beside it.
type ClientOptions struct {
	// MaxHeaderBytes is the longest response head and trailer section (64 KiB).
	MaxHeaderBytes int
	// MaxHeaderCount is the greatest number of field lines (256).
	MaxHeaderCount int
	// ReadTimeout is how long the upstream may be silent, before the response as
	// within it (5 min). The exchange's own deadlines come on top.
	ReadTimeout time.Duration
	// WriteTimeout is how long one write may wait for the upstream to read (30 s).
	WriteTimeout time.Duration
	// TunnelTimeout is how long a tunnel may be silent both ways (1 h).
	TunnelTimeout time.Duration
	// ContinueTimeout is how long to wait for 100 (Continue) before the content
	// is sent all the same (1 s), RFC 9110 section 10.1.1.
	ContinueTimeout time.Duration
	// Trailers sends "TE: trailers".
	Trailers bool
	// Poison is as in ServerOptions.
	Poison bool
}

func or[T int | int64 | time.Duration](value, otherwise T) T {
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
	v.MaxRequestLine = or(v.MaxRequestLine, 8<<10)
	v.MaxHeaderBytes = or(v.MaxHeaderBytes, 64<<10)
	v.MaxHeaderCount = or(v.MaxHeaderCount, 128)
	v.HeaderTimeout = or(v.HeaderTimeout, 10*time.Second)
	v.IdleTimeout = or(v.IdleTimeout, 75*time.Second)
	v.BodyTimeout = or(v.BodyTimeout, 30*time.Second)
	v.WriteTimeout = or(v.WriteTimeout, 30*time.Second)
	v.TunnelTimeout = or(v.TunnelTimeout, time.Hour)
	v.HalfCloseTimeout = or(v.HalfCloseTimeout, 5*time.Second)
	v.complete = true
	return &v
}

func (o *ClientOptions) withDefaults() ClientOptions {
	var v ClientOptions
	if o != nil {
		v = *o
	}
	v.MaxHeaderBytes = or(v.MaxHeaderBytes, 64<<10)
	v.MaxHeaderCount = or(v.MaxHeaderCount, 256)
	v.ReadTimeout = or(v.ReadTimeout, 5*time.Minute)
	v.WriteTimeout = or(v.WriteTimeout, 30*time.Second)
	v.TunnelTimeout = or(v.TunnelTimeout, time.Hour)
	v.ContinueTimeout = or(v.ContinueTimeout, time.Second)
	return v
}
