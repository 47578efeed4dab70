package compile

import (
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// parent is what routes attach to: a Gateway or a ListenerSet, with its listeners.
type parent struct {
	report
	// gateway has the address and the ports: the Gateway itself, or the ListenerSet's.
	gateway    *gateway
	generation int64
	listeners  []*listener // in the order of spec.listeners
	// attached says why a ListenerSet's listeners are none of the Gateway's. It then has none.
	attached verdict
	// status is the object's with the number of routes that each listener has.
	status func(attached func(listener string) int32) *Status
}

func (p *parent) ref() objects.Ref { return p.report.object }

// listenerKey returns the key of a parent's listener in the snapshot. Kinds are
// upper case and namespaces are not, so no two are the same.
func listenerKey(parent objects.Ref, name gatewayv1.SectionName) string {
	key := parent.Namespace + "/" + parent.Name + "/" + string(name)
	if parent.Kind != "Gateway" {
		key = parent.Kind + "/" + key
	}
	return key
}

// parentOf returns the parent of a listener by its key.
func parentOf(listenerKey string) objects.Ref {
	ref := objects.Ref{Kind: "Gateway"}
	if rest, ok := strings.CutPrefix(listenerKey, "ListenerSet/"); ok {
		ref.Kind, listenerKey = "ListenerSet", rest
	}
	ref.Namespace, listenerKey, _ = strings.Cut(listenerKey, "/")
	ref.Name, _, _ = strings.Cut(listenerKey, "/")
	return ref
}

func (l *listener) places() []place {
	return listenerPlaces(l.parent.gateway.ref(), l.parent.ref(), l.spec.Name)
}

// listenerPlaces are where policies that hold for a parent's listener can be
// attached, from the outermost to the nearest. What is attached to a Gateway
// holds for its ListenerSets too, so that nobody escapes it by bringing a
// listener; what is attached to one of the Gateway's listeners does not.
func listenerPlaces(gateway, parent objects.Ref, name gatewayv1.SectionName) []place {
	places := []place{{object: gateway}}
	if parent != gateway {
		places = append(places, place{object: parent})
	}
	return append(places, place{parent, string(name)})
}

// parentView is what routes see of a parent.
type parentView struct {
	gateway   objects.Ref
	client    *clientCertificate
	attached  bool
	claims    bool // it is a default Gateway
	listeners []listenerView
}

// listenerView is what routes see of a listener.
type listenerView struct {
	name       gatewayv1.SectionName
	port       gatewayv1.PortNumber
	hostname   string
	kinds      []gatewayv1.RouteGroupKind
	namespaces namespaces
	serves     bool
}

// view is what routes see of a parent, nil of none: if it stays the same, they
// need not be compiled again.
func (p *parent) view() *parentView {
	if p == nil {
		return nil
	}
	views := make([]listenerView, len(p.listeners))
	for i, l := range p.listeners {
		views[i] = listenerView{l.spec.Name, l.spec.Port, l.hostname, l.kinds, l.namespaces, l.serves()}
	}
	claims := p.ref() == p.gateway.ref() && p.gateway.object.Spec.DefaultScope == gatewayv1.GatewayDefaultScopeAll
	return &parentView{p.gateway.ref(), p.gateway.client, p.attached.ok(), claims, views}
}
