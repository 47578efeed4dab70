package v1alpha1

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Balance says how an endpoint is chosen. Its tiers are the endpoints by
// priority, and in each priority the near ones before the others, as locality
// says: the first tier takes all requests while it can. The algorithm chooses
// among the endpoints of a tier.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:message="hashOn must be set with RingHash and Maglev, and only then",rule="(has(self.algorithm) && self.algorithm in ['RingHash', 'Maglev']) == has(self.hashOn)"
// +kubebuilder:validation:XValidation:message="hashBalanceFactor can only be set with RingHash and Maglev",rule="!has(self.hashBalanceFactor) || has(self.algorithm) && self.algorithm in ['RingHash', 'Maglev']"
// +kubebuilder:validation:XValidation:message="slowStart can only be set with RoundRobin, LeastRequest, Random, RandomOfTwo and PeakEWMA",rule="!has(self.slowStart) || !has(self.algorithm) || self.algorithm in ['RoundRobin', 'LeastRequest', 'Random', 'RandomOfTwo', 'PeakEWMA']"
// +kubebuilder:validation:XValidation:message="loadReports can only be set with RoundRobin and Random",rule="!has(self.loadReports) || !has(self.algorithm) || self.algorithm in ['RoundRobin', 'Random']"
// +kubebuilder:validation:XValidation:message="maxRequests must be set with FirstAvailable, and only then",rule="(has(self.algorithm) && self.algorithm == 'FirstAvailable') == has(self.maxRequests)"
type Balance struct {
	// Algorithm chooses an endpoint. The default is RoundRobin.
	// +optional
	Algorithm BalanceAlgorithm `json:"algorithm,omitempty"`
	// HashOn says what RingHash and Maglev keep at one endpoint: the first of
	// these that a request has. One that has none of them goes anywhere.
	// Connections and flows of TCPRoutes, TLSRoutes and UDPRoutes go by the
	// client's address alone.
	// +optional
	HashOn HashKeys `json:"hashOn,omitempty"`
	// HashBalanceFactor bounds what an endpoint may have in flight with RingHash
	// and Maglev, in percent of its share of all requests in flight: with 125, a
	// quarter more. What it has no room for goes to the next one on the ring or in
	// the table. The default is no bound.
	// +optional
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=10000
	HashBalanceFactor *int32 `json:"hashBalanceFactor,omitempty"`
	// MaxRequests is how many requests in flight FirstAvailable gives an endpoint
	// (one of weight 2, twice as many) before the next one has any. If all have so
	// many, those that are the least busy for their weight get more.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000
	MaxRequests *int32 `json:"maxRequests,omitempty"`
	// Locality is Any (all endpoints alike), PreferSameZone or PreferSameNode
	// (those near the replica of Headgate that has the request; of a node, then
	// those in its zone; then all others), OnlySameZone or OnlySameNode (no
	// others). The default is the Service's trafficDistribution, and Any without.
	// +optional
	Locality Locality `json:"locality,omitempty"`
	// MinHealthyPercent is the share of a tier, by weight, that must be healthy
	// for it to take all requests. With less, a part of them goes to the next
	// tier: half of them if it has half of that share. The default is 70; with 1,
	// the next tier is not used before this one is all but gone.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinHealthyPercent *int32 `json:"minHealthyPercent,omitempty"`
	// PanicThresholdPercent is the share of all endpoints, by weight, that must
	// be healthy for health to count: with less, all get requests, so that the
	// few that are left are not overrun. The default is 0: only if none is healthy.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	PanicThresholdPercent *int32 `json:"panicThresholdPercent,omitempty"`
	// SlowStart gives endpoints that are new, or back after having been out, their
	// weight little by little. Those that are there when Headgate starts have
	// theirs at once.
	// +optional
	SlowStart *SlowStart `json:"slowStart,omitempty"`
	// LoadReports changes weights by what endpoints say of their load in the
	// header field endpoint-load-metrics of their responses (ORCA): an endpoint's
	// weight is in proportion to what it could serve, rps_fractional divided by
	// application_utilization or cpu_utilization. Clients do not get the field.
	// +optional
	LoadReports *bool `json:"loadReports,omitempty"`
	// Subset has a request choose by its headers among the endpoints with certain
	// labels: those of pods, or of a Backend's endpoints.
	// +optional
	Subset *Subset `json:"subset,omitempty"`
	// PodWeights takes the weights of endpoints that are pods from the pods'
	// annotation headgate.dev/weight, a number from 1 to 1000. Without one it is 1.
	// +optional
	PodWeights *bool `json:"podWeights,omitempty"`
}

