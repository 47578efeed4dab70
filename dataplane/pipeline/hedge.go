package pipeline

import (
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// hedge is the live counterpart of a snapshot.Hedge.
type hedge struct {
	*snapshot.Hedge
	copies *sync.WaitGroup // counts the hedges under way
}

func (l *linker) hedge(cfg *snapshot.Hedge) *hedge {
	if cfg == nil {
		return nil
	}
	return &hedge{cfg, &l.p.copies}
}

// takes reports whether a request may be hedged. One of a session has one
// endpoint that it is for, and a tunnel is no request.
func (h *hedge) takes(ex *exchange.Exchange) bool {
	out := &ex.Out
	return (h.NonIdempotent || out.Idempotent()) && out.Upgrade == "" && out.Method != "CONNECT" &&
		!ex.Session.Endpoint.IsValid() && out.Fields.Find(exchange.KeyTrailer) < 0
}

// hedgeAgain is how soon a hedge is thought of again if the request was on its
// way to an endpoint when it was due.
const hedgeAgain = time.Millisecond

// hedging sends hedges for the tries of an exchange, which are one after the
// other. It is kept for the exchanges to come. A try is sent by the goroutine that
// serves the exchange, whose it stays; what is answered before the timer fires
// costs no more than setting that.
type hedging struct {
	mu    sync.Mutex  // guards what follows
	timer *time.Timer // calls fire
	due   time.Time   // when it is to do something
	// ex is the exchange whose try is under way; nil if there is none, or no
	// hedge is to be sent for it any more.
	ex      *exchange.Exchange
	backend *backend
	replay  *replayBody   // nil for a request without content
	wait    time.Duration // for a response
	race    *race         // nil before the first hedge
}

// hedged sends the request to the backend, and hedges if it is not answered in
// time. The first response that is of use is the outcome.
func (st *state) hedged(ex *exchange.Exchange, b *backend) (exchange.Lease, error) {
	began, wait := time.Now(), b.hedge.After
	if p := b.hedge.AfterPercentile; p > 0 {
		known := b.cluster.HedgeDelay(p)
		if known == 0 {
			lease, err := b.cluster.RoundTrip(ex)
			if err == nil {
				b.cluster.Answered(time.Since(began))
			}
			return lease, err
		}
		wait = max(wait, known)
	}
	if st.hedging == nil {
		st.hedging = &hedging{}
	}
	st.keep(ex, b.retry)
	h := st.hedging
	var replay *replayBody
	if ex.Out.Body != nil {
		replay = &st.replay
	}
	h.begin(ex, b, replay, wait)
	defer func() {
		if r := h.stop(); r != nil { // there is a bug
			r.end(nil)
		}
	}()
	lease, err := b.cluster.RoundTrip(ex)
	r := h.stop()
	if err == nil || ex.WasOutrun() {
		b.cluster.Answered(time.Since(began))
	}
	if r == nil {
		return lease, err
	}
	return r.settle(ex, b, lease, err)
}

func (h *hedging) begin(ex *exchange.Exchange, b *backend, replay *replayBody, wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ex, h.backend, h.replay, h.wait = ex, b, replay, wait
	h.wake(wait)
}

// wake makes the timer fire. h.mu is held.
func (h *hedging) wake(after time.Duration) {
	h.due = time.Now().Add(after)
	if h.timer == nil {
		h.timer = time.AfterFunc(after, h.fire)
		return
	}
	h.timer.Reset(after)
}

// stop is the end of the try: no hedge is sent any more. It returns those that were, nil if there are none.
func (h *hedging) stop() *race {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.race
	if h.ex != nil {
		h.timer.Stop()
	}
	h.ex, h.backend, h.replay, h.race = nil, nil, nil, nil
	return r
}

// fire sends a hedge, if one is due: the timer may have been on its way for a
// try that is over. It runs on a goroutine of its own, which is the hedge's.
func (h *hedging) fire() {
	if one := h.next(); one != nil {
		one.run()
	}
}

// next makes a hedge; nil if there is none to be sent now.
func (h *hedging) next() *hedgeRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ex == nil || time.Now().Before(h.due) {
		return nil
	}
	b := h.backend
	if h.replay != nil && !h.replay.whole.Load() {
		if !h.replay.large.Load() {
			h.wake(h.wait) // the client is still sending
		}
		return nil
	}
	if h.replay != nil && h.replay.length < 0 && len(h.ex.Out.Trailers) > 0 {
		return nil // no Trailer field has told of these
	}
	if h.race != nil && !h.race.placed() {
		h.wake(hedgeAgain)
		return nil
	}
	var dup *exchange.Exchange
	placed := false
	waits := h.ex.Awaiting(func() {
		at := h.ex.Upstream.Endpoint
		// One of an earlier try says nothing of this one.
		if placed = at != "" && !slices.Contains(h.ex.Avoid, at); placed && b.cluster.AllowHedge() {
			dup = duplicate(h.ex)
			dup.Hedge, dup.Avoid = true, append(slices.Clone(h.ex.Avoid), at)
			dup.Start, dup.Deadline, dup.TryDeadline = h.ex.Start, h.ex.Deadline, h.ex.TryDeadline
		}
	})
	switch {
	case !waits:
		h.wake(hedgeAgain)
		return nil
	case !placed:
		h.wake(h.wait) // it is in the queue, and more of it would make that longer
		return nil
	case dup == nil:
		b.metrics.HedgeRefused()
		return nil
	}
	if h.replay != nil {
		// A copy, since the other request may be over before this one is.
		content := slices.Clone(h.replay.kept)
		dup.Out.Body, dup.Out.Length = &heldBody{content: content}, int64(len(content))
	}
	if h.race == nil {
		h.race = &race{first: h.ex, news: make(chan struct{}, 1)}
	}
	one, sent := h.race.add(dup, b)
	if sent < b.hedge.MaxHedges {
		h.wake(h.wait)
	}
	b.hedge.copies.Add(1)
	return one
}

