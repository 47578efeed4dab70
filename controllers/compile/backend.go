package compile

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// clusterUse is a cluster that a route needs, and where it came from.
type clusterUse struct {
	cluster *snapshot.Cluster
	backend objects.Ref
	// port is the Service's or ServiceImport's, as its number in a backendRef found it; zero for other kinds.
	port corev1.ServicePort
}

// resolver finds the clusters that an object refers to.
type resolver struct {
	frame *frame
	set   *objects.Set
	from  objects.Ref
	// protocol is what is to be spoken, whatever the backend says of itself:
	// HTTP/2 ("h2c") for gRPC, "tcp" and "udp" for what is passed on unread; "" for
	// what it says. References in other protocols have other clusters.
	protocol string
	// route and rule are whose BackendPolicies hold beside those of the backend,
	// nil for nobody's.
	route *form
	rule  int
}

// resolve finds the cluster of a backendRef; false, with a finding, if there is none.
func (c *ruleCompiler) resolve(ref *gatewayv1.BackendObjectReference, field string) (clusterUse, bool) {
	r := resolver{frame: c.frame, set: c.set, from: c.report.object, route: c.object, rule: c.index}
	switch {
	case c.object.ref.Kind == "UDPRoute":
		r.protocol = "udp"
	case isStream(c.object.ref.Kind):
		r.protocol = "tcp"
	case c.object.grpc != nil:
		r.protocol = "h2c"
	}
	use, wrong := r.resolve(ref, field)
	if wrong != nil {
		c.report.fail(&c.route.resolved, *wrong)
		return clusterUse{}, false
	}
	return use, true
}

// resolve finds the cluster of a reference, or else what is wrong with it.
func (c *resolver) resolve(ref *gatewayv1.BackendObjectReference, field string) (clusterUse, *Finding) {
	fail := func(reason gatewayv1.RouteConditionReason, suffix, message, want string) (clusterUse, *Finding) {
		return clusterUse{}, &Finding{Field: field + suffix, Message: message, Want: want,
			Condition: string(gatewayv1.RouteConditionResolvedRefs), Reason: string(reason)}
	}
	backend, ok := objects.BackendOf(ref, c.from.Namespace)
	if !ok {
		group, kind := "", "Service"
		if ref.Group != nil {
			group = string(*ref.Group)
		}
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		return fail(gatewayv1.RouteReasonInvalidKind, ".kind", fmt.Sprintf("kind %s of group %q is not supported", kind, group),
			wantBackend)
	}
	if !c.frame.grants.allow(c.from, backend) {
		return fail(gatewayv1.RouteReasonRefNotPermitted, ".namespace",
			fmt.Sprintf("no ReferenceGrant allows %s to refer to %s", c.from, backend),
			fmt.Sprintf("a ReferenceGrant in namespace %s from %s of namespace %s to %ss", backend.Namespace, kindsOf(c.from.Kind), c.from.Namespace, backend.Kind))
	}
	switch backend.Kind {
	case "Backend":
		return c.resolveBackend(backend, ref, fail)
	case "XBackend":
		return c.resolveXBackend(backend, ref, fail)
	}
	return c.resolveService(backend, ref, fail)
}

// wantBackend are the kinds that a backendRef may name.
var wantBackend = func() string {
	var kinds []string
	for _, k := range objects.Kinds {
		if k.Backend {
			kinds = append(kinds, fmt.Sprintf("kind %s of group %q", k.Name, k.Group))
		}
	}
	return strings.Join(kinds, ", or ")
}()

// refuseRef reports why a reference does not resolve; suffix is below its field.
type refuseRef func(reason gatewayv1.RouteConditionReason, suffix, message, want string) (clusterUse, *Finding)

// kindsOf is a kind's plural in a sentence.
func kindsOf(kind string) string {
	if noun, ok := strings.CutSuffix(kind, "Policy"); ok {
		return noun + "Policies"
	}
	return kind + "s"
}

func (c *resolver) resolveBackend(ref objects.Ref, from *gatewayv1.BackendObjectReference, fail refuseRef) (clusterUse, *Finding) {
	backend := objects.Get[*v1alpha1.Backend](c.set, ref.Namespace, ref.Name)
	if backend == nil {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".name", fmt.Sprintf("there is no %s", ref), "the name of a Backend")
	}
	if from.Port != nil {
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".port", "a Backend's endpoints have their own ports", "no port")
	}
	if _, findings := compileBackend(backend); len(findings) > 0 {
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".name", fmt.Sprintf("%s is not valid: %s", ref, findings[0]), "a Backend that is Accepted")
	}
	cluster := newCluster("Backend/"+ref.Namespace+"/"+ref.Name, snapshot.Ref{Kind: "Backend", Namespace: ref.Namespace, Name: ref.Name})
	if c.protocol != "udp" {
		cluster.TLS = c.frame.backendTLS.of(ref, nil)
	}
	return c.withPolicies(clusterUse{cluster: cluster, backend: ref}, fail)
}

