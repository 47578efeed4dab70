// Package pipeline serves exchanges: it finds the rule for a request, runs the
// rule's filters, sends the request to a backend, and runs the filters again on
// the response. Pipeline.serve is the order of it all, top to bottom.
//
// What is served is a set of live tables behind one atomic pointer. An exchange
// loads it once and keeps what it found to its end; Apply links what changed
// into a copy and swaps the pointer. Nothing is locked on the request path, and
// a plain proxied request allocates nothing.
package pipeline

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/route"
	"github.com/headgate/headgate/dataplane/session"
	"github.com/headgate/headgate/dataplane/snapshot"
	"github.com/headgate/headgate/dataplane/upstream"
)

// Cluster is a live cluster, an *upstream.Cluster but for tests. Exchanges that
// began before Close may still use it.
type Cluster interface {
	RoundTrip(ex *exchange.Exchange) (exchange.Lease, error)
	// AllowRetry asks for room in the retry budget before each retry.
	AllowRetry() bool
	// BeginRetry asks the circuit breaker whether one more request may be under
	// way again. If so, EndRetry must follow.
	BeginRetry() bool
	EndRetry()
	// AllowHedge asks both for a request beside one that is under way. If so,
	// EndRetry must follow. HedgeDelay is how long a percentile of the requests
	// that Answered was told of took, 0 while that is not known.
	AllowHedge() bool
	HedgeDelay(percentile int) time.Duration
	Answered(took time.Duration)
	// Available reports whether the next request is for this cluster, of which at
	// least percent are to be healthy, rather than for what stands in for it.
	Available(percent int) bool
	Update(cfg *snapshot.Cluster)
	SetEndpoints(eps *snapshot.Endpoints)
	State() []upstream.EndpointState
	Circuit() *upstream.CircuitState
	Close()
}

// Options are what a Pipeline cannot know from snapshots. NewCluster, Env and
// Metrics are required.
type Options struct {
	NewCluster func(cfg *snapshot.Cluster, eps *snapshot.Endpoints) Cluster
	// Env is what filters are built with.
	Env     *policy.Env
	Metrics *observe.Metrics
	// AccessLog may be nil.
	AccessLog *observe.AccessLog
	Log       logr.Logger
	// Name is the pseudonym in Via; "" means "headgate".
	Name string
	// MaxRequests bounds the requests in flight, tunnels included; 0 means DefaultMaxRequests.
	MaxRequests int
	// Overload says which requests to refuse before that; nil refuses none.
	Overload *overload.Monitor
	// MaxMirrors bounds the mirrored requests in flight; 0 means 1,024.
	MaxMirrors int
}

// DefaultMaxRequests is how many requests may be in flight if nothing else is said.
const DefaultMaxRequests = 1 << 16

// Pipeline implements exchange.Handler. A connection's exchange.Conn.Port must
// be the key of the snapshot.Port that accepted it, as a string.
type Pipeline struct {
	opts   Options
	tables atomic.Pointer[tables]
	// inFlight counts exchanges between Serve and Done, mirrored the copies.
	inFlight, mirrored atomic.Int64
	copies             sync.WaitGroup             // mirrored and hedged requests
	via                [exchange.HTTP3 + 1]string // by the version received
	unrouted           *observe.Route             // for requests that no listener takes
	// sessionKey is for sessions without keys of their own.
	sessionKey    policy.Secret
	noSessionKeys sync.Once

	mu       sync.Mutex // guards what Apply owns: all below
	snap     *snapshot.Snapshot
	clusters map[string]Cluster
	slots    map[string]int // of listeners in tables.hosts, by key
}

// New returns a pipeline that answers 404 until Apply.
func New(opts Options) *Pipeline {
	if opts.Name == "" {
		opts.Name = "headgate"
	}
	if opts.MaxRequests <= 0 {
		opts.MaxRequests = DefaultMaxRequests
	}
	if opts.MaxMirrors <= 0 {
		opts.MaxMirrors = 1 << 10
	}
	p := &Pipeline{
		opts:       opts,
		sessionKey: make(policy.Secret, session.KeyLen),
		clusters:   map[string]Cluster{},
		slots:      map[string]int{},
		unrouted:   opts.Metrics.Route(observe.RouteLabels{}),
	}
	for proto, version := range map[exchange.Proto]string{0: "1.1", exchange.HTTP10: "1.0", exchange.HTTP11: "1.1", exchange.HTTP2: "2", exchange.HTTP3: "3"} {
		p.via[proto] = version + " " + opts.Name
	}
	_, _ = rand.Read(p.sessionKey) // it never fails
	p.tables.Store(&tables{})
	return p
}