// race is a request and its hedges, of which each may bring the response. It is
// made for the first hedge.
type race struct {
	mu    sync.Mutex         // guards what follows
	first *exchange.Exchange // nil when it has come to something
	all   []*hedgeRun
	// underWay counts those hedges of which it is not known what they come to.
	underWay int
	// won has a response that is of use, spare one that is better than none.
	won, spare *hedgeRun
	over       bool          // what comes now is of no use
	news       chan struct{} // has room for one
}

// hedgeRun is a hedge on its way. Its exchange is its own.
type hedgeRun struct {
	race     *race
	ex       *exchange.Exchange
	backend  *backend
	lease    exchange.Lease // if it is won or spare
	endpoint string         // known when it is not under way any more
	ended    bool           // it is not
}

// placed reports whether all hedges that are under way are at endpoints, so that
// another one can go elsewhere.
func (r *race) placed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.all {
		at := ""
		if one.ex.Awaiting(func() { at = one.ex.Upstream.Endpoint }); at == "" && !one.ended {
			return false
		}
	}
	return true
}

// add adds a hedge, and says how many there are. It goes to none of the others' endpoints.
func (r *race) add(ex *exchange.Exchange, b *backend) (one *hedgeRun, sent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.all {
		at := other.endpoint
		other.ex.Awaiting(func() { at = other.ex.Upstream.Endpoint })
		if at != "" {
			ex.Avoid = append(ex.Avoid, at)
		}
	}
	one = &hedgeRun{race: r, ex: ex, backend: b}
	r.all = append(r.all, one)
	r.underWay++
	return one, len(r.all)
}

// run sends the hedge. If it is the first with a response that is of use, all others
// are given up.
func (one *hedgeRun) run() {
	defer one.backend.hedge.copies.Done()
	lease, err := one.backend.cluster.RoundTrip(one.ex)
	one.backend.cluster.EndRetry()
	r := one.race
	r.mu.Lock()
	r.underWay--
	one.ended, one.endpoint = true, one.ex.Upstream.Endpoint
	switch {
	case err != nil, r.over, r.won != nil:
	case isOfUse(&one.ex.Response):
		r.won, one.lease = one, lease
		if r.first != nil {
			r.first.Outrun()
		}
		r.outrun(one)
	case r.spare == nil:
		r.spare, one.lease = one, lease
	}
	dropped := err == nil && one.lease == nil
	select {
	case r.news <- struct{}{}:
	default:
	}
	r.mu.Unlock()
	if dropped {
		discard(one.ex, lease)
	}
}

