package compile

import (
	"fmt"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// reached is a listener for which a policy is.
type reached struct {
	*gatewayv1.Listener
	key    string
	places []place
}

// reachedFrom returns the listeners for which what is attached at a Gateway, a
// ListenerSet or a section of them is; ok is false of other kinds.
func reachedFrom(set *objects.Set, at place) (list []reached, ok bool) {
	add := func(gateway, parent objects.Ref, l *gatewayv1.Listener) {
		if at.section == "" || at.object == parent && at.section == string(l.Name) {
			list = append(list, reached{l, listenerKey(parent, l.Name), listenerPlaces(gateway, parent, l.Name)})
		}
	}
	addSet := func(gateway objects.Ref, s *gatewayv1.ListenerSet) {
		for i := range s.Spec.Listeners {
			l := gatewayv1.Listener(s.Spec.Listeners[i])
			add(gateway, objects.RefOf(s), &l)
		}
	}
	switch o := set.Get(at.object).(type) {
	case *gatewayv1.Gateway:
		for i := range o.Spec.Listeners {
			add(at.object, at.object, &o.Spec.Listeners[i])
		}
		for _, s := range objects.All[*gatewayv1.ListenerSet](set) {
			if gateway, _ := objects.GatewayOf(s); gateway == at.object {
				addSet(gateway, s)
			}
		}
		return list, true
	case *gatewayv1.ListenerSet:
		gateway, _ := objects.GatewayOf(o)
		addSet(gateway, o)
		return list, true
	}
	return nil, false
}

// checkListeners reports what of a policy at a Gateway or ListenerSet does
// nothing at any of the listeners that it is for.
func (x *policies) checkListeners(set *objects.Set, p *compiledPolicy, at place, target int, r *report, accepted *verdict) {
	listeners, ok := reachedFrom(set, at)
	if !ok {
		return
	}
	fail := func(field, message, want string) {
		r.fail(accepted, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid)})
	}
	who := at.object.String()
	if at.section != "" {
		who = "listener " + at.section + " of " + at.object.String()
	}
	if p.row.filters != nil && p.row.streams == nil {
		if !takenByAny(listeners, takesRequests) {
			fail(fmt.Sprintf("spec.targetRefs[%d]", target), who+" takes no requests", "a listener with protocol HTTP or HTTPS, or a route of requests")
		}
		return
	}
	for i := range p.stanzas {
		name := p.stanzas[i].name
		reach := reachOf(name)
		if p.row.streams != nil {
			reach = rateLimitReach(p.stanzas[i].value)
		}
		if !takenByAny(listeners, reach.takes) {
			fail("spec."+name, who+" "+reach.not, reach.want)
		}
	}
	if at.object.Kind == "ListenerSet" {
		for i := range p.stanzas {
			if name := p.stanzas[i].name; isOfPort(name) {
				fail("spec."+name, "the ports of "+at.object.String()+" are its Gateway's", "the Gateway as target")
			}
		}
		return
	}
	if p.stanza(proxyProtocolStanza) == nil {
		return
	}
	for _, l := range listeners {
		other := x.disputed[l.key]
		if _, holds := x.proxyProtocolAt(l.places); other != "" && holds.policy == p && holds.target == target {
			fail("spec."+proxyProtocolStanza, fmt.Sprintf("listener %s shares port %d with listener %s, which has another proxyProtocol or none: no header is read there", l.key, l.Port, other),
				"the same proxyProtocol for all listeners of a port, such as by a policy without sectionName")
			return
		}
	}
}

func takenByAny(listeners []reached, takes func(*gatewayv1.Listener) bool) bool {
	for _, l := range listeners {
		if takes(l.Listener) {
			return true
		}
	}
	return false
}

// reach is at which listeners a stanza of a policy does something; not
// says of the others why it does nothing, and want which would be right.
type reach struct {
	takes     func(*gatewayv1.Listener) bool
	not, want string
}

func reachOf(stanza string) reach {
	switch {
	case strings.HasPrefix(stanza, "tls."):
		return reach{terminatesTLS, "terminates no TLS", "a listener with protocol HTTPS, or TLS with mode Terminate"}
	case stanza == proxyProtocolStanza, stanza == connectionStanzas+"maxAge":
		return reachConnections
	case stanza == http3Stanza:
		return reach{speaksHTTPS, "speaks no HTTPS", "a listener with protocol HTTPS"}
	case stanza == "timeouts.idle", isOfPort(stanza):
		return reachAll
	}
	return reachRequests
}

var (
	reachRequests    = reach{takesRequests, "takes no requests", "a listener with protocol HTTP or HTTPS"}
	reachConnections = reach{takesConnections, "takes no connections", "a listener with protocol HTTP, HTTPS, TLS or TCP"}
	reachAll         = reach{func(*gatewayv1.Listener) bool { return true }, "", ""}
)

// rateLimitReach is reachOf for what a RateLimitPolicy's stanza sets.
func rateLimitReach(value any) reach {
	switch {
	case ofStreams(value) != "":
		return reachRequests
	case isBandwidth(value):
		return reachConnections
	}
	return reachAll
}

func takesRequests(l *gatewayv1.Listener) bool {
	return l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.HTTPSProtocolType
}

func speaksHTTPS(l *gatewayv1.Listener) bool { return l.Protocol == gatewayv1.HTTPSProtocolType }

func takesConnections(l *gatewayv1.Listener) bool { return l.Protocol != gatewayv1.UDPProtocolType }

func terminatesTLS(l *gatewayv1.Listener) bool { return (&listener{spec: l}).terminates() }
