package compile

import (
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
		if from.MaxRequests == nil && from.PerEndpoint == nil {
			c.invalid(field+".queue", "nothing waits, since neither maxRequests nor perEndpoint bounds anything", "one of these")
		}
	}
	if from.MaxRequests == nil && from.MaxRetries == nil && from.PerEndpoint == nil && from.Queue == nil {
		c.invalid(field, "it sets nothing", "maxRequests, maxRetries or perEndpoint")
	}
	return to
}
