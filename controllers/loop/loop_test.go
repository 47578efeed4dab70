package loop

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, opts Options) (*Loop, chan *compile.Result) {
	t.Helper()
	results := make(chan *compile.Result, 10_000)
	opts.Published = func(r *compile.Result) { results <- r }
	if opts.Apply == nil {
		opts.Apply = func(*snapshot.Snapshot, *snapshot.Delta) error { return nil }
	}
	l := New(opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l, results
}

func put(l *Loop, name string) {
	obj := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	l.Put(objects.RefOf(obj), obj)
}

func await(t *testing.T, results chan *compile.Result) *compile.Result {
	t.Helper()
	select {
	case r := <-results:
		return r
	case <-time.After(time.Minute):
		t.Fatal("no result")
		return nil
	}
}

func TestNothingServesBeforeReady(t *testing.T) {
	var applied atomic.Int32
	l, results := start(t, Options{Apply: func(_ *snapshot.Snapshot, delta *snapshot.Delta) error {
		if applied.Add(1) == 1 && delta != nil {
			t.Error("the first snapshot has a delta")
		}
		return nil
	}})
	put(l, "a")
	put(l, "b")
	if r, _ := l.Result(); r != nil || applied.Load() != 0 {
		t.Error("applied before it was ready")
	}
	l.Ready()
	r := await(t, results)
	if got, at := l.Result(); got != r || at.IsZero() || applied.Load() != 1 {
		t.Errorf("result %p at %v, want %p; applied %d times", got, at, r, applied.Load())
	}
}

func TestReadyWithoutObjectsServesAnEmptySnapshot(t *testing.T) {
	l, results := start(t, Options{})
	l.Ready()
	if r := await(t, results); r.Snapshot == nil {
		t.Error("no snapshot")
	}
}

func TestABurstIsFewCompiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var compiles atomic.Int32
		l, results := start(t, Options{
			Holdoff:  50 * time.Millisecond,
			Measured: func(_, _ time.Duration) { compiles.Add(1) },
		})
		l.Ready()
		await(t, results)
		for i := range 1000 {
			put(l, fmt.Sprint(i))
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		await(t, results)
		if n := compiles.Load(); n != 2 {
			t.Errorf("%d compiles of nothing and of 1,000 changes, want 2", n)
		}
	})
}

func TestTheCeilingBoundsTheWait(t *testing.T) {
	l, results := start(t, Options{Holdoff: time.Hour, Ceiling: 20 * time.Millisecond})
	l.Ready()
	await(t, results)
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				put(l, fmt.Sprint(i%100))
				time.Sleep(time.Millisecond) // a busy cluster, not a busy loop
			}
		}
	}()
	await(t, results)
	await(t, results)
	close(stop)
}

func TestWhatIsFirstWantedIsLoadedBeforeItIsApplied(t *testing.T) {
	loaded := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}
	var asked, applied atomic.Int32
	l, results := start(t, Options{
		Load: func(context.Context, *compile.Result) map[objects.Ref]client.Object {
			if applied.Load() != 0 {
				t.Error("applied before it was loaded")
			}
			if asked.Add(1) > 1 {
				return nil
			}
			return map[objects.Ref]client.Object{objects.RefOf(loaded): loaded}
		},
		Apply: func(*snapshot.Snapshot, *snapshot.Delta) error {
			applied.Add(1)
			return nil
		},
	})
	l.Ready()
	await(t, results)
	if asked.Load() == 0 || applied.Load() != 1 {
		t.Errorf("asked %d, applied %d times", asked.Load(), applied.Load())
	}
}

// After a turn that took long, changes gather before the next.
func TestTheLoopRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns []time.Time
		l, results := start(t, Options{
			Ceiling: time.Minute,
			Load: func(context.Context, *compile.Result) map[objects.Ref]client.Object {
				turns = append(turns, time.Now())
				time.Sleep(time.Second)
				return nil
			},
		})
		l.Ready()
		await(t, results)
		put(l, "a")
		synctest.Wait()
		put(l, "b")
		await(t, results)
		time.Sleep(time.Hour)
		if len(turns) != 2 || turns[1].Sub(turns[0]) != (1+rest)*time.Second {
			t.Errorf("turns at %v, want one more, %d s after the first ended", turns, rest)
		}

		began := time.Now()
		put(l, "c")
		await(t, results)
		if took := time.Since(began); took != time.Second {
			t.Errorf("a change that came alone took %s, want the second that a turn takes", took)
		}
	})
}
