package compile

import (
	"cmp"
	"fmt"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func compileCircuitBreaker(c *policyCompiler, from *v1alpha1.CircuitBreaker) *snapshot.CircuitBreaker {
	const field = "spec.circuitBreaker"
	bound := func(name string, n *int32) int {
		return int(number(c, field+"."+name, n, 0, 1, 1_000_000))
	}
	to := &snapshot.CircuitBreaker{
		MaxRequests: bound("maxRequests", from.MaxRequests),
		MaxRetries:  bound("maxRetries", from.MaxRetries),
	}
	if by := from.AdaptiveConcurrency; by != nil {
		to.AdaptiveConcurrency = compileAdaptiveConcurrency(c, field+".adaptiveConcurrency", by, cmp.Or(to.MaxRequests, 1000))
	}
	if per := from.PerEndpoint; per != nil {
		to.PerEndpoint = snapshot.PerEndpointBounds{
			MaxConnections: bound("perEndpoint.maxConnections", per.MaxConnections),
			MaxRequests:    bound("perEndpoint.maxRequests", per.MaxRequests),
		}
		if per.MaxConnections == nil && per.MaxRequests == nil {
			c.invalid(field+".perEndpoint", "it sets nothing", "maxConnections or maxRequests")
		}
	}
	if q := from.Queue; q != nil {
		to.Queue = snapshot.RequestQueue{
			MaxRequests: int(number(c, field+".queue.maxRequests", &q.MaxRequests, 0, 1, 10_000)),
			Timeout:     c.duration(field+".queue.timeout", q.Timeout, time.Second, time.Millisecond, time.Minute),
		}
		if from.MaxRequests == nil && from.PerEndpoint == nil && from.AdaptiveConcurrency == nil {
			c.invalid(field+".queue", "nothing waits, since none of maxRequests, perEndpoint and adaptiveConcurrency bounds anything", "one of these")
		}
	}
	if from.MaxRequests == nil && from.MaxRetries == nil && from.PerEndpoint == nil && from.AdaptiveConcurrency == nil && from.Queue == nil {
		c.invalid(field, "it sets nothing", "maxRequests, maxRetries, perEndpoint or adaptiveConcurrency")
	}
	return to
}

// compileAdaptiveConcurrency compiles what moves a bound that is at most so many requests.
func compileAdaptiveConcurrency(c *policyCompiler, field string, from *v1alpha1.AdaptiveConcurrency, most int) *snapshot.AdaptiveConcurrency {
	to := &snapshot.AdaptiveConcurrency{
		MinRequests:             int(number(c, field+".minRequests", from.MinRequests, 3, 1, 1_000_000)),
		MaxRequests:             most,
		LatencyTolerancePercent: int(number(c, field+".latencyTolerancePercent", from.LatencyTolerancePercent, 50, 1, 1000)),
		MinLatencyInterval:      c.duration(field+".minLatencyInterval", from.MinLatencyInterval, 30*time.Second, time.Second, time.Hour),
	}
	if to.MinRequests > most {
		c.invalid(field+".minRequests", fmt.Sprintf("%d is more than maxRequests, which is %d", to.MinRequests, most), "fewer, or a higher maxRequests")
	}
	return to
}
