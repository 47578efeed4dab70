package compile

import (
	"cmp"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// frame is everything that routes are compiled against: Gateways with their
// listeners, grants, policies. A changed HTTPRoute or EndpointSlice does not
// touch it; any other change builds it anew. It is immutable.
type frame struct {
	grants     grants
	policies   policyIndex
	backendTLS *backendTLS
	xBackends  map[objects.Ref]*xBackend
	// sessionKeys are those of session persistence; hasSessionKeys says that there
	// is a Secret for them.
	sessionKeys    []policy.Secret
	hasSessionKeys bool
	// served are the Gateways of ours and the ListenerSets that name them.
	served map[objects.Ref]*parent
	// parentOf is whose a listener is, by its key.
	parentOf map[string]*parent
	// foreign are those that other controllers serve.
	foreign        map[objects.Ref]bool
	ports          []*snapshot.Port
	infrastructure []Infrastructure
	// standalone says that there is no cluster, see Options.Namespace and ClusterDomain.
	standalone    bool
	clusterDomain string
	// dedicated are the Services of Gateways whose status tells whether they have endpoints.
	dedicated map[objects.Ref]bool
	wanted    map[objects.Ref]bool
	// statuses and findings are those of GatewayClasses, Backends and policies.
	// What is served is not among them: those statuses count routes.
	statuses map[objects.Ref]*Status
	findings map[objects.Ref][]Finding
	// keyPairs are the Secrets that were read as certificates, so that an
	// unchanged one is not parsed again.
	keyPairs map[objects.Ref]keyPair
}

// frameBuilder is a frame while it is built.
type frameBuilder struct {
	*frame
	prev *frame // may be nil
	set  *objects.Set
	opts Options
	// listenerSets are the ListenerSets by the Gateway that they name, first
	// those whose listeners take precedence.
	listenerSets map[objects.Ref][]*gatewayv1.ListenerSet
}

func newFrame(prev *frame, set *objects.Set, opts Options) *frame {
	b := &frameBuilder{prev: prev, set: set, opts: opts, frame: &frame{
		grants:    newGrants(set),
		xBackends: map[objects.Ref]*xBackend{},
		served:    map[objects.Ref]*parent{},
		parentOf:  map[string]*parent{},
		foreign:   map[objects.Ref]bool{},
		dedicated: map[objects.Ref]bool{},
		wanted:    map[objects.Ref]bool{},
		statuses:  map[objects.Ref]*Status{},
		findings:  map[objects.Ref][]Finding{},
		keyPairs:  map[objects.Ref]keyPair{},

		standalone: opts.Namespace == "", clusterDomain: strings.ToLower(opts.ClusterDomain),
	}}
	b.policies = newPolicyIndex(set, b.grants, opts)
	for _, ref := range b.policies.wanted() {
		b.frame.wanted[ref] = true
	}
	var before *backendTLS
	if prev != nil {
		before = prev.backendTLS
	}
	b.frame.backendTLS = newBackendTLS(before, set)
	for _, p := range b.frame.backendTLS.compiled {
		for _, ref := range p.wanted {
			b.frame.want(ref)
		}
	}
	b.readSessionKeys()
	b.compileXBackends()
	b.policies.resolve(b.frame, set)
	b.compileGateways()
	for _, backend := range objects.All[*v1alpha1.Backend](set) {
		status, findings := b.backendStatus(backend)
		b.put(objects.RefOf(backend), status, findings)
	}
	return b.frame
}

// inCluster reports whether a DNS name, in lower case, is one of the cluster's own.
func (f *frame) inCluster(name string) bool {
	return isWithin(name, "cluster.local") || f.clusterDomain != "" && isWithin(name, f.clusterDomain)
}

// isWithin reports whether a DNS name is a domain or below it.
func isWithin(name, domain string) bool { return strings.HasSuffix("."+name, "."+domain) }

// routesWant reports whether what routes compile to depends on a Secret or ConfigMap.
func (f *frame) routesWant(ref objects.Ref) bool {
	if slices.Contains(f.policies.wanted(), ref) || f.backendTLS.wants(ref) {
		return true
	}
	for _, x := range f.xBackends {
		if x.wants(ref) {
			return true
		}
	}
	return false
}

// want makes a Secret or ConfigMap one that is to be read. Other kinds are
// there anyway.
func (f *frame) want(ref objects.Ref) {
	if objects.IsReferenced(ref.Kind) {
		f.wanted[ref] = true
	}
}

func (b *frameBuilder) put(ref objects.Ref, status *Status, findings []Finding) {
	if status != nil {
		b.frame.statuses[ref] = status
	}
	if len(findings) > 0 {
		b.frame.findings[ref] = findings
	}
}

// compileGateways compiles the classes, the Gateways that name them, and the
// ports, oldest Gateway first: where two cannot share a port, it keeps it.
func (b *frameBuilder) compileGateways() {
	classes := map[gatewayv1.ObjectName]*gatewayClass{}
	foreign := map[gatewayv1.ObjectName]bool{}
	for _, class := range objects.All[*gatewayv1.GatewayClass](b.set) {
		if class.Spec.ControllerName != ControllerName {
			foreign[gatewayv1.ObjectName(class.Name)] = true
			continue
		}
		c := b.compileGatewayClass(class)
		classes[gatewayv1.ObjectName(class.Name)] = c
		b.put(c.object, c.status, c.findings)
	}

	all := objects.All[*gatewayv1.Gateway](b.set)
	slices.SortStableFunc(all, func(x, y *gatewayv1.Gateway) int {
		return cmp.Compare(x.CreationTimestamp.Unix(), y.CreationTimestamp.Unix())
	})
	b.sortListenerSets()
	sockets := sockets{}
	for _, object := range all {
		ref := objects.RefOf(object)
		if only := b.opts.Gateway; only.Name != "" && only != ref.NamespacedName() {
			b.foreign[ref] = true
			continue
		}
		class := classes[object.Spec.GatewayClassName]
		if class == nil {
			if foreign[object.Spec.GatewayClassName] {
				b.foreign[ref] = true
			} else {
				b.put(ref, nil, []Finding{{
					Object: ref, Field: "spec.gatewayClassName",
					Message:   "there is no GatewayClass " + string(object.Spec.GatewayClassName),
					Want:      "the name of a GatewayClass with controllerName " + ControllerName,
					Condition: string(gatewayv1.GatewayConditionAccepted), Reason: string(gatewayv1.GatewayReasonPending),
				}})
			}
			continue
		}
		g := b.compileGateway(object, class)
		sockets.bind(g)
		g.settle()
		for _, set := range g.sets {
			set.settle()
		}
		b.served[ref] = &g.parent
		for _, set := range g.sets {
			b.served[set.ref()] = &set.parent
		}
		if i, ok := b.infrastructureOf(g); ok {
			b.infrastructure = append(b.infrastructure, i)
		}
	}
	for _, parent := range b.served {
		for _, l := range parent.listeners {
			b.parentOf[l.key] = parent
		}
	}
	b.judgeListenerSets()
	slices.SortFunc(b.infrastructure, func(x, y Infrastructure) int { return cmp.Compare(x.Name, y.Name) })
	b.ports = sockets.ports(b.policies)
	for _, s := range sockets {
		markOverlaps(s.listeners)
	}
}
