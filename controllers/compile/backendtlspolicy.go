package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// backendTLS is the BackendTLSPolicies, GEP-1897. Unlike Headgate's own
// policies they do not merge: one holds, as a whole, be it valid or not. It is
// immutable.
type backendTLS struct {
	compiled map[objects.Ref]*backendTLSPolicy
	sorted   []objects.Ref
	// targeting are those that name an object or a section of it, in the order in
	// which they win.
	targeting map[objects.Ref][]backendTLSTarget
}

type backendTLSTarget struct {
	policy  *backendTLSPolicy
	section string // the name of a Service's port, "" for all
	// attached is false where the policy only says in status that it cannot be.
	attached bool
}

// backendTLSPolicy is a policy resolved against what it refers to.
type backendTLSPolicy struct {
	report
	object *gatewayv1.BackendTLSPolicy
	field  string // of the validation: "spec.validation"
	// tls is Broken if the policy is not valid: its targets cannot be reached
	// then, and never in plaintext.
	tls                *snapshot.UpstreamTLS
	accepted, resolved verdict
	// wanted are what it refers to, and read what was there.
	wanted []objects.Ref
	read   []objects.Object
}

// newBackendTLS compiles all policies of a set. Those of prev, which may be nil,
// that read the same are taken over: certificates are costly to parse.
func newBackendTLS(prev *backendTLS, set *objects.Set) *backendTLS {
	x := &backendTLS{compiled: map[objects.Ref]*backendTLSPolicy{}, targeting: map[objects.Ref][]backendTLSTarget{}}
	for _, object := range objects.All[*gatewayv1.BackendTLSPolicy](set) {
		ref := objects.RefOf(object)
		var p *backendTLSPolicy
		if prev != nil {
			p = prev.compiled[ref]
		}
		if p == nil || p.object != object || !p.readsTheSame(set) {
			p = compileBackendTLSPolicy(set, object)
		}
		x.compiled[ref] = p
		x.sorted = append(x.sorted, ref)
		for i := range object.Spec.TargetRefs {
			at, problem := backendTLSPlace(object, i)
			x.targeting[at.object] = append(x.targeting[at.object], backendTLSTarget{p, at.section, problem == nil})
		}
	}
	for _, all := range x.targeting {
		slices.SortStableFunc(all, func(a, b backendTLSTarget) int {
			return cmp.Or(cmp.Compare(a.policy.object.CreationTimestamp.Unix(), b.policy.object.CreationTimestamp.Unix()),
				a.policy.report.object.Compare(b.policy.report.object))
		})
	}
	return x
}

func (p *backendTLSPolicy) readsTheSame(set *objects.Set) bool {
	for i, ref := range p.wanted {
		if set.Get(ref) != p.read[i] {
			return false
		}
	}
	return true
}

// backendTLSPlace returns the place that a targetRef names.
func backendTLSPlace(object *gatewayv1.BackendTLSPolicy, target int) (place, *Finding) {
	ref := &object.Spec.TargetRefs[target]
	at := place{object: objects.Ref{Kind: string(ref.Kind), Namespace: object.Namespace, Name: string(ref.Name)}}
	if ref.SectionName != nil {
		at.section = string(*ref.SectionName)
	}
	switch {
	case ref.Kind == "Service" && ref.Group == "", ref.Kind == "ServiceImport" && ref.Group == objects.MulticlusterGroup:
	case ref.Kind == "Backend" && ref.Group == v1alpha1.GroupName && at.section == "":
	case ref.Kind == "Backend" && ref.Group == v1alpha1.GroupName:
		return at, &Finding{Field: ".sectionName", Message: "a Backend has no sections", Want: "no sectionName"}
	default:
		return at, &Finding{Message: fmt.Sprintf("BackendTLSPolicy does not attach to kind %q of group %q", ref.Kind, ref.Group),
			Want: fmt.Sprintf("kind Service with group %q, kind ServiceImport with group %q, or kind Backend with group %q", "", objects.MulticlusterGroup, v1alpha1.GroupName)}
	}
	return at, nil
}

