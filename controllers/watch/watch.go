// Package watch fills the loop with what a cluster has: objects of every kind
// that compile reads, as they are and as they change. An event means "look at
// this object again"; what follows from it is compile's to say.
//
// Every replica watches and serves. One of them, the leader, also runs the
// tasks that write to the cluster; see Cluster.Run.
package watch

import (
	"context"
	"fmt"
	"maps"
	"net"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/headgate/headgate/controllers/objects"
)

// Sink takes what the cluster has. loop.Loop is one.
type Sink interface {
	Put(ref objects.Ref, obj client.Object)
	Delete(ref objects.Ref)
	// Ready says that what was there at the start has been put.
	Ready()
}

// Options say who this replica is.
type Options struct {
	// Namespace is Headgate's own: the leader's Lease is there.
	Namespace string
	// Lease is the name of the leader's Lease; replicas that share it elect one
	// leader. Without a name this one never leads.
	Lease string
	// Deployment, if set, is the one in Namespace that Headgate's pods are of. The
	// Lease goes with it.
	Deployment string
	// Identity names this replica in the Lease; its pod's name. It must differ between replicas.
	Identity string
	// Seen, if set, is called for every event of a kind that is watched whole,
	// also for events that are of no interest to compile, such as a status that
	// somebody wrote. It must not wait.
	Seen func(ref objects.Ref)
	// Kept are kinds, none of objects.Kinds, that the tasks of a leader keep in
	// Namespace: Client reads them there too. AddToScheme registers them.
	Kept        []client.Object
	AddToScheme func(*runtime.Scheme) error
	// KeptChanged, if set, is called when an object of those kinds changes. It must
	// not wait.
	KeptChanged func()
	// Metrics, if set, takes headgate_watch_stale_seconds.
	Metrics prometheus.Registerer
	Log     logr.Logger
}

// Cluster is a connection to an API server.
type Cluster struct {
	opts       Options
	kinds      []objects.Kind // those of objects.Kinds that the API server has
	lacking    []objects.Kind // those that it lacks
	manager    manager.Manager
	lock       resourcelock.Interface // nil if this replica never leads
	referenced *referenced
	metadata   *metadata
	compactor  *compactor
	staleness  *staleness
}

