package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// clientSetting is a stanza's value of a ListenerPolicy.
type clientSetting func(*snapshot.Client)

func compileListenerPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.ListenerPolicy).Spec
	set := func(name string, findings int, apply clientSetting) {
		c.setsIfGood(name, findings, apply)
	}
	if len(spec.TrustedProxies) > 0 {
		before := len(c.findings)
		networks := c.networks("spec.trustedProxies", spec.TrustedProxies)
		set("trustedProxies", before, func(cl *snapshot.Client) { cl.TrustedProxies = networks })
	}
	if spec.ProxyProtocol != nil {
		compileProxyProtocol(c, spec.ProxyProtocol)
	}
	if spec.Connections != nil {
		compileClientConnections(c, spec.Connections)
	}
	if l := spec.Limits; l != nil {
		if l.HeaderBytes != nil {
			before := len(c.findings)
			n := number(c, "spec.limits.headerBytes", l.HeaderBytes, 0, 1024, 1<<20)
			set("limits.headerBytes", before, func(cl *snapshot.Client) { cl.HeaderBytes = int(n) })
		}
		if l.Headers != nil {
			before := len(c.findings)
			n := number(c, "spec.limits.headers", l.Headers, 0, 8, 1024)
			set("limits.headers", before, func(cl *snapshot.Client) { cl.Headers = int(n) })
		}
		if l.BodyBytes != nil {
			before := len(c.findings)
			n := number(c, "spec.limits.bodyBytes", l.BodyBytes, 0, 1, 1<<62)
			set("limits.bodyBytes", before, func(cl *snapshot.Client) { cl.BodyBytes = n })
		}
	}
	if t := spec.Timeouts; t != nil {
		timeout := func(name string, d *gatewayv1.Duration, most time.Duration, apply func(*snapshot.Client, time.Duration)) {
			if d == nil {
				return
			}
			before := len(c.findings)
			v := c.duration("spec.timeouts."+name, d, 0, time.Millisecond, most)
			set("timeouts."+name, before, func(cl *snapshot.Client) { apply(cl, v) })
		}
		timeout("header", t.Header, time.Hour, func(cl *snapshot.Client, d time.Duration) { cl.HeaderTimeout = d })
		timeout("idle", t.Idle, 24*time.Hour, func(cl *snapshot.Client, d time.Duration) { cl.IdleTimeout = d })
		timeout("body", t.Body, time.Hour, func(cl *snapshot.Client, d time.Duration) { cl.BodyTimeout = d })
	}
	if spec.TLS != nil {
		compileListenerTLS(c, spec.TLS)
	}
	if spec.HTTP3 != nil {
		compileHTTP3(c, spec.HTTP3)
	}
	if len(c.stanzas) == 0 && len(c.findings) == 0 {
		c.invalid("spec", "it sets nothing", "trustedProxies, proxyProtocol, connections, limits, timeouts, tls or http3")
	}
}

// networks reads CIDRs, and returns them sorted.
func (c *policyCompiler) networks(field string, list []string) (networks []string) {
	for i, text := range list {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			c.invalid(fmt.Sprintf("%s[%d]", field, i), fmt.Sprintf("%q is not a network", text), "a CIDR such as 10.0.0.0/8 or fd00::/8")
			continue
		}
		networks = append(networks, network.Masked().String())
	}
	slices.Sort(networks)
	return slices.Compact(networks)
}

// client implements policyIndex.
func (x *policies) client(l *listener) *snapshot.Client {
	var client *snapshot.Client
	for _, w := range x.effective(listenerPolicies, l.places()...) {
		if set, ok := w.stanza.value.(clientSetting); ok && reachOf(w.stanza.name).takes(l.spec) {
			if client == nil {
				client = &snapshot.Client{}
			}
			set(client)
		}
	}
	return client
}
