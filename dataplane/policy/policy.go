// Package policy is the contract between the pipeline and the policies. Each
// policy is a folder below this one: its compiled configuration, which is plain
// data and part of the snapshot, and the filter that it builds.
//
// A policy imports exchange and this package, never another policy. One that
// asks somebody else about a request does it through the data plane's own
// clusters (Env.Upstream), with an exchange of its own.
package policy

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/observe"
)

// Config is a policy's compiled configuration: plain, immutable data that can
// be compared with reflect.DeepEqual and written as JSON. Secret material has
// the type Secret.
type Config interface {
	// Kind is the policy's name in dumps, logs and metrics: its folder's name.
	Kind() string
	// Build makes the live filter. It fails only for configurations that
	// compile should have refused; the pipeline then answers 500 on the rule,
	// so that what cannot guard does not let through.
	Build(env *Env) (Filter, error)
}

// Filter is a live filter: the hooks that a policy needs, nil for the others.
// It is immutable and shared by all exchanges of its rule; what belongs to one
// exchange lives in the exchange. Hooks run on the serving goroutine and may
// block only while they hold nothing that others wait for.
type Filter struct {
	// Request runs on the way in, in pipeline order. It may edit ex.Out, or
	// answer through ex.Answer.
	Request func(ex *exchange.Exchange) exchange.Verdict
	// Response runs on the way out, in reverse order, for every response whose
	// request passed this filter, also Headgate's own answers. It may edit
	// ex.Response.
	Response func(ex *exchange.Exchange)
	// Done runs when the exchange is over, its tunnel included, for every exchange
	// whose request passed this filter.
	Done func(ex *exchange.Exchange)
	// BodyLimit, if above 0, asks for the whole request content to be held in
	// memory before Request runs: ex.Out.Body is then Ready throughout, and what
	// Request reads of it is there again for who comes next. Content of more than
	// so many bytes is answered 413.
	BodyLimit int64
	// Release gives back what Build acquired; the pipeline calls it once, when
	// no table refers to the filter any more. Requests in flight may still run it.
	Release func()
}

// Env is what filters may use of the process.
type Env struct {
	// State holds what outlives a swap: buckets, key sets, caches.
	State *State
	Log   logr.Logger
	// HTTP is for calls out (JWKS, introspection, …), never for proxied requests.
	HTTP *http.Client
	// Upstream returns the live cluster under a key of snapshot.Clusters, nil if
	// there is none. It is for Build alone; what it returned lives as long as the filter.
	Upstream func(cluster string) Upstream
	// Metrics counts what policies do.
	Metrics *observe.Metrics
	// Now is the clock; tests replace it.
	Now func() time.Time
	// Context ends with the process.
	Context context.Context
}

// Upstream is a live cluster, see upstream.Cluster.
type Upstream interface {
	RoundTrip(ex *exchange.Exchange) (exchange.Lease, error)
}

// State keeps values that outlive the filters which use them, by stable key
// and counted reference, so that a changed configuration does not reset
// counters. It is safe for concurrent use.
type State struct {
	mu      sync.Mutex
	entries map[string]*stateEntry
}

type stateEntry struct {
	value any
	users int
}

// NewState returns an empty State.
func NewState() *State { return &State{entries: map[string]*stateEntry{}} }

// Acquire returns the value under key, made by create if it is new, and a
// function to call once when it is no longer used; with its last user the
// value goes, and its Close method, if it has one, is called. Keys begin with
// the policy's kind.
func Acquire[T any](s *State, key string, create func() T) (value T, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		e = &stateEntry{value: create()}
		s.entries[key] = e
	}
	e.users++
	return e.value.(T), sync.OnceFunc(func() { s.release(key, e) })
}

func (s *State) release(key string, e *stateEntry) {
	s.mu.Lock()
	e.users--
	last := e.users == 0
	if last {
		delete(s.entries, key)
	}
	s.mu.Unlock()
	if closer, ok := e.value.(interface{ Close() }); ok && last {
		closer.Close()
	}
}

// Secret is key material. Every dump, log line and format verb shows it as
// redacted.
type Secret []byte

const redacted = "[redacted]"

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