// outrun gives all hedges but one up. r.mu is held.
func (r *race) outrun(but *hedgeRun) {
	for _, other := range r.all {
		if other != but {
			other.ex.Outrun()
		}
	}
}

// isOfUse reports whether a response is what one waits for: an error of the
// server's is only where nothing better is under way.
func isOfUse(r *exchange.Response) bool {
	switch r.GRPCStatus() {
	case "2", "4", "13", "14", "15": // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS
		return false
	}
	return r.Status < 500
}

// settle is called with what the first request has come to, and returns the
// outcome: its response, if that is of use; or else that of a hedge, for which it waits
// while one is under way. All others are given up.
func (r *race) settle(ex *exchange.Exchange, b *backend, lease exchange.Lease, err error) (exchange.Lease, error) {
	r.mu.Lock()
	r.first = nil
	outrun := ex.WasOutrun()
	ex.Resume()
	var client *exchange.ClientError
	lost := !outrun && errors.As(err, &client) // no response is wanted any more
	good := err == nil && isOfUse(&ex.Response)
	for !good && !lost && r.won == nil && r.underWay > 0 {
		r.mu.Unlock()
		lost = !ex.Receive(r.news)
		r.mu.Lock()
	}
	var taken *hedgeRun
	switch {
	case good, lost:
	case r.won != nil:
		taken = r.won
	case err != nil:
		taken = r.spare
	}
	r.mu.Unlock()
	sent := r.end(taken)
	ex.Upstream.Hedges += sent
	b.metrics.Hedged(sent)
	if lease != nil && (taken != nil || lost) {
		discard(ex, lease)
		lease = nil
	}
	switch {
	case taken != nil:
		b.metrics.HedgeWon()
		taken.handOver(ex)
		return taken.lease, nil
	case lost && client == nil:
		return nil, exchange.ErrAbandoned
	}
	return lease, err
}

// end gives up what is under way, and drops what has come, but for what is taken,
// which may be nil. It returns how many hedges there were.
func (r *race) end(taken *hedgeRun) (sent int) {
	r.mu.Lock()
	r.over, r.first = true, nil
	r.outrun(taken)
	var others []*hedgeRun
	for _, one := range r.all {
		if one != taken && one.lease != nil {
			others = append(others, one)
		}
	}
	sent = len(r.all)
	r.mu.Unlock()
	for _, one := range others {
		discard(one.ex, one.lease)
	}
	return sent
}

// handOver makes the hedge's response that of the exchange.
func (one *hedgeRun) handOver(ex *exchange.Exchange) {
	from := &one.ex.Response
	fields := append(ex.Response.Fields[:0], from.Fields...)
	trailers := append(ex.Response.Trailers[:0], from.Trailers...)
	ex.Response = *from
	ex.Response.Fields, ex.Response.Trailers = fields, trailers
	if from.Body != nil {
		ex.Response.Body = &hedgedBody{Body: from.Body, from: one.ex, to: ex}
	}
	ex.Upstream.Cluster, ex.Upstream.Endpoint = one.ex.Upstream.Cluster, one.ex.Upstream.Endpoint
}

// hedgedBody is the content of a hedge's response: what comes with it is the
// exchange's.
type hedgedBody struct {
	exchange.Body
	from, to *exchange.Exchange
}

func (b *hedgedBody) Next() ([]byte, error) {
	before := b.from.Upstream.Wait
	part, err := b.Body.Next()
	b.to.Upstream.Wait += b.from.Upstream.Wait - before
	if err == io.EOF {
		b.to.Response.Trailers = append(b.to.Response.Trailers, b.from.Response.Trailers...)
		b.from.Response.Trailers = b.from.Response.Trailers[:0]
	}
	return part, err
}
