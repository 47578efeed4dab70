package compile

import (
	"fmt"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// proxyProtocolStanza is a ListenerPolicy's; its value is a *snapshot.ProxyProtocol.
const proxyProtocolStanza = "proxyProtocol"

func compileProxyProtocol(c *policyCompiler, p *v1alpha1.ListenerProxyProtocol) {
	const field = "spec.proxyProtocol"
	before := len(c.findings)
	if len(p.TrustedSources) == 0 {
		c.invalid(field+".trustedSources", "there are none", "the networks of the load balancers in front, such as 10.0.0.0/8")
	}
	compiled := &snapshot.ProxyProtocol{TrustedSources: c.networks(field+".trustedSources", p.TrustedSources)}
	switch p.Mode {
	case "", v1alpha1.ProxyProtocolRequired:
	case v1alpha1.ProxyProtocolOptional:
		compiled.Optional = true
	default:
		c.invalid(field+".mode", fmt.Sprintf("%q is not a mode", p.Mode), "Required or Optional")
	}
	if len(c.findings) == before {
		c.sets(proxyProtocolStanza, compiled)
	}
}

// proxyProtocolAt returns what holds at a listener, given its places, and whose it is.
func (x *policies) proxyProtocolAt(places []place) (*snapshot.ProxyProtocol, attached) {
	for _, w := range x.effective(listenerPolicies, places...) {
		if p, ok := w.stanza.value.(*snapshot.ProxyProtocol); ok {
			return p, w.attached
		}
	}
	return nil, attached{}
}

// proxyProtocol implements policyIndex. One listener's trust must not reach the
// clients of another that shares its port: so nobody is trusted unless all agree.
// The Gateway's own listeners, that is: others cannot break it.
func (x *policies) proxyProtocol(shared []*listener) *snapshot.ProxyProtocol {
	shared = ownOf(shared)
	var first *snapshot.ProxyProtocol
	other := ""
	for i, l := range shared {
		p, _ := x.proxyProtocolAt(l.portPlaces())
		if i == 0 {
			first = p
		} else if other == "" && !equal(first, p) {
			other = l.key
		}
	}
	if other == "" {
		return first
	}
	for _, l := range shared {
		with := other
		if p, _ := x.proxyProtocolAt(l.portPlaces()); !equal(first, p) {
			with = shared[0].key
		}
		x.disputed[l.key] = with
	}
	return nil
}

// isAdded reports whether the listener is a ListenerSet's.
func (l *listener) isAdded() bool { return l.parent != &l.parent.gateway.parent }

// portPlaces are where policies on the listener's port can be attached.
func (l *listener) portPlaces() []place {
	if l.isAdded() {
		return []place{{object: l.parent.gateway.ref()}}
	}
	return l.places()
}