// holder returns the policy that holds at a place, nil if there is none there.
func (x *backendTLS) holder(at place) *backendTLSPolicy {
	for _, t := range x.targeting[at.object] {
		if t.attached && t.section == at.section {
			return t.policy
		}
	}
	return nil
}

// of returns how to speak TLS to a backend, nil for not at all. A policy for
// the port is nearer than one for the whole Service. port is nil for a Backend.
func (x *backendTLS) of(backend objects.Ref, port *corev1.ServicePort) *snapshot.UpstreamTLS {
	var p *backendTLSPolicy
	if port != nil && port.Name != "" {
		p = x.holder(place{backend, port.Name})
	}
	if p == nil {
		p = x.holder(place{object: backend})
	}
	if p == nil {
		return nil
	}
	return p.tls
}

// wants reports whether a policy refers to a Secret or ConfigMap.
func (x *backendTLS) wants(ref objects.Ref) bool {
	for _, p := range x.compiled {
		if slices.Contains(p.wanted, ref) {
			return true
		}
	}
	return false
}

func compileBackendTLSPolicy(set *objects.Set, object *gatewayv1.BackendTLSPolicy) *backendTLSPolicy {
	p := &backendTLSPolicy{object: object, field: "spec.validation", report: report{object: objects.RefOf(object)}}
	if why, refused := object.Annotations[v1alpha1.RefusedAnnotation]; refused {
		p.invalid("spec", "it cannot be read, so its targets cannot be reached: "+why, "a policy without that error")
	} else {
		p.compile(set)
	}
	if !p.accepted.ok() {
		p.tls = &snapshot.UpstreamTLS{Broken: fmt.Sprintf("%s: %s", p.report.object, p.accepted.message)}
	}
	return p
}

// invalid makes the policy not accepted.
func (p *backendTLSPolicy) invalid(field, message, want string) {
	p.fail(&p.accepted, Finding{Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid)})
}

func (p *backendTLSPolicy) compile(set *objects.Set) {
	v := &p.object.Spec.Validation
	p.tls = &snapshot.UpstreamTLS{ServerName: strings.ToLower(string(v.Hostname))}
	if !validHostname(p.tls.ServerName, false) || isIP(p.tls.ServerName) {
		p.invalid(p.field+".hostname", fmt.Sprintf("%q is no DNS name", v.Hostname), "a DNS name without a wildcard: it is sent as SNI")
	}
	caField, wellKnownField := p.field+".caCertificateRefs", p.field+".wellKnownCACertificates"
	wellKnown := valueOr(v.WellKnownCACertificates, "")
	switch {
	case len(v.CACertificateRefs) > 0 && wellKnown != "":
		p.invalid(wellKnownField, "it excludes caCertificateRefs", "one of the two")
	case len(v.CACertificateRefs) > 0:
		p.authorities(set, v.CACertificateRefs, caField)
	case wellKnown == "":
		p.invalid(caField, "there are none, and no wellKnownCACertificates", "one of the two")
	case wellKnown != gatewayv1.WellKnownCACertificatesSystem:
		p.invalid(wellKnownField, fmt.Sprintf("%q is not supported", wellKnown), string(gatewayv1.WellKnownCACertificatesSystem))
	}
	for i := range v.SubjectAltNames {
		p.subjectAltName(&v.SubjectAltNames[i], fmt.Sprintf("%s.subjectAltNames[%d]", p.field, i))
	}
	p.options()
}

