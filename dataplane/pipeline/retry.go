package pipeline

import (
	"cmp"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

const (
	// discardContent is the most content of a response that is read so that its
	// connection can be used again.
	discardContent = 64 << 10
	// backoffMost bounds the time between two tries, in multiples of the first,
	// where the configuration has no bound.
	backoffMost = 10
)

// errRetryBudget is what becomes of a request whose retry is refused, whatever
// the try before came to: XBackendTrafficPolicy wants it answered 503.
var errRetryBudget = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: "retry_budget", Err: errors.New("the cluster's retry budget is used up"),
}

// retry sends the request to a backend, and again after a try in vain
// as long as its retry, its circuit breaker and budget, and the exchange's time
// allow. What the last
// try came to is the outcome.
func (st *state) retry(ex *exchange.Exchange, b *backend) (exchange.Lease, error) {
	policy := b.retry
	st.keep(ex, policy)
	again := false
	defer func() {
		if again {
			b.cluster.EndRetry()
		}
	}()
	for n := 1; ; n++ {
		lease, err := st.try(ex, b)
		if n > policy.Attempts || !inVain(policy, ex, err) || ex.Out.Body != nil && !st.replay.ready(err != nil) {
			return lease, err
		}
		pause := backoff(policy, n)
		if err == nil && policy.MaxRetryAfter > 0 {
			asked := askedFor(ex)
			if asked > policy.MaxRetryAfter {
				return lease, err
			}
			pause = max(pause, asked)
		}
		if !ex.Deadline.IsZero() && time.Until(ex.Deadline) <= pause {
			return lease, err // there is no time for another try
		}
		if !again && !b.cluster.BeginRetry() {
			b.metrics.RetryRefused()
			return lease, err
		}
		again = true
		allowed := b.cluster.AllowRetry()
		if lease != nil {
			discard(ex, lease)
		}
		if !allowed {
			b.metrics.RetryRefused()
			return nil, errRetryBudget
		}
		if !ex.Sleep(pause) {
			return nil, exchange.ErrAbandoned
		}
		ex.Avoid = append(ex.Avoid, ex.Upstream.Endpoint)
		st.rewind(ex)
		b.metrics.Retried()
	}
}

// inVain reports whether a try is to be followed by another. A response that the
// policy names is, whatever the method: who wrote it knows what the backend
// means by it. Of what failed without a response nobody knows whether the
// backend has acted on it, unless nothing was sent; then only an idempotent
// request goes out again, RFC 9110 section 9.2.2, if nothing else is said.
func inVain(policy *snapshot.Retry, ex *exchange.Exchange, err error) bool {
	if err == nil {
		return refuses(policy, ex)
	}
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		return false // it was the client's doing
	}
	switch up.Reason {
	case "no_endpoint", "session_lost", "circuit_open", "malformed_response":
		return false // none of these is an accident of a connection's
	}
	if len(policy.Conditions) > 0 && !slices.Contains(policy.Conditions, condition(up)) {
		return false
	}
	return up.Stage == exchange.Dialing || up.Unsent || policy.NonIdempotent || ex.Out.Idempotent()
}

// refuses reports whether the response is one of those that the policy names.
func refuses(policy *snapshot.Retry, ex *exchange.Exchange) bool {
	r := &ex.Response
	if hasCode(ex, policy.Codes, policy.GRPCCodes) {
		return true
	}
	for i := range policy.Headers {
		h := &policy.Headers[i]
		for j := range r.Fields {
			if f := &r.Fields[j]; exchange.EqualFold(f.Name, h.Name) && (h.Value == "" || f.Value == h.Value) {
				return true
			}
		}
	}
	return false
}

// hasCode reports whether the response's status is one of these; of a gRPC call,
// the code that came instead of content.
func hasCode(ex *exchange.Exchange, codes, grpcCodes []int) bool {
	if slices.Contains(codes, ex.Response.Status) {
		return true
	}
	if len(grpcCodes) == 0 || !ex.In.IsGRPC() {
		return false
	}
	code, err := strconv.Atoi(ex.Response.GRPCStatus())
	return err == nil && slices.Contains(grpcCodes, code)
}

// condition is what snapshot.Retry.Conditions calls a try without a response.
func condition(up *exchange.UpstreamError) string {
	switch {
	case up.Reason == "timeout":
		return "Timeout"
	case up.Stage == exchange.Dialing:
		return "ConnectFailure"
	}
	return "Reset"
}

