package health

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// Target is an endpoint that is checked.
type Target interface {
	// Ask asks the endpoint once. It returns why the check fails, nil if it
	// passes, and soon after ctx has ended.
	Ask(ctx context.Context, settings *snapshot.HealthCheck) error
	// SetHealthy is called when the endpoint has become unhealthy, or healthy
	// again, and why, if there is more to say. It must not call the Check.
	SetHealthy(healthy bool, why error)
}

// Check is the repeated check of one endpoint. It is safe for concurrent use.
type Check struct {
	checker *Checker
	target  Target

	// at and index are the place in the Checker's queue, whose lock guards
	// them; index is -1 outside of it.
	at    time.Time
	index int

	// mu guards what follows. It is held while the target is told of a change,
	// so that nothing is told that is not so any more.
	mu       sync.Mutex
	settings *snapshot.HealthCheck // nil once it has stopped
	cancel   context.CancelFunc    // ends the check that is under way
	healthy  bool
	fresh    bool // there was no outcome yet
	streak   int  // outcomes in a row that speak for a change
	why      error
	passed   uint64
	failed   uint64
}

// Outcome is what has come of a Check.
type Outcome struct {
	// Passed and Failed count checks.
	Passed, Failed uint64
	// Why is why the last one failed, nil if it passed.
	Why error
}

// Outcome returns what has come of the check.
func (k *Check) Outcome() Outcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Outcome{Passed: k.passed, Failed: k.failed, Why: k.why}
}

// Update has the endpoint asked by other settings from now on. It stays
// healthy or unhealthy until they have found otherwise.
func (k *Check) Update(settings *snapshot.HealthCheck) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.settings == nil || k.settings == settings {
		return
	}
	k.settings, k.streak = settings, 0
	k.interrupt()
	if k.healthy && !k.fresh { // what is unhealthy may wait for these very settings
		k.checker.schedule(k, later(settings))
	} else {
		k.checker.schedule(k, k.checker.soon(settings))
	}
}

// Stop ends the check. If it has found the endpoint unhealthy, that is over:
// the target is told so, and nothing after that.
func (k *Check) Stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.settings == nil {
		return
	}
	k.settings = nil
	k.interrupt()
	k.checker.unschedule(k)
	if !k.healthy {
		k.healthy = true
		k.target.SetHealthy(true, errStopped)
	}
}

var errStopped = errors.New("it is not checked any more")

// interrupt ends the check that is under way, whose outcome is not of interest
// any more. k.mu is held.
func (k *Check) interrupt() {
	if k.cancel != nil {
		k.cancel()
		k.cancel = nil
	}
}

// run checks once.
func (k *Check) run() {
	k.mu.Lock()
	settings := k.settings
	if settings == nil {
		k.mu.Unlock()
		return
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(k.checker.ctx, cmp.Or(settings.Timeout, snapshot.HealthCheckTimeout))
	defer cancel()
	k.cancel = cancel
	k.mu.Unlock()

	why := k.target.Ask(ctx, settings)

	k.mu.Lock()
	defer k.mu.Unlock()
	if k.settings != settings || k.checker.ctx.Err() != nil {
		return // who changed them has scheduled the next check
	}
	k.cancel = nil
	k.count(why)
	k.checker.schedule(k, next(settings, began))
}

// count draws the conclusions from an outcome. k.mu is held.
func (k *Check) count(why error) {
	passes, need := why == nil, cmp.Or(k.settings.UnhealthyThreshold, 3)
	k.why = why
	if passes {
		k.passed++
		need = cmp.Or(k.settings.HealthyThreshold, 1)
	} else {
		k.failed++
	}
	if k.fresh {
		k.fresh, need = false, 1
	}
	if passes == k.healthy {
		k.streak = 0
		return
	}
	if k.streak++; k.streak < need {
		return
	}
	k.healthy, k.streak = passes, 0
	k.target.SetHealthy(passes, why)
}
