// Package watch fills the loop with what a cluster has: objects of every kind
// that compile reads, as they are and as they change. An event means "look at
// this object again"; what follows from it is compile's to say.
//
// Every replica watches and serves. One of them, the leader, also runs the
// tasks that write to the cluster; see Cluster.Run.
package watch

import (
	"context"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
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
	// Lease is the name of the leader's Lease; replicas that share it elect one leader.
	Lease string
	// Identity names this replica in the Lease; its pod's name. It must differ between replicas.
	Identity string
	Log      logr.Logger
}

// Cluster is a connection to an API server.
type Cluster struct{}

// New connects to an API server. It fails if the server lacks a kind that
// Headgate reads, which means that CRDs are not installed.
func New(cfg *rest.Config, opts Options) (*Cluster, error) { panic("not yet") }

// Client reads from the watched objects and writes to the API server.
func (c *Cluster) Client() client.Client { panic("not yet") }

// Reader reads from the API server itself.
func (c *Cluster) Reader() client.Reader { panic("not yet") }

// Task is something that the leader alone does. It ends when its context does:
// with the process, or when another replica became the leader.
type Task func(ctx context.Context) error

// Run watches, putting all into sink, and runs the tasks while this replica is
// the leader. It returns when the context ends, or with an error if watching
// cannot begin. Losing the lead ends the tasks and nothing else.
func (c *Cluster) Run(ctx context.Context, sink Sink, tasks ...Task) error { panic("not yet") }

// Load returns the Secrets and ConfigMaps that a result is the first to want,
// as they are now; those that do not exist are left out. The loop calls it
// before it applies a result and, if anything came back, compiles again, so
// that a route never serves without a Secret that exists. From then on they
// are put into the sink as they change; those that no result wants any more
// are deleted from it.
//
// It waits for the API server, at most 2 seconds.
func (c *Cluster) Load(ctx context.Context, result *compile.Result) map[objects.Ref]client.Object {
	panic("not yet")
}
