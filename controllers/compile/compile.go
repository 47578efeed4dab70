// Package compile turns objects into a snapshot and statuses. It is pure: no
// client, clock, goroutine, environment or file. The same objects give the
// same result, byte for byte, in whatever order they came and whether they
// came at once or one by one.
//
// So nothing is carried over from a time when an object was better: what does
// not compile is kept from doing harm, as the Gateway API says where it does.
// A listener that is not valid is not served, and one without a usable
// certificate refuses handshakes. A rule that is not valid, or whose policies
// are not, answers 500 to what it matches; so does the share of a backendRef
// that does not resolve. All else goes on. (A file that does not parse, and an
// object that the API server refuses, never come here: who reads them keeps
// the version from before.)
//
// The files read in the order of the objects: gatewayclass, gateway, parameters,
// listener, tls; httproute, rule, match, filters; backend, endpoints; the policies. frame
// holds what routes are compiled against, pass compiles what changed.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// ControllerName is what GatewayClasses name to be served by Headgate.
const ControllerName = "headgate.dev/gateway-controller"

// Options are what compile cannot know from the objects.
type Options struct {
	// Namespace is where Headgate's own pods and the Gateways' Services live.
	// Empty means standalone: listeners are bound at the ports that they
	// declare. Otherwise a listener is bound at the targetPort that its
	// Gateway's Service (see ServiceName) records for it, and waits, not
	// Programmed, until that is recorded.
	Namespace string
	// ClusterDomain is what the names of the cluster's Services end in; cluster.local
	// always is the cluster's.
	ClusterDomain string
	// BundleVersion is the version of the Gateway API's CRDs in the cluster, from
	// their annotation gateway.networking.k8s.io/bundle-version, "unknown" if they
	// have none. Empty means the version that Headgate was built with.
	BundleVersion string
	// Addresses are the Gateways' addresses in standalone mode.
	Addresses []string
	// Gateway, if it has a name, is the only Gateway that is compiled; that is how
	// the pods of one of mode Dedicated serve it and no other.
	Gateway types.NamespacedName
	// Dedicated says that Gateways can have mode Dedicated.
	Dedicated bool
	// ServiceType is the type of the Gateways' Services whose parameters say none;
	// LoadBalancer if empty.
	ServiceType v1alpha1.GatewayServiceType
	// ReadPods says that pods' metadata may be read where policies ask for it. In
	// standalone mode it always may.
	ReadPods bool
}

func (o Options) readsPods() bool { return o.ReadPods || o.Namespace == "" }

// Result is what objects compile to. It is immutable and safe for concurrent
// use. What grows with the number of routes is in persistent tables, behind
// methods, so that a small change makes a small new part.
type Result struct {
	Snapshot *snapshot.Snapshot
	// Delta is what differs from the previous result's snapshot; everything if there was none.
	Delta *snapshot.Delta
	// ChangedStatuses are the objects whose Status differs from the previous
	// result's, sorted. Status returns nil for those that have none any more.
	ChangedStatuses []objects.Ref
	// ChangedFindings are the objects whose findings differ from the previous result's, sorted.
	ChangedFindings []objects.Ref
	// Wanted are the Secrets and ConfigMaps that objects refer to, and in a cluster
	// that with the keys of sessions, whether they exist or not: the only ones that
	// need to be watched. It is the previous
	// result's map if nothing differs, and must not be edited.
	Wanted map[objects.Ref]bool
	// NeedsSessionKeys says that routes have session persistence and there is no
	// Secret with keys for it (Options.SessionKeys).
	NeedsSessionKeys bool
	// ReadsPods says that endpoints have something of what their pods have, so that
	// pods need to be watched.
	ReadsPods bool
	// Infrastructure is what the Gateways need in a cluster, sorted by name; empty
	// in standalone mode.
	Infrastructure []Infrastructure

	statuses snapshot.Table[*Status] // but for those in tables.routes
	findings snapshot.Table[[]Finding]
	tables   tables
}

