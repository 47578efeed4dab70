package compile

import (
	"fmt"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/overload"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/ratelimit"
)

func compileRateLimitPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.RateLimitPolicy).Spec
	if len(spec.Limits)+len(spec.Concurrency)+len(spec.Bandwidth) == 0 && spec.Priority == nil {
		c.invalid("spec", "there is no limit, and no priority", "limits, concurrency, bandwidth or priority")
	}
	if spec.Priority != nil {
		before := len(c.findings)
		name := string(*spec.Priority)
		if _, ok := overload.ParsePriority(name); !ok || name == "" {
			c.invalid("spec.priority", fmt.Sprintf("%q does not exist", name), "Low, Default, High or Critical")
		}
		c.setsIfGood("priority", before, requestPriority(name))
	}
	// A limit that cannot be understood is left out; the others hold.
	for i := range spec.Limits {
		limit := &spec.Limits[i]
		c.named("limits", i, limit.Name, func(field string) any { return c.limit(field, limit) })
	}
	for i := range spec.Concurrency {
		limit := &spec.Concurrency[i]
		c.named("concurrency", i, limit.Name, func(field string) any { return c.concurrency(field, limit) })
	}
	for i := range spec.Bandwidth {
		limit := &spec.Bandwidth[i]
		c.named("bandwidth", i, limit.Name, func(field string) any { return c.bandwidth(field, limit) })
	}
	c.checkStreams(spec)
}

// requestPriority is a stanza's value.
type requestPriority string

// priority implements policyIndex.
func (x *policies) priority(at attachment, own ownFilters) string {
	for _, w := range x.effective(rateLimitPolicies, at.places(own)...) {
		if p, ok := w.stanza.value.(requestPriority); ok && p != "Default" {
			return string(p)
		}
	}
	return ""
}

// named sets the stanza of one of a list's elements, which have names.
func (c *policyCompiler) named(list string, i int, name string, compile func(field string) any) {
	before := len(c.findings)
	field := fmt.Sprintf("spec.%s[%d]", list, i)
	stanza := fmt.Sprintf("%s[%s]", list, name)
	if c.stanza(stanza) != nil {
		c.invalid(field+".name", fmt.Sprintf("there are two of %s named %q", list, name), "a name for each")
		return
	}
	value := compile(field)
	c.setsIfGood(stanza, before, value)
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
	limit.By = c.key(field+".key", spec.Key)
	return limit
}

func (c *policyCompiler) concurrency(field string, spec *v1alpha1.ConcurrencyLimit) ratelimit.ConcurrencyLimit {
	return ratelimit.ConcurrencyLimit{
		Name:     spec.Name,
		Requests: int(number(c, field+".requests", &spec.Requests, 1, 1, 1_000_000)),
		By:       c.key(field+".key", spec.Key),
	}
}

// bandwidthLimit is a stanza's value.
type bandwidthLimit struct {
	ratelimit.BandwidthLimit
	direction v1alpha1.BandwidthDirection
}

func (c *policyCompiler) bandwidth(field string, spec *v1alpha1.BandwidthLimit) bandwidthLimit {
	limit := bandwidthLimit{direction: spec.Direction}
	switch spec.Direction {
	case v1alpha1.BandwidthRequest, v1alpha1.BandwidthResponse:
	case "":
		limit.direction = v1alpha1.BandwidthResponse
	default:
		c.invalid(field+".direction", fmt.Sprintf("%q is not a direction", spec.Direction), "Request or Response")
	}
	limit.Name = spec.Name
	limit.BytesPerSecond = c.quantity(field+".bytesPerSecond", &spec.BytesPerSecond, 1<<10, 1<<10, 1<<40)
	limit.Burst = c.quantity(field+".burst", spec.Burst, limit.BytesPerSecond, 1, 86400*limit.BytesPerSecond)
	limit.After = c.quantity(field+".after", spec.After, 0, 0, 1<<50)
	if len(spec.Key) == 1 && spec.Key[0].Type == v1alpha1.RateLimitRequest && spec.Key[0].Header == nil {
		limit.EachRequest = true
	} else {
		limit.By = c.key(field+".key", spec.Key)
	}
	return limit
}

// quantity reads a number of bytes within bounds; without one, it is unset.
func (c *policyCompiler) quantity(field string, q *resource.Quantity, unset, least, most int64) int64 {
	if q == nil {
		return unset
	}
	n := q.Value()
	if resource.NewQuantity(n, q.Format).Cmp(*q) != 0 || n < least || n > most {
		c.invalid(field, fmt.Sprintf("%s is out of bounds", q), fmt.Sprintf("a number of bytes from %s to %s",
			resource.NewQuantity(least, resource.BinarySI), resource.NewQuantity(most, resource.BinarySI)))
		return unset
	}
	return n
}

