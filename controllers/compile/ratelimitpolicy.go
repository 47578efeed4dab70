package compile

import (
	"fmt"
	"math"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/ratelimit"
)

func compileRateLimitPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.RateLimitPolicy).Spec
	if len(spec.Limits) == 0 {
		c.invalid("spec.limits", "there is no limit", "at least one")
	}
	for i := range spec.Limits {
		before := len(c.findings)
		field := fmt.Sprintf("spec.limits[%d]", i)
		limit := &spec.Limits[i]
		name := fmt.Sprintf("limits[%s]", limit.Name)
		if c.stanza(name) != nil {
			c.invalid(field+".name", fmt.Sprintf("there are two limits named %q", limit.Name), "a name for each")
			continue
		}
		// A limit that cannot be understood is left out; the others hold.
		if value := c.limit(field, limit); len(c.findings) == before {
			c.sets(name, value)
		}
	}
}

func (c *policyCompiler) limit(field string, spec *v1alpha1.RateLimit) ratelimit.Limit {
	limit := ratelimit.Limit{Name: spec.Name}
	limit.Requests = int64(number(c, field+".requests", &spec.Requests, 1, 1, 1_000_000_000))
	limit.Burst = int64(number(c, field+".burst", spec.Burst, int32(limit.Requests), 1, 1_000_000_000))
	limit.Per = c.duration(field+".per", &spec.Per, time.Second, time.Millisecond, 24*time.Hour)
	if limit.Per < time.Duration(limit.Requests) {
		c.invalid(field+".requests", "there can be at most one request per nanosecond", "fewer requests, or a longer per")
	} else if limit.Burst > math.MaxInt64/4/(int64(limit.Per)/limit.Requests) {
		c.invalid(field+".burst", "a burst is at most what is let through in 73 years", "a smaller burst")
	}
	for i := range spec.Key {
		k := &spec.Key[i]
		part := ratelimit.Part{Type: string(k.Type)}
		if k.Header != nil {
			part.Header = string(*k.Header)
		}
		at := fmt.Sprintf("%s.key[%d]", field, i)
		switch k.Type {
		case v1alpha1.RateLimitClientIP, v1alpha1.RateLimitConsumer, v1alpha1.RateLimitRoute, v1alpha1.RateLimitHeader:
		default:
			c.invalid(at+".type", fmt.Sprintf("%q is not a property of a request", k.Type), "one of ClientIP, Consumer, Header, Route")
		}
		if (k.Type == v1alpha1.RateLimitHeader) != (part.Header != "") {
			c.invalid(at+".header", "header goes with the type Header, and only with it", "type: Header with header: NAME")
		}
		limit.By = append(limit.By, part)
	}
	return limit
}

func rateLimitFilters(e effective) []policy.Config {
	var config ratelimit.Config
	for _, w := range e {
		limit := w.stanza.value.(ratelimit.Limit)
		// The buckets belong to the policy at its target: whatever is below
		// that shares them, and nothing else does.
		limit.Key = fmt.Sprintf("%s/%s/%s at %s", w.policy.ref.Namespace, w.policy.ref.Name, limit.Name, w.place)
		config.Limits = append(config.Limits, limit)
	}
	if len(config.Limits) == 0 {
		return nil
	}
	return []policy.Config{&config}
}
