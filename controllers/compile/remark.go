package compile

import (
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// A policy may be right in itself, and be wrong beside another one or with what
// an endpoint has. That is known when a cluster is compiled, and remarked in the
// policy's status.

// policyTarget is one of a policy's targetRefs; nobody's if zero.
type policyTarget struct {
	policy objects.Ref
	target int
}

// ref is whose stanza it is, and by which target.
func (w *winner) ref() policyTarget { return policyTarget{w.policy.ref, w.target} }

// remark is a finding about a policy that holds for a cluster.
type remark struct {
	of      policyTarget
	finding Finding
}

// add makes the remark a part of the policy's status. It may be another
// cluster's, too.
func (m *remark) add(r *report, accepted, resolved *verdict) {
	v := accepted
	if m.finding.Condition == conditionResolvedRefs {
		v = resolved
	}
	r.fail(v, m.finding)
	if n := len(r.findings) - 1; slices.Contains(r.findings[:n], r.findings[n]) {
		r.findings = r.findings[:n]
	}
}

// setRemarks replaces those of a cluster.
func (p *pass) setRemarks(key string, remarks []remark) {
	old, _ := p.tables.remarks.Get(key)
	if !set(&p.tables.remarks, key, remarks, len(remarks) > 0) {
		return
	}
	for _, m := range slices.Concat(old, remarks) {
		p.remarked[m.of.policy] = true
	}
}

// remarksOn returns all that there is to remark of a policy. Few clusters have any
// remarks.
func (p *pass) remarksOn(policy objects.Ref) (list []remark) {
	for _, key := range p.tables.remarks.Keys() {
		remarks, _ := p.tables.remarks.Get(key)
		for _, m := range remarks {
			if m.of.policy == policy {
				list = append(list, m)
			}
		}
	}
	return append(list, p.idle(policy)...)
}

// remarks says which pods have a weight that is none; by whose podWeights it counts.
func (r *podReader) remarks(by policyTarget) (list []remark) {
	if r == nil {
		return nil
	}
	slices.SortFunc(r.wrong, func(a, b wrongWeight) int { return a.pod.Compare(b.pod) })
	wrong := slices.Compact(r.wrong)
	say := func(message string) {
		list = append(list, remark{by, Finding{Field: balanceField + ".podWeights", Message: message, Want: "a number from 1 to 1000",
			Condition: conditionResolvedRefs, Reason: reasonInvalidRef}})
	}
	for i, w := range wrong {
		if i == maxNamed {
			say(fmt.Sprintf("%d more pods of the Service have an annotation %s that is no weight", len(wrong)-i, WeightAnnotation))
			break
		}
		say(fmt.Sprintf("the annotation %s of %s is %.64q, so its weight is 1", WeightAnnotation, w.pod, w.value))
	}
	return list
}

// remarksOnPool says where one policy has connections made ahead that another one has begin
// with a client's PROXY protocol header. Of one policy, that is refused.
func remarksOnPool(e effective, backend objects.Ref) (list []remark) {
	i := slices.IndexFunc(e, func(w winner) bool { return w.stanza.name == "proxyProtocol" })
	if i < 0 {
		return nil
	}
	for j := range e {
		if name := e[j].stanza.name; name == "pool.minIdle" || name == "pool.preconnectPercent" {
			list = append(list, remark{e[j].ref(), Finding{Field: "spec." + name,
				Message:   fmt.Sprintf("it is without effect for %s: %s sets proxyProtocol at %s, and %s", backend, e[i].policy, e[i].place, notAhead),
				Want:      "none of it, or no proxyProtocol",
				Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonConflicted)}})
		}
	}
	return list
}
