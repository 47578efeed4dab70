package resolver

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/backoff"
)

// Config says how hosts are resolved. The zero value follows the system's
// resolv.conf(5) and hosts(5), which are read anew for each lookup.
type Config struct {
	// Nameservers are "ip:port"; empty means those of ResolvConf.
	Nameservers []string
	// ResolvConf and Hosts are paths of files; "" means /etc/resolv.conf and /etc/hosts.
	ResolvConf, Hosts string
	// MinTTL and MaxTTL bound for how long an answer counts; 0 means 1 s and 5 min.
	MinTTL, MaxTTL time.Duration
	// Timeout bounds one question to one server; 0 means what ResolvConf says, else 5 s.
	Timeout time.Duration
}

// Resolver keeps the records of names up to date, for as long as somebody
// is subscribed. Each name has a goroutine, so that one that takes long holds
// up no other.
// It is safe for concurrent use.
type Resolver struct {
	lookup lookup
	log    logr.Logger
	ctx    context.Context
	wg     sync.WaitGroup

	mu    sync.Mutex
	names map[Question]*watchedName
}

// Question is what is looked up: the addresses of a name, or its SRV records.
type Question struct {
	Name string // in lower case; the search list of resolv.conf(5) holds for it
	SRV  bool
}

// watchedName is a question with who wants to know of its changes.
type watchedName struct {
	Question
	latest atomic.Pointer[Answer]
	cancel context.CancelFunc
	// subscribers is guarded by Resolver.mu.
	subscribers map[*Subscription]func()
}

// Answer is what a name resolves to: sorted, and empty if it does not. It has
// addresses, or for SRV records hosts.
// It must not be changed.
type Answer struct {
	Addrs   []netip.Addr
	Targets []Target // 128 at most
}

func (a *Answer) equal(b *Answer) bool {
	return slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Targets, b.Targets)
}

// Target is an SRV record, RFC 2782. Its name is fully qualified, in lower case;
// its port is not 0. The least priority comes first.
type Target struct {
	Name     string
	Port     uint16
	Priority uint16
	Weight   uint16
}

// Subscription is an interest in a name. It is safe for concurrent use.
type Subscription struct {
	r *Resolver
	w *watchedName
}

// New returns a Resolver, which looks names up until the context ends. log gets
// names that do not resolve, and that they do again.
func New(ctx context.Context, cfg Config, log logr.Logger) *Resolver {
	return &Resolver{lookup: newLookup(cfg), log: log, ctx: ctx, names: map[Question]*watchedName{}}
}

// Wait returns when all goroutines have ended, after the context has.
func (r *Resolver) Wait() { r.wg.Wait() }

// Subscribe keeps a question answered until Stop. changed is called after each change
// of the answer, on a goroutine of the resolver's that holds no lock.
// It may be called once more after Stop.
func (r *Resolver) Subscribe(q Question, changed func()) *Subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.names[q]
	if w == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		w = &watchedName{Question: q, cancel: cancel, subscribers: map[*Subscription]func(){}}
		r.names[q] = w
		if r.ctx.Err() == nil {
			r.wg.Go(func() { r.keep(ctx, w) })
		}
	}
	s := &Subscription{r: r, w: w}
	w.subscribers[s] = changed
	return s
}

// Answer returns the latest answer, or nil before there was one. An empty
// answer says that the first lookup failed or found none.
func (s *Subscription) Answer() *Answer { return s.w.latest.Load() }

// Stop ends the interest.
func (s *Subscription) Stop() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	delete(s.w.subscribers, s)
	if len(s.w.subscribers) == 0 && s.r.names[s.w.Question] == s.w {
		delete(s.r.names, s.w.Question)
		s.w.cancel()
	}
}

// Failing lookups are repeated after retryFirst, growing to retryMost.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// keep looks a name up again and again. When a lookup fails, the last answer
// stays, and of one that fails for one IP family alone, that family's part of it: a
// name server that is down must not take down what it named. Only a
// name that is authoritatively gone loses them, once it has been gone for MaxTTL.
func (r *Resolver) keep(ctx context.Context, w *watchedName) {
	failures := 0
	var lastGood time.Time
	for {
		found, err := r.lookup.resolve(ctx, w.Question)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		switch {
		case err == nil:
			if failures > 0 {
				r.log.Info("Host resolves again", "host", w.Name)
			}
			failures, lastGood = 0, time.Now()
			found.complete(w.latest.Load())
			r.publish(w, &found.Answer)
			wait = found.ttl
		default:
			failures++
			wait = backoff.After(failures, max(r.lookup.minTTL, min(retryFirst, r.lookup.maxTTL)), retryMost)
			if failures == 1 {
				r.log.Error(err, "Host does not resolve; what was known of it stays", "host", w.Name)
			}
			if w.latest.Load() == nil || isGone(err) && time.Since(lastGood) > r.lookup.maxTTL {
				r.publish(w, &Answer{})
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (r *Resolver) publish(w *watchedName, a *Answer) {
	before := w.latest.Load()
	if before != nil && before.equal(a) {
		return
	}
	w.latest.Store(a)
	r.mu.Lock()
	subscribers := make([]func(), 0, len(w.subscribers))
	for _, changed := range w.subscribers {
		subscribers = append(subscribers, changed)
	}
	r.mu.Unlock()
	for _, changed := range subscribers {
		changed()
	}
}
