package pipeline

import (
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

const (
	// replayContent is the most content of a request that is kept for a retry,
	// and of a response that is read so that its connection can be used again.
	replayContent = 64 << 10
	// backoffMost bounds the time between two tries, in multiples of the first.
	backoffMost = 10
)

// errRetryBudget is what becomes of a request whose retry is refused, whatever
// the try before came to: XBackendTrafficPolicy wants it answered 503.
var errRetryBudget = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: "retry_budget", Err: errors.New("the cluster's retry budget is used up"),
}

// retry sends the request to the rule's backend, and again after a try in vain
// as long as the rule's retry and the exchange's time allow. What the last try
// came to is the outcome.
func (st *state) retry(ex *exchange.Exchange) (exchange.Lease, error) {
	policy, b := st.rule.retry, st.backend
	if ex.Out.Body != nil {
		st.replay.from, st.replay.length = ex.Out.Body, ex.Out.Length
		ex.Out.Body = &st.replay
	}
	for n := 1; ; n++ {
		lease, err := st.rule.try(ex, b)
		if n > policy.Attempts || !inVain(policy, ex, err) || ex.Out.Body != nil && !st.replay.ready(err != nil) {
			return lease, err
		}
		pause := backoff(policy.Backoff, n)
		if !ex.Deadline.IsZero() && time.Until(ex.Deadline) <= pause {
			return lease, err // there is no time for another try
		}
		allowed := b.cluster.AllowRetry()
		if lease != nil {
			discard(ex, lease)
		}
		if !allowed {
			b.metrics.RetryRefused()
			return nil, errRetryBudget
		}
		if !sleep(ex, pause) {
			return nil, exchange.ErrAbandoned
		}
		ex.Avoid = append(ex.Avoid, ex.Upstream.Endpoint)
		if ex.Out.Body != nil {
			st.replay.next = 0
			ex.Out.Body = &st.replay // the codec may have put another in front
		}
		b.metrics.Retried()
	}
}

// inVain reports whether a try is to be followed by another. A code that the
// rule names is, whatever the method: who wrote the rule knows what the backend
// means by it. Of what failed without a response nobody knows whether the
// backend has acted on it, unless nothing was sent; then only an idempotent
// request goes out again, RFC 9110 section 9.2.2.
func inVain(policy *snapshot.Retry, ex *exchange.Exchange, err error) bool {
	if err == nil {
		return slices.Contains(policy.Codes, ex.Response.Status)
	}
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		return false // it was the client's doing
	}
	switch up.Reason {
	case "no_endpoint", "session_lost", "malformed_response":
		return false // none of these is an accident of a connection's
	}
	return up.Stage == exchange.Dialing || up.Unsent || ex.Out.Idempotent()
}

// backoff returns how long to wait behind the n-th try: first on doubling up to
// backoffMost times as long, and up to a quarter more, so that requests that
// failed together do not come back together.
func backoff(first time.Duration, n int) time.Duration {
	if first <= 0 {
		return 0
	}
	d := first
	for ; n > 1 && d < backoffMost*first; n-- {
		d *= 2
	}
	d = min(d, backoffMost*first)
	return d + rand.N(d/4+1)
}

// discard gives a response up, for another.
func discard(ex *exchange.Exchange, lease exchange.Lease) {
	r := &ex.Response
	if r.Body != nil {
		for n := 0; n < replayContent && r.Body.Ready(); {
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

// sleep waits, and reports false if the client has given the exchange up.
func sleep(ex *exchange.Exchange, d time.Duration) bool {
	gone := make(leaver)
	if !ex.Await(gone) {
		return false
	}
	began := time.Now()
	timer := time.NewTimer(d)
	select {
	case <-timer.C:
	case <-gone:
		timer.Stop()
	}
	ex.Await(nil)
	ex.Upstream.Wait += time.Since(began)
	return !ex.Abandoned()
}

// leaver is closed when the client goes.
type leaver chan struct{}

// Close implements exchange.Closer.
func (l leaver) Close() { close(l) }

// replayBody is a request's content that can be read again from its beginning,
// as far as it was read, if that is not more than replayContent. Next belongs to
// one goroutine at a time; Close and ready may be called from another.
type replayBody struct {
	from   exchange.Body
	length int64 // as Request.Length
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
	if b.eof = err == io.EOF; b.large.Load() {
		return part, err
	}
	if len(b.kept)+len(part) > replayContent {
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
