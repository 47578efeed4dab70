package compile

import (
	"fmt"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/policy/fault"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// clusterSetting is a stanza's value of a BackendPolicy: what it does to a
// cluster. The other stanzas are among backendSettings.
type clusterSetting func(*snapshot.Cluster)

// backendSettings are what BackendPolicies say of a backend as one rule uses it.
type backendSettings struct {
	session *snapshot.SessionPersistence
	// sessionOfRoute says that the session is the route's or rule's, not the backend's.
	sessionOfRoute bool
	retry          *snapshot.Retry
	hedge          *snapshot.Hedge
	fallback       *fallback
	fault          *fault.Config
}

// backendProtocols are what a snapshot's cluster has for BackendPolicy's protocol.
var backendProtocols = map[v1alpha1.BackendProtocol]string{"HTTP1": "http1", "HTTP2": "h2c", "Auto": "alpn"}

func compileBackendPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.BackendPolicy).Spec
	set := func(name string, findings int, apply clusterSetting) { c.setsIfGood(name, findings, apply) }
	if spec.Balance != nil {
		before := len(c.findings)
		apply := compileBalance(c, spec.Balance)
		set("balance", before, apply)
	}
	if spec.ConnectTimeout != nil {
		before := len(c.findings)
		d := c.duration("spec.connectTimeout", spec.ConnectTimeout, 0, time.Millisecond, time.Minute)
		set("connectTimeout", before, func(cl *snapshot.Cluster) { cl.ConnectTimeout = d })
	}
	if t := spec.Timeouts; t != nil {
		for _, one := range []struct {
			name string
			d    *gatewayv1.Duration
			most time.Duration
			of   func(*snapshot.Timeouts) *time.Duration
		}{
			{"timeouts.idle", t.Idle, 24 * time.Hour, func(t *snapshot.Timeouts) *time.Duration { return &t.Idle }},
			{"timeouts.tunnel", t.Tunnel, 7 * 24 * time.Hour, func(t *snapshot.Timeouts) *time.Duration { return &t.Tunnel }},
			{"timeouts.stream", t.Stream, 30 * 24 * time.Hour, func(t *snapshot.Timeouts) *time.Duration { return &t.Stream }},
		} {
			if one.d != nil {
				before := len(c.findings)
				d := c.duration("spec."+one.name, one.d, 0, time.Second, one.most)
				set(one.name, before, func(cl *snapshot.Cluster) { *one.of(&cl.Timeouts) = d })
			}
		}
	}
	compileBackendConnections(c, spec, set)
	if p := spec.ProxyProtocol; p != nil {
		before := len(c.findings)
		version := string(p.Version)
		if version != "V1" && version != "V2" {
			c.invalid("spec.proxyProtocol.version", fmt.Sprintf("%q does not exist", version), "V1 or V2")
		}
		set("proxyProtocol", before, func(cl *snapshot.Cluster) { cl.ProxyProtocol = version })
	}
	if spec.Protocol != nil {
		before := len(c.findings)
		protocol, ok := backendProtocols[*spec.Protocol]
		if !ok {
			c.invalid("spec.protocol", fmt.Sprintf("%q does not exist", *spec.Protocol), "HTTP1, HTTP2 or Auto")
		}
		if slices.ContainsFunc(spec.TargetRefs, func(t v1alpha1.TargetRef) bool { return t.Kind == "GRPCRoute" }) {
			c.invalid("spec.protocol", "calls of GRPCRoutes are always in HTTP/2", "no protocol, or no GRPCRoute among targetRefs")
		}
		set("protocol", before, func(cl *snapshot.Cluster) { cl.Protocol = protocol })
	}
	if spec.HealthCheck != nil {
		before := len(c.findings)
		check := compileHealthCheck(c, spec)
		set("healthCheck", before, func(cl *snapshot.Cluster) { cl.HealthCheck = check })
		reportUnaskable(c, spec.TargetRefs, check)
	}
	if spec.OutlierDetection != nil {
		before := len(c.findings)
		by := compileOutlierDetection(c, spec.OutlierDetection)
		set("outlierDetection", before, func(cl *snapshot.Cluster) { cl.OutlierDetection = by })
	}
	if spec.CircuitBreaker != nil {
		before := len(c.findings)
		by := compileCircuitBreaker(c, spec.CircuitBreaker)
		set("circuitBreaker", before, func(cl *snapshot.Cluster) { cl.CircuitBreaker = by })
	}
	if spec.SessionPersistence != nil {
		c.setsSession(spec.SessionPersistence)
	}
	if spec.Retry != nil {
		before := len(c.findings)
		c.setsIfGood("retry", before, compileRetry(c, spec.Retry))
	}
	if spec.RetryBudget != nil {
		before := len(c.findings)
		c.setsBudget(compileRetryBudget(c, spec.RetryBudget, "spec.retryBudget", "spec.retryBudget.minRetryRate"), before)
	}
	if spec.Hedge != nil {
		before := len(c.findings)
		c.setsIfGood("hedge", before, compileHedge(c, spec))
	}
	if spec.Fallback != nil {
		before := len(c.findings)
		made, servers := compileFallback(c, spec)
		c.setsIfGood(stanzaFallback, before, made)
		if len(c.findings) == before {
			c.servers = append(c.servers, servers...)
		}
	}
	if spec.Fault != nil {
		before := len(c.findings)
		c.setsIfGood("fault", before, compileFault(c, spec.Fault))
	}
	if spec.Split != nil {
		before := len(c.findings)
		c.setsIfGood("split", before, compileSplit(c, spec))
	}
	if len(c.stanzas) == 0 && len(c.findings) == 0 {
		c.invalid("spec", "it sets nothing", "what is to hold beside targetRefs")
	}
}