// Subset narrows a backend's endpoints to those that a request asks for. Priority,
// locality, health and the algorithm are about these then, as if there were no others.
// +kubebuilder:validation:XValidation:message="default must be set with fallback Default, and only then",rule="(has(self.fallback) && self.fallback == 'Default') == has(self.default)"
type Subset struct {
	// Selectors take endpoints by the value of a header. Those whose header a
	// request has all must hold.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:XValidation:message="headers and labels must differ",rule="self.all(a, self.exists_one(b, a.header.lowerAscii() == b.header.lowerAscii()) && self.exists_one(b, a.label == b.label))"
	Selectors []SubsetSelector `json:"selectors"`
	// Fallback is what a request gets that has none of the headers, or asks for
	// labels that no endpoint has: Any endpoint, which is the default, None (503),
	// or those of Default.
	// +optional
	Fallback SubsetFallback `json:"fallback,omitempty"`
	// Default are the labels of the endpoints for fallback Default.
	// +optional
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=8
	Default map[string]LabelValue `json:"default,omitempty"`
}

// SubsetSelector takes endpoints whose label has the value of a request's header.
type SubsetSelector struct {
	// Header is the header field's name. Of several lines the first counts.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$`
	Header string `json:"header"`
	// Label is the label's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	Label string `json:"label"`
}

// SubsetFallback is what becomes of a request for which there is no subset.
// +kubebuilder:validation:Enum=Any;None;Default
type SubsetFallback string

