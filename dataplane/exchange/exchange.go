// Package exchange is one HTTP request with its response, as every codec
// (HTTP/1.1, HTTP/2, HTTP/3) makes it and every filter sees it.
//
// Lifetime: the strings of an exchange are views into a codec's read buffer or
// into the exchange's Arena. They are valid until Handler.Done returns; who
// keeps one longer copies it (strings.Clone). Who makes one for the exchange
// makes it in the Arena. Strings of the configuration may be used as they are.
//
// Ownership: an exchange belongs to the goroutine that serves it. The one
// exception is the request body: while a codec streams it upstream, Out.Body
// belongs to the goroutine that pumps it, until the round trip gives it back.
package exchange

import (
	"crypto/sha256"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Exchange is one request with its response. The codec that accepted the
// request owns and reuses it; between requests it is Reset.
type Exchange struct {
	// Conn is the downstream connection. It is shared by the connection's
	// exchanges and is read-only for them.
	Conn *Conn
	// Client sends what goes downstream before the response does. Set by the codec.
	Client Client

	// In is the request as received. Nobody edits it after the codec filled it.
	In Request
	// Out is the request as it is sent upstream. Filters edit this one. The
	// pipeline fills it from In without the hop-by-hop fields.
	Out Request
	// Response is what goes downstream. Filters on the way out edit it.
	Response Response

	// Path is the path that routes match and Out starts from: In.Path with dot
	// segments resolved, RFC 3986 section 6.2.2. Set by the pipeline.
	Path string
	// ClientIP is the address of the client, behind trusted proxies. Set by the pipeline.
	ClientIP netip.Addr
	// RequestID identifies the exchange in logs, X-Request-ID and traces. Set by the pipeline.
	RequestID string
	// Consumer is who authentication found; its zero value is nobody.
	Consumer Consumer
	// Route names what was matched, for templates and logs; nil before the match.
	Route *RouteInfo
	// MatchedPrefix is how many bytes of Path the rule's prefix match covered;
	// a prefix rewrite replaces exactly those. 0 for other path matches.
	MatchedPrefix int

	// Upstream says what the load balancer did. Set by package upstream.
	Upstream Upstream

	// Start is when the request's first byte was read.
	Start time.Time
	// Received and Sent count the bytes of content that were read from and
	// written to the client, without framing. Set by the codec that accepted the
	// request; complete when Handler.Done is called.
	Received, Sent int64
	// Deadline is when the whole exchange must be over, TryDeadline when the
	// current try upstream must be; zero means never. Set by the pipeline, kept
	// by the upstream codec: past it, its calls fail with a timeout.
	Deadline, TryDeadline time.Time
	// Timeouts are the endpoint's. Set by package upstream, kept by the codecs.
	Timeouts Timeouts
	// ResponseEdits are changes of the response's fields that a filter decided on
	// the way in; its Response hook makes them.
	ResponseEdits []Edit
	// NewCookies are what hashing gives a client that has nothing to be known by:
	// the next time, it has them. Set by package hashkey; the pipeline sends them
	// with what an endpoint answers.
	NewCookies []NewCookie
	// Session is whom the exchange is for; the zero Session is anybody. Set by
	// the pipeline, kept by package upstream.
	Session Session
	// Avoid are the endpoints ("ip:port") that earlier tries went to in vain, the
	// last one last: others are preferred. Set by the pipeline, kept by package upstream.
	Avoid []string
	// Hedge says that another request for the same is under way: this one goes to
	// none of Avoid, and waits for no room. Set by the pipeline, kept by package upstream.
	Hedge bool

	Arena Arena

	// Private belongs to the handler: what it needs between Serve and Done. A
	// codec neither reads nor clears it, so that the handler may reuse it.
	Private any

	abandoned abandonment
	static    staticBody
}

// Timeouts are what an exchange's endpoint is given beside the exchange's
// deadlines. Of the durations, 0 means what the codec has by itself.
type Timeouts struct {
	// Idle is how long the endpoint may be silent, before the response as within it.
	Idle time.Duration
	// Tunnel is how long a tunnel may be silent both ways.
	Tunnel time.Duration
	// End is when a tunnel must be over, which Deadline says nothing of; zero means never.
	End time.Time
}

// Proto is an HTTP version.
type Proto uint8

// The HTTP versions.
const (
	HTTP10 Proto = iota + 1
	HTTP11
	HTTP2
	HTTP3
)

// String returns the version as access logs write it.
func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2.0"
	case HTTP3:
		return "HTTP/3.0"
	}
	return "HTTP/?"
}

