package watch

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is an API server's Lease.
type lease struct {
	mu     sync.Mutex
	record *resourcelock.LeaderElectionRecord
}

// lock is a replica's view of a lease; while down is true, it has no API server.
type lock struct {
	lease    *lease
	identity string
	down     atomic.Bool
}

var errDown = errors.New("connection refused")

func (l *lock) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	if l.down.Load() {
		return nil, nil, errDown
	}
	if l.lease.record == nil {
		return nil, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "leases"}, "headgate")
	}
	record := *l.lease.record
	raw, err := json.Marshal(record)
	return &record, raw, err
}

func (l *lock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.Update(ctx, record)
}

func (l *lock) Update(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	if l.down.Load() {
		return errDown
	}
	l.lease.record = &record
	return nil
}

func (l *lock) RecordEvent(string) {}
func (l *lock) Identity() string   { return l.identity }
func (l *lock) Describe() string   { return "headgate" }

// candidate is a replica with one task.
type candidate struct {
	lock    *lock
	leads   atomic.Bool
	terms   atomic.Int64
	fail    chan error
	endTask time.Duration // how long the task takes to end
	ended   chan error
	cancel  context.CancelFunc
}

func stand(t *testing.T, l *lease, identity string, endTask time.Duration) *candidate {
	c := &candidate{lock: &lock{lease: l, identity: identity}, fail: make(chan error), endTask: endTask, ended: make(chan error, 1)}
	cluster := &Cluster{opts: Options{Lease: "headgate", Log: logr.Discard()}, lock: c.lock}
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	go func() {
		c.ended <- cluster.lead(ctx, []Task{func(ctx context.Context) error {
			c.terms.Add(1)
			c.leads.Store(true)
			defer c.leads.Store(false)
			select {
			case err := <-c.fail:
				return err
			case <-ctx.Done():
				time.Sleep(c.endTask)
				return nil
			}
		}})
	}()
	return c
}

func (c *candidate) end(t *testing.T) {
	c.cancel()
	if err := <-c.ended; err != nil {
		t.Error(err)
	}
}

// Whatever happens, never two lead; and the lease is handed over only when the
// tasks have ended.
func TestLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lease
		one := stand(t, &l, "one", 3*time.Second)
		time.Sleep(time.Second)
		two := stand(t, &l, "two", 0)
		both := make(chan struct{})
		watching, stop := context.WithCancel(t.Context())
		go func() {
			for watching.Err() == nil {
				if one.leads.Load() && two.leads.Load() {
					close(both)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
		expect := func(what string, leader *candidate) {
			t.Helper()
			time.Sleep(leaseDuration + 10*retryPeriod)
			if one.leads.Load() != (leader == one) || two.leads.Load() != (leader == two) {
				t.Fatalf("%s: one leads: %v, two leads: %v", what, one.leads.Load(), two.leads.Load())
			}
		}
		expect("the first comer leads", one)

		one.lock.down.Store(true)
		expect("a leader without an API server gives up, and goes on standing", two)
		one.lock.down.Store(false)
		expect("it does not take the lead back", two)

		two.fail <- errors.New("cannot list")
		time.Sleep(leaseDuration + 10*retryPeriod)
		if one.leads.Load() == two.leads.Load() {
			t.Fatal("after a task failed, nobody or everybody leads")
		}
		if n := two.terms.Load(); n > 3 {
			t.Errorf("%d terms: it does not wait before it stands again", n)
		}
		if one.leads.Load() {
			one.end(t)
			expect("a leader that ends hands over", two)
			two.end(t)
		} else {
			two.end(t)
			expect("a leader that ends hands over", one)
			one.end(t)
		}
		stop()
		time.Sleep(time.Second) // until it has seen that
		select {
		case <-both:
			t.Error("both led at once")
		default:
		}
	})
}

// A leader that ends hands over at once, not when its lease is over.
func TestLeadIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lease
		one := stand(t, &l, "one", 3*time.Second)
		time.Sleep(time.Second)
		two := stand(t, &l, "two", 0)
		time.Sleep(time.Minute)
		began := time.Now()
		one.end(t)
		if took := time.Since(began); took < 3*time.Second || two.terms.Load() != 0 {
			t.Errorf("the lease was given back after %s, while the task ran", took)
		}
		time.Sleep(3 * retryPeriod) // it asks again after up to 2.2 of these
		if two.terms.Load() != 1 {
			t.Error("the other replica does not lead")
		}
		two.end(t)
	})
}
