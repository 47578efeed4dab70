package compile

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// connectionStanzas begins the names of the stanzas that are about a listener's
// connections.
const connectionStanzas = "connections."

// portSetting is a stanza's value that bounds what there is at a port. The least
// of several holds.
type portSetting func(*snapshot.ConnectionLimits)

// isOfPort reports whether a stanza is about a port rather than a listener.
func isOfPort(stanza string) bool {
	switch strings.TrimPrefix(stanza, connectionStanzas) {
	case "max", "maxPerClient", "ratePerClient":
		return true
	}
	return stanza == proxyProtocolStanza
}

func compileClientConnections(c *policyCompiler, spec *v1alpha1.ClientConnections) {
	const field = "spec." + connectionStanzas
	if spec.Max != nil {
		before := len(c.findings)
		n := int(number(c, field+"max", spec.Max, 0, 1, 10_000_000))
		c.setsIfGood(connectionStanzas+"max", before, portSetting(func(l *snapshot.ConnectionLimits) { l.Max = least(l.Max, n) }))
	}
	if spec.MaxPerClient != nil {
		before := len(c.findings)
		n := int(number(c, field+"maxPerClient", spec.MaxPerClient, 0, 1, 10_000_000))
		c.setsIfGood(connectionStanzas+"maxPerClient", before, portSetting(func(l *snapshot.ConnectionLimits) { l.MaxPerClient = least(l.MaxPerClient, n) }))
	}
	if r := spec.RatePerClient; r != nil {
		before := len(c.findings)
		rate := &snapshot.ConnectionRate{
			Connections: int(number(c, field+"ratePerClient.connections", &r.Connections, 1, 1, 1_000_000)),
			Per:         c.duration(field+"ratePerClient.per", &r.Per, time.Second, time.Millisecond, 24*time.Hour),
			Burst:       int(number(c, field+"ratePerClient.burst", r.Burst, r.Connections, 1, 1_000_000)),
		}
		if int64(rate.Burst) > math.MaxInt64/4/(int64(rate.Per)/int64(rate.Connections)) {
			c.invalid(field+"ratePerClient.burst", "a burst is at most what is let in in 73 years", "a smaller burst")
		}
		c.setsIfGood(connectionStanzas+"ratePerClient", before, portSetting(func(l *snapshot.ConnectionLimits) {
			if l.RatePerClient == nil || slower(rate, l.RatePerClient) {
				l.RatePerClient = rate
			}
		}))
	}
	if spec.MaxAge != nil {
		before := len(c.findings)
		age := c.duration(field+"maxAge", spec.MaxAge, 0, time.Second, 720*time.Hour)
		grace := c.duration(field+"maxAgeGrace", spec.MaxAgeGrace, 0, time.Second, 24*time.Hour)
		c.setsIfGood(connectionStanzas+"maxAge", before, clientSetting(func(cl *snapshot.Client) {
			cl.MaxConnectionAge, cl.MaxConnectionAgeGrace = age, grace
		}))
	} else if spec.MaxAgeGrace != nil {
		c.invalid(field+"maxAgeGrace", "there is no maxAge that it follows", "maxAge beside it")
	}
	if spec.MaxRequests != nil {
		before := len(c.findings)
		n := int(number(c, field+"maxRequests", spec.MaxRequests, 0, 1, 1_000_000_000))
		c.setsIfGood(connectionStanzas+"maxRequests", before, clientSetting(func(cl *snapshot.Client) { cl.MaxRequestsPerConnection = n }))
	}
}

// least returns the lesser of two bounds, of which the first may be none.
func least(bound, n int) int {
	if bound == 0 {
		return n
	}
	return min(bound, n)
}

// slower reports whether a lets in less than b, and the same whichever is asked first.
func slower(a, b *snapshot.ConnectionRate) bool {
	if x, y := int64(a.Per)/int64(a.Connections), int64(b.Per)/int64(b.Connections); x != y {
		return x > y
	}
	return a.Burst < b.Burst
}

// connections implements policyIndex.
func (x *policies) connections(shared []*listener) *snapshot.ConnectionLimits {
	limits, some := &snapshot.ConnectionLimits{}, false
	shared = ownOf(shared)
	for _, l := range shared {
		for _, w := range x.effective(listenerPolicies, l.portPlaces()...) {
			if set, ok := w.stanza.value.(portSetting); ok {
				set(limits)
				some = true
			}
		}
	}
	if !some {
		return nil
	}
	if limits.MaxPerClient > 0 || limits.RatePerClient != nil {
		for _, l := range shared {
			if client := x.client(l); client != nil {
				limits.Exempt = append(limits.Exempt, client.TrustedProxies...)
			}
		}
		slices.Sort(limits.Exempt)
		limits.Exempt = slices.Compact(limits.Exempt)
	}
	return limits
}

// ownOf returns the listeners of a port that are its Gateway's own: whoever adds
// one by a ListenerSet takes the port as it is. If there are only such, they are
// returned, at which only the Gateway's policies are looked for.
func ownOf(shared []*listener) []*listener {
	if own := slices.DeleteFunc(slices.Clone(shared), (*listener).isAdded); len(own) > 0 {
		return own
	}
	return shared
}
