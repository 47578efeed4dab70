package watch_test

import (
	"context"

	"k8s.io/client-go/rest"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/infra"
	"github.com/headgate/headgate/controllers/status"
	"github.com/headgate/headgate/controllers/watch"
)

// Kubernetes mode: the loop gets its objects from the cluster, and what it
// publishes goes back there.
func Example() {
	run := func(ctx context.Context, cfg *rest.Config, loop watch.Sink) error {
		cluster, err := watch.New(ctx, cfg, watch.Options{Namespace: "headgate-system", Lease: "headgate", Identity: "pod-1"})
		if err != nil {
			return err
		}
		statuses := status.NewWriter(cluster.Client(), cluster.Reader(), status.Options{})
		services := infra.New(cluster.Client(), cluster.Reader(), infra.Options{
			Namespace: "headgate-system",
			Selector:  map[string]string{"app.kubernetes.io/name": "headgate"},
		})
		// The loop's Options.Load is cluster.Load, and its Options.Published:
		_ = func(result *compile.Result) {
			statuses.Publish(result)
			services.Publish(result)
		}
		return cluster.Run(ctx, loop, statuses.Run, services.Run)
	}
	_ = run
}
