package compile

import (
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy/extauth"
)

// server is a reference of a policy to an authorization server, or to a backend
// that stands in for others.
type server struct {
	field  string
	ref    *gatewayv1.BackendObjectReference
	stanza string // whose value is the *extauth.Config that needs the cluster, or the *fallback
}

// resolve implements policyIndex.
func (x *policies) resolve(f *frame, set *objects.Set) {
	for _, ref := range x.sorted {
		p := x.compiled[ref]
		for _, server := range p.servers {
			s := p.stanza(server.stanza)
			if to, ok := s.value.(*fallback); ok {
				r := resolver{frame: f, set: set, from: ref}
				if _, wrong := r.resolve(server.ref, server.field); wrong != nil {
					(&policyCompiler{compiledPolicy: p, set: set}).report(&p.resolved, *wrong)
				} else {
					to.refs = append(to.refs, server.ref)
				}
				continue
			}
			config := *s.value.(*extauth.Config)
			use, wrong := resolveServer(f, set, ref, server.ref, server.field, &config)
			if wrong != nil {
				(&policyCompiler{compiledPolicy: p, set: set}).report(&p.resolved, *wrong)
				s.value, s.broken = nil, fmt.Sprintf("%s: %s", ref, wrong)
				continue
			}
			s.value, s.uses = &config, []clusterUse{use}
		}
	}
}

// backends implements policyIndex.
func (x *policies) backends(ref objects.Ref) bool {
	for _, p := range x.compiled {
		if slices.ContainsFunc(p.servers, func(s server) bool {
			backend, ok := objects.BackendOf(s.ref, p.ref.Namespace)
			return ok && backend == ref
		}) {
			return true
		}
	}
	return false
}
