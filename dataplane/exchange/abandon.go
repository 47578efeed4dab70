package exchange

import (
	"errors"
	"sync"
	"time"
)

// ErrAbandoned says that the client has given the exchange up: it has reset the
// stream, or its connection has ended. The status is for logs, nobody reads it;
// it is what nginx made of it first.
var ErrAbandoned = &ClientError{Status: 499, Reason: "client_gone", Err: errors.New("the client has given the request up")}

// Closer is something that an exchange waits for. Close makes the waiting fail
// soon. It may be called from any goroutine and does not block.
type Closer interface{ Close() }

// abandonment joins who waits for the upstream with who sees the client go.
type abandonment struct {
	mu      sync.Mutex
	turn    uint64 // counts the exchanges that this struct has been
	over    bool   // the client has given the current one up
	outrun  bool   // Outrun was called, and Resume not since
	awaited Closer
}

// Await says what the goroutine that serves the exchange is about to wait for,
// in place of what it said before: it is closed when the client gives the
// exchange up. With nil it waits for nothing more; once Await has returned,
// what was awaited before is not closed any more. It reports false if the
// client has given the exchange up already: then there is nothing to wait for.
func (ex *Exchange) Await(what Closer) bool {
	a := &ex.abandoned
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.outrun {
		a.awaited = nil
		return false
	}
	a.awaited = what
	return true
}

// Awaiting calls f while the goroutine that serves the exchange waits for what
// Await said, and reports false if it does not wait. f may read what that
// goroutine writes only when it does not wait, such as Out and
// Upstream.Endpoint. It must not block, nor call the exchange's methods.
func (ex *Exchange) Awaiting(f func()) bool {
	a := &ex.abandoned
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.awaited == nil || a.over || a.outrun {
		return false
	}
	f()
	return true
}

// Outrun makes what the exchange waits for fail as Abandon does, because another
// request for the same has been faster. The client is still there: until Resume
// the exchange counts as abandoned, and not any longer. It may be called from any
// goroutine while the exchange is served, under the same condition as Abandon.
func (ex *Exchange) Outrun() {
	a := &ex.abandoned
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.outrun {
		return
	}
	a.outrun = true
	if a.awaited != nil {
		a.awaited.Close()
	}
}

// Resume takes Outrun back. It belongs to the goroutine that serves the exchange.
func (ex *Exchange) Resume() {
	ex.abandoned.mu.Lock()
	ex.abandoned.outrun = false
	ex.abandoned.mu.Unlock()
}

// WasOutrun reports whether Outrun was called, and Resume not since.
func (ex *Exchange) WasOutrun() bool {
	ex.abandoned.mu.Lock()
	defer ex.abandoned.mu.Unlock()
	return ex.abandoned.outrun
}

// Turn names the current exchange among all those for which the struct is used.
func (ex *Exchange) Turn() uint64 { return ex.abandoned.turn }

// Abandon says that the client has given up the exchange that Turn named. It
// may be called from any goroutine at any time, and does nothing if that
// exchange is over. It must not be called with a lock that who serves the
// exchange may want: closing what is awaited takes locks of the upstream's.
func (ex *Exchange) Abandon(turn uint64) {
	a := &ex.abandoned
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.turn != turn || a.over {
		return
	}
	a.over = true
	if a.awaited != nil && !a.outrun {
		a.awaited.Close()
	}
}

// Abandoned reports whether the client has given the exchange up, or another
// request for the same was faster.
func (ex *Exchange) Abandoned() bool {
	ex.abandoned.mu.Lock()
	defer ex.abandoned.mu.Unlock()
	return ex.abandoned.over || ex.abandoned.outrun
}

// Sleep waits for d, or less if the client gives the exchange up: then it reports
// false. The time counts as Upstream.Wait.
func (ex *Exchange) Sleep(d time.Duration) bool {
	began := time.Now()
	timer := time.NewTimer(d)
	defer timer.Stop()
	return receive(ex, timer.C, began)
}

// Receive waits until something is sent, and is otherwise as Sleep.
func (ex *Exchange) Receive(from <-chan struct{}) bool { return receive(ex, from, time.Now()) }

func receive[T any](ex *Exchange, from <-chan T, began time.Time) bool {
	gone := make(leaver)
	if !ex.Await(gone) {
		return false
	}
	select {
	case <-from:
	case <-gone:
	}
	ex.Await(nil)
	ex.Upstream.Wait += time.Since(began)
	return !ex.Abandoned()
}

// leaver is closed when the client goes.
type leaver chan struct{}

// Close implements Closer.
func (l leaver) Close() { close(l) }

func (a *abandonment) reset() {
	a.mu.Lock()
	a.turn++
	a.over, a.outrun, a.awaited = false, false, nil
	a.mu.Unlock()
}
