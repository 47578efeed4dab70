package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// clusterUse is a cluster that a route needs, and where it came from.
type clusterUse struct {
	cluster *snapshot.Cluster
	backend objects.Ref
	// port is the Service's or ServiceImport's, as its number in a backendRef found it; zero for other kinds.
	port corev1.ServicePort
	// remarks are about policies that hold for it, weighedBy whose podWeights does.
	remarks   []remark
	weighedBy policyTarget
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
	r := c.resolver()
	use, wrong := r.resolve(ref, field)
	if wrong != nil {
		c.report.fail(&c.route.resolved, *wrong)
		return clusterUse{}, false
	}
	return use, true
}

// resolver finds what the rule refers to.
func (c *ruleCompiler) resolver() resolver {
	r := resolver{frame: c.frame, set: c.set, from: c.report.object, route: c.object, rule: c.index}
	switch {
	case c.object.ref.Kind == "UDPRoute":
		r.protocol = "udp"
	case isStream(c.object.ref.Kind):
		r.protocol = "tcp"
	case c.object.grpc != nil:
		r.protocol = "h2c"
	}
	return r
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

// aKind is a kind with its article.
func aKind(kind string) string {
	if kind == "HTTPRoute" || kind == "XBackend" {
		return "an " + kind
	}
	return "a " + kind
}

func (c *resolver) resolveBackend(ref objects.Ref, from *gatewayv1.BackendObjectReference, fail refuseRef) (clusterUse, *Finding) {
	backend := objects.Get[*v1alpha1.Backend](c.set, ref.Namespace, ref.Name)
	if backend == nil {
		return fail(gatewayv1.RouteReasonBackendNotFound, ".name", fmt.Sprintf("there is no %s", ref), "the name of a Backend")
	}
	if from.Port != nil {
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".port", "a Backend's endpoints have their own ports", "no port")
	}
	if _, findings := c.frame.compileBackend(backend); len(findings) > 0 {
		return fail(gatewayv1.RouteReasonUnsupportedValue, ".name", fmt.Sprintf("%s is not valid: %s", ref, findings[0]), "a Backend that is Accepted")
	}
	if c.protocol == "udp" && slices.ContainsFunc(backend.Spec.Endpoints, func(e v1alpha1.BackendEndpoint) bool { return e.Unix != nil }) {
		return fail(gatewayv1.RouteReasonUnsupportedProtocol, "",
			fmt.Sprintf("%s has a Unix socket, which datagrams of UDP are not sent to", ref), "a backend without Unix sockets")
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
	target := c.frame.policies.cluster(at, &use)
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
	if c.protocol == "tcp" || c.protocol == "udp" {
		use.remarks = nil // they are about connections for requests
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
func (f *frame) backendStatus(b *v1alpha1.Backend) (*Status, []Finding) {
	r := report{object: objects.RefOf(b)}
	var accepted verdict
	_, findings := f.compileBackend(b)
	for _, f := range findings {
		r.fail(&accepted, f)
	}
	return &Status{Object: r.object, Generation: b.Generation, Value: v1alpha1.BackendStatus{Conditions: []metav1.Condition{
		newCondition("Accepted", "Accepted", "", accepted, b.Generation),
	}}}, r.sorted()
}

// backendCompiler reads one endpoint of a Backend.
type backendCompiler struct {
	*frame
	field    string // the endpoint's
	out      snapshot.Endpoints
	findings []Finding
}

func (c *backendCompiler) fail(suffix, message, want string) {
	c.findings = append(c.findings, Finding{Field: c.field + suffix, Message: message, Want: want, Condition: "Accepted", Reason: "Invalid"})
}

// compileBackend returns a Backend's endpoints. In a cluster it refuses what leads
// to Headgate's own pod, and to what is for Services and ReferenceGrants.
func (f *frame) compileBackend(b *v1alpha1.Backend) (*snapshot.Endpoints, []Finding) {
	c := backendCompiler{frame: f}
	if len(b.Spec.Endpoints) == 0 {
		c.field = "spec.endpoints"
		c.fail("", "there are none", "at least one endpoint")
	}
	for i := range b.Spec.Endpoints {
		c.field = fmt.Sprintf("spec.endpoints[%d]", i)
		c.endpoint(&b.Spec.Endpoints[i])
	}
	sortEndpoints(&c.out)
	return &c.out, c.findings
}

func (c *backendCompiler) endpoint(e *v1alpha1.BackendEndpoint) {
	weight := valueOr(e.Weight, 0)
	if e.Weight != nil && (weight < 1 || weight > 1000) {
		c.fail(".weight", fmt.Sprintf("%d is out of range", weight), "1 to 1000")
	}
	priority := int(valueOr(e.Priority, 0))
	if priority < 0 || priority > 127 {
		c.fail(".priority", fmt.Sprintf("%d is out of range", priority), "0 to 127")
	}
	if truth(e.IP != nil)+truth(e.Hostname != nil)+truth(e.SRV != nil)+truth(e.Unix != nil) != 1 {
		c.fail("", "it has not exactly one of ip, hostname, srv and unix", "one of the four")
		return
	}
	port := valueOr(e.Port, 0)
	switch named := e.IP != nil || e.Hostname != nil; {
	case named && e.Port == nil:
		c.fail(".port", "there is none", "the port to connect to")
	case named && (port < 1 || port > 65535):
		c.fail(".port", fmt.Sprintf("%d is no port", port), "1 to 65535")
	case !named && e.Port != nil:
		c.fail(".port", "SRV records have their own ports, and Unix sockets none", "no port, or ip or hostname with it")
	}
	host := snapshot.Host{Remote: !c.standalone, Port: uint16(port), Weight: uint32(weight), Zone: valueOr(e.Zone, ""), Priority: priority}
	for _, name := range slices.Sorted(maps.Keys(e.Labels)) {
		value := string(e.Labels[name])
		if len(validation.IsQualifiedName(name))+len(validation.IsValidLabelValue(value)) > 0 {
			c.fail(".labels", fmt.Sprintf("%q: %q is no label", name, value), "a name and a value as Kubernetes has them")
		}
		if host.Labels == nil {
			host.Labels = map[string]string{}
		}
		host.Labels[name] = value
	}
	endpoint := snapshot.Endpoint{Port: host.Port, Weight: host.Weight, Zone: host.Zone, Priority: priority, Labels: host.Labels}
	switch {
	case e.IP != nil:
		c.checkIP(*e.IP)
		endpoint.Address = *e.IP
		c.out.Endpoints = append(c.out.Endpoints, endpoint)
	case e.Unix != nil:
		c.checkUnix(*e.Unix)
		endpoint.Address = exchange.UnixPrefix + *e.Unix
		c.out.Endpoints = append(c.out.Endpoints, endpoint)
	case e.Hostname != nil:
		if !validHostname(*e.Hostname, false) {
			c.fail(".hostname", fmt.Sprintf("%q is no DNS name", *e.Hostname), "a DNS name")
		}
		host.Name = c.name(".hostname", *e.Hostname)
		c.out.Hosts = append(c.out.Hosts, host)
	default:
		if !serviceName.MatchString(*e.SRV) || len(*e.SRV) > 253 {
			c.fail(".srv", fmt.Sprintf("%q is no DNS name", *e.SRV), "the name of SRV records, such as _http._tcp.example.com")
		}
		if e.Weight != nil {
			c.fail(".weight", "SRV records have their own weights", "no weight")
		}
		host.Name, host.SRV = c.name(".srv", *e.SRV), true
		c.out.Hosts = append(c.out.Hosts, host)
	}
}

// serviceName is a name that may have SRV records.
var serviceName = regexp.MustCompile(`^[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?(\.[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)*$`)

// name is a DNS name as it is looked up. In a cluster it is fully qualified:
// without the dot, the search list of a pod would lead it into the cluster.
func (c *backendCompiler) name(suffix, name string) string {
	if c.standalone {
		return name
	}
	name = strings.ToLower(name)
	switch {
	case c.inCluster(name):
		c.fail(suffix, name+" is a name of the cluster", "a name outside of it; what is in the cluster is a Service")
	case isWithin(name, "localhost"):
		c.fail(suffix, name+" is Headgate's own pod", "a name outside of it")
	}
	return name + "."
}

func (c *backendCompiler) checkIP(text string) {
	if !isIP(text) {
		c.fail(".ip", fmt.Sprintf("%q is no IP address", text), "an IPv4 or IPv6 address; a DNS name belongs in hostname")
		return
	}
	addr, _ := netip.ParseAddr(text)
	switch addr = addr.Unmap(); {
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		c.fail(".ip", text+" is no one machine's address", "the address of an instance")
	case c.standalone:
	case addr.IsLoopback():
		c.fail(".ip", text+" is Headgate's own pod", "an address outside of it")
	case addr.IsLinkLocalUnicast():
		c.fail(".ip", text+" is of the node's own link, where it has its metadata", "an address that is routed")
	}
}

func (c *backendCompiler) checkUnix(socket string) {
	switch {
	case !c.standalone:
		c.fail(".unix", "Headgate runs in a cluster, where there are no sockets for it to connect to", "ip or hostname; unix is for where Headgate serves a folder")
	case !path.IsAbs(socket) || len(socket) < 2 || len(socket) > 107 || strings.Contains(socket, "\x00"):
		c.fail(".unix", fmt.Sprintf("%q is no path of a socket", socket), "an absolute path of at most 107 bytes")
	}
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}
