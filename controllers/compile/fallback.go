package compile

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy/headers"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// fallback is a BackendPolicy's stanza: all but the backends, which each rule
// reaches in its own way, and the references to these, as far as they resolve.
type fallback struct {
	snapshot.Fallback
	policy objects.Ref
	refs   []*gatewayv1.BackendObjectReference
}

const stanzaFallback = "fallback"

// fallbackConditions are the names of snapshot.Fallback.Conditions, those first
// in which nothing of a request was sent: they are the default.
var fallbackConditions = []string{"CircuitOpen", "ConnectFailure", "NoEndpoint", "Reset", "Timeout"}

const (
	unsentConditions    = 3
	mostFallbacks       = 4
	mostFallbackContent = 64 << 10
)

// compileFallback compiles a BackendPolicy's fallback. Its backends are found
// later, see policies.resolve.
func compileFallback(c *policyCompiler, spec *v1alpha1.BackendPolicySpec) (to *fallback, servers []server) {
	const field = "spec.fallback"
	from := spec.Fallback
	to = &fallback{policy: c.ref}
	for i, on := range from.Conditions {
		if !slices.Contains(fallbackConditions, string(on)) {
			c.invalid(fmt.Sprintf("%s.conditions[%d]", field, i), fmt.Sprintf("%q does not exist", on), "one of "+strings.Join(fallbackConditions, ", "))
		}
		to.Conditions = append(to.Conditions, string(on))
	}
	if from.Conditions == nil {
		to.Conditions = fallbackConditions[:unsentConditions:unsentConditions]
	}
	slices.Sort(to.Conditions)
	to.Conditions = slices.Compact(to.Conditions)
	to.Codes, to.GRPCCodes = compileCodes(c, field, from.Codes, from.GRPCCodes)
	to.MinHealthyPercent = int(number(c, field+".minHealthyPercent", from.MinHealthyPercent, 1, 1, 100))
	if from.MinHealthyPercent != nil && !slices.Contains(to.Conditions, "NoEndpoint") {
		c.invalid(field+".minHealthyPercent", "it is for the condition NoEndpoint, which is not among conditions", "that condition, or no minHealthyPercent")
	}
	if len(from.BackendRefs) > mostFallbacks {
		c.invalid(field+".backendRefs", fmt.Sprintf("there are %d", len(from.BackendRefs)), fmt.Sprintf("%d or fewer", mostFallbacks))
	}
	for i := range from.BackendRefs {
		ref := &from.BackendRefs[i]
		backend, _ := objects.BackendOf(ref, c.ref.Namespace)
		for t := range spec.TargetRefs {
			if at, ok := targetOf(c.compiledPolicy, t); ok && at.section == "" && at.object == backend {
				c.invalid(fmt.Sprintf("%s.backendRefs[%d]", field, i), fmt.Sprintf("%s is the target itself", backend), "another backend")
			}
		}
		servers = append(servers, server{fmt.Sprintf("%s.backendRefs[%d]", field, i), ref, stanzaFallback})
	}
	if from.Response != nil {
		to.Response = compileFallbackResponse(c, field+".response", from.Response)
	} else if len(from.BackendRefs) == 0 {
		c.invalid(field, "nothing is said to stand in", "backendRefs or response")
	}
	return to, servers
}

func compileFallbackResponse(c *policyCompiler, field string, from *v1alpha1.FallbackResponse) *snapshot.FallbackResponse {
	to := &snapshot.FallbackResponse{
		Status:      int(number(c, field+".status", from.Status, 0, 200, 599)),
		ContentType: valueOr(from.ContentType, ""),
		Body:        from.Body,
	}
	if err := headers.CheckField("Content-Type", to.ContentType); err != nil || from.ContentType != nil && (to.ContentType == "" || to.Body == "") {
		c.invalid(field+".contentType", fmt.Sprintf("%q is no content type of a body that is there", to.ContentType), "one such as text/html, and a body")
	}
	if s := to.Status; to.Body != "" && (s == 204 || s == 205 || s == 304) {
		c.invalid(field+".body", fmt.Sprintf("responses with status %d have no content", s), "another status, or no body")
	}
	if len(to.Body) > mostFallbackContent {
		c.invalid(field+".body", fmt.Sprintf("it has %d bytes", len(to.Body)), fmt.Sprintf("%d or fewer; more is for a backend to serve", mostFallbackContent))
	}
	checkHeaders(c, field+".headers", from.Headers, "each name once, and Content-Type in contentType", "content-type")
	for _, h := range from.Headers {
		to.Headers = append(to.Headers, snapshot.HeaderField{Name: string(h.Name), Value: h.Value})
	}
	return to
}

// fallback returns a backend's fallback as the rule reaches it; nil if there is none. What the rule
// cannot reach, by its protocol, is left out, and the route says so.
func (c *ruleCompiler) fallback(from *fallback, of clusterUse, field string) *snapshot.Fallback {
	if from == nil {
		return nil
	}
	to := from.Fallback
	for i, ref := range from.refs {
		r := c.resolver()
		r.from = from.policy
		use, wrong := r.resolve(ref, "")
		if wrong == nil && use.cluster.Key == of.cluster.Key {
			continue // a rule's fallback that is one of the rule's own backends
		}
		if wrong != nil {
			c.report.fail(nil, Finding{Field: field, Want: wrong.Want,
				Message: fmt.Sprintf("backendRefs[%d] of the fallback that %s sets is left out here: %s", i, from.policy, wrong.Message)})
			continue
		}
		c.uses(use)
		backend := snapshot.Backend{Cluster: use.cluster.Key}
		// Only what is about requests and not about whose backend it is.
		s := c.frame.policies.backend(use.by(c.object, c.index))
		c.applySettings(backendSettings{retry: s.retry, hedge: s.hedge, fault: s.fault}, &backend, &snapshot.Rule{Retry: c.retry})
		to.Backends = append(to.Backends, backend)
	}
	if len(to.Backends) == 0 && to.Response == nil {
		return nil
	}
	return &to
}
