package ratelimit

import (
	"fmt"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/quota"
)

// Concurrency is how many of a rule's requests are served at a time. A request
// needs room in all of the limits.
type Concurrency struct {
	Limits []ConcurrencyLimit `json:"limits"`
}

// ConcurrencyLimit counts the requests being served for each value of its key,
// from when they are let through to the end of their response or tunnel.
type ConcurrencyLimit struct {
	Name string `json:"name"`
	// Key names the counts, the same for all rules that share them.
	Key string `json:"key"`
	// Requests are served at a time; above 0.
	Requests int `json:"requests"`
	// By are the parts that together have a count of their own; none for one count.
	By []Part `json:"by,omitempty"`
}

// Kind implements policy.Config.
func (*Concurrency) Kind() string { return "ratelimit" }

// Build implements policy.Config.
func (c *Concurrency) Build(env *policy.Env) (policy.Filter, error) {
	f := &concurrency{}
	for i := range c.Limits {
		l := &c.Limits[i]
		key, err := compileKey(l.By)
		if l.Requests < 1 {
			err = fmt.Errorf("ratelimit: concurrency %q: requests must be above 0", l.Name)
		}
		if err != nil {
			f.release()
			return policy.Filter{}, err
		}
		counts, release := policy.Acquire(env.State, "ratelimit/concurrency/"+l.Key, quota.NewCounts)
		f.limits = append(f.limits, concurrencyLimit{l.Requests, key, counts})
		f.releases = append(f.releases, release)
	}
	return policy.Filter{Request: f.request, Done: f.done, Release: f.release}, nil
}

type concurrency struct {
	limits   []concurrencyLimit
	releases []func()
}

type concurrencyLimit struct {
	most   int
	key    keyFunc
	counts *quota.Counts
}

func (f *concurrency) release() {
	for _, release := range f.releases {
		release()
	}
}

func (f *concurrency) request(ex *exchange.Exchange) exchange.Verdict {
	for i := range f.limits {
		l := &f.limits[i]
		if !l.counts.Enter(l.key(ex, l.counts.Seed), l.most) {
			f.leave(ex, i)
			ex.Answer(429, "concurrency_limited", "Too many requests at a time.\n")
			// Nobody knows when one of the others is over.
			ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: exchange.KeyRetryAfter, Name: "Retry-After", Value: "1"})
			return exchange.Answered
		}
	}
	return exchange.Continue
}

// done gives back what a request had that was let through.
func (f *concurrency) done(ex *exchange.Exchange) { f.leave(ex, len(f.limits)) }

// leave leaves the first n limits.
func (f *concurrency) leave(ex *exchange.Exchange, n int) {
	for i := range f.limits[:n] {
		l := &f.limits[i]
		l.counts.Leave(l.key(ex, l.counts.Seed))
	}
}