// New connects to an API server. It fails if the server cannot be reached, and
// if it lacks a kind that Headgate needs, which means that CRDs are not
// installed. Then it may be called again.
func New(ctx context.Context, cfg *rest.Config, opts Options) (*Cluster, error) {
	cfg = rest.CopyConfig(cfg)
	if err := reach(ctx, cfg); err != nil {
		return nil, err
	}
	stale := newStaleness(opts.Log)
	cfg.Wrap(stale.wrap)
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if cfg.QPS == 0 {
		cfg.QPS = -1 // the API server's priority and fairness is what bounds us
	}
	lock, err := newLock(cfg, opts)
	if err != nil {
		return nil, fmt.Errorf("leader's lease: %w", err)
	}
	compactor := newCompactor()
	kinds := objects.Scheme()
	if opts.AddToScheme != nil {
		if err := opts.AddToScheme(kinds); err != nil {
			return nil, err
		}
	}
	own := map[client.Object]cache.ByObject{}
	for _, obj := range opts.Kept {
		own[obj] = cache.ByObject{Namespaces: map[string]cache.Config{opts.Namespace: {}}}
	}
	for _, kind := range objects.Kinds {
		if kind.Metadata {
			own[partial(kind)] = cache.ByObject{Transform: compactor.compactMetadata}
		}
	}
	m, err := manager.New(cfg, manager.Options{
		Scheme: kinds,
		Logger: opts.Log,
		Cache: cache.Options{
			DefaultTransform:            compactor.compact,
			ByObject:                    own,
			ReaderFailOnMissingInformer: true,
			// Staleness tells what of it matters.
			DefaultWatchErrorHandler: func(_ context.Context, r *toolscache.Reflector, err error) {
				opts.Log.V(1).Info("A watch has ended", "type", r.TypeDescription(), "error", err.Error())
			},
		},
		Client: client.Options{Cache: &client.CacheOptions{
			DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}},
		}},
		// A manager that loses its lease ends the process, and with it the data
		// plane. So it does not elect; see lead.
		LeaderElection: false,
		Metrics:        metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	c := &Cluster{
		opts:       opts,
		manager:    m,
		lock:       lock,
		referenced: newReferenced(m.GetAPIReader(), opts.Log),
		compactor:  compactor,
		staleness:  stale,
	}
	c.metadata = &metadata{cluster: c, log: opts.Log.WithName("metadata")}
	for _, kind := range objects.Kinds {
		if kind.Metadata {
			continue
		}
		served, found, err := c.served(kind)
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask the API server for its kinds: %w", err)
		case found:
			c.kinds = append(c.kinds, served)
		case kind.Optional:
			opts.Log.Info("The API server lacks a kind, and Headgate does without until it is there", "kind", kind.Name, "group", kind.Group)
			c.lacking = append(c.lacking, kind)
		default:
			return nil, fmt.Errorf("the API server has no %s of a version that Headgate reads: install the CRDs of %s first", kind.Name, kind.Group)
		}
	}
	if opts.Metrics != nil {
		if err := opts.Metrics.Register(stale); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// served returns a kind as the API server has it: with an Object of the version
// to be read. found is false if it has none.
func (c *Cluster) served(kind objects.Kind) (_ objects.Kind, found bool, err error) {
	for _, object := range []objects.Object{kind.Object, kind.Older} {
		if object == nil {
			break
		}
		gvk, err := apiutil.GVKForObject(object, c.manager.GetScheme())
		if err != nil {
			return kind, false, err
		}
		mapping, err := c.manager.GetRESTMapper().RESTMapping(gvk.GroupKind(), gvk.Version)
		if err == nil {
			c.staleness.follow(mapping.Resource.Resource, kind.Name)
			kind.Object = object
			return kind, true, nil
		}
		if !meta.IsNoMatchError(err) {
			return kind, false, err
		}
	}
	return kind, false, nil
}

// reachTimeout bounds how long an API server may take to say its version.
const reachTimeout = 5 * time.Second

// reach asks the API server for its version.
func reach(ctx context.Context, cfg *rest.Config) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	cfg = rest.CopyConfig(cfg)
	cfg.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	api, err := rest.UnversionedRESTClientFor(cfg)
	if err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	if err := api.Get().AbsPath("/version").Do(ctx).Error(); err != nil {
		return fmt.Errorf("the API server cannot be reached: %w", err)
	}
	return nil
}

// Client reads from the watched objects and writes to the API server.
func (c *Cluster) Client() client.Client { return c.manager.GetClient() }

// Reader reads from the API server itself.
func (c *Cluster) Reader() client.Reader { return c.manager.GetAPIReader() }

// Run watches, putting all into sink, and runs the tasks while this replica is
// the leader. It returns when the context ends, or with an error if watching
// cannot begin. Losing the lead ends the tasks and nothing else. It may be
// called once.
func (c *Cluster) Run(ctx context.Context, sink Sink, tasks ...Task) error {
	c.referenced.sink = sink
	defer context.AfterFunc(ctx, c.staleness.stop)()
	var synced []toolscache.DoneChecker
	for _, kind := range c.kinds {
		registration, err := c.watch(ctx, kind, sink)
		if err != nil {
			return err
		}
		synced = append(synced, registration.HasSyncedChecker())
	}
	for _, obj := range c.opts.Kept {
		informer, err := c.manager.GetCache().GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
		changed := func(any) {
			if c.opts.KeptChanged != nil {
				c.opts.KeptChanged()
			}
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed,
		}); err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
	}
	runnables := []manager.RunnableFunc{
		func(ctx context.Context) error {
			if toolscache.WaitFor(ctx, "", synced...) {
				sink.Ready()
			}
			return nil
		},
		c.referenced.run,
		func(ctx context.Context) error { return c.await(ctx, sink) },
	}
	if c.lock != nil {
		runnables = append(runnables, func(ctx context.Context) error { return c.lead(ctx, tasks) })
	}
	for _, r := range runnables {
		if err := c.manager.Add(r); err != nil {
			return err
		}
	}
	return c.manager.Start(ctx)
}

