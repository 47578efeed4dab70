package pipeline

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// fallback is the live counterpart of a snapshot.Fallback.
type fallback struct {
	source   *snapshot.Fallback
	backends []backend
	// asks says that it goes by the share of endpoints that are healthy.
	asks bool
	// resends says that it may take requests that were sent already.
	resends bool
}

var errNoneHealthy = &exchange.UpstreamError{
	Stage: exchange.Dialing, Reason: "no_endpoint", Unsent: true,
	Err: errors.New("too few of the cluster's endpoints are healthy"),
}

func (l *linker) fallback(r *rule, cfg *snapshot.Fallback, labels observe.RouteLabels) *fallback {
	if cfg == nil {
		return nil
	}
	f := &fallback{
		source: cfg, asks: slices.Contains(cfg.Conditions, "NoEndpoint"),
		resends: slices.Contains(cfg.Conditions, "Reset") || slices.Contains(cfg.Conditions, "Timeout") || len(cfg.Codes)+len(cfg.GRPCCodes) > 0,
	}
	for i := range cfg.Backends {
		b := &cfg.Backends[i]
		live := backend{source: b, retry: cmp.Or(r.source.Retry, b.Retry), hedge: l.hedge(b.Hedge), cluster: l.find(r, b.Cluster)}
		if live.cluster == nil {
			continue
		}
		labels.Cluster = b.Cluster
		live.metrics = l.metrics(r, labels)
		live.filters = l.filters(r, b.Filters)
		f.backends = append(f.backends, live)
	}
	return f
}

// fallBack sends the request to its backend if enough of that is healthy, and
// if not, or if it comes to nothing, to the first that stands in for it and has a
// healthy endpoint. The last of these to fail is followed by the next. Where there is none
// and no response either, the backend has the request however it is. A strict
// session does not go on elsewhere.
func (st *state) fallBack(ex *exchange.Exchange) (lease exchange.Lease, err error) {
	b, f := st.backend, st.backend.fallback
	if ex.Session.Strict {
		return st.sendTo(ex, b)
	}
	if f.resends {
		st.keep(ex, b.retry)
	}
	deadline := ex.Deadline // before it is the backend's timeouts.stream
	if f.asks && !b.cluster.Available(f.source.MinHealthyPercent) {
		err = errNoneHealthy
	} else {
		lease, err = st.sendTo(ex, b)
	}
	for i := range f.backends {
		next := &f.backends[i]
		if !f.takes(ex, err) || !st.resendable(ex, b, err) {
			return lease, err
		}
		if !next.cluster.Available(1) {
			continue
		}
		if lease != nil {
			discard(ex, lease)
		}
		st.rewind(ex)
		st.standIn, ex.Upstream.Fallback = next, true
		// These are of the backend's endpoints, its tries and its timeouts.
		ex.Session, ex.Avoid, ex.TryDeadline = exchange.Session{}, ex.Avoid[:0], time.Time{}
		ex.Upstream.Endpoint, ex.Deadline, ex.Timeouts = "", deadline, exchange.Timeouts{}
		b.metrics.FellBack(false)
		if st.run(ex, next.filters, new(int)) == exchange.Answered {
			return nil, nil
		}
		lease, err = st.sendTo(ex, next)
	}
	switch {
	case err == errNoneHealthy && f.source.Response == nil:
		return st.sendTo(ex, b)
	case err == nil && f.source.Response != nil && !ex.In.IsGRPC() && f.takes(ex, nil):
		status, again := ex.Response.Status, ex.Arena.Concat(ex.Response.Fields.Value(exchange.KeyRetryAfter))
		discard(ex, lease)
		ex.Answer(status, "error_replaced", "")
		if again != "" {
			retryAfter(ex, again)
		}
		f.answer(ex, b.metrics)
		return nil, nil
	}
	return lease, err
}

// takes reports whether the fallback is for what became of the request: of the
// response if err is nil.
func (f *fallback) takes(ex *exchange.Exchange, err error) bool {
	if err == nil {
		return hasCode(ex, f.source.Codes, f.source.GRPCCodes)
	}
	var up *exchange.UpstreamError
	if !errors.As(err, &up) {
		return false // it was the client's doing
	}
	is := ""
	switch up.Reason {
	case "no_endpoint":
		is = "NoEndpoint"
	case "circuit_open":
		is = "CircuitOpen"
	case "session_lost", errRetryBudget.Reason:
		return false
	default:
		is = condition(up)
	}
	return slices.Contains(f.source.Conditions, is)
}

// resendable reports whether the request may go to another backend: as far as
// its content and time allow, and what the backend may have done about it.
func (st *state) resendable(ex *exchange.Exchange, b *backend, err error) bool {
	if !ex.Deadline.IsZero() && time.Until(ex.Deadline) <= 0 {
		return false
	}
	unsent := false
	if err != nil {
		var up *exchange.UpstreamError
		unsent = errors.As(err, &up) && (up.Stage == exchange.Dialing || up.Unsent)
		if !unsent && !ex.Out.Idempotent() && (b.retry == nil || !b.retry.NonIdempotent) {
			return false
		}
	}
	switch {
	case ex.Out.Body == nil:
		return true
	case st.replay.from == nil:
		return unsent // and its content is as it was
	}
	return st.replay.ready(err != nil)
}

// answerFor answers for a failure, if the fallback has a response for that. It is
// safe on nil.
func (f *fallback) answerFor(ex *exchange.Exchange, err error, counted *observe.Route) {
	if f != nil && f.source.Response != nil && f.takes(ex, err) {
		f.answer(ex, counted)
	}
}

// answer puts the fallback's response in the place of an error's, of which it
// keeps the reason and, if it is no success itself, Retry-After.
func (f *fallback) answer(ex *exchange.Exchange, counted *observe.Route) {
	ex.Upstream.Fallback = true
	counted.FellBack(true)
	from, to := f.source.Response, &ex.Response
	status, again := cmp.Or(from.Status, to.Status), to.Fields.Value(exchange.KeyRetryAfter)
	if ex.In.IsGRPC() {
		// The content is none for grpc-message, and a success without a message would be an error.
		if status >= 400 {
			to.Status = status
		}
		return
	}
	ex.Answer(status, to.LocalReason, from.Body)
	if from.ContentType != "" {
		to.Fields.Set("Content-Type", from.ContentType)
	}
	if again != "" && status >= 300 {
		retryAfter(ex, again)
	}
	for i := range from.Headers {
		to.Fields.Set(from.Headers[i].Name, from.Headers[i].Value)
	}
}
