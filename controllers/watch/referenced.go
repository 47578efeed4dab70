package watch

import (
	"context"
	"reflect"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// referenced keeps the Secrets and ConfigMaps that something refers to, and
// only those, in the sink. All others are known by name alone: a watch of
// their metadata says when one changed, and a get of it what it is now.
type referenced struct {
	reader client.Reader
	sink   Sink
	log    logr.Logger
	queue  workqueue.TypedRateLimitingInterface[objects.Ref]

	mu     sync.Mutex
	wanted map[objects.Ref]bool
}

func newReferenced(reader client.Reader, log logr.Logger) *referenced {
	return &referenced{
		reader: reader,
		log:    log.WithName("referenced"),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[objects.Ref]()),
	}
}

const (
	// loadTimeout bounds how long one change waits for the API server.
	loadTimeout = 2 * time.Second
	// loadParallel bounds how many gets are under way at once.
	loadParallel = 16
)

// Load returns the Secrets, ConfigMaps and pods that a result is the first to want,
// as they are now; those that do not exist are left out. The loop calls it
// before it applies a result and, if anything came back, compiles again, so
// that nothing serves without a Secret that exists. From then on they are put
// into the sink as they change; those that no result wants any more are
// deleted from it.
//
// It waits for the API server, at most 2 seconds; what was not there by then
// is put into the sink when it is.
func (c *Cluster) Load(ctx context.Context, result *compile.Result) map[objects.Ref]client.Object {
	loaded := c.referenced.load(ctx, result.Wanted)
	for ref, obj := range c.metadata.load(ctx, result) {
		if loaded == nil {
			loaded = map[objects.Ref]client.Object{}
		}
		loaded[ref] = obj
	}
	return loaded
}

func (r *referenced) load(ctx context.Context, wanted map[objects.Ref]bool) map[objects.Ref]client.Object {
	r.mu.Lock()
	previous := r.wanted
	r.wanted = wanted
	r.mu.Unlock()
	if reflect.ValueOf(previous).Pointer() == reflect.ValueOf(wanted).Pointer() {
		return nil // compile's way to say that nothing differs
	}
	for ref := range previous {
		if !wanted[ref] {
			r.sink.Delete(ref)
		}
	}

	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	var (
		wg     sync.WaitGroup
		tokens = make(chan struct{}, loadParallel)
		mu     sync.Mutex
		loaded = map[objects.Ref]client.Object{}
	)
	for ref := range wanted {
		if previous[ref] {
			continue
		}
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			obj, err := r.get(ctx, ref)
			switch {
			case err != nil:
				r.log.Error(err, "A referenced object is not to be had; trying again", "object", ref.String())
				r.queue.AddRateLimited(ref)
			case obj != nil:
				mu.Lock()
				defer mu.Unlock()
				loaded[ref] = obj
			}
		})
	}
	wg.Wait()
	return loaded
}

// get returns an object as it is now, or nil if there is none.
func (r *referenced) get(ctx context.Context, ref objects.Ref) (client.Object, error) {
	for _, kind := range objects.Kinds {
		if kind.Name != ref.Kind {
			continue
		}
		obj := kind.Object.DeepCopyObject().(client.Object)
		if err := r.reader.Get(ctx, ref.NamespacedName(), obj); err != nil {
			return nil, client.IgnoreNotFound(err)
		}
		strip(obj)
		return obj, nil
	}
	return nil, nil
}

// changed takes note that an object is not what it was.
func (r *referenced) changed(ref objects.Ref) {
	if r.wants(ref) {
		r.queue.Add(ref)
	}
}

func (r *referenced) wants(ref objects.Ref) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.wanted[ref]
}

// run looks at changed objects until the context ends. The queue hands out an
// object to one worker at a time, so an older version never overtakes a newer.
func (r *referenced) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				ref, shutdown := r.queue.Get()
				if shutdown {
					return
				}
				r.look(ctx, ref)
				r.queue.Done(ref)
			}
		})
	}
	wg.Wait()
	return nil
}

func (r *referenced) look(ctx context.Context, ref objects.Ref) {
	if !r.wants(ref) {
		r.queue.Forget(ref)
		return
	}
	obj, err := r.get(ctx, ref)
	if err != nil {
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			r.log.Error(err, "A referenced object is not to be had; trying again", "object", ref.String())
			r.queue.AddRateLimited(ref)
		}
		return
	}
	r.queue.Forget(ref)
	// Held while putting, so that an object that has just become unwanted is
	// not put after it was deleted.
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.wanted[ref]:
	case obj == nil:
		r.sink.Delete(ref)
	default:
		r.sink.Put(ref, obj)
	}
}