// key compiles what has a bucket or a count of its own.
func (c *policyCompiler) key(field string, spec []v1alpha1.RateLimitKey) (parts []ratelimit.Part) {
	for i := range spec {
		k := &spec[i]
		part := ratelimit.Part{Type: string(k.Type)}
		if k.Header != nil {
			part.Header = string(*k.Header)
		}
		at := fmt.Sprintf("%s[%d]", field, i)
		switch k.Type {
		case v1alpha1.RateLimitClientIP, v1alpha1.RateLimitConsumer, v1alpha1.RateLimitRoute, v1alpha1.RateLimitHeader:
		case v1alpha1.RateLimitRequest:
			c.invalid(at+".type", "each request has a bucket of its own for bandwidth alone, and by no other parts", "one of ClientIP, Consumer, Header, Route")
		default:
			c.invalid(at+".type", fmt.Sprintf("%q is not a property of a request", k.Type), "one of ClientIP, Consumer, Header, Route")
		}
		if (k.Type == v1alpha1.RateLimitHeader) != (part.Header != "") {
			c.invalid(at+".header", "header goes with the type Header, and only with it", "type: Header with header: NAME")
		}
		parts = append(parts, part)
	}
	return parts
}

// shared names what is counted for a stanza: it belongs to the policy at its
// target. Whatever is below that shares it, and nothing else does.
func (w *winner) shared(name string) string {
	return fmt.Sprintf("%s/%s/%s at %s", w.policy.ref.Namespace, w.policy.ref.Name, name, w.place)
}

func rateLimitFilters(e effective) (filters []policy.Config) {
	var limits ratelimit.Config
	var concurrency ratelimit.Concurrency
	for i := range e {
		w := &e[i]
		switch limit := w.stanza.value.(type) {
		case ratelimit.Limit:
			limit.Key = w.shared(limit.Name)
			limits.Limits = append(limits.Limits, limit)
		case ratelimit.ConcurrencyLimit:
			limit.Key = w.shared(limit.Name)
			concurrency.Limits = append(concurrency.Limits, limit)
		}
	}
	// What is refused because of others at the same time uses up no tokens.
	if len(concurrency.Limits) > 0 {
		filters = append(filters, &concurrency)
	}
	if len(limits.Limits) > 0 {
		filters = append(filters, &limits)
	}
	return append(filters, bandwidthOf(e, v1alpha1.BandwidthRequest)...)
}

// rateLimitResponses are slowed down when all else has been done to them, so that
// what counts is what is sent.
func rateLimitResponses(e effective) []policy.Config {
	return bandwidthOf(e, v1alpha1.BandwidthResponse)
}

// rateLimitStreams makes the filters of a route of connections or flows.
func rateLimitStreams(e effective, route string) (filters []policy.Config) {
	taken := effective{}
	for _, w := range e {
		if ofStreams(w.stanza.value) == "" && !(route == "UDPRoute" && isBandwidth(w.stanza.value)) {
			taken = append(taken, w)
		}
	}
	return append(rateLimitFilters(taken), rateLimitResponses(taken)...)
}

// ofStreams returns why a stanza is about requests alone, "" if it is about connections, too.
func ofStreams(value any) string {
	var key []ratelimit.Part
	switch v := value.(type) {
	case ratelimit.ConcurrencyLimit:
		key = v.By
	case bandwidthLimit:
		key = v.By
	default:
		return "it is about requests"
	}
	for _, part := range key {
		if part.Type == "Consumer" || part.Type == "Header" {
			return "its key has type " + part.Type + ", which requests alone have"
		}
	}
	return ""
}

func isBandwidth(value any) bool {
	_, ok := value.(bandwidthLimit)
	return ok
}

// checkStreams refuses for routes of connections what they have not. It is set all
// the same: it holds at the other targets.
func (c *policyCompiler) checkStreams(spec *v1alpha1.RateLimitPolicySpec) {
	for _, target := range spec.TargetRefs {
		kind := string(target.Kind)
		if !isStream(kind) {
			continue
		}
		for i := range c.stanzas {
			s := &c.stanzas[i]
			if why := ofStreams(s.value); why != "" {
				c.invalid("spec."+s.name, fmt.Sprintf("%s, and %s %s has none", why, kind, target.Name),
					"concurrency or bandwidth for it, by ClientIP or Route; or ListenerPolicy's connections.ratePerClient for how often clients connect")
			} else if kind == "UDPRoute" && isBandwidth(s.value) {
				c.invalid("spec."+s.name, fmt.Sprintf("datagrams of UDPRoute %s are not slowed down", target.Name), "concurrency for it, or another target")
			}
		}
	}
}

func bandwidthOf(e effective, direction v1alpha1.BandwidthDirection) []policy.Config {
	config := ratelimit.Bandwidth{Direction: string(direction)}
	for i := range e {
		w := &e[i]
		if limit, ok := w.stanza.value.(bandwidthLimit); ok && limit.direction == direction {
			limit.Key, limit.Policy = w.shared(limit.Name), w.policy.ref.Kind+"/"+w.policy.ref.Namespace+"/"+w.policy.ref.Name
			config.Limits = append(config.Limits, limit.BandwidthLimit)
		}
	}
	if len(config.Limits) == 0 {
		return nil
	}
	return []policy.Config{&config}
}
