package compile

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// compiledPolicy is a policy resolved against what it refers to, wherever it is attached.
type compiledPolicy struct {
	// row is that of policyKinds, and kind the index of the one that it merges
	// with: its own but for mergesWith.
	row    *policyKind
	kind   int
	object v1alpha1.Policy
	ref    objects.Ref
	// stanzas are what it sets, in the order of its fields. A stanza is the
	// least that another policy can replace.
	stanzas []stanza
	// findings are about the policy itself; accepted and resolved are what they come to.
	findings           []Finding
	accepted, resolved verdict
	// wanted are what it refers to.
	wanted []objects.Ref
	// servers are the backends that it refers to, to be resolved when all
	// policies are compiled: BackendPolicies say how to reach them.
	servers []server
}

type stanza struct {
	// name is the field's path below spec, such as "jwt" or "limits[per-client]".
	name  string
	value any
	// uses are the clusters that value names.
	uses []clusterUse
	// broken, if not "", says why what it guards must not be served.
	broken string
}

func (p *compiledPolicy) stanza(name string) *stanza {
	for i := range p.stanzas {
		if p.stanzas[i].name == name {
			return &p.stanzas[i]
		}
	}
	return nil
}

func (p *compiledPolicy) String() string { return p.ref.String() }

// policyCompiler is a policy while it is compiled.
type policyCompiler struct {
	*compiledPolicy
	set *objects.Set
	// readsPods says that pods' metadata may be asked for.
	readsPods bool
}

// sets adds a stanza.
func (c *policyCompiler) sets(name string, value any) {
	c.stanzas = append(c.stanzas, stanza{name: name, value: value})
}

// setsIfGood adds a stanza unless something was found wrong since the findings
// were counted.
func (c *policyCompiler) setsIfGood(name string, findings int, value any) {
	if len(c.findings) == findings {
		c.sets(name, value)
	}
}

// guards adds a stanza that lets nothing through if something was found
// wrong since the findings were counted.
func (c *policyCompiler) guards(name string, value any, findings int) {
	s := stanza{name: name, value: value}
	if len(c.findings) > findings {
		s.value, s.broken = nil, fmt.Sprintf("%s: %s", c.ref, c.findings[findings])
	}
	c.stanzas = append(c.stanzas, s)
}

// invalid reports a field that cannot be accepted.
func (c *policyCompiler) invalid(field, message, want string) {
	c.report(&c.accepted, Finding{
		Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.PolicyConditionAccepted), Reason: string(gatewayv1.PolicyReasonInvalid),
	})
}

// The condition that policies with references have beside Accepted, as routes have it.
const (
	conditionResolvedRefs = "ResolvedRefs"
	reasonResolvedRefs    = "ResolvedRefs"
	reasonRefNotFound     = "RefNotFound"
	reasonInvalidRef      = "InvalidRef"
)

// unresolved reports a reference that does not lead to what it should.
func (c *policyCompiler) unresolved(field, reason, message, want string) {
	c.report(&c.resolved, Finding{
		Field: field, Message: message, Want: want, Condition: conditionResolvedRefs, Reason: reason,
	})
}

func (c *policyCompiler) report(v *verdict, f Finding) {
	r := report{object: c.ref, findings: c.findings}
	r.fail(v, f)
	c.findings = r.findings
}

// secret returns a Secret of the policy's namespace, nil if there is none,
// which it reports.
func (c *policyCompiler) secret(field, name string) *corev1.Secret {
	ref := objects.Ref{Kind: "Secret", Namespace: c.ref.Namespace, Name: name}
	c.wanted = append(c.wanted, ref)
	secret := objects.Get[*corev1.Secret](c.set, ref.Namespace, ref.Name)
	if secret == nil {
		c.unresolved(field, reasonRefNotFound, ref.String()+" does not exist", "the name of a Secret in the policy's namespace")
	}
	return secret
}

// duration reads a duration within bounds; without one, it is unset.
func (c *policyCompiler) duration(field string, d *gatewayv1.Duration, unset, least, most time.Duration) time.Duration {
	if d == nil {
		return unset
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || v < least || v > most {
		c.invalid(field, fmt.Sprintf("%q is not a duration within bounds", *d), fmt.Sprintf("a duration from %s to %s, such as 10s", span(least), span(most)))
		return unset
	}
	return v
}

// span is a duration as one would write it: 1h, not 1h0m0s.
func span(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// number reads a number within bounds; without one, it is unset.
func number[T int32 | int64](c *policyCompiler, field string, n *T, unset, least, most T) T {
	if n == nil {
		return unset
	}
	if *n < least || *n > most {
		c.invalid(field, fmt.Sprintf("%d is out of bounds", *n), fmt.Sprintf("a number from %d to %d", least, most))
		return unset
	}
	return *n
}
