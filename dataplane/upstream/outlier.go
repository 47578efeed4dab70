package upstream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// outcomes are what an endpoint's requests came to. The counters are those of
// the current interval; they are reset while requests count on, so that one may
// be lost or be in the next interval, which a rate can bear.
type outcomes struct {
	row              atomic.Int32 // errors, without a success in between
	requests, errors atomic.Int64
	responses        atomic.Int64
	latency          atomic.Int64 // sum over responses, in nanoseconds
	// times is how often in a row the endpoint was ejected for what its requests
	// came to. Cluster.eject guards it.
	times int
}

// judge counts what a request to the endpoint came to, and ejects the endpoint
// after too many errors in a row. err is nil if there is a response, which took
// so long.
func (c *Cluster) judge(st *state, ep *endpoint, ex *exchange.Exchange, err error, took time.Duration) {
	by, o := st.outliers, &ep.outcomes
	if by == nil {
		return
	}
	failed := err != nil
	if !failed {
		failed = isError(by, &ex.Response)
		o.responses.Add(1)
		o.latency.Add(int64(took))
	} else if ex.Abandoned() {
		return // nobody knows what would have come
	}
	o.requests.Add(1)
	if !failed {
		if o.row.Load() != 0 {
			o.row.Store(0)
		}
		return
	}
	o.errors.Add(1)
	if row := int(o.row.Add(1)); by.ConsecutiveErrors > 0 && row >= by.ConsecutiveErrors {
		cause := err
		if cause == nil {
			cause = fmt.Errorf("status %d", ex.Response.Status)
		}
		c.ejectOutlier(st, ep, ejectedErrors, fmt.Errorf("%d errors in a row, the last one: %w", row, cause))
	}
}

// isError reports whether a response is an endpoint's error. Of gRPC only the
// code of a call that failed at once is known here, with the header.
func isError(by *snapshot.OutlierDetection, r *exchange.Response) bool {
	status := statusOf(r)
	for i := range by.Statuses {
		if by.Statuses[i].From <= status && status <= by.Statuses[i].To {
			return true
		}
	}
	return false
}

// statusOf is a response's status, of gRPC the one that corresponds to its code.
func statusOf(r *exchange.Response) int {
	status := r.Status
	if status == 200 {
		// The codes that a server is to blame for, and not its caller.
		switch r.GRPCStatus() {
		case "2", "13", "15": // UNKNOWN, INTERNAL, DATA_LOSS
			status = 500
		case "4": // DEADLINE_EXCEEDED
			status = 504
		case "14": // UNAVAILABLE
			status = 503
		}
	}
	return status
}

// lookForOutliers ends an interval, if it is over: it ejects the endpoints
// whose rate of errors or latency is too high.
func (c *Cluster) lookForOutliers(now int64) {
	st := c.state.Load()
	by := st.outliers
	if by == nil || now < c.interval.Load() {
		return
	}
	first := c.interval.Swap(now+int64(by.Interval)) == 0
	type rate struct {
		ep               *endpoint
		requests, errors int64
		latency          time.Duration
	}
	var rates []rate
	var latencies []time.Duration
	for ep := range st.inUse {
		o := &ep.outcomes
		r := rate{ep: ep, requests: o.requests.Swap(0), errors: o.errors.Swap(0)}
		if n, sum := o.responses.Swap(0), o.latency.Swap(0); n > 0 && n >= int64(by.MinRequests) {
			r.latency = time.Duration(sum / n)
			latencies = append(latencies, r.latency)
		}
		rates = append(rates, r)
	}
	if first {
		return // of which nobody knows when it began
	}
	var most time.Duration
	if by.LatencyFactor > 0 && len(latencies) > 1 {
		slices.Sort(latencies)
		// Of an even number the lower one: of two endpoints the slow one is the outlier.
		most = latencies[(len(latencies)-1)/2] * time.Duration(by.LatencyFactor)
	}
	for _, r := range rates {
		switch {
		case by.ErrorPercent > 0 && r.requests >= int64(by.MinRequests) && r.errors > 0 && r.errors*100 >= r.requests*int64(by.ErrorPercent):
			c.ejectOutlier(st, r.ep, ejectedErrorRate, fmt.Errorf("%d errors in %d requests", r.errors, r.requests))
		case most > 0 && r.latency > most:
			c.ejectOutlier(st, r.ep, ejectedLatency, fmt.Errorf("a latency of %s, while the median is %s", r.latency, most/time.Duration(by.LatencyFactor)))
		default:
			c.forgive(r.ep)
		}
	}
}

// forgive makes the endpoint's next ejection shorter, if it is not ejected.
func (c *Cluster) forgive(ep *endpoint) {
	c.eject.Lock()
	if ep.outcomes.times > 0 && ep.load.EjectedUntil.Load() == 0 {
		ep.outcomes.times--
	}
	c.eject.Unlock()
}

// ejectOutlier ejects an endpoint for what its requests came to, unless too
// many are out already: then as likely as not the fault is elsewhere.
func (c *Cluster) ejectOutlier(st *state, ep *endpoint, reason ejection, cause error) {
	by, now := st.outliers, c.m.now()
	c.eject.Lock()
	defer c.eject.Unlock()
	ep.outcomes.row.Store(0)
	if ep.gone || ep.load.EjectedUntil.Load() != 0 {
		return
	}
	log := c.m.opts.Log.WithValues("cluster", st.key, "endpoint", ep.address, "cause", cause.Error())
	if !c.othersThan(st, ep) || !c.mayEject(st) {
		log.V(1).Info("Outlier kept: as many endpoints are out as may be")
		return
	}
	ep.outcomes.times++
	d := min(by.BaseEjectionTime*time.Duration(ep.outcomes.times), by.MaxEjectionTime)
	d += rand.N(d/10 + 1) // replicas that found out together do not come back together
	ep.ejections[reason].Add(1)
	c.takeOut(ep, now+int64(d))
	log.Info("Outlier ejected", "for", d.String(), "reason", reason.String())
}

// mayEject reports whether one more endpoint may be out. c.eject is held.
func (c *Cluster) mayEject(st *state) bool {
	out, all := 0, 0
	for ep := range st.inUse {
		if ep.load.EjectedUntil.Load() != 0 {
			out++
		}
		all++
	}
	return out == 0 || (out+1)*100 <= st.outliers.MaxEjectionPercent*all
}
