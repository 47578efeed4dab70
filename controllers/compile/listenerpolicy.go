package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// clientSetting is a stanza's value of a ListenerPolicy.
type clientSetting func(*snapshot.Client)

func compileListenerPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.ListenerPolicy).Spec
	set := func(name string, findings int, apply clientSetting) {
		if len(c.findings) == findings {
			c.sets(name, apply)
		}
	}
	if len(spec.TrustedProxies) > 0 {
		before := len(c.findings)
		var networks []string
		for i, text := range spec.TrustedProxies {
			network, err := netip.ParsePrefix(text)
			if err != nil {
				c.invalid(fmt.Sprintf("spec.trustedProxies[%d]", i), fmt.Sprintf("%q is not a network", text), "a CIDR such as 10.0.0.0/8 or fd00::/8")
				continue
			}
			networks = append(networks, network.Masked().String())
		}
		slices.Sort(networks)
		networks = slices.Compact(networks)
		set("trustedProxies", before, func(cl *snapshot.Client) { cl.TrustedProxies = networks })
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
		timeout := func(name string, d *gatewayv1.Duration, apply func(*snapshot.Client, time.Duration)) {
			if d == nil {
				return
			}
			before := len(c.findings)
			v := c.duration("spec.timeouts."+name, d, 0, time.Millisecond, time.Hour)
			set("timeouts."+name, before, func(cl *snapshot.Client) { apply(cl, v) })
		}
		timeout("header", t.Header, func(cl *snapshot.Client, d time.Duration) { cl.HeaderTimeout = d })
		timeout("idle", t.Idle, func(cl *snapshot.Client, d time.Duration) { cl.IdleTimeout = d })
		timeout("body", t.Body, func(cl *snapshot.Client, d time.Duration) { cl.BodyTimeout = d })
	}
	if spec.TLS != nil {
		compileListenerTLS(c, spec.TLS)
	}
	if len(c.stanzas) == 0 && len(c.findings) == 0 {
		c.invalid("spec", "it sets nothing", "trustedProxies, limits, timeouts or tls")
	}
}

// client implements policyIndex.
func (x *policies) client(gateway *gatewayv1.Gateway, listener gatewayv1.SectionName) *snapshot.Client {
	object := objects.Ref{Kind: "Gateway", Namespace: gateway.Namespace, Name: gateway.Name}
	winners := x.effective(listenerPolicies, place{object: object}, place{object, string(listener)})
	var client *snapshot.Client
	for _, w := range winners {
		if set, ok := w.stanza.value.(clientSetting); ok {
			if client == nil {
				client = &snapshot.Client{}
			}
			set(client)
		}
	}
	return client
}