// Request is a request's control data, fields and content, RFC 9110 section 6.
type Request struct {
	Method string
	// Scheme is "http" or "https", by the connection that carried the request.
	Scheme string
	// Authority is host and optional port, from the request target if it has
	// one, else from Host. Fields has no Host line: Authority is the one place.
	Authority string
	// Host is Authority in lower case without the port and a trailing dot; what hostnames match.
	Host string
	// Path is the path of the request target, without the query: it begins
	// with "/", or is "*" for OPTIONS, or "" for CONNECT.
	Path string
	// Query is what follows the first "?", without it. HasQuery tells "/a?" from "/a".
	Query    string
	HasQuery bool
	Proto    Proto

	// Fields are the header fields, with no Host, Content-Length or
	// Transfer-Encoding: Authority, Length and Body say that.
	Fields Fields
	// Body is nil if the request has no content.
	Body Body
	// Length is the content's length in bytes, or -1 if only its end will tell.
	Length int64
	// Trailers are complete once Body returned io.EOF. The codec that received
	// the request then appends them to In and to Out alike.
	Trailers Fields

	// Upgrade is the protocol that the client asks to go on with ("websocket"),
	// from Upgrade or from extended CONNECT; "" if it asks for none.
	Upgrade string
	// ExpectContinue says that the client waits for 100 (Continue). The codec
	// sends it by itself when Body is first pulled.
	ExpectContinue bool
}

// Idempotent reports whether sending the request twice is meant to do what
// sending it once does, by its method, RFC 9110 section 9.2.2.
func (r *Request) Idempotent() bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Response is a response's control data, fields and content.
type Response struct {
	// Status is 0 until somebody answered.
	Status int
	Reason string
	Proto  Proto
	// Fields as in Request: with no Content-Length, Transfer-Encoding or hop-by-hop
	// lines; only a 101 keeps its Upgrade line.
	Fields Fields
	// Body is nil if the response has no content. A response to HEAD, 204 and
	// 304 have none, whatever Length says.
	Body Body
	// Length is the content's length (for HEAD and 304: of the content that is not sent), -1 if unknown.
	Length   int64
	Trailers Fields
	// Tunnel is the upstream's side of what follows a 101 or a 2xx to CONNECT; else nil.
	Tunnel Tunnel
	// Local says that Headgate itself made this response, and LocalReason why,
	// as one word for logs and metrics ("no_route", "rate_limited", …).
	Local       bool
	LocalReason string
}

// Body is a message's content, pulled by who needs it next.
type Body interface {
	// Next returns the next bytes, valid until the following call of Next or
	// Ready. After the last it returns no bytes and io.EOF; trailers are complete
	// then. Any other error is final: the message ended before its content did.
	Next() ([]byte, error)
	// Ready reports whether Next would return without waiting for the network.
	// A writer gathers while it is true and flushes before it would wait.
	Ready() bool
	// Close gives the body up, read to its end or not. It may be called more
	// than once, and while another goroutine is in Next, which then fails at
	// once: this is how a request's body is taken back from the goroutine that
	// pumps it. What becomes of the connection is the codec's business.
	Close()
}

// Tunnel is a connection that no longer speaks HTTP.
type Tunnel interface {
	io.ReadWriteCloser
	// CloseWrite ends this direction and leaves the other open.
	CloseWrite() error
}

// Client is the codec that accepted the request.
type Client interface {
	// Inform sends an interim response (1xx other than 101), RFC 9110 section
	// 15.2. It sends nothing to a client that speaks HTTP/1.0.
	Inform(status int, fields Fields) error
}

// Nobody is the Client of an exchange that is no client's: there is none to inform.
type Nobody struct{}

// Inform implements Client.
func (Nobody) Inform(int, Fields) error { return nil }

// Handler serves exchanges; codecs call it. It is safe for concurrent use.
type Handler interface {
	// Serve decides ex.Response: it returns when the response's head is known;
	// the codec then pulls the body. It never leaves Status at 0.
	Serve(ex *Exchange)
	// Done is called exactly once for each Serve, after the response was
	// written, or with the error that cut it short. It closes both bodies.
	Done(ex *Exchange, err error)
	// Malformed reports a request that the codec answered (or cut off) by
	// itself because it could not be read: status as sent, 0 if none was.
	Malformed(conn *Conn, status int, reason string)
}

// Verdict is what a filter decides on the way in.
type Verdict uint8

const (
	// Continue goes on to the next filter.
	Continue Verdict = iota
	// Answered stops: the filter has set ex.Response, and nothing goes upstream.
	Answered
)

// Consumer is an authenticated caller.
type Consumer struct {
	// Name is what limits, logs and templates call the caller; "" for nobody.
	Name string
	// Method is how it was found: "apiKey", "jwt", …
	Method string
	// Claims answers for the claims of a token, by name; nil if there is none.
	Claims Claims
}

// Claims gives access to a verified token's claims. It is immutable, and may outlive the
// exchange.
type Claims interface {
	// Claim returns a claim as a string: strings as they are, numbers and
	// booleans as JSON writes them, arrays and objects as JSON. Dots descend.
	Claim(name string) (string, bool)
}

// RouteInfo names the rule that an exchange matched, by its object.
type RouteInfo struct {
	Kind, Namespace, Name string
	// Rule is the rule's name, or its index in decimal if it has none.
	Rule string
	// Listener is the listener's key, "namespace/gateway/listener".
	Listener string
}

