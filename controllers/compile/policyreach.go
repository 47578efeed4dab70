package compile

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// checkListeners reports what of a policy at a Gateway does nothing at any of
// the listeners that it is for.
func (x *policies) checkListeners(set *objects.Set, p *compiledPolicy, at place, target int, r *report, accepted *verdict) {
	gateway, ok := set.Get(at.object).(*gatewayv1.Gateway)
	if !ok {
		return
	}
	var listeners []*gatewayv1.Listener
	for i := range gateway.Spec.Listeners {
		if l := &gateway.Spec.Listeners[i]; at.section == "" || at.section == string(l.Name) {
			listeners = append(listeners, l)
		}
	}
	fail := func(field, message, want string) {
		r.fail(accepted, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid)})
	}
	who := at.object.String()
	if at.section != "" {
		who = "listener " + at.section + " of " + at.object.String()
	}
	if policyKinds[p.kind].filters != nil {
		if !takenByAny(listeners, takesRequests) {
			fail(fmt.Sprintf("spec.targetRefs[%d]", target), who+" takes no requests", "a listener with protocol HTTP or HTTPS, or a route of requests")
		}
		return
	}
	for i := range p.stanzas {
		name := p.stanzas[i].name
		reach := reachOf(name)
		if !takenByAny(listeners, reach.takes) {
			fail("spec."+name, who+" "+reach.not, reach.want)
		}
	}
	if p.stanza(proxyProtocolStanza) == nil {
		return
	}
	for _, l := range listeners {
		key := at.object.Namespace + "/" + at.object.Name + "/" + string(l.Name)
		other := x.disputed[key]
		if _, holds := x.proxyProtocolAt(at.object, string(l.Name)); other != "" && holds.policy == p && holds.target == target {
			fail("spec."+proxyProtocolStanza, fmt.Sprintf("listener %s shares port %d with listener %s, which has another proxyProtocol or none: no header is read there", key, l.Port, other),
				"the same proxyProtocol for all listeners of a port, such as by a policy without sectionName")
			return
		}
	}
}

func takenByAny(listeners []*gatewayv1.Listener, takes func(*gatewayv1.Listener) bool) bool {
	for _, l := range listeners {
		if takes(l) {
			return true
		}
	}
	return false
}

// reach is at which listeners a stanza of a ListenerPolicy does something; not
// says of the others why it does nothing, and want which would be right.
type reach struct {
	takes     func(*gatewayv1.Listener) bool
	not, want string
}

func reachOf(stanza string) reach {
	switch {
	case strings.HasPrefix(stanza, "tls."):
		return reach{terminatesTLS, "terminates no TLS", "a listener with protocol HTTPS, or TLS with mode Terminate"}
	case stanza == proxyProtocolStanza:
		return reach{takesConnections, "takes no connections", "a listener with protocol HTTP, HTTPS, TLS or TCP"}
	case stanza == http3Stanza:
		return reach{speaksHTTPS, "speaks no HTTPS", "a listener with protocol HTTPS"}
	case stanza == "timeouts.idle":
		return reach{func(*gatewayv1.Listener) bool { return true }, "", ""}
	}
	return reach{takesRequests, "takes no requests", "a listener with protocol HTTP or HTTPS"}
}

func takesRequests(l *gatewayv1.Listener) bool {
	return l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.HTTPSProtocolType
}

func speaksHTTPS(l *gatewayv1.Listener) bool { return l.Protocol == gatewayv1.HTTPSProtocolType }

func takesConnections(l *gatewayv1.Listener) bool { return l.Protocol != gatewayv1.UDPProtocolType }

func terminatesTLS(l *gatewayv1.Listener) bool { return (&listener{spec: l}).terminates() }
