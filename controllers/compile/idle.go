package compile

import (
	"fmt"
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// idleFields returns the fields of a BackendPolicy that are set and do nothing for what is
// passed on unread over a protocol, "tcp" or "udp"; for requests, whatever they are sent in, all do something.
func idleFields(spec *v1alpha1.BackendPolicySpec, protocol string) (fields []string) {
	if protocol != "tcp" && protocol != "udp" {
		return nil
	}
	add := func(field string, set bool) {
		if set {
			fields = append(fields, "spec."+field)
		}
	}
	if b := spec.Balance; b != nil {
		add("balance.loadReports", valueOr(b.LoadReports, false))
		// They are hashed by their client, and have no headers.
		add("balance.hashOn", len(b.HashOn) > 0 && !slices.ContainsFunc(b.HashOn, func(k v1alpha1.HashKey) bool { return k.Type == v1alpha1.HashClientIP }))
		add("balance.subset", b.Subset != nil && (b.Subset.Fallback == "" || b.Subset.Fallback == "Any"))
	}
	if protocol == "udp" {
		add("connectTimeout", spec.ConnectTimeout != nil)
		add("tcpKeepalive", spec.TCPKeepalive != nil)
		add("tcpUserTimeout", spec.TCPUserTimeout != nil)
	}
	add("timeouts", spec.Timeouts != nil)
	add("pool", spec.Pool != nil)
	add("http2Keepalive", spec.HTTP2Keepalive != nil)
	add("protocol", spec.Protocol != nil)
	add("outlierDetection", spec.OutlierDetection != nil)
	if b := spec.CircuitBreaker; b != nil {
		add("circuitBreaker.adaptiveConcurrency", b.AdaptiveConcurrency != nil)
		add("circuitBreaker.maxRetries", b.MaxRetries != nil)
		add("circuitBreaker.queue", b.Queue != nil)
	}
	add("sessionPersistence", spec.SessionPersistence != nil)
	add("retry", spec.Retry != nil)
	add("retryBudget", spec.RetryBudget != nil)
	add("hedge", spec.Hedge != nil)
	if f := spec.Fallback; f != nil {
		add("fallback.response", f.Response != nil)
	}
	add("fault", spec.Fault != nil)
	return fields
}

// idle says what of a BackendPolicy at a backend does nothing for any of the routes that use it.
func (p *pass) idle(policy objects.Ref) (list []remark) {
	object, ok := p.set.Get(policy).(*v1alpha1.BackendPolicy)
	if !ok {
		return nil
	}
	for i := range object.Spec.TargetRefs {
		target := &object.Spec.TargetRefs[i]
		backend := objects.Ref{Kind: string(target.Kind), Namespace: policy.Namespace, Name: string(target.Name)}
		protocols := map[string]bool{}
		keys, _ := p.tables.backends.Get(backend.String())
		for _, key := range keys {
			if c, _ := p.tables.clusters.Get(key); target.SectionName == nil || string(*target.SectionName) == c.port.Name {
				protocols[c.cluster.Protocol] = true
			}
		}
		var idle []string
		for n, protocol := range slices.Sorted(maps.Keys(protocols)) {
			fields := idleFields(&object.Spec, protocol)
			if n == 0 {
				idle = fields
			}
			idle = slices.DeleteFunc(idle, func(field string) bool { return !slices.Contains(fields, field) })
		}
		by := "TCPRoutes and TLSRoutes"
		switch {
		case protocols["tcp"] && protocols["udp"]:
			by = "TCPRoutes, TLSRoutes and UDPRoutes"
		case protocols["udp"]:
			by = "UDPRoutes"
		}
		for _, field := range idle {
			list = append(list, remark{policyTarget{policy, i}, Finding{Field: field,
				Message: fmt.Sprintf("%s is used by %s alone, for which it is without effect", backend, by), Want: "none of it, or a route of requests to the backend",
				Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid)}})
		}
	}
	return list
}

// reuse has the policies at a backend looked at again, as another protocol may
// be spoken to it.
func (p *pass) reuse(backend objects.Ref) {
	for _, policy := range p.tables.frame.policies.attachedTo(backend) {
		p.remarked[policy] = true
	}
}