// Upstream is what became of the exchange behind the load balancer.
type Upstream struct {
	// Cluster is the cluster's key, Endpoint the last endpoint tried ("ip:port" or
	// "unix:/path"); "" if none was.
	Cluster, Endpoint string
	// Tries counts the requests sent, in part or whole; above 1 there were retries.
	Tries int
	// Hedges counts the requests that were sent beside these. Set by the pipeline.
	Hedges int
	// Fallback says that something stood in for the backend: another backend, or a
	// response of our own. Set by the pipeline.
	Fallback bool
	// Wait is how long Headgate only waited for the upstream: connecting, for
	// the response's first byte, and for more of its body. What the exchange
	// took beyond it is what Headgate and the client took.
	Wait time.Duration
}

// UnixPrefix begins the address of an endpoint that is a Unix socket; its path follows.
const UnixPrefix = "unix:"

// EndpointID returns what tells an endpoint from others, also in the tokens of
// sessions: the address and port themselves, of a Unix socket a hash of its path
// with port 0. It reports false if address is neither.
func EndpointID(address string) (netip.AddrPort, bool) {
	if path, ok := strings.CutPrefix(address, UnixPrefix); ok {
		sum := sha256.Sum256([]byte(path))
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(sum[:16])).Unmap(), 0), true
	}
	id, err := netip.ParseAddrPort(address)
	return id, err == nil
}

// Session says that an exchange belongs to earlier ones, which an endpoint has served.
type Session struct {
	// Endpoint is the endpoint's EndpointID.
	Endpoint netip.AddrPort
	// Strict says that it must not go to any other: if the endpoint is gone, is
	// out of use or cannot be connected to, the round trip fails with reason "session_lost".
	Strict bool
}

// Lease is a use of an upstream connection by one exchange. The response's
// strings and body live in the connection's buffer until Release.
type Lease interface {
	// Release ends the use: the connection goes back to its pool if it can
	// carry another exchange, else it is closed.
	Release()
}

// Reset makes the exchange ready for the connection's next request. Slices
// keep their storage.
func (ex *Exchange) Reset() {
	ex.In.reset()
	ex.Out.reset()
	fields, trailers := ex.Response.Fields[:0], ex.Response.Trailers[:0]
	ex.Response = Response{Fields: fields, Trailers: trailers}
	ex.Path, ex.RequestID = "", ""
	ex.ClientIP = netip.Addr{}
	ex.Consumer = Consumer{}
	ex.Route, ex.MatchedPrefix = nil, 0
	ex.Upstream = Upstream{}
	ex.Start, ex.Deadline, ex.TryDeadline = time.Time{}, time.Time{}, time.Time{}
	ex.Timeouts = Timeouts{}
	ex.Session, ex.Avoid, ex.Hedge = Session{}, ex.Avoid[:0], false
	ex.ResponseEdits = ex.ResponseEdits[:0]
	ex.NewCookies = ex.NewCookies[:0]
	ex.Received, ex.Sent = 0, 0
	ex.abandoned.reset()
	ex.static = staticBody{}
	ex.Arena.Reset()
}

func (r *Request) reset() {
	fields, trailers := r.Fields[:0], r.Trailers[:0]
	*r = Request{Fields: fields, Trailers: trailers}
}

// Answer makes Headgate's own response: status, a reason for logs, and a text
// body ("" for none). Fields that were set on ex.Response before are dropped.
func (ex *Exchange) Answer(status int, reason, text string) Verdict {
	if ex.Response.Body != nil {
		ex.Response.Body.Close()
	}
	fields, trailers := ex.Response.Fields[:0], ex.Response.Trailers[:0]
	ex.Response = Response{Status: status, Local: true, LocalReason: reason, Fields: fields, Trailers: trailers}
	if text != "" {
		ex.static = staticBody{text: text}
		ex.Response.Body = &ex.static
		ex.Response.Length = int64(len(text))
		ex.Response.Fields = append(ex.Response.Fields,
			Field{Key: KeyContentType, Name: "Content-Type", Value: "text/plain; charset=utf-8"})
	}
	return Answered
}

// VaryBy adds a request field's name to what the response depends on, RFC 9110
// section 12.5.5.
func (ex *Exchange) VaryBy(name string) {
	last := -1
	for i := range ex.Response.Fields {
		if f := &ex.Response.Fields[i]; f.Key == KeyVary {
			if HasToken(f.Value, name) || HasToken(f.Value, "*") {
				return
			}
			last = i
		}
	}
	if last >= 0 && ex.Response.Fields[last].Value != "" {
		f := &ex.Response.Fields[last]
		f.Value = ex.Arena.Concat(f.Value, ", ", name)
		return
	}
	ex.Response.Fields = append(ex.Response.Fields, Field{Key: KeyVary, Name: "Vary", Value: name})
}

// staticBody is content that is all there.
type staticBody struct {
	text string
	done bool
}

func (b *staticBody) Next() ([]byte, error) {
	if b.done || b.text == "" {
		return nil, io.EOF
	}
	b.done = true
	return view(b.text), nil
}

func (b *staticBody) Ready() bool { return true }
func (b *staticBody) Close()      { b.done = true }