// authorities reads the CA certificates. One that cannot be used is left out,
// so that what it has signed is not trusted; without any, nothing is.
func (p *backendTLSPolicy) authorities(set *objects.Set, refs []gatewayv1.LocalObjectReference, field string) {
	for i := range refs {
		ref := &refs[i]
		fail := func(reason gatewayv1.PolicyConditionReason, suffix, message, want string) {
			p.fail(&p.resolved, Finding{Field: fmt.Sprintf("%s[%d]%s", field, i, suffix), Message: message, Want: want,
				Condition: string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), Reason: string(reason)})
		}
		to, ok := authorityRef(ref.Group, ref.Kind, p.object.Namespace, ref.Name)
		if !ok {
			fail(gatewayv1.BackendTLSPolicyReasonInvalidKind, ".kind", fmt.Sprintf("kind %s of group %q is not supported", ref.Kind, ref.Group), wantAuthorityKind)
			continue
		}
		p.wanted = append(p.wanted, to)
		p.read = append(p.read, set.Get(to))
		roots, problem := readAuthorities(set, to)
		if problem != "" {
			fail(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, ".name", problem, wantAuthorityOrBundle)
			continue
		}
		p.tls.Roots = append(p.tls.Roots, roots...)
	}
	if len(p.tls.Roots) == 0 {
		p.accepted.fail(string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate),
			field+": none of them can be used, so no certificate could be verified. "+p.resolved.message)
	}
}

func (p *backendTLSPolicy) subjectAltName(name *gatewayv1.SubjectAltName, field string) {
	switch name.Type {
	case gatewayv1.HostnameSubjectAltNameType:
		host := strings.ToLower(string(name.Hostname))
		if !validHostname(host, true) {
			p.invalid(field+".hostname", fmt.Sprintf("%q is no DNS name", name.Hostname), `a DNS name such as "shop.example.com" or "*.example.com"`)
		}
		if name.URI != "" {
			p.invalid(field+".uri", "type is Hostname", "no uri, or type URI")
		}
		p.tls.Names = append(p.tls.Names, snapshot.SubjectAltName{Type: "DNS", Value: host})
	case gatewayv1.URISubjectAltNameType:
		if u, err := url.Parse(string(name.URI)); err != nil || u.Scheme == "" {
			p.invalid(field+".uri", fmt.Sprintf("%q is no absolute URI", name.URI), `a URI such as "spiffe://example.com/ns/shop/sa/orders"`)
		}
		if name.Hostname != "" {
			p.invalid(field+".hostname", "type is URI", "no hostname, or type Hostname")
		}
		p.tls.Names = append(p.tls.Names, snapshot.SubjectAltName{Type: "URI", Value: string(name.URI)})
	default:
		p.invalid(field+".type", fmt.Sprintf("%q is not supported", name.Type), "Hostname or URI")
	}
}

// options reads spec.options: those of a listener that make sense here.
func (p *backendTLSPolicy) options() {
	t := &snapshot.TLS{}
	for _, key := range slices.Sorted(maps.Keys(p.object.Spec.Options)) {
		refuse := func(message, want string) { p.invalid("spec.options."+string(key), message, want) }
		set := tlsOption(key, string(p.object.Spec.Options[key]), refuse)
		if set == nil {
			refuse("there is no such option", "headgate.dev/min-version, headgate.dev/ciphers or headgate.dev/curves")
			continue
		}
		set(t)
	}
	p.tls.MinVersion, p.tls.CipherSuites, p.tls.Curves = t.MinVersion, t.CipherSuites, t.Curves
}

// status returns a policy's status. Its ancestors are the Gateways that send
// requests to its targets, GEP-1897 and PolicyAncestorStatus; gatewaysOf
// returns them, sorted, for one backend.
func (x *backendTLS) status(set *objects.Set, ref objects.Ref, gatewaysOf func(backend objects.Ref) []objects.Ref) (*Status, []Finding) {
	p := x.compiled[ref]
	if p == nil {
		return nil, nil
	}
	r := report{object: ref, findings: slices.Clip(p.findings)}
	accepted := map[objects.Ref]*verdict{}
	notes := map[objects.Ref]string{}
	for i := range p.object.Spec.TargetRefs {
		var lost verdict
		at, note := x.find(set, p, i, &r, &lost)
		for _, gateway := range gatewaysOf(at.object) {
			if accepted[gateway] == nil {
				accepted[gateway] = &verdict{}
			}
			if !lost.ok() {
				accepted[gateway].fail(lost.reason, lost.message)
			}
			notes[gateway] += note
		}
	}
	value := gatewayv1.PolicyStatus{Ancestors: []gatewayv1.PolicyAncestorStatus{}}
	generation := p.object.Generation
	for _, gateway := range slices.SortedFunc(maps.Keys(accepted), objects.Ref.Compare) {
		v := accepted[gateway]
		if !p.accepted.ok() {
			v.fail(p.accepted.reason, p.accepted.message)
		}
		value.Ancestors = append(value.Ancestors, gatewayv1.PolicyAncestorStatus{
			AncestorRef:    ancestorOf(gateway),
			ControllerName: ControllerName,
			Conditions: []metav1.Condition{
				newCondition(string(gatewayv1.PolicyConditionAccepted), string(gatewayv1.PolicyReasonAccepted),
					"The policy is attached."+notes[gateway], *v, generation),
				newCondition(string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), string(gatewayv1.BackendTLSPolicyReasonResolvedRefs),
					"All references resolve.", p.resolved, generation),
			},
		})
	}
	return &Status{Object: ref, Generation: generation, Value: value}, r.sorted()
}

