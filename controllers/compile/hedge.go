package compile

import (
	"slices"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// leastHedgeDelay is the default of after beside afterPercentile.
const leastHedgeDelay = 10 * time.Millisecond

// compileHedge compiles a BackendPolicy's hedge.
func compileHedge(c *policyCompiler, spec *v1alpha1.BackendPolicySpec) *snapshot.Hedge {
	const field = "spec.hedge"
	from := spec.Hedge
	to := &snapshot.Hedge{
		After:           c.duration(field+".after", from.After, leastHedgeDelay, time.Millisecond, time.Minute),
		AfterPercentile: int(number(c, field+".afterPercentile", from.AfterPercentile, 0, 50, 99)),
		MaxHedges:       int(number(c, field+".maxHedges", from.MaxHedges, 1, 1, snapshot.MostHedges)),
		NonIdempotent:   from.NonIdempotent,
	}
	if from.After == nil && from.AfterPercentile == nil {
		c.invalid(field, "it does not say when", "after or afterPercentile")
	}
	if !from.NonIdempotent && slices.ContainsFunc(spec.TargetRefs, func(t v1alpha1.TargetRef) bool { return t.Kind == "GRPCRoute" }) {
		c.invalid(field+".nonIdempotent", "calls of gRPC are of no idempotent method, so that none would be hedged", "true, if calls may be acted on twice; or no GRPCRoute among targetRefs")
	}
	return to
}