// state is what the pipeline keeps for an exchange between Serve and Done. It
// lives in Exchange.Private and is reused with the exchange.
type state struct {
	listener *listener
	rule     *rule
	backend  *backend
	// standIn is the backend that stands in for it; nil if none does.
	standIn *backend
	counted *observe.Route // Begin was called on it
	lease   exchange.Lease
	// passed and backendPassed count the filters that let the request through;
	// they are the ones to see the response.
	passed, backendPassed int
	tunnel                bool

	held    heldBody
	limited limitedBody
	replay  replayBody
	// copies are those of the request that are compared with it.
	copies  []*copied
	session *session.State // kept for the exchanges that come; nil before the first that needs it
	hedging *hedging       // the same
	// cookiePath is that of the match, for the session's cookie.
	cookiePath string
}

func stateOf(ex *exchange.Exchange) *state {
	st, ok := ex.Private.(*state)
	if !ok {
		st = &state{}
		ex.Private = st
	}
	return st
}

// Serve implements exchange.Handler.
func (p *Pipeline) Serve(ex *exchange.Exchange) {
	st := stateOf(ex)
	// A bug in one filter must not end the process: its exchange is answered
	// 500, and everybody else is served.
	defer func() {
		if bug := recover(); bug != nil {
			p.opts.Log.Error(fmt.Errorf("panic: %v", bug), "serving a request", "route", ex.Route, "stack", string(debug.Stack()))
			if st.counted == nil {
				p.count(st, p.unrouted)
			}
			ex.Answer(http500, "panic", "Headgate failed to serve this request.\n")
			answerGRPC(ex)
		}
	}()
	p.serve(ex, st)
	// The way out, for every response, also our own: in reverse, through the
	// filters that the request has passed.
	if st.backend != nil {
		respond(ex, st.backend.filters[:st.backendPassed])
	}
	if st.rule != nil {
		respond(ex, st.rule.filters[:st.passed])
	}
	if l := st.listener; l != nil && l.altSvc != "" && ex.Response.Tunnel == nil {
		// Whatever the upstream says of itself: clients see us.
		ex.Response.Fields.DelKey(exchange.KeyAltSvc)
		ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: exchange.KeyAltSvc, Name: "Alt-Svc", Value: l.altSvc})
	}
	st.saveClient(ex)
	// Last, so that filters see the status that is meant.
	answerGRPC(ex)
	st.tunnel = ex.Response.Tunnel != nil
}

func respond(ex *exchange.Exchange, passed []filter) {
	for i := len(passed) - 1; i >= 0; i-- {
		if passed[i].response != nil {
			passed[i].response(ex)
		}
	}
}