// ancestorOf names a Gateway as an ancestor.
func ancestorOf(gateway objects.Ref) gatewayv1.ParentReference {
	group, kind, namespace := gatewayv1.Group(gatewayv1.GroupName), gatewayv1.Kind(gateway.Kind), gatewayv1.Namespace(gateway.Namespace)
	return gatewayv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gatewayv1.ObjectName(gateway.Name)}
}

// find resolves a targetRef, and reports where the policy does not hold; note
// is what is to be said where it does.
func (x *backendTLS) find(set *objects.Set, p *backendTLSPolicy, target int, r *report, lost *verdict) (at place, note string) {
	at, problem := backendTLSPlace(p.object, target)
	fail := func(reason gatewayv1.PolicyConditionReason, field, message, want string) (place, string) {
		r.fail(lost, Finding{Field: fmt.Sprintf("spec.targetRefs[%d]%s", target, field), Message: message, Want: want,
			Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(reason)})
		return at, ""
	}
	if problem != nil {
		return fail(gatewayv1.PolicyReasonTargetNotFound, problem.Field, problem.Message, problem.Want)
	}
	if set.Get(at.object) == nil {
		return fail(gatewayv1.PolicyReasonTargetNotFound, ".name", fmt.Sprintf("%s does not exist", at.object),
			"the name of "+aKind(at.object.Kind)+" in the policy's namespace")
	}
	if at.object.Kind != "Backend" {
		var sections, udp []string
		tcp := 0
		ports := servicePorts(set.Get(at.object))
		for i := range ports {
			port := &ports[i]
			if port.Name != "" {
				sections = append(sections, port.Name)
			}
			if at.section != "" && port.Name != at.section {
				continue
			}
			if transportOf(*port) == corev1.ProtocolUDP {
				udp = append(udp, cmp.Or(port.Name, fmt.Sprint(port.Port)))
			} else {
				tcp++
			}
		}
		switch {
		case at.section != "" && !slices.Contains(sections, at.section):
			want := "no sectionName: its ports have no names"
			if len(sections) > 0 {
				want = "one of " + strings.Join(sections, ", ")
			}
			return fail(gatewayv1.PolicyReasonTargetNotFound, ".sectionName", fmt.Sprintf("%s has no port %q", at.object, at.section), want)
		case len(udp) > 0 && tcp == 0:
			return fail(gatewayv1.PolicyReasonInvalid, "", "the policy is for TCP, and "+strings.Join(udp, ", ")+" is a UDP port", "a TCP port")
		case len(udp) > 0:
			note = fmt.Sprintf(" It does not hold for the UDP ports of %s: %s.", at.object, strings.Join(udp, ", "))
		}
	}
	if winner := x.holder(at); winner != p {
		return fail(gatewayv1.PolicyReasonConflicted, "", fmt.Sprintf("%s, which is older or the first by name, holds at %s", winner.report.object, at),
			"one BackendTLSPolicy for each target")
	}
	return at, note
}

