package compile

import (
	"cmp"
	"math"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// The defaults of a retry budget are the Gateway API's, RetryConstraint.
const (
	defaultRetryPercent  = 20
	defaultRetryInterval = 10 * time.Second
	defaultRetryCount    = 10
	defaultRetryPer      = time.Second
	// leastRetryPer is the shortest time that is counted in. A rate of a shorter
	// one is the same rate of this.
	leastRetryPer = 100 * time.Millisecond
)

// compileRetryBudget compiles a retry budget; rate is the field with the rest of
// minRetryRate's path.
func compileRetryBudget(c *policyCompiler, from *v1alpha1.RetryBudget, field, rate string) *snapshot.RetryBudget {
	to := &snapshot.RetryBudget{
		Percent:  int(number(c, field+".percent", from.Percent, defaultRetryPercent, 0, 100)),
		Interval: c.duration(field+".interval", from.Interval, defaultRetryInterval, time.Second, time.Hour),
	}
	least := cmp.Or(from.MinRetryRate, &v1alpha1.RequestRate{})
	to.MinRetryRate = snapshot.RequestRate{
		Count:    int(number(c, rate+".count", least.Count, defaultRetryCount, 1, 1_000_000)),
		Interval: c.duration(rate+".interval", least.Interval, defaultRetryPer, time.Millisecond, time.Hour),
	}
	if r := &to.MinRetryRate; r.Interval < leastRetryPer {
		r.Count, r.Interval = r.Count*int(leastRetryPer/r.Interval), leastRetryPer
	}
	return to
}

// trafficPolicy is an XBackendTrafficPolicy as a policy. What it sets are stanzas
// of BackendPolicies: both are at backends, and merge there as these do.
type trafficPolicy struct {
	*gatewayxv1alpha1.XBackendTrafficPolicy
}

// Targets implements v1alpha1.Policy.
func (p trafficPolicy) Targets() []v1alpha1.TargetRef {
	targets := make([]v1alpha1.TargetRef, len(p.Spec.TargetRefs))
	for i, ref := range p.Spec.TargetRefs {
		targets[i].LocalPolicyTargetReference = ref
	}
	return targets
}

// IsEnforced implements v1alpha1.Policy. The API knows neither overrides nor defaults.
func (p trafficPolicy) IsEnforced() bool { return false }

// PolicyStatus implements v1alpha1.Policy.
func (p trafficPolicy) PolicyStatus() *gatewayv1.PolicyStatus { return &p.Status }

func compileTrafficPolicy(c *policyCompiler) {
	spec := &c.object.(trafficPolicy).Spec
	if from := spec.RetryConstraint; from != nil {
		before := len(c.findings)
		budget := &v1alpha1.RetryBudget{}
		if from.Budget != nil {
			budget.Percent, budget.Interval = int32Of(from.Budget.Percent), from.Budget.Interval
		}
		if from.MinRetryRate != nil {
			budget.MinRetryRate = &v1alpha1.RequestRate{Count: int32Of(from.MinRetryRate.Count), Interval: from.MinRetryRate.Interval}
		}
		to := compileRetryBudget(c, budget, "spec.retryConstraint.budget", "spec.retryConstraint.minRetryRate")
		c.setsBudget(to, before)
	}
	if from := spec.SessionPersistence; from != nil {
		c.setsSession(ownSession(from))
	}
	if len(c.stanzas) == 0 && len(c.findings) == 0 {
		c.invalid("spec", "it sets nothing", "retryConstraint or sessionPersistence")
	}
}

// int32Of keeps out of bounds what is: a number that does not fit is the greatest.
func int32Of(n *int) *int32 {
	if n == nil {
		return nil
	}
	to := int32(max(math.MinInt32, min(math.MaxInt32, *n)))
	return &to
}

// setsBudget adds the stanza if nothing was found wrong since the findings were counted.
func (c *policyCompiler) setsBudget(budget *snapshot.RetryBudget, findings int) {
	if len(c.findings) == findings {
		c.sets("retryBudget", clusterSetting(func(cl *snapshot.Cluster) { cl.RetryBudget = budget }))
	}
}

// setsSession compiles session persistence, and adds the stanza if nothing is wrong.
func (c *policyCompiler) setsSession(from *v1alpha1.SessionPersistence) {
	before := len(c.findings)
	session := compileSession(from, "spec.sessionPersistence", c.invalid)
	if len(c.findings) == before {
		c.sets("sessionPersistence", session)
	}
}