// serve decides ex.Response: the pipeline, in order.
func (p *Pipeline) serve(ex *exchange.Exchange, st *state) {
	// Shed first. What cannot be served should cost the least.
	if p.inFlight.Add(1) > int64(p.opts.MaxRequests) {
		p.count(st, p.unrouted)
		overloaded(ex, overload.Requests)
		return
	}
	t := p.tables.Load()

	// One spelling of the path for all that follows, so that what is guarded
	// under one cannot be reached by another.
	ex.Path = route.Normalize(ex.In.Path, &ex.Arena)

	// The listener is decided by port and host alone; it says how much to trust
	// the client, which everything else builds on.
	l := t.listener(ex)
	if l == nil {
		p.count(st, p.unrouted)
		ex.RequestID = requestID(ex)
		ex.ClientIP = ex.Conn.Remote.Addr().Unmap()
		ex.Answer(http404, "no_listener", "No listener takes requests for this host.\n")
		return
	}
	st.listener = l

	// Who asks, before any answer, so that every answer can be logged with it.
	trusted := l.trusts(ex.Conn.Remote.Addr().Unmap())
	ex.ClientIP = l.client(ex, trusted)
	ex.RequestID = requestID(ex)

	// A TLS connection was let in as one listener's, with its certificate and
	// its rules for clients: it does not reach another's routes, RFC 9110
	// section 15.5.20. Nor does a plaintext connection that is older than the
	// listener's TLS.
	if l.misdirects(ex.Conn) {
		p.count(st, l.metrics)
		ex.Answer(http421, "misdirected", "This connection is not for this host. Use another one.\n")
		return
	}
	if !l.admits(ex, st) {
		p.count(st, l.metrics)
		return
	}

	// "OPTIONS *" asks the server that the client sees, and that is us, RFC 9110 section 9.3.7.
	if ex.Path == "*" {
		p.count(st, l.metrics)
		ex.Answer(http200, "options", "")
		return
	}

	h, n, prefix := t.match(l, ex)
	if h == nil {
		p.count(st, l.metrics)
		ex.Answer(http404, "no_route", "No route matches this request.\n")
		return
	}
	if h.broken != "" {
		p.count(st, l.metrics)
		ex.Answer(http500, "broken_host", "The routes of this host cannot be served. See their status.\n")
		return
	}
	r := h.rules[n]
	st.rule = r
	p.count(st, r.metrics)
	ex.Route, ex.MatchedPrefix = &r.info, prefix
	if h.cookiePaths != nil {
		st.cookiePath = h.cookiePaths[n]
	}

	// What cannot be served in time is refused as soon as it is known how
	// important it is, and before anything is done for it.
	if short, shed := p.opts.Overload.Shed(r.priority); shed {
		ex.Upstream.Wait += p.opts.Overload.Hold(short) // not time that Headgate has needed
		overloaded(ex, short)
		return
	}
	// Closed rather than open: a rule whose guards are broken lets nobody through.
	if r.broken != "" {
		ex.Answer(http500, "broken_rule", "This route cannot be served as it was meant. See its status.\n")
		return
	}
	// TRACE echoes what it gets, credentials and all; only who names it gets it.
	if ex.In.Method == "TRACE" && h.methods[n] != "TRACE" {
		ex.Answer(http405, "trace_refused", "TRACE is not allowed here.\n")
		ex.Response.Fields.Add("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		return
	}

	// From here on Out is the request, and In stays what was received. The
	// fields of a hop go before any filter sees them.
	p.prepare(ex, l, trusted)
	if last, answered := maxForwards(ex); last {
		if !answered {
			ex.Answer(http400, "max_forwards", "Max-Forwards is not a number.\n")
		}
		return
	}
	if r.requestTimeout > 0 {
		ex.Deadline = ex.Start.Add(r.requestTimeout)
	}
	if d, ok := grpcTimeout(&ex.In); ok && (r.requestTimeout <= 0 || d < r.requestTimeout) {
		ex.Deadline = ex.Start.Add(d)
	}

	// The rule's filters, in the order that compile gave them: cheap guards
	// before those that hold the content, and a filter's content is only read
	// when those before it let the request pass.
	if st.run(ex, r.filters, &st.passed) == exchange.Answered {
		return
	}

	// One backend, for good: a retry goes to another endpoint, never to another
	// backend; only a fallback does.
	b, lost := st.choose(ex, r)
	if lost {
		sessionLost(ex)
		return
	}
	if b == nil {
		// HTTPRouteRule.backendRefs: no backend, or none with a weight, is 500.
		ex.Answer(http500, "no_backend", "This route has no backend.\n")
		return
	}
	if b.cluster == nil {
		ex.Answer(http500, "unresolved_backend", "This route's backend does not exist, or may not be used. See its status.\n")
		return
	}
	st.backend = b
	if st.run(ex, b.filters, &st.backendPassed) == exchange.Answered {
		return
	}

	// Mirrors get what the backend gets, so after all filters.
	if len(b.mirrors) > 0 {
		p.mirror(ex, st)
	}

	lease, err := st.send(ex)
	for _, c := range st.copies {
		c.answered(ex, err)
	}
	switch {
	case err != nil:
		p.fail(ex, err)
		b.fallback.answerFor(ex, err, b.metrics)
		return
	case lease == nil:
		return // a fallback has answered
	}
	st.lease = lease

	// The response's fields that belong to the upstream's hop have ended with
	// the codec; what is left is to say that we were here, RFC 9110 section 7.6.3.
	ex.Response.Fields = append(ex.Response.Fields,
		exchange.Field{Key: exchange.KeyVia, Name: "Via", Value: p.via[ex.Response.Proto]})
}

// send sends the request to its backend, or to what stands in for that. Without
// a lease and an error, the response is there.
func (st *state) send(ex *exchange.Exchange) (exchange.Lease, error) {
	if st.backend.fallback == nil {
		return st.sendTo(ex, st.backend)
	}
	return st.fallBack(ex)
}

// sendTo sends the request to a backend, as often as its retry says.
func (st *state) sendTo(ex *exchange.Exchange, b *backend) (exchange.Lease, error) {
	if b.retry == nil {
		return st.try(ex, b)
	}
	return st.retry(ex, b)
}

// try sends the request to the backend once, or with hedges beside it.
func (st *state) try(ex *exchange.Exchange, b *backend) (exchange.Lease, error) {
	timeout := st.rule.backendTimeout
	if timeout == 0 && b.retry != nil {
		timeout = b.retry.PerTryTimeout
	}
	if timeout > 0 {
		ex.TryDeadline = time.Now().Add(timeout)
	}
	if b.hedge != nil && b.hedge.takes(ex) {
		return st.hedged(ex, b)
	}
	return b.cluster.RoundTrip(ex)
}

// run runs request hooks until one answers, and counts those that let the request
// pass: one by one, so that they are done with also if the next one panics.
func (st *state) run(ex *exchange.Exchange, filters []filter, passed *int) exchange.Verdict {
	for i := range filters {
		f := &filters[i]
		if f.bodyLimit > 0 && !st.hold(ex, f.bodyLimit) {
			return exchange.Answered
		}
		if f.request != nil && f.request(ex) == exchange.Answered {
			return exchange.Answered
		}
		*passed = i + 1
		if f.bodyLimit > 0 {
			st.held.rewind()
		}
	}
	return exchange.Continue
}

// count begins to count the exchange. It is called once, as soon as it is
// known where.
func (p *Pipeline) count(st *state, r *observe.Route) {
	st.counted = r
	r.Begin()
}

// Done implements exchange.Handler.
func (p *Pipeline) Done(ex *exchange.Exchange, err error) {
	st := stateOf(ex)
	total := time.Since(ex.Start)
	added := total - ex.Upstream.Wait
	if st.tunnel {
		added = -1
	}
	counted := st.counted
	if st.backend != nil {
		counted = cmp.Or(st.standIn, st.backend).metrics
	}
	counted.Done(ex.Response.Status, total, added)
	if ex.Response.Local {
		p.opts.Metrics.LocalReply(ex.Response.LocalReason)
	}
	p.opts.AccessLog.Log(ex, total, err)
	if st.backend != nil {
		done(ex, st.backend.filters[:st.backendPassed])
	}
	if st.rule != nil {
		done(ex, st.rule.filters[:st.passed])
	}

	// The response's body and strings are the lease's, so it goes last.
	closeBody(ex.Response.Body)
	closeBody(ex.Out.Body)
	closeBody(ex.In.Body)
	if st.lease != nil {
		st.lease.Release()
	}
	held, kept := st.held.reuse(), st.replay.reuse()
	if st.session != nil {
		st.session.Reset()
	}
	*st = state{held: held, replay: replayBody{kept: kept}, session: st.session, hedging: st.hedging}
	p.inFlight.Add(-1)
}

func done(ex *exchange.Exchange, passed []filter) {
	for i := range passed {
		if passed[i].done != nil {
			passed[i].done(ex)
		}
	}
}

func closeBody(b exchange.Body) {
	if b != nil {
		b.Close()
	}
}

// Malformed implements exchange.Handler.
func (p *Pipeline) Malformed(conn *exchange.Conn, status int, reason string) {
	key, _ := conn.Port.(string)
	port := p.opts.Metrics.Port(key)
	port.Malformed(reason)
	port.Release()
}

// Clusters returns the live clusters by key.
func (p *Pipeline) Clusters() map[string]Cluster {
	p.mu.Lock()
	defer p.mu.Unlock()
	clusters := make(map[string]Cluster, len(p.clusters))
	for key, c := range p.clusters {
		clusters[key] = c
	}
	return clusters
}

// InFlight returns how many exchanges are between Serve and Done.
func (p *Pipeline) InFlight() int { return int(p.inFlight.Load()) }

var _ exchange.Handler = (*Pipeline)(nil)