// Status returns the status to be written to an object, or nil if it has none
// that is Headgate's to write. Conditions lack lastTransitionTime: who writes
// them knows the time and the old status.
func (r *Result) Status(ref objects.Ref) *Status {
	key := ref.String()
	if route, ok := r.tables.routes.Get(key); ok {
		return route.status
	}
	s, _ := r.statuses.Get(key)
	return s
}

// Statuses returns all statuses, sorted by object.
func (r *Result) Statuses() []*Status {
	all := make([]*Status, 0, r.statuses.Len()+r.tables.routes.Len())
	for _, key := range r.tables.routes.Keys() {
		if route, _ := r.tables.routes.Get(key); route.status != nil {
			all = append(all, route.status)
		}
	}
	for _, key := range r.statuses.Keys() {
		s, _ := r.statuses.Get(key)
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Status) int { return a.Object.Compare(b.Object) })
	return all
}

// Findings returns everything that is not as its author meant it, sorted by
// object, then in the order of the object's fields.
func (r *Result) Findings() []Finding {
	var all []Finding
	for _, key := range r.findings.Keys() {
		f, _ := r.findings.Get(key)
		all = append(all, f...)
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return a.Object.Compare(b.Object) })
	return all
}

// FindingsOf returns what is not fine in one object.
func (r *Result) FindingsOf(ref objects.Ref) []Finding {
	f, _ := r.findings.Get(ref.String())
	return f
}

// Compile compiles the objects of a set. prev is the result of the set before
// changed were put or deleted, or nil for none; it only saves work: the result
// is the same without it. changed may name objects that did not change.
func Compile(prev *Result, set *objects.Set, changed []objects.Ref, opts Options) *Result {
	return newPass(prev, set).run(changed, opts)
}

// ServiceName returns the name of a Gateway's Service in Options.Namespace: at
// most 63 bytes, a DNS label, and different for different Gateways.
func ServiceName(gateway types.NamespacedName) string {
	return label("headgate-", gateway.Namespace+"-"+gateway.Name, gateway.String())
}

// label returns a DNS label of at most 63 bytes that begins with prefix, goes on
// with what is readable, and ends in a hash of what must be told apart.
func label(prefix, readable, of string) string {
	sum := sha256.Sum256([]byte(of))
	readable = strings.ReplaceAll(readable, ".", "-")
	const hash = 10
	if room := 63 - len(prefix) - 1 - hash; len(readable) > room {
		readable = strings.TrimRight(readable[:room], "-")
	}
	return prefix + readable + "-" + hex.EncodeToString(sum[:])[:hash]
}

// aliasName returns the name of a Gateway's Service in the Gateway's own
// namespace: NAME-CLASS, as GEP-1762 names what is made for a Gateway, or, if
// that is no DNS label, as much of it as can be.
func aliasName(gateway, class string) string {
	name := gateway + "-" + class
	if len(validation.IsDNS1035Label(name)) == 0 {
		return name
	}
	return label("gateway-", name, name)
}

// Status is an object's status as it should be.
type Status struct {
	Object objects.Ref
	// Generation is the object's, as compiled; conditions carry it too.
	Generation int64
	// Value is a GatewayClassStatus, GatewayStatus, RouteStatus (HTTPRoute's
	// parents) or PolicyStatus of the Gateway API, or a BackendStatus, by value. In the latter two
	// only the entries of our ControllerName are here; others' are to be kept.
	Value any
}

// Finding is one thing in one object that is not fine. It appears in a
// condition's message too.
type Finding struct {
	Object objects.Ref
	// Field is the path in the object, such as "spec.rules[0].backendRefs[1].name".
	Field string
	// Message says what is wrong, Want what would be right.
	Message string
	Want    string
	// Condition and Reason are what status says: "ResolvedRefs", "BackendNotFound".
	Condition string
	Reason    string
}