// watch begins to put a kind's objects into the sink.
func (c *Cluster) watch(ctx context.Context, kind objects.Kind, sink Sink) (toolscache.ResourceEventHandlerRegistration, error) {
	obj := kind.Object.DeepCopyObject().(client.Object)
	if kind.Referenced || kind.Metadata {
		obj = partial(kind)
	}
	informer, err := c.manager.GetCache().GetInformer(ctx, obj, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", kind.Name, err)
	}
	if shared, ok := informer.(toolscache.SharedInformer); ok && !kind.Referenced && !kind.Metadata {
		c.compactor.keptIn(kind.Name, shared.GetStore())
	}
	registration, err := informer.AddEventHandler(c.handler(kind, sink))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", kind.Name, err)
	}
	return registration, nil
}

// lookPeriod is how often the API server is asked for the kinds that it lacked.
const lookPeriod = 30 * time.Second

// await watches the kinds that the API server lacked at the start once it has
// them, as when their CRDs are installed after Headgate. A kind that it loses stays
// as it was: its informer says so in the log.
func (c *Cluster) await(ctx context.Context, sink Sink) error {
	ticker := time.NewTicker(lookPeriod)
	defer ticker.Stop()
	lacking := c.lacking
	for len(lacking) > 0 {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var still []objects.Kind
		for _, kind := range lacking {
			served, found, err := c.served(kind)
			if found {
				_, err = c.watch(ctx, served, sink)
			}
			switch {
			case err != nil:
				c.opts.Log.Error(err, "The API server cannot tell whether it has a kind; Headgate asks again", "kind", kind.Name, "group", kind.Group)
				fallthrough
			case !found:
				still = append(still, kind)
			default:
				c.opts.Log.Info("The API server has a kind that it lacked, and Headgate reads it from now on", "kind", kind.Name, "group", kind.Group)
			}
		}
		lacking = still
	}
	return nil
}

// handler turns a kind's events into puts and deletes. Objects in the cache
// are never edited, so the sink shares them.
func (c *Cluster) handler(kind objects.Kind, sink Sink) toolscache.ResourceEventHandler {
	ref := func(obj client.Object) objects.Ref {
		return objects.Ref{Kind: kind.Name, Namespace: obj.GetNamespace(), Name: obj.GetName()}
	}
	if kind.Referenced {
		event := func(obj any) {
			if o, ok := obj.(client.Object); ok {
				c.referenced.changed(ref(o))
			}
		}
		return toolscache.ResourceEventHandlerFuncs{
			AddFunc:    event,
			UpdateFunc: func(_, obj any) { event(obj) },
			DeleteFunc: func(obj any) { event(lastKnown(obj)) },
		}
	}
	seen := c.opts.Seen
	if seen == nil {
		seen = func(objects.Ref) {}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			o := obj.(client.Object)
			sink.Put(ref(o), keep(kind, o))
			seen(ref(o))
		},
		UpdateFunc: func(old, obj any) {
			o := obj.(client.Object)
			if matters(kind, old.(client.Object), o) {
				sink.Put(ref(o), keep(kind, o))
			}
			seen(ref(o))
		},
		DeleteFunc: func(obj any) {
			if o, ok := lastKnown(obj).(client.Object); ok {
				sink.Delete(ref(o))
				seen(ref(o))
			}
		},
	}
}

// lastKnown is the deleted object, also where its deletion was missed and only
// found out later.
func lastKnown(obj any) any {
	if unknown, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
		return unknown.Obj
	}
	return obj
}

// isCustom reports whether a group's kinds are custom resources, whose
// generation counts the changes of their spec.
func isCustom(group string) bool {
	return group != corev1.GroupName && group != discoveryv1.GroupName && group != certificatesv1.GroupName
}

// matters reports whether compile could make something else of an updated
// object. Custom resources change most often because Headgate wrote a status;
// their generation counts all other changes but metadata's.
func matters(kind objects.Kind, old, obj client.Object) bool {
	if old.GetResourceVersion() == obj.GetResourceVersion() {
		return false // a resync
	}
	if kind.Metadata {
		return !sameMetadata(old, obj) // pods' statuses change all the time
	}
	if !isCustom(kind.Group) {
		return true
	}
	return old.GetUID() != obj.GetUID() ||
		old.GetGeneration() != obj.GetGeneration() ||
		!old.GetDeletionTimestamp().Equal(obj.GetDeletionTimestamp()) ||
		!maps.Equal(old.GetLabels(), obj.GetLabels()) ||
		!maps.Equal(old.GetAnnotations(), obj.GetAnnotations())
}