// LabelValue is the value of a label, as Kubernetes has it.
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`
type LabelValue string

// SlowStart says how an endpoint comes to its weight.
type SlowStart struct {
	// Window is how long it takes, from 1s to 1h. The weight changes about once a second.
	// +required
	// +kubebuilder:validation:XValidation:message="must be from 1s to 1h",rule="duration(self) >= duration('1s') && duration(self) <= duration('1h')"
	Window gatewayv1.Duration `json:"window"`
	// Aggression is how fast the weight grows at first: after a part t of the window
	// it is t^(1/aggression). The default, "1", is a straight line; with "2" a
	// quarter of the window gives half of the weight, with "0.5" a sixteenth. It
	// is a number from 0.1 to 10.
	// +optional
	// +kubebuilder:validation:MaxLength=5
	// +kubebuilder:validation:Pattern=`^[0-9]{1,2}(\.[0-9]{1,2})?$`
	// +kubebuilder:validation:XValidation:message="must be from 0.1 to 10",rule="double(self) >= 0.1 && double(self) <= 10.0"
	Aggression *string `json:"aggression,omitempty"`
	// MinWeightPercent is what the endpoint begins with. The default is 10.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MinWeightPercent *int32 `json:"minWeightPercent,omitempty"`
}

// BalanceAlgorithm chooses an endpoint.
// +kubebuilder:validation:Enum=RoundRobin;LeastRequest;Random;RandomOfTwo;PeakEWMA;IPHash;RingHash;Maglev;FirstAvailable
type BalanceAlgorithm string

const (
	// BalanceRoundRobin takes the endpoints in turn, interleaved by weight.
	BalanceRoundRobin BalanceAlgorithm = "RoundRobin"
	// BalanceLeastRequest takes the one with the fewest requests in flight for
	// its weight: of all, up to 16, and of two that are drawn, if there are more.
	BalanceLeastRequest BalanceAlgorithm = "LeastRequest"
	// BalanceRandom draws one by weight.
	BalanceRandom BalanceAlgorithm = "Random"
	// BalanceRandomOfTwo draws two by weight and takes the one with fewer
	// requests in flight for its weight.
	BalanceRandomOfTwo BalanceAlgorithm = "RandomOfTwo"
	// BalancePeakEWMA draws two by weight and takes the one where a request should
	// be done sooner, by the latency of late and the requests in flight.
	BalancePeakEWMA BalanceAlgorithm = "PeakEWMA"
	// BalanceIPHash keeps a client's address at one endpoint, by rendezvous
	// hashing: no other client moves when an endpoint goes or comes.
	BalanceIPHash BalanceAlgorithm = "IPHash"
	// BalanceRingHash keeps what hashOn says at one endpoint, by a ring.
	BalanceRingHash BalanceAlgorithm = "RingHash"
	// BalanceMaglev keeps what hashOn says at one endpoint, by Maglev's table: more
	// even than a ring, but a few more move when an endpoint goes or comes.
	BalanceMaglev BalanceAlgorithm = "Maglev"
	// BalanceFirstAvailable fills one endpoint after the other, up to maxRequests
	// each, in the order of their addresses.
	BalanceFirstAvailable BalanceAlgorithm = "FirstAvailable"
)

// HashKeyType is a property of a request.
// +kubebuilder:validation:Enum=ClientIP;Consumer;Cookie;Expression;Header;Path;QueryParam
type HashKeyType string

const (
	// HashClientIP is the client's address, behind trusted proxies.
	HashClientIP HashKeyType = "ClientIP"
	// HashConsumer is the authenticated consumer.
	HashConsumer HashKeyType = "Consumer"
	// HashCookie is the value of a cookie.
	HashCookie HashKeyType = "Cookie"
	// HashExpression is what an expression in CEL comes to.
	HashExpression HashKeyType = "Expression"
	// HashHeader is the value of a header field, of several lines the first.
	HashHeader HashKeyType = "Header"
	// HashPath is the path, as it is sent to the endpoint.
	HashPath HashKeyType = "Path"
	// HashQueryParam is the value of a query parameter as it is written.
	HashQueryParam HashKeyType = "QueryParam"
)

// HashKeys are properties of requests, of which the first that a request has counts.
// +listType=atomic
// +kubebuilder:validation:MinItems=1
// +kubebuilder:validation:MaxItems=8
// +kubebuilder:validation:XValidation:message="a request always has a path and a client, and a cookie with setCookie: nothing can follow them",rule="self.all(k, !(k.type in ['ClientIP', 'Path'] || has(k.setCookie)) || k == self[size(self)-1])"
type HashKeys []HashKey

// HashKey is what requests with the same value of are kept together by.
// Headers, cookies, path and query are as the endpoint gets them.
// +kubebuilder:validation:XValidation:message="expression must be set if type is Expression, and only then",rule="(self.type == 'Expression') == has(self.expression)"
// +kubebuilder:validation:XValidation:message="name must be set if type is Cookie, Header or QueryParam, and only then",rule="(self.type in ['Cookie', 'Header', 'QueryParam']) == has(self.name)"
// +kubebuilder:validation:XValidation:message="setCookie can only be set with type Cookie",rule="!has(self.setCookie) || self.type == 'Cookie'"
// +kubebuilder:validation:XValidation:message="name must be the name of a cookie or header field: a token",rule=`!has(self.name) || self.type == "QueryParam" || self.name.matches("^[A-Za-z0-9!#$%&'*+.^_\\x60|~-]+$")`
type HashKey struct {
	// Type is the property of the request.
	// +required
	Type HashKeyType `json:"type"`
	// Name is the cookie's, the header field's or the query parameter's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Name *string `json:"name,omitempty"`
	// Expression in CEL makes the key from what the request has; it must come to a
	// string. A request for which it cannot be evaluated, or is empty, does not
	// have the key. docs/expressions.md says what there is to ask for.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Expression *string `json:"expression,omitempty"`
	// SetCookie gives clients that do not have the cookie one with a random
	// value, so that all that follows goes to one endpoint.
	// +optional
	SetCookie *HashSetCookie `json:"setCookie,omitempty"`
}

// HashSetCookie is what the cookie is like that clients are given. It is
// HttpOnly and SameSite=Lax, and Secure if the request came by TLS.
type HashSetCookie struct {
	// MaxAge is for how long clients keep the cookie, from 1s to 10 years in
	// hours. The default is until the browser's session ends.
	// +optional
	// +kubebuilder:validation:XValidation:message="must be from 1s to 87600h",rule="duration(self) >= duration('1s') && duration(self) <= duration('87600h')"
	MaxAge *gatewayv1.Duration `json:"maxAge,omitempty"`
	// Path is the part of the host that the cookie is for. The default is "/".
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^/[!-:<-~]*$`
	Path *string `json:"path,omitempty"`
}

// Locality says which endpoints are preferred, or may be used, by where they are.
// +kubebuilder:validation:Enum=Any;PreferSameZone;PreferSameNode;OnlySameZone;OnlySameNode
type Locality string