func newCluster(key string, source snapshot.Ref) *snapshot.Cluster {
	return &snapshot.Cluster{Key: key, Source: source, Protocol: "http1", Balance: snapshot.Balance{Algorithm: "RoundRobin"}}
}

func (c *resolver) withPolicies(use clusterUse, fail refuseRef) (clusterUse, *Finding) {
	at := use.by(c.route, c.rule)
	said := use.cluster.Protocol
	target := c.frame.policies.cluster(at, use.cluster)
	if use.cluster.Protocol == "alpn" && use.cluster.TLS == nil {
		use.cluster.Protocol = said // nothing is negotiated without TLS
	}
	if c.protocol != "" && c.protocol != use.cluster.Protocol {
		use.cluster.Protocol = c.protocol
		use.cluster.Key += "/" + c.protocol
	}
	if target != "" {
		use.cluster.Key += "@" + target
	}
	if use.cluster.ProxyProtocol != "" && c.protocol == "udp" {
		return fail(gatewayv1.RouteReasonUnsupportedProtocol, "",
			fmt.Sprintf("a BackendPolicy says that connections to %s begin with a PROXY protocol header, and datagrams are none", use.backend),
			"a backend without proxyProtocol")
	}
	return use, nil
}

// by is the use by a rule; with no route, by nobody's.
func (u *clusterUse) by(route *form, rule int) backendUse {
	at := backendUse{Backend: u.backend, Route: route, Rule: rule}
	if u.port.Port != 0 {
		at.Port = &u.port
	}
	return at
}

// backendStatus is a Backend's status.
func backendStatus(b *v1alpha1.Backend) (*Status, []Finding) {
	r := report{object: objects.RefOf(b)}
	var accepted verdict
	_, findings := compileBackend(b)
	for _, f := range findings {
		r.fail(&accepted, f)
	}
	return &Status{Object: r.object, Generation: b.Generation, Value: v1alpha1.BackendStatus{Conditions: []metav1.Condition{
		newCondition("Accepted", "Accepted", "", accepted, b.Generation),
	}}}, r.sorted()
}

// compileBackend returns a Backend's endpoints.
func compileBackend(b *v1alpha1.Backend) (*snapshot.Endpoints, []Finding) {
	var findings []Finding
	fail := func(field, message, want string) {
		findings = append(findings, Finding{Field: field, Message: message, Want: want, Condition: "Accepted", Reason: "Invalid"})
	}
	out := &snapshot.Endpoints{}
	if len(b.Spec.Endpoints) == 0 {
		fail("spec.endpoints", "there are none", "at least one endpoint")
	}
	for i, e := range b.Spec.Endpoints {
		field := fmt.Sprintf("spec.endpoints[%d]", i)
		weight := uint32(0)
		if e.Weight != nil {
			weight = uint32(*e.Weight)
			if *e.Weight < 1 || *e.Weight > 1000 {
				fail(field+".weight", fmt.Sprintf("%d is out of range", *e.Weight), "1 to 1000")
			}
		}
		priority := int(valueOr(e.Priority, 0))
		if priority < 0 || priority > 127 {
			fail(field+".priority", fmt.Sprintf("%d is out of range", priority), "0 to 127")
		}
		zone := valueOr(e.Zone, "")
		if e.Port < 1 || e.Port > 65535 {
			fail(field+".port", fmt.Sprintf("%d is no port", e.Port), "1 to 65535")
		}
		switch {
		case (e.IP != nil) == (e.Hostname != nil):
			fail(field, "it has not exactly one of ip and hostname", "one of the two")
		case e.IP != nil:
			if !isIP(*e.IP) {
				fail(field+".ip", fmt.Sprintf("%q is no IP address", *e.IP), "an IPv4 or IPv6 address; a DNS name belongs in hostname")
			}
			out.Endpoints = append(out.Endpoints, snapshot.Endpoint{
				Address: *e.IP, Port: uint16(e.Port), Weight: weight, Zone: zone, Priority: priority,
			})
		default:
			if !validHostname(*e.Hostname, false) {
				fail(field+".hostname", fmt.Sprintf("%q is no DNS name", *e.Hostname), "a DNS name")
			}
			out.Hosts = append(out.Hosts, snapshot.Host{
				Name: *e.Hostname, Port: uint16(e.Port), Weight: weight, Zone: zone, Priority: priority,
			})
		}
	}
	sortEndpoints(out)
	return out, findings
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