// askedFor is how long the response's Retry-After asks to wait, RFC 9110 section
// 10.2.3; 0 if it does not say, or nothing that can be read.
func askedFor(ex *exchange.Exchange) time.Duration {
	value := ex.Response.Fields.Value(exchange.KeyRetryAfter)
	if n, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(n) * time.Second
	}
	if at, err := time.Parse(httpDate, value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// httpDate is an IMF-fixdate, RFC 9110 section 5.6.7.
const httpDate = "Mon, 02 Jan 2006 15:04:05 GMT"

// backoff returns how long to wait behind the n-th try: the first time on
// doubling up to the most, and up to a quarter more, so that requests that
// failed together do not come back together.
func backoff(policy *snapshot.Retry, n int) time.Duration {
	d := policy.Backoff
	if d <= 0 {
		return 0
	}
	most := cmp.Or(policy.MaxBackoff, backoffMost*d)
	for ; n > 1 && d < most; n-- {
		d *= 2
	}
	d = min(d, most)
	return d + rand.N(d/4+1)
}

// discard gives a response up, for another.
func discard(ex *exchange.Exchange, lease exchange.Lease) {
	r := &ex.Response
	if r.Body != nil {
		for n := 0; n < discardContent && r.Body.Ready(); {
			part, err := r.Body.Next()
			if err != nil {
				break
			}
			n += len(part)
		}
		r.Body.Close()
	}
	if r.Tunnel != nil {
		_ = r.Tunnel.Close()
	}
	ex.Response = exchange.Response{Fields: r.Fields[:0], Trailers: r.Trailers[:0]}
	lease.Release()
}

// keep keeps the request's content as it passes, as much as the retry says, which
// may be nil, so that the request can be sent again.
func (st *state) keep(ex *exchange.Exchange, policy *snapshot.Retry) {
	if ex.Out.Body == nil || st.replay.from != nil {
		return
	}
	st.replay.from, st.replay.length, st.replay.most = ex.Out.Body, ex.Out.Length, snapshot.DefaultRetryContent
	if policy != nil && policy.MaxContent > 0 {
		st.replay.most = policy.MaxContent
	}
	ex.Out.Body = &st.replay
}

// rewind makes content that is kept be pulled from the beginning.
func (st *state) rewind(ex *exchange.Exchange) {
	if ex.Out.Body != nil && st.replay.from != nil {
		st.replay.next = 0
		ex.Out.Body = &st.replay // the codec may have put another in front
	}
}

// replayBody is a request's content that can be read again from its beginning,
// as far as it was read, if that is not more than most. Next belongs to
// one goroutine at a time; Close and ready may be called from another.
type replayBody struct {
	from   exchange.Body
	length int64 // as Request.Length
	most   int   // that is kept, in bytes
	kept   []byte
	next   int // what of kept was read this time
	eof    bool
	// large says that kept is not all that was read, whole that it is all there
	// is, and closed that there is no more to be had.
	large, whole, closed atomic.Bool
}

func (b *replayBody) Next() ([]byte, error) {
	if part := b.kept[b.next:]; len(part) > 0 {
		b.next = len(b.kept)
		return part, nil
	}
	if b.eof || b.whole.Load() && b.closed.Load() {
		return nil, io.EOF
	}
	part, err := b.from.Next()
	if b.eof = err == io.EOF; b.large.Load() || b.whole.Load() {
		return part, err // what is kept whole may be read by a hedge
	}
	if len(b.kept)+len(part) > b.most {
		b.large.Store(true)
		b.kept, b.next = b.kept[:0], 0
		return part, err
	}
	b.kept = append(b.kept, part...)
	b.next = len(b.kept)
	// Who knows the length may not ask for the end.
	if b.eof || err == nil && int64(len(b.kept)) == b.length {
		b.whole.Store(true)
	}
	return part, err
}

func (b *replayBody) Ready() bool {
	return b.next < len(b.kept) || b.eof || b.from.Ready()
}

func (b *replayBody) Close() {
	b.closed.Store(true)
	b.from.Close()
}

// ready reports whether the content can be read again. idle says that nobody is
// reading it: then what was not read yet can still be.
func (b *replayBody) ready(idle bool) bool {
	return !b.large.Load() && (b.whole.Load() || idle && !b.closed.Load())
}

// reuse returns the storage for the next exchange.
func (b *replayBody) reuse() []byte {
	if cap(b.kept) > keepBuffer {
		return nil
	}
	return b.kept[:0]
}