// cluster implements policyIndex.
func (x *policies) cluster(at backendUse, use *clusterUse) (target string) {
	c := use.cluster
	places, own := at.places()
	nearest := -1
	effective := x.effective(backendPolicies, places...)
	for i := range effective {
		w := &effective[i]
		if set, ok := w.stanza.value.(clusterSetting); ok {
			set(c)
			nearest = max(nearest, slices.Index(places, w.place))
			if w.stanza.name == "balance" && c.Balance.PodWeights {
				use.weighedBy = w.ref()
			}
		}
	}
	use.remarks = remarksOnPool(effective, at.Backend)
	if c.HealthCheck != nil && at.Port != nil && !askable(c.HealthCheck, at.Port) {
		c.HealthCheck = nil
	}
	if nearest >= own {
		p := places[nearest]
		target = p.object.Kind + "/" + p.object.Namespace + "/" + p.object.Name
		if p.section != "" {
			target += "/" + p.section
		}
	}
	return target
}

// backend implements policyIndex.
func (x *policies) backend(at backendUse) (s backendSettings) {
	places, own := at.places()
	for _, w := range x.effective(backendPolicies, places...) {
		switch v := w.stanza.value.(type) {
		case *snapshot.SessionPersistence:
			s.session, s.sessionOfRoute = v, slices.Index(places, w.place) >= own
		case *snapshot.Retry:
			s.retry = v
		case *snapshot.Hedge:
			s.hedge = v
		case *fallback:
			s.fallback = v
		case *fault.Config:
			s.fault = v
		}
	}
	return s
}

// places are those of the policies for a backendRef, from the outermost to the
// nearest; the first backends of them are the backend's.
func (u *backendUse) places() (places []place, backends int) {
	places = []place{{object: u.Backend}}
	if u.Port != nil && u.Port.Name != "" {
		places = append(places, place{u.Backend, u.Port.Name})
	}
	backends = len(places)
	if u.Route != nil {
		places = append(places, rulePlaces(u.Route, u.Rule)...)
	}
	return places, backends
}
