package compile

import (
	"slices"

	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
)

// policyKind is a kind of policy: how an object of it becomes stanzas, and how
// the effective stanzas at a place become what the data plane does.
type policyKind struct {
	name string
	// list returns all objects of the kind, sorted.
	list func(*objects.Set) []v1alpha1.Policy
	// targets are the kinds of object that it attaches to.
	targets []string
	// mergesWith is the row whose policies it merges with, as its stanzas are some
	// of theirs; 0 for none.
	mergesWith int
	// compile sets the object's stanzas and reports what is wrong with it.
	compile func(*policyCompiler)
	// filters makes a rule's filters. Kinds without it do not take part in the
	// pipeline: their stanzas are looked up by client or cluster.
	filters func(effective) []policy.Config
	// responses makes those that act on responses alone. They stand before all
	// others: a response passes the filters that its request has passed, and
	// these are for every response, also for one that a filter makes.
	responses func(effective) []policy.Config
	// streams makes the filters of routes of connections or flows, of which kind says which.
	streams func(e effective, kind string) []policy.Config
	// own marks a place of the rule's own filters, those of the Gateway API.
	own func(ownFilters) []policy.Config
}

// The rows of policyKinds that others ask for by name.
const (
	listenerPolicies = iota
	corsFilter
	authPolicies
	externalAuthFilter
	rateLimitPolicies
	gatewayAPIFilters
	transformPolicies
	backendPolicies
	trafficPolicies
)

// routeTargets is what policies on requests attach to.
var routeTargets = []string{"Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute"}

// streamTargets are the routes of connections and flows.
var streamTargets = []string{"TCPRoute", "TLSRoute", "UDPRoute"}

// policyKinds is every kind of policy, in the order in which a request meets them.
var policyKinds []policyKind

func init() {
	policyKinds = []policyKind{
		// Limits and timeouts hold while the request is read, before it is known whose it is.
		listenerPolicies: {
			name: "ListenerPolicy", list: listOf[*v1alpha1.ListenerPolicy], targets: []string{"Gateway", "ListenerSet"},
			compile: compileListenerPolicy,
		},
		// Before authentication: a preflight carries no credentials (Fetch standard,
		// "CORS-preflight fetch"), and is answered here. All other requests go on,
		// and every response to them passes here on its way out, so that scripts
		// can read a 401 or 429 too.
		corsFilter: {own: func(o ownFilters) []policy.Config { return o.cors }},
		// Before all that acts on a request: who may not come in learns nothing,
		// not even a redirect's target, and sets nothing off.
		authPolicies: {
			name: "AuthPolicy", list: listOf[*v1alpha1.AuthPolicy], targets: routeTargets,
			compile: compileAuthPolicy, filters: authFilters,
		},
		// With authentication, wherever it is in the rule's list, and after the
		// policies: whom they have found, the server is told. Both are asked where
		// both have a server, so that neither opens what the other guards.
		externalAuthFilter: {own: func(o ownFilters) []policy.Config { return o.auth }},
		// After authentication, so that limits can count by consumer and a
		// stranger cannot use up a consumer's share; before all that costs more.
		rateLimitPolicies: {
			name: "RateLimitPolicy", list: listOf[*v1alpha1.RateLimitPolicy], targets: slices.Concat(routeTargets, streamTargets),
			compile: compileRateLimitPolicy, filters: rateLimitFilters, responses: rateLimitResponses, streams: rateLimitStreams,
		},
		gatewayAPIFilters: {own: func(o ownFilters) []policy.Config { return o.configs }},
		// After the rule's own filters: a policy has the last word on what they
		// wrote. Its templates see the request as it was received either way.
		transformPolicies: {
			name: "TransformPolicy", list: listOf[*v1alpha1.TransformPolicy], targets: routeTargets,
			compile: compileTransformPolicy, filters: transformRequests, responses: transformResponses,
		},
		// The load balancer is the last to see a request.
		backendPolicies: {
			name: "BackendPolicy", list: listOf[*v1alpha1.BackendPolicy], targets: []string{"Service", "ServiceImport", "Backend", "XBackend", "HTTPRoute", "GRPCRoute"},
			compile: compileBackendPolicy,
		},
		// The Gateway API's own word for some of what BackendPolicies say.
		trafficPolicies: {
			name: "XBackendTrafficPolicy", list: listTrafficPolicies, targets: []string{"Service", "ServiceImport", "Backend", "XBackend"},
			compile: compileTrafficPolicy, mergesWith: backendPolicies,
		},
	}
}

func listOf[T v1alpha1.Policy](set *objects.Set) []v1alpha1.Policy {
	all := objects.All[T](set)
	policies := make([]v1alpha1.Policy, len(all))
	for i := range all {
		policies[i] = all[i]
	}
	return policies
}

func listTrafficPolicies(set *objects.Set) []v1alpha1.Policy {
	var policies []v1alpha1.Policy
	for _, p := range objects.All[*gatewayxv1alpha1.XBackendTrafficPolicy](set) {
		policies = append(policies, trafficPolicy{p})
	}
	return policies
}
