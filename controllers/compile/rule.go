package compile

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/extauth"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// compiledRule is a rule before it is known which listener serves it.
type compiledRule struct {
	index   int
	matches []compiledMatch
	own     ownFilters
	base    snapshot.Rule // without filters
	// uses are the clusters that base names, by key.
	uses map[string]clusterUse
	// variants are the rule as listeners serve it; most rules have one.
	variants []*snapshot.Rule
}

type compiledMatch struct {
	index int
	match snapshot.Match
	grpc  grpcRank
}

// ruleCompiler compiles one rule of a route.
type ruleCompiler struct {
	frame  *frame
	set    *objects.Set
	object *form
	index  int
	route  *route
	report *report
	// refused gathers what makes the rule invalid, clusters what it needs if it is valid, by key.
	refused  verdict
	clusters map[string]clusterUse
	// retry is the rule's own.
	retry *snapshot.Retry
}

func (c *ruleCompiler) ok() bool { return c.refused.ok() }

// invalid makes the rule invalid.
func (c *ruleCompiler) invalid(reason gatewayv1.RouteConditionReason, field, message, want string) {
	c.report.fail(&c.refused, Finding{Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.RouteConditionAccepted), Reason: string(reason)})
}

func (c *ruleCompiler) uses(use clusterUse) {
	if c.clusters == nil {
		c.clusters = map[string]clusterUse{}
	}
	c.clusters[use.cluster.Key] = use
}

// compile compiles the rule.
//
// What becomes of an invalid rule: the matches that compile stay, and are
// answered 500; the others match nothing. The Gateway API lets an
// implementation drop the rule, or go back to its last good version if it can
// do so after a restart too. A dropped rule would hand its requests to a less
// specific one, which may lack the filters that the rule was written for, and
// a last good version would not survive a restart, nor be a function of the
// objects alone.
func (c *ruleCompiler) compile() *compiledRule {
	rule := &c.object.Spec.Rules[c.index]
	field := fmt.Sprintf("spec.rules[%d]", c.index)
	out := &compiledRule{index: c.index, base: snapshot.Rule{Source: snapshot.Ref{
		Kind: c.object.ref.Kind, Namespace: c.object.Namespace, Name: c.object.Name, Section: strconv.Itoa(c.index)}}}
	if rule.Name != nil && *rule.Name != "" {
		out.base.Source.Section = string(*rule.Name)
	}

	prefixes := true
	for i := range matchesOr(rule.Matches) {
		m, findings := c.object.match(c.index, i)
		for _, f := range findings {
			f.Field = fmt.Sprintf("%s.matches[%d]%s", field, i, f.Field)
			c.report.fail(&c.refused, f)
		}
		if len(findings) == 0 {
			out.matches = append(out.matches, m)
		}
		prefixes = prefixes && m.match.Path.Type == string(gatewayv1.PathMatchPathPrefix)
	}

	out.own = c.compileFilters(rule.Filters, filterPlace{field: field + ".filters", prefixes: prefixes})
	out.base.Mirrors, out.base.Broken = out.own.mirrors, out.own.broken
	c.compileTimeouts(rule.Timeouts, field+".timeouts", &out.base)
	out.base.Retry = c.compileRetry(rule.Retry, field+".retry")
	c.retry = out.base.Retry
	if s := rule.SessionPersistence; s != nil {
		session := compileSession(ownSession(s), field+".sessionPersistence", func(field, message, want string) {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, message, want)
		})
		out.base.SessionPersistence = c.frame.sessionAt(session, out.base.Source, true)
	}
	if out.own.redirects && len(rule.BackendRefs) > 0 {
		c.invalid(gatewayv1.RouteReasonIncompatibleFilters, field+".backendRefs", "the rule redirects every request, none reaches a backend", "no backendRefs")
	}
	if out.own.redirects && rule.Retry != nil {
		c.invalid(gatewayv1.RouteReasonIncompatibleFilters, field+".retry", "the rule redirects every request, none reaches a backend", "no retry")
	}
	if out.own.redirects && rule.SessionPersistence != nil {
		c.invalid(gatewayv1.RouteReasonIncompatibleFilters, field+".sessionPersistence", "the rule redirects every request, none reaches a backend", "no sessionPersistence")
	}
	c.compileBackends(rule, field+".backendRefs", prefixes, out)
	if len(out.own.cors) > 0 {
		// A preflight asks on behalf of the request that is to follow it, so it is
		// for the rule which that request is for.
		for i := range out.matches {
			out.matches[i].match.Preflight = out.matches[i].match.Method != ""
		}
	}
	if !c.ok() {
		out.base = snapshot.Rule{Source: out.base.Source, Broken: c.refused.message}
		return out
	}
	out.uses = c.clusters
	return out
}

