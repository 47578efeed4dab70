// Package ratelimit limits how often requests are let through, by token
// buckets that this process keeps.
//
// Buckets outlive configuration changes under Limit.Key.
package ratelimit

import (
	"fmt"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/quota"
)

// Config is a rule's limits. A request needs room in all of them.
type Config struct {
	Limits []Limit `json:"limits"`
}

// Limit is a token bucket for each value of its key.
type Limit struct {
	// Name is what the RateLimit fields call it: letters, digits and "-".
	Name string `json:"name"`
	// Key names the buckets, the same for all rules that share them.
	Key string `json:"key"`
	// Requests are let through in the time of Per, and Burst at once after a pause; all above 0.
	Requests int64         `json:"requests"`
	Per      time.Duration `json:"per"`
	Burst    int64         `json:"burst"`
	// By are the parts that together have a bucket of their own; none for one bucket.
	By []Part `json:"by,omitempty"`
}

// Kind implements policy.Config.
func (*Config) Kind() string { return "ratelimit" }

// Build implements policy.Config.
func (c *Config) Build(env *policy.Env) (policy.Filter, error) {
	f := &filter{now: env.Now}
	for i := range c.Limits {
		l := &c.Limits[i]
		if l.Requests < 1 || l.Burst < 1 || l.Per < time.Duration(l.Requests) {
			f.release()
			return policy.Filter{}, fmt.Errorf("ratelimit: limit %q: requests, burst and per must be above 0, and at most one request per nanosecond", l.Name)
		}
		live := limit{Limit: *l, interval: int64(l.Per) / l.Requests}
		live.capacity = live.interval * l.Burst
		if live.capacity/live.interval != l.Burst {
			f.release()
			return policy.Filter{}, fmt.Errorf("ratelimit: limit %q: burst is too large", l.Name)
		}
		var err error
		if live.key, err = compileKey(l.By); err != nil {
			f.release()
			return policy.Filter{}, err
		}
		var release func()
		live.buckets, release = policy.Acquire(env.State, "ratelimit/"+l.Key, func() *quota.Buckets { return quota.NewBuckets(env.Now()) })
		f.releases = append(f.releases, release)
		f.limits = append(f.limits, live)
		if i > 0 {
			f.policies += ", "
		}
		f.policies += fmt.Sprintf(`"%s";q=%d;w=%d`, l.Name, l.Requests, max(1, int64(l.Per.Seconds()+0.5)))
	}
	return policy.Filter{Request: f.request, Response: f.response, Release: f.release}, nil
}

type filter struct {
	limits   []limit
	policies string // the RateLimit-Policy field
	now      func() time.Time
	releases []func()
}

func (f *filter) release() {
	for _, release := range f.releases {
		release()
	}
}

type limit struct {
	Limit
	// interval is the nanoseconds in which one token comes, capacity those in which all do.
	interval, capacity int64
	key                keyFunc
	buckets            *quota.Buckets
}

func (f *filter) request(ex *exchange.Exchange) exchange.Verdict {
	now := f.now()
	for i := range f.limits {
		l := &f.limits[i]
		if wait := l.buckets.Take(l.key(ex, l.buckets.Seed), now, l.interval, l.capacity); wait > 0 {
			// What was taken from the limits before is given back: a refused
			// request does not count.
			for j := range f.limits[:i] {
				taken := &f.limits[j]
				taken.buckets.GiveBack(taken.key(ex, taken.buckets.Seed), taken.interval)
			}
			ex.Answer(429, "rate_limited", "Too many requests.\n")
			ex.Response.Fields = append(ex.Response.Fields, exchange.Field{
				Key: exchange.KeyRetryAfter, Name: "Retry-After", Value: ex.Arena.Uint(seconds(wait))})
			f.response(ex) // which the pipeline calls only for requests that passed
			return exchange.Answered
		}
	}
	return exchange.Continue
}

// response tells the client the limits, draft-ietf-httpapi-ratelimit-headers as it is since its version 08,
// whether it was limited or not.
func (f *filter) response(ex *exchange.Exchange) {
	now := f.now()
	value := ex.Arena.Append(func(dst []byte) []byte {
		for i := range f.limits {
			l := &f.limits[i]
			if i > 0 {
				dst = append(dst, ", "...)
			}
			used := l.buckets.Used(l.key(ex, l.buckets.Seed), now)
			dst = append(append(append(dst, '"'), l.Name...), `";r=`...)
			dst = appendUint(dst, uint64(max(0, l.capacity-used)/l.interval))
			dst = append(dst, ";t="...)
			dst = appendUint(dst, seconds(used))
		}
		return dst
	})
	ex.Response.Fields = append(ex.Response.Fields,
		exchange.Field{Name: "RateLimit-Policy", Value: f.policies},
		exchange.Field{Name: "RateLimit", Value: value})
}

// seconds rounds nanoseconds up.
func seconds(ns int64) uint64 { return uint64((ns + int64(time.Second) - 1) / int64(time.Second)) }

func appendUint(dst []byte, n uint64) []byte {
	if n >= 10 {
		dst = appendUint(dst, n/10)
	}
	return append(dst, byte('0'+n%10))
}
