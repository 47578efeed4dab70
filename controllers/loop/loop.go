// Package loop is the one place that owns time: it gathers changes of objects
// into batches, compiles each batch once, swaps the data plane's tables, and
// hands the result on. A folder (manifests) and a cluster (watch) feed the
// same loop.
//
// A change never waits for more than the ceiling, and never causes more than
// one compile; a burst of changes causes few. After a turn the loop rests for
// as long as it takes to keep its share of a core small: what costs little is
// done at once, and what costs much is done for many changes together.
package loop

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Options say how a Loop waits and whom it serves.
type Options struct {
	// Compile is passed to every compile.
	Compile compile.Options
	// Apply makes a snapshot the one that serves; delta is nil for the first.
	// An error is logged: Apply serves what it can all the same.
	Apply func(*snapshot.Snapshot, *snapshot.Delta) error
	// Load, if set, is called with each result before it is applied, and returns
	// objects that the result is the first to want (Result.Wanted). They are
	// put, and all is compiled again, so that nothing serves without a Secret
	// that exists. The loop waits for it.
	Load func(context.Context, *compile.Result) map[objects.Ref]client.Object
	// Published, if set, is called on the loop's goroutine after each Apply, in
	// order; it must not wait for anything slow. Together the results' ChangedStatuses
	// leave nothing out.
	Published func(*compile.Result)
	// Measured, if set, is called after each compile with the time that the
	// compile and the Apply took.
	Measured func(compile, apply time.Duration)
	// Holdoff is how long the loop waits after a change for another, restarted
	// by each; 0 means none. Ceiling bounds the sum of those waits, and the rest
	// after a turn; 0 means ten times Holdoff.
	Holdoff, Ceiling time.Duration
	Log              logr.Logger
}

// Loop gathers, compiles and applies. Its methods are safe for concurrent use,
// except Run, which is called once.
type Loop struct {
	opts Options

	mu      sync.Mutex
	pending map[objects.Ref]client.Object // nil: deleted
	ready   bool
	wake    chan struct{} // capacity 1

	result atomic.Pointer[compile.Result]
	at     atomic.Pointer[time.Time]
	rested time.Time // when the next turn may begin; Run's own
}

// rest is how many times as long as its last turn took the loop rests: turns
// take a fifth of a core at most.
const rest = 4

// New returns a Loop over an empty set.
func New(opts Options) *Loop {
	if opts.Ceiling == 0 {
		opts.Ceiling = 10 * opts.Holdoff
	}
	return &Loop{opts: opts, pending: map[objects.Ref]client.Object{}, wake: make(chan struct{}, 1)}
}

// Put adds an object or replaces the one of the same kind and name. The object
// must not be edited afterwards.
func (l *Loop) Put(ref objects.Ref, obj client.Object) { l.change(ref, obj) }

// Delete removes an object; one that is not there is fine.
func (l *Loop) Delete(ref objects.Ref) { l.change(ref, nil) }

func (l *Loop) change(ref objects.Ref, obj client.Object) {
	l.mu.Lock()
	l.pending[ref] = obj
	l.mu.Unlock()
	l.signal()
}

// Change makes several changes that belong together: they are compiled as one.
func (l *Loop) Change(put map[objects.Ref]client.Object, deleted []objects.Ref) {
	l.mu.Lock()
	for _, ref := range deleted {
		l.pending[ref] = nil
	}
	for ref, obj := range put {
		l.pending[ref] = obj
	}
	l.mu.Unlock()
	l.signal()
}

// Ready says that all objects that were there at the start have been put: the
// first compile waits for it, so that the first snapshot is a whole one.
func (l *Loop) Ready() {
	l.mu.Lock()
	l.ready = true
	l.mu.Unlock()
	l.signal()
}

func (l *Loop) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Result returns the result that serves, and since when; nil before the first.
// It is read-only.
func (l *Loop) Result() (*compile.Result, time.Time) {
	r := l.result.Load()
	if r == nil {
		return nil, time.Time{}
	}
	return r, *l.at.Load()
}

// Run serves until the context ends.
func (l *Loop) Run(ctx context.Context) {
	set := objects.NewSet()
	for {
		if !l.gather(ctx) {
			return
		}
		changed, ok := l.take(set)
		if !ok {
			continue
		}
		l.turn(ctx, set, changed)
	}
}

// gather waits for a change, and then until the loop has rested and there was
// no change for the holdoff. It is false if the context ended.
func (l *Loop) gather(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-l.wake:
	}
	if left := time.Until(l.rested); left > 0 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(left):
		}
	}
	if l.opts.Holdoff == 0 {
		return true
	}
	ceiling := time.NewTimer(l.opts.Ceiling)
	defer ceiling.Stop()
	quiet := time.NewTimer(l.opts.Holdoff)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-l.wake:
			quiet.Reset(l.opts.Holdoff)
		case <-quiet.C:
			return true
		case <-ceiling.C:
			return true
		}
	}
}

// take moves the pending changes into the set. It reports false if there is
// nothing to compile yet.
func (l *Loop) take(set *objects.Set) ([]objects.Ref, bool) {
	l.mu.Lock()
	if !l.ready {
		l.mu.Unlock()
		return nil, false
	}
	pending := l.pending
	l.pending = map[objects.Ref]client.Object{}
	l.mu.Unlock()

	if len(pending) == 0 && l.result.Load() != nil {
		return nil, false
	}
	changed := make([]objects.Ref, 0, len(pending))
	for ref, obj := range pending {
		if obj == nil {
			set.Delete(ref)
		} else {
			set.Put(obj)
		}
		changed = append(changed, ref)
	}
	slices.SortFunc(changed, objects.Ref.Compare)
	return changed, true
}

func (l *Loop) turn(ctx context.Context, set *objects.Set, changed []objects.Ref) {
	prev := l.result.Load()
	start := time.Now()
	result := compile.Compile(prev, set, changed, l.opts.Compile)
	if l.opts.Load != nil {
		if loaded := l.opts.Load(ctx, result); len(loaded) > 0 {
			for ref, obj := range loaded {
				set.Put(obj)
				changed = append(changed, ref)
			}
			slices.SortFunc(changed, objects.Ref.Compare)
			result = compile.Compile(prev, set, slices.Compact(changed), l.opts.Compile)
		}
	}
	compiled := time.Now()
	delta := result.Delta
	if prev == nil {
		delta = nil
	}
	if delta == nil || !delta.Empty() {
		if err := l.opts.Apply(result.Snapshot, delta); err != nil {
			l.opts.Log.Error(err, "Part of the configuration could not be applied")
		}
	}
	now := time.Now()
	l.at.Store(&now)
	l.result.Store(result)
	l.rested = now.Add(min(rest*now.Sub(start), l.opts.Ceiling))
	if l.opts.Measured != nil {
		l.opts.Measured(compiled.Sub(start), now.Sub(compiled))
	}
	if l.opts.Published != nil {
		l.opts.Published(result)
	}
}