// compileBackends compiles the weighted backendRefs. The share of one that does
// not resolve is answered 500, HTTPRouteRule.backendRefs.
func (c *ruleCompiler) compileBackends(rule *gatewayv1.HTTPRouteRule, field string, prefixes bool, out *compiledRule) {
	total := uint64(0)
	var cors [][]policy.Config
	out.base.Split = c.frame.policies.split(c.object, c.index)
	for i := range rule.BackendRefs {
		ref := &rule.BackendRefs[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		backend := snapshot.Backend{Weight: 1}
		if ref.Weight != nil {
			backend.Weight = uint32(*ref.Weight)
			if *ref.Weight < 0 || *ref.Weight > 1_000_000 {
				c.invalid(gatewayv1.RouteReasonUnsupportedValue, at+".weight", fmt.Sprintf("%d is out of range", *ref.Weight), "0 to 1000000")
				backend.Weight = 0
			}
		}
		if out.base.Split != nil {
			backend.Name = backendName(&ref.BackendObjectReference, c.object.Namespace, out.base.Backends)
		}
		total += uint64(backend.Weight)
		own := c.compileFilters(ref.Filters, filterPlace{field: at + ".filters", prefixes: prefixes, backend: true})
		backend.Filters, backend.Mirrors, cors = append(own.auth, own.configs...), own.mirrors, append(cors, own.cors)
		if use, ok := c.resolve(&ref.BackendObjectReference, at); ok && own.broken == "" {
			c.uses(use)
			backend.Cluster = use.cluster.Key
			settings := c.frame.policies.backend(use.by(c.object, c.index))
			c.applySettings(settings, &backend, &out.base)
			backend.Fallback = c.fallback(settings.fallback, use, at)
		}
		out.base.Backends = append(out.base.Backends, backend)
	}
	out.own.cors = c.sharedCORS(out.own.cors, cors, field)
	if total == 0 && !out.own.redirects {
		// Nowhere to send the requests to: none is forwarded, all get 500, but for
		// those of sessions.
		out.base.Backends = slices.DeleteFunc(out.base.Backends, func(b snapshot.Backend) bool {
			return out.base.SessionPersistence == nil && b.SessionPersistence == nil
		})
		out.base.Backends = append(out.base.Backends, snapshot.Backend{Weight: 1})
	}
}

// applySettings adds what policies say of a backend. What the rule says itself holds.
func (c *ruleCompiler) applySettings(s backendSettings, backend *snapshot.Backend, rule *snapshot.Rule) {
	if s.session != nil && rule.SessionPersistence == nil {
		backend.SessionPersistence = c.frame.sessionAt(s.session, rule.Source, s.sessionOfRoute)
	}
	if rule.Retry == nil {
		backend.Retry = s.retry
	}
	backend.Hedge = s.hedge
	if s.fault != nil {
		// Behind all other filters: it stands in for the backend.
		backend.Filters = append(backend.Filters, s.fault)
	}
}

func (r *compiledRule) hasSessions() bool {
	return r.base.SessionPersistence != nil ||
		slices.ContainsFunc(r.base.Backends, func(b snapshot.Backend) bool { return b.SessionPersistence != nil })
}

// durationSyntax is GEP-2257's.
var durationSyntax = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// parseDuration reads a Gateway API duration.
func parseDuration(d gatewayv1.Duration) (time.Duration, bool) {
	if !durationSyntax.MatchString(string(d)) {
		return 0, false
	}
	parsed, err := time.ParseDuration(string(d))
	return parsed, err == nil
}

func (c *ruleCompiler) readDuration(d gatewayv1.Duration, field string) time.Duration {
	parsed, ok := parseDuration(d)
	if !ok {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field, fmt.Sprintf("%q is no duration", d), `a duration such as "10s", "1m30s" or "250ms"`)
	}
	return parsed
}

// compileTimeouts compiles a rule's timeouts; zero switches one off.
func (c *ruleCompiler) compileTimeouts(t *gatewayv1.HTTPRouteTimeouts, field string, rule *snapshot.Rule) {
	if t == nil {
		return
	}
	read := func(d *gatewayv1.Duration, name string) time.Duration {
		if d == nil {
			return 0
		}
		return c.readDuration(*d, field+name)
	}
	rule.RequestTimeout = read(t.Request, ".request")
	rule.BackendTimeout = read(t.BackendRequest, ".backendRequest")
	if rule.RequestTimeout > 0 && rule.BackendTimeout > rule.RequestTimeout {
		c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".backendRequest", fmt.Sprintf("%s is more than the %s of request", *t.BackendRequest, *t.Request),
			"at most the request timeout")
	}
}

// What HTTPRouteRetry leaves to implementations.
const (
	defaultAttempts = 1
	mostAttempts    = 100
	defaultBackoff  = 25 * time.Millisecond
)

