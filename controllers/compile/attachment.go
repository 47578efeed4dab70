package compile

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// attachment is one rule as one listener serves it: the place whose effective
// policies are asked for. Policies of the Gateway, the ListenerSet, the listener,
// the route and the rule come together there.
type attachment struct {
	Listener *listener
	Route    *form
	// Rule is an index into Route.Spec.Rules.
	Rule int
}

// backendUse is a reference to a backend: a rule's, or, with no Route, that of a
// policy or filter to an authorization server.
type backendUse struct {
	Backend objects.Ref
	Port    *corev1.ServicePort
	Route   *form
	Rule    int
}

// policyIndex is all policies, resolved against the objects that they refer
// to, by what they target. It is built anew when anything but a route or
// an EndpointSlice changed, and is immutable. (A route that comes, goes
// or changes makes the statuses of the policies in attachedTo and concernedBy
// stale, and nothing else.)
type policyIndex interface {
	// filters returns a rule's whole list of filters in pipeline order: own,
	// the rule's Gateway API filters in their order, at the places that the list
	// of policies gives them, and those of the effective policies. uses are the
	// clusters that the policies' filters name. broken, if not
	// "", says why the rule must answer 500 (snapshot.Rule.Broken).
	filters(at attachment, own ownFilters) (filters []policy.Config, uses []clusterUse, broken string)
	// streams returns the filters of a TCPRoute, TLSRoute or UDPRoute (snapshot.Target.Filters).
	streams(at attachment) []policy.Config
	// priority returns the rule's snapshot.Rule.Priority.
	priority(at attachment, own ownFilters) string
	// client returns the settings of a listener's client side, nil for defaults.
	client(l *listener) *snapshot.Client
	// proxyProtocol returns whose PROXY protocol headers a socket's listeners
	// take, nil for nobody's. Where they do not agree it is nil, and status says so.
	proxyProtocol(shared []*listener) *snapshot.ProxyProtocol
	// connections returns what bounds the connections of a socket, given the
	// listeners that share it; nil for nothing.
	connections(shared []*listener) *snapshot.ConnectionLimits
	// tls adds what policies and the listener's own options say to its TLS.
	tls(l *listener, t *snapshot.TLS)
	// http3 returns how a listener speaks HTTP/3, nil if it does not.
	http3(l *listener) *snapshot.HTTP3
	// refuseHTTP3 keeps in mind what status is to say of a listener that does not
	// get what http3 returned; field is below the stanza.
	refuseHTTP3(l *listener, field, message, want string)
	// cluster fills in what the effective BackendPolicies say for one backendRef:
	// those on the backend, its port, the route and the rule. target, if not "",
	// names the route or rule ("HTTPRoute/namespace/name" or with "/rule") whose
	// policy makes the cluster differ from the backend's own; it becomes the
	// key's "@target". port is nil for a Backend.
	cluster(at backendUse, use *clusterUse) (target string)
	// backend returns what the same policies say of the backend as the rule uses it.
	backend(at backendUse) backendSettings
	// split returns how the policies at a rule share its clients among its backends,
	// nil if they share the requests.
	split(route *form, rule int) *snapshot.Split
	// attachedTo returns the policies that target an object, sorted.
	attachedTo(target objects.Ref) []objects.Ref
	// flaw returns why a policy cannot be a rule's filter, "" if it can.
	flaw(policy objects.Ref) string
	// concernedBy returns a policy that a route names in a filter, if there is
	// one, and those that are not attached to routes whose statuses may tell of it.
	concernedBy(extension objects.Ref) []objects.Ref
	// all returns every policy, sorted.
	all() []objects.Ref
	// status returns a policy's status and findings, given the routes as they are in the set now,
	// and what there is to remark of it. Only the index itself is older than the set.
	status(set *objects.Set, policy objects.Ref, remarks []remark) (*Status, []Finding)
	// wanted returns the Secrets and ConfigMaps that policies refer to, existing or not.
	wanted() []objects.Ref
	// resolve finds the backends that policies refer to, against a frame that is
	// complete but for what routes and policies do not look at.
	resolve(f *frame, set *objects.Set)
	// backends reports whether a policy refers to a Service or Backend, existing or not.
	backends(ref objects.Ref) bool
}
