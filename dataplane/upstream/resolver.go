package upstream

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

// DNS says how hosts are resolved. The zero value follows the system's
// resolv.conf(5) and hosts(5), which are read anew for each lookup.
type DNS struct {
	// Nameservers are "ip:port"; empty means those of ResolvConf.
	Nameservers []string
	// ResolvConf and Hosts are paths of files; "" means /etc/resolv.conf and /etc/hosts.
	ResolvConf, Hosts string
	// MinTTL and MaxTTL bound for how long an answer counts; 0 means 1 s and 5 min.
	MinTTL, MaxTTL time.Duration
	// Timeout bounds one question to one server; 0 means what ResolvConf says, else 5 s.
	Timeout time.Duration
}

// resolver keeps the records of names up to date, for as long as somebody
// is subscribed. Each name has a goroutine, so that one that takes long holds
// up no other.
type resolver struct {
	lookup lookup
	log    logr.Logger
	ctx    context.Context
	wg     sync.WaitGroup

	mu    sync.Mutex
	names map[question]*watchedName
}

// question is what is looked up: the addresses of a name, or its SRV records.
type question struct {
	name string // in lower case
	srv  bool
}

// watchedName is a question with who wants to know of its changes.
type watchedName struct {
	question
	latest atomic.Pointer[answer]
	cancel context.CancelFunc
	// subscribers is guarded by resolver.mu.
	subscribers map[*subscription]func()
}

// answer is what a name resolves to: sorted, and empty if it does not. It has
// addresses, or for SRV records hosts.
type answer struct {
	addrs   []netip.Addr
	targets []target
}

func (a *answer) equal(b *answer) bool {
	return slices.Equal(a.addrs, b.addrs) && slices.Equal(a.targets, b.targets)
}

// target is an SRV record, RFC 2782. Its name is fully qualified, in lower case.
type target struct {
	name     string
	port     uint16
	priority uint16
	weight   uint16
}

// subscription is an interest in a name.
type subscription struct {
	r *resolver
	w *watchedName
}

func newResolver(ctx context.Context, cfg DNS, log logr.Logger) *resolver {
	return &resolver{lookup: newLookup(cfg), log: log, ctx: ctx, names: map[question]*watchedName{}}
}

// wait returns when all goroutines have ended, after the context has.
func (r *resolver) wait() { r.wg.Wait() }

// subscribe keeps a question answered until stop. changed is called after each change
// of the answer, on a goroutine of the resolver's that holds no lock.
func (r *resolver) subscribe(q question, changed func()) *subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.names[q]
	if w == nil {
		ctx, cancel := context.WithCancel(r.ctx)
		w = &watchedName{question: q, cancel: cancel, subscribers: map[*subscription]func(){}}
		r.names[q] = w
		if r.ctx.Err() == nil {
			r.wg.Go(func() { r.keep(ctx, w) })
		}
	}
	s := &subscription{r: r, w: w}
	w.subscribers[s] = changed
	return s
}

// answer returns the latest answer, or nil before there was one. An empty
// answer says that the first lookup failed or found none.
func (s *subscription) answer() *answer { return s.w.latest.Load() }

func (s *subscription) stop() {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	delete(s.w.subscribers, s)
	if len(s.w.subscribers) == 0 && s.r.names[s.w.question] == s.w {
		delete(s.r.names, s.w.question)
		s.w.cancel()
	}
}

// Failing lookups are repeated after retryFirst, growing to retryMost.
const (
	retryFirst = time.Second
	retryMost  = 30 * time.Second
)

// keep looks a name up again and again. When a lookup fails, the last answer
// stays: a name server that is down must not take down what it named. Only a
// name that is authoritatively gone loses them, once it has been gone for MaxTTL.
func (r *resolver) keep(ctx context.Context, w *watchedName) {
	failures := 0
	var lastGood time.Time
	for {
		found, err := r.lookup.resolve(ctx, w.question)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		switch {
		case err == nil:
			if failures > 0 {
				r.log.Info("Host resolves again", "host", w.name)
			}
			failures, lastGood = 0, time.Now()
			r.publish(w, &found.answer)
			wait = found.ttl
		default:
			failures++
			wait = backoff.After(failures, max(r.lookup.minTTL, min(retryFirst, r.lookup.maxTTL)), retryMost)
			if failures == 1 {
				r.log.Error(err, "Host does not resolve; what was known of it stays", "host", w.name)
			}
			if w.latest.Load() == nil || isGone(err) && time.Since(lastGood) > r.lookup.maxTTL {
				r.publish(w, &answer{})
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

func (r *resolver) publish(w *watchedName, a *answer) {
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
