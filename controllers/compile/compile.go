// Package compile turns objects into a snapshot and statuses. It is pure: no
// client, clock, goroutine, environment or file. The same objects give the
// same result, byte for byte, in whatever order they came and whether they
// came at once or one by one.
package compile

import (
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
	// Addresses are the Gateways' addresses in standalone mode.
	Addresses []string
}

// Result is what objects compile to.
type Result struct {
	Snapshot *snapshot.Snapshot
	// Delta is what differs from the previous result's snapshot.
	Delta *snapshot.Delta
	// Statuses are to be written back, by object. Their conditions lack
	// lastTransitionTime: who writes them knows the time and the old status.
	Statuses map[objects.Ref]*Status
	// ChangedStatuses are those that differ from the previous result's, sorted.
	ChangedStatuses []objects.Ref
	// Findings are everything that is not as its author meant it, sorted.
	Findings []Finding
	// Wanted are the Secrets and ConfigMaps that objects refer to, whether they
	// exist or not: the only ones that need to be watched.
	Wanted map[objects.Ref]bool
	// Services are what the Gateways need from infrastructure; empty in standalone mode.
	Services []Service
}

// Status is an object's status as it should be.
type Status struct {
	Object objects.Ref
	// Generation is the object's, as compiled; conditions carry it too.
	Generation int64
	// Value is a GatewayClassStatus, GatewayStatus, RouteStatus (HTTPRoute's
	// parents) or PolicyStatus of the Gateway API, by value. In the latter two
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

// Service is the Service that a Gateway needs.
type Service struct {
	Gateway objects.Ref
	// Name is the Service's, in Options.Namespace.
	Name                string
	Ports               []ServicePort
	Labels, Annotations map[string]string
}

// ServicePort is a port that at least one accepted listener declares.
type ServicePort struct {
	Name     string
	Port     int32
	Protocol string // "TCP" or "UDP"
}
