package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/quota"
)

// Bandwidth is how fast the content of a rule's requests, or of its responses,
// may pass. It passes as fast as the slowest limit lets it. What is too fast
// waits, on the goroutine that moves it: nothing is dropped, and nothing beyond
// a piece is held.
type Bandwidth struct {
	// Direction is "Request" or "Response": whose content is meant. Of a tunnel
	// these are the bytes that the client sends, and those that it gets.
	Direction string           `json:"direction"`
	Limits    []BandwidthLimit `json:"limits"`
}

// BandwidthLimit is a token bucket of bytes for each value of its key.
type BandwidthLimit struct {
	// Name and Policy ("RateLimitPolicy/namespace/name") tell it from others in metrics.
	Name   string `json:"name"`
	Policy string `json:"policy"`
	// Key names the buckets, the same for all rules that share them.
	Key string `json:"key"`
	// BytesPerSecond pass, and Burst at once after a pause; both above 0, and a
	// burst is at most what passes in a day.
	BytesPerSecond int64 `json:"bytesPerSecond"`
	Burst          int64 `json:"burst"`
	// After is how much of each content is not counted.
	After int64 `json:"after,omitempty"`
	// EachRequest has a bucket; else those have one that By makes different.
	EachRequest bool   `json:"eachRequest,omitempty"`
	By          []Part `json:"by,omitempty"`
}

const (
	requests  = "Request"
	responses = "Response"
)

// piece is for how long what passes at once keeps a bucket busy: so that content
// flows rather than comes in lumps, and those who share a bucket take turns.
const piece = 50 * time.Millisecond

// Kind implements policy.Config.
func (*Bandwidth) Kind() string { return "ratelimit" }

// Build implements policy.Config.
func (c *Bandwidth) Build(env *policy.Env) (policy.Filter, error) {
	b, err := c.build(env)
	if err != nil {
		return policy.Filter{}, err
	}
	f := policy.Filter{Response: b.response, Release: b.release}
	if c.Direction == requests {
		f.Request = b.request
	}
	return f, nil
}

func (c *Bandwidth) build(env *policy.Env) (*bandwidth, error) {
	if c.Direction != requests && c.Direction != responses {
		return nil, fmt.Errorf("ratelimit: bandwidth: unknown direction %q", c.Direction)
	}
	b := &bandwidth{now: env.Now, sleep: sleep, responses: c.Direction == responses}
	for i := range c.Limits {
		if err := b.add(env, &c.Limits[i], c.Direction); err != nil {
			b.release()
			return nil, err
		}
	}
	return b, nil
}

// bandwidth is a Bandwidth at work.
type bandwidth struct {
	limits    []bandwidthLimit
	responses bool
	now       func() time.Time
	// sleep waits for d, or until gone is closed: then it reports false.
	sleep    func(d time.Duration, gone <-chan struct{}) bool
	releases []func()
}

type bandwidthLimit struct {
	*BandwidthLimit
	// capacity is the nanoseconds in which a burst comes, most how much passes at once.
	capacity, most int64
	key            keyFunc
	buckets        *quota.Buckets // nil where each request has its own
	metrics        *observe.Bandwidth
}

func (b *bandwidth) add(env *policy.Env, l *BandwidthLimit, direction string) error {
	if l.BytesPerSecond < 1 || l.Burst < 1 || l.After < 0 || float64(l.Burst)/float64(l.BytesPerSecond) > 86400 {
		return fmt.Errorf("ratelimit: bandwidth %q: bytesPerSecond and burst must be above 0, and a burst at most what passes in a day", l.Name)
	}
	live := bandwidthLimit{BandwidthLimit: l}
	live.capacity = live.cost(l.Burst)
	live.most = max(int64(float64(l.BytesPerSecond)*piece.Seconds()), 1)
	if !l.EachRequest {
		var err error
		if live.key, err = compileKey(l.By); err != nil {
			return err
		}
		var release func()
		live.buckets, release = policy.Acquire(env.State, "ratelimit/bandwidth/"+l.Key, func() *quota.Buckets { return quota.NewBuckets(env.Now()) })
		b.releases = append(b.releases, release)
	}
	if env.Metrics != nil {
		live.metrics = env.Metrics.Bandwidth(observe.BandwidthLabels{Policy: l.Policy, Limit: l.Name, Direction: direction})
		b.releases = append(b.releases, live.metrics.Release)
	}
	b.limits = append(b.limits, live)
	return nil
}

// cost is the nanoseconds in which so many bytes come.
func (l *bandwidthLimit) cost(bytes int64) int64 {
	return int64(math.Ceil(float64(bytes) * float64(time.Second) / float64(l.BytesPerSecond)))
}

func (b *bandwidth) release() {
	for _, release := range b.releases {
		release()
	}
}

func (b *bandwidth) request(ex *exchange.Exchange) exchange.Verdict {
	if ex.Out.Body != nil {
		// Whoever pulls it may be another goroutine, and its waiting is part of
		// what the upstream is waited for.
		ex.Out.Body = &slowed{Body: ex.Out.Body, meter: newMeter(b, ex, false)}
	}
	return exchange.Continue
}

func (b *bandwidth) response(ex *exchange.Exchange) {
	r := &ex.Response
	switch {
	case r.Tunnel != nil:
		t := &slowedTunnel{Tunnel: r.Tunnel}
		if b.responses {
			t.down = newMeter(b, ex, false)
		} else {
			t.up = newMeter(b, ex, false)
		}
		r.Tunnel = t
	case r.Body != nil && b.responses:
		r.Body = &slowed{Body: r.Body, meter: newMeter(b, ex, true)}
	}
}

// sleep is bandwidth.sleep in earnest.
func sleep(d time.Duration, gone <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-gone:
		return false
	}
}

var errGivenUp = errors.New("ratelimit: the content was given up")

// errLate ends a response that is slowed down beyond its deadline.
var errLate = &exchange.UpstreamError{Stage: exchange.Receiving, Reason: "timeout", Err: errors.New("bandwidth limits let it pass too slowly for its deadline")}