// compileRetry compiles a rule's retry, nil if it has none.
func (c *ruleCompiler) compileRetry(r *gatewayv1.HTTPRouteRetry, field string) *snapshot.Retry {
	if r == nil {
		return nil
	}
	retry := &snapshot.Retry{Attempts: defaultAttempts, Backoff: defaultBackoff}
	for i, code := range r.Codes {
		if code < 400 || code > 599 {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, fmt.Sprintf("%s.codes[%d]", field, i), fmt.Sprintf("%d is no status of an error", code), "400 to 599")
		}
		retry.Codes = append(retry.Codes, int(code))
	}
	slices.Sort(retry.Codes)
	retry.Codes = slices.Compact(retry.Codes)
	if r.Attempts != nil {
		retry.Attempts = *r.Attempts
		if retry.Attempts < 0 || retry.Attempts > mostAttempts {
			c.invalid(gatewayv1.RouteReasonUnsupportedValue, field+".attempts", fmt.Sprintf("%d is out of range", retry.Attempts), fmt.Sprintf("0 to %d", mostAttempts))
		}
	}
	if r.Backoff != nil {
		retry.Backoff = c.readDuration(*r.Backoff, field+".backoff")
	}
	return retry
}

// on returns the rule as a listener of a route's serves it, with the filters of the policies
// there, and adds the clusters that it needs to the route's. Listeners for which the rule is the same share it.
func (r *compiledRule) on(l *listener, of *route, policies policyIndex) *snapshot.Rule {
	rule := r.base
	if rule.Broken == "" {
		own := r.own
		own.configs = forPort(own.configs, uint16(l.spec.Port))
		at := attachment{Listener: l, Route: of.object, Rule: r.index}
		var uses []clusterUse
		rule.Filters, uses, rule.Broken = policies.filters(at, own)
		rule.Priority = policies.priority(at, own)
		rule.Filters = r.asking(rule.Filters, l, of, uses)
	}
	rule.Backends, rule.Mirrors = r.through(l, of)
	if slices.ContainsFunc(rule.Backends, func(b snapshot.Backend) bool { return len(b.Filters) > 0 }) {
		rule.Backends = slices.Clone(rule.Backends)
		for i := range rule.Backends {
			rule.Backends[i].Filters = r.asking(forPort(rule.Backends[i].Filters, uint16(l.spec.Port)), l, of, nil)
		}
	}
	same := func(v *snapshot.Rule) bool {
		return v.Broken == rule.Broken && v.Priority == rule.Priority && equalConfigs(v.Filters, rule.Filters) && equal(v.Backends, rule.Backends) && equal(v.Mirrors, rule.Mirrors)
	}
	if i := slices.IndexFunc(r.variants, same); i >= 0 {
		return r.variants[i]
	}
	r.variants = append(r.variants, &rule)
	return &rule
}

// through returns the backends and mirrors as they are reached through a
// listener, and adds their clusters to a route's.
func (r *compiledRule) through(l *listener, of *route) ([]snapshot.Backend, []snapshot.Mirror) {
	backends, mirrors := r.base.Backends, r.base.Mirrors
	if l.reachesPlainly() {
		maps.Copy(of.uses, r.uses)
		return backends, mirrors
	}
	use := func(key string) string {
		if use, ok := r.uses[key]; ok {
			key = of.reach(use, l)
		}
		return key
	}
	reach := func(mirrors []snapshot.Mirror) []snapshot.Mirror {
		mirrors = slices.Clone(mirrors)
		for i := range mirrors {
			mirrors[i].Cluster = use(mirrors[i].Cluster)
		}
		return mirrors
	}
	backends = slices.Clone(backends)
	for i := range backends {
		backends[i].Cluster = use(backends[i].Cluster)
		backends[i].Mirrors = reach(backends[i].Mirrors)
		if f := backends[i].Fallback; f != nil {
			there := *f
			there.Backends = slices.Clone(f.Backends)
			for j := range there.Backends {
				there.Backends[j].Cluster = use(there.Backends[j].Cluster)
			}
			backends[i].Fallback = &there
		}
	}
	return backends, reach(mirrors)
}

// reach adds a cluster as it is reached through a listener, and returns its key.
func (r *route) reach(use clusterUse, l *listener) string {
	if !l.reachesPlainly() {
		use = l.reaches(use)
	}
	r.uses[use.cluster.Key] = use
	return use.cluster.Key
}

// asking returns filters with their authorization servers as they are reached
// through a listener, and adds these to a route's clusters. others are those that
// are not the rule's own.
func (r *compiledRule) asking(filters []policy.Config, l *listener, of *route, others []clusterUse) []policy.Config {
	kept := filters
	for i, f := range kept {
		config, ok := f.(*extauth.Config)
		if !ok {
			continue
		}
		use, own := r.uses[config.Cluster]
		if !own {
			use = others[slices.IndexFunc(others, func(u clusterUse) bool { return u.cluster.Key == config.Cluster })]
		}
		if key := of.reach(use, l); key != config.Cluster {
			there := *config
			there.Cluster = key
			if &filters[0] == &kept[0] {
				filters = slices.Clone(kept)
			}
			filters[i] = &there
		}
	}
	return filters
}

func equalConfigs(a, b []policy.Config) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || equal(a, b))
}
