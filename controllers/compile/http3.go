package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// http3Stanza is a ListenerPolicy's; its value is a *snapshot.HTTP3.
const http3Stanza = "http3"

func compileHTTP3(c *policyCompiler, spec *v1alpha1.ListenerHTTP3) {
	before := len(c.findings)
	compiled := &snapshot.HTTP3{
		EarlyData:    spec.EarlyData,
		AltSvcMaxAge: c.duration("spec.http3.altSvcMaxAge", spec.AltSvcMaxAge, 24*time.Hour, 0, 365*24*time.Hour),
	}
	if len(c.findings) == before {
		c.sets(http3Stanza, compiled)
	}
}

// http3At returns what holds at a listener, given its places, and whose it is.
func (x *policies) http3At(places []place) (*snapshot.HTTP3, attached) {
	for _, w := range x.effective(listenerPolicies, places...) {
		if h, ok := w.stanza.value.(*snapshot.HTTP3); ok {
			return h, w.attached
		}
	}
	return nil, attached{}
}

// http3 implements policyIndex.
func (x *policies) http3(l *listener) *snapshot.HTTP3 {
	if !speaksHTTPS(l.spec) {
		return nil
	}
	h, _ := x.http3At(l.places())
	return h
}

// refuseHTTP3 implements policyIndex.
func (x *policies) refuseHTTP3(l *listener, field, message, want string) {
	x.withoutHTTP3[l.key] = Finding{Field: "spec." + http3Stanza + field, Message: message, Want: want}
}

// checkHTTP3 reports at which listeners of a target a policy's http3 does not hold.
func (x *policies) checkHTTP3(set *objects.Set, p *compiledPolicy, at place, target int, r *report, accepted *verdict) {
	if p.stanza(http3Stanza) == nil {
		return
	}
	listeners, _ := reachedFrom(set, at)
	for _, l := range listeners {
		f, refused := x.withoutHTTP3[l.key]
		if _, holds := x.http3At(l.places); refused && holds.policy == p && holds.target == target {
			f.Condition, f.Reason = string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonConflicted)
			r.fail(accepted, f)
		}
	}
}

// settleHTTP3 returns the ports of UDP to bind for sockets of TCP, by number. It
// takes HTTP/3 from listeners whose port of UDP is another's; all other sockets
// are bound before.
func (s sockets) settleHTTP3(policies policyIndex) map[uint16]*socket {
	over := map[uint16]*socket{}
	for _, key := range slices.SortedFunc(maps.Keys(s), func(x, y socketKey) int {
		return cmp.Or(cmp.Compare(x.transport, y.transport), cmp.Compare(x.number, y.number))
	}) {
		for _, l := range s[key].listeners {
			if l.http3 == nil || l.boundUDP == 0 {
				continue
			}
			taken := s[socketKey{"udp", l.boundUDP}]
			if taken == nil {
				if taken = over[l.boundUDP]; taken == nil || taken == s[key] {
					over[l.boundUDP] = s[key]
					continue
				}
			}
			l.refuseHTTP3(policies, taken.listeners[0])
		}
	}
	return over
}

// markHTTP3 gives the Gateway's listeners what policies say of HTTP/3, unless
// the Gateway has a listener of UDP at the same port.
func (g *gateway) markHTTP3(policies policyIndex) {
	for l := range g.all() {
		if l.http3 = policies.http3(l); l.http3 == nil {
			continue
		}
		for other := range g.all() {
			if other.transport() != "udp" || other.spec.Port != l.spec.Port || !other.accepted.ok() {
				continue
			}
			if other.isAdded() && !l.isAdded() {
				// Who adds a listener takes nothing from those that are the Gateway's own.
				other.conflict(gatewayv1.ListenerReasonProtocolConflict, gatewayv1.ListenerReasonProtocolConflict, ".port",
					fmt.Sprintf("port %d of UDP has the HTTP/3 of a listener that takes precedence", l.spec.Port), "another port")
				continue
			}
			l.refuseHTTP3(policies, other)
			break
		}
	}
}

// refuseHTTP3 leaves the port of UDP to another listener.
func (l *listener) refuseHTTP3(policies policyIndex, other *listener) {
	l.http3 = nil
	policies.refuseHTTP3(l, "", fmt.Sprintf("listener %s has no HTTP/3: port %d of UDP is listener %s's", l.key, l.spec.Port, other.key),
		"another port for one of them")
}