// gatewaysOf returns the Gateways with routes that refer to a backend, or whose
// policies do, sorted.
func (p *pass) gatewaysOf(backend objects.Ref) []objects.Ref {
	gateways := map[objects.Ref]bool{}
	note := func(r *route) {
		if r == nil || len(r.attached) == 0 || !r.sendsTo(backend) && !p.tables.frame.grants.allow(r.object.ref, backend) {
			return
		}
		for _, listener := range r.attached {
			if parent := p.tables.frame.served[parentOf(listener)]; parent != nil {
				gateways[parent.gateway.ref()] = true
			}
		}
	}
	for _, ref := range p.set.RoutesOfBackend(backend) {
		r, _ := p.tables.routes.Get(ref.String())
		note(r)
	}
	for _, r := range p.tables.streams.routes {
		if r.refersTo(backend) {
			note(r)
		}
	}
	if p.tables.frame.policies.backends(backend) {
		// Of routes below these policies, the authorization server is one of the backends.
		for _, key := range p.tables.routes.Keys() {
			if r, _ := p.tables.routes.Get(key); r.refersTo(backend) {
				note(r)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(gateways), objects.Ref.Compare)
}

func (r *route) refersTo(backend objects.Ref) bool { return slices.Contains(r.backends(), backend) }

// sendsTo reports whether one of a route's clusters is of a backend.
func (r *route) sendsTo(backend objects.Ref) bool {
	return slices.ContainsFunc(r.clusters, func(key string) bool { return backendOfCluster(key) == backend })
}

// backendOfCluster is what a cluster is of, by its key, see snapshot.Cluster.
func backendOfCluster(key string) (ref objects.Ref) {
	ref.Kind, key, _ = strings.Cut(key, "/")
	ref.Namespace, key, _ = strings.Cut(key, "/")
	ref.Name = key
	if end := strings.IndexAny(key, "/@"); end >= 0 {
		ref.Name = key[:end]
	}
	return ref
}

// backends are the Services and Backends that a route refers to, and those of
// its policies.
func (r *route) backends() (refs []objects.Ref) {
	if r == nil || r.object == nil {
		return nil
	}
	add := func(b *gatewayv1.BackendObjectReference) {
		if ref, ok := objects.BackendOf(b, r.object.Namespace); ok {
			refs = append(refs, ref)
		}
	}
	objects.EachBackendRef(r.object.HTTPRoute, add)
	objects.EachExternalAuthRef(r.object.HTTPRoute, add)
	for _, key := range r.clusters {
		refs = append(refs, backendOfCluster(key))
	}
	return sortedRefs(refs)
}

// reportBackends makes the statuses of the BackendTLSPolicies and XBackends whose
// ancestors may differ: all of them if the frame or the routes of connections
// were compiled anew, else those at the backends of routes that came, went or moved.
func (p *pass) reportBackends(s *scope) {
	x, hosts := p.tables.frame.backendTLS, p.tables.frame.xBackends
	if len(x.sorted)+len(hosts) == 0 {
		return
	}
	stale := map[objects.Ref]bool{}
	if s.reframe || s.streams {
		for _, ref := range x.sorted {
			stale[ref] = true
		}
		for ref := range hosts {
			stale[ref] = true
		}
	} else {
		for ref := range s.routes {
			was, _ := p.prev.tables.routes.Get(ref.String())
			is, _ := p.tables.routes.Get(ref.String())
			if was != nil && is != nil && slices.Equal(was.attached, is.attached) && slices.Equal(was.backends(), is.backends()) {
				continue
			}
			for _, backend := range append(was.backends(), is.backends()...) {
				for _, t := range x.targeting[backend] {
					stale[t.policy.report.object] = true
				}
				if hosts[backend] != nil {
					stale[backend] = true
				}
			}
		}
	}
	for ref := range stale {
		var status *Status
		var findings []Finding
		if host := hosts[ref]; host != nil {
			status, findings = host.status(p.gatewaysOf(ref))
		} else {
			status, findings = x.status(p.set, ref, p.gatewaysOf)
		}
		p.setStatus(ref, status)
		p.setFindings(ref, findings)
	}
}
