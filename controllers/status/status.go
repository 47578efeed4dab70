// Package status writes what compile says about objects into them. Only the
// leader runs it.
package status

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// Options bound what a Writer does.
type Options struct {
	// Rate is how many writes a second are made on average, Burst how many at
	// once; 0 means 200 and 500.
	Rate  float32
	Burst int
	// Interval is the least time between two writes to one object, so that a
	// Gateway's count of its routes is not written for each of a thousand new
	// ones; 0 means 500 ms.
	Interval time.Duration
	// Metrics, if set, takes headgate_status_writes_total.
	Metrics prometheus.Registerer
	Log     logr.Logger
}

// Writer writes statuses: each one only if the object says something else, and
// only what is Headgate's to say. Its methods are safe for concurrent use.
type Writer struct {
	client client.Client
	// reader is asked instead of the cache once the cache proved to be behind.
	reader  client.Reader
	log     logr.Logger
	limiter flowcontrol.RateLimiter
	pause   time.Duration // Options.Interval
	writes  *prometheus.CounterVec
	now     func() time.Time

	published chan struct{} // closed with the first result

	mu     sync.Mutex
	status func(objects.Ref) *compile.Status
	queue  workqueue.TypedRateLimitingInterface[objects.Ref] // nil while not running
}

// NewWriter returns a Writer. The client reads from a cache, reader from the
// API server.
func NewWriter(c client.Client, reader client.Reader, opts Options) *Writer {
	if opts.Rate == 0 {
		opts.Rate = 200
	}
	if opts.Burst == 0 {
		opts.Burst = 500
	}
	if opts.Interval == 0 {
		opts.Interval = 500 * time.Millisecond
	}
	w := &Writer{
		client:  c,
		reader:  reader,
		log:     opts.Log,
		limiter: flowcontrol.NewTokenBucketRateLimiter(opts.Rate, opts.Burst),
		pause:   opts.Interval,
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "headgate_status_writes_total",
			Help: "Statuses written to the API server, by kind and outcome (ok, conflict, error).",
		}, []string{"kind", "outcome"}),
		now:       time.Now,
		published: make(chan struct{}),
	}
	if opts.Metrics != nil {
		opts.Metrics.MustRegister(w.writes)
	}
	return w
}

// Publish hands over a result. It does not wait. Results come in order.
func (w *Writer) Publish(result *compile.Result) {
	w.publish(result.ChangedStatuses, result.Status)
}

func (w *Writer) publish(changed []objects.Ref, status func(objects.Ref) *compile.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == nil {
		close(w.published)
	}
	w.status = status
	if w.queue != nil {
		for _, ref := range changed {
			w.queue.Add(ref)
		}
	}
}

// Look says that an object changed, perhaps in its status: what somebody else
// took away is written again, and an object made anew gets its status too. It
// does not wait.
func (w *Writer) Look(ref objects.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.queue != nil {
		w.queue.Add(ref)
	}
}

// workers bounds how many writes are under way at once.
const workers = 4

// Run writes until the context ends. It may be called again after it returned.
func (w *Writer) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.published:
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[objects.Ref](50*time.Millisecond, time.Minute))
	refs, err := w.stateful(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.queue = queue
	w.mu.Unlock()
	for _, ref := range refs {
		queue.Add(ref)
	}

	stop := context.AfterFunc(ctx, func() {
		w.mu.Lock()
		w.queue = nil
		w.mu.Unlock()
		queue.ShutDown()
	})
	defer stop()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				ref, shutdown := queue.Get()
				if shutdown {
					return
				}
				wrote, err := w.write(ctx, ref)
				if err != nil && ctx.Err() == nil {
					if !apierrors.IsConflict(err) {
						w.log.Error(err, "A status could not be written; trying again", "object", ref.String())
					}
					queue.AddRateLimited(ref)
				} else {
					queue.Forget(ref)
				}
				if wrote {
					// Until it is done, the queue gathers what more is to be said of it.
					time.AfterFunc(w.pause, func() { queue.Done(ref) })
				} else {
					queue.Done(ref)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// stateful names every object that a status may be written to, or that may
// still bear one that an earlier leader wrote.
func (w *Writer) stateful(ctx context.Context) ([]objects.Ref, error) {
	var refs []objects.Ref
	for _, kind := range objects.Kinds {
		if part(kind.Object) == nil {
			continue
		}
		gvk, err := w.client.GroupVersionKindFor(kind.Object)
		if err != nil {
			return nil, err
		}
		list, err := w.client.Scheme().New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err != nil {
			return nil, err
		}
		err = w.client.List(ctx, list.(client.ObjectList), client.UnsafeDisableDeepCopy)
		if notWatched := (*cache.ErrResourceNotCached)(nil); kind.Optional && errors.As(err, &notWatched) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Name, err)
		}
		err = meta.EachListItem(list, func(item runtime.Object) error {
			obj := item.(client.Object)
			refs = append(refs, objects.Ref{Kind: kind.Name, Namespace: obj.GetNamespace(), Name: obj.GetName()})
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// write brings one object's status up to date, and reports whether it had to be written.
func (w *Writer) write(ctx context.Context, ref objects.Ref) (wrote bool, err error) {
	w.mu.Lock()
	status := w.status
	w.mu.Unlock()
	i := slices.IndexFunc(objects.Kinds, func(k objects.Kind) bool { return k.Name == ref.Kind })
	if i < 0 || part(objects.Kinds[i].Object) == nil {
		return false, nil
	}
	kind := objects.Kinds[i]
	want := status(ref)
	reader := client.Reader(w.client)
	for range 5 {
		current := kind.Object.DeepCopyObject().(client.Object)
		if err := reader.Get(ctx, ref.NamespacedName(), current); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		if want != nil && want.Generation != current.GetGeneration() {
			return false, nil // compile has yet to see this one, and publishes then
		}
		updated := current.DeepCopyObject().(client.Object)
		changed, err := merge(updated, want, w.now())
		if err != nil || !changed {
			return false, err
		}
		if err := w.limiter.Wait(ctx); err != nil {
			return false, err
		}
		// A patch of what differs, against the version that was read: fields
		// of a newer API that this binary has never heard of stay.
		patch := client.MergeFromWithOptions(current, client.MergeFromWithOptimisticLock{})
		err = w.client.Status().Patch(ctx, updated, patch)
		w.writes.WithLabelValues(ref.Kind, outcome(err)).Inc()
		if !apierrors.IsConflict(err) {
			return err == nil, client.IgnoreNotFound(err)
		}
		reader = w.reader
	}
	return false, apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Name}, ref.Name, fmt.Errorf("changed five times while its status was being written"))
}

func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case apierrors.IsConflict(err):
		return "conflict"
	default:
		return "error"
	}
}
