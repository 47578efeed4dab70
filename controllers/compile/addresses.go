package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// addressType is the type of a requested address.
func addressType(a *gatewayv1.GatewaySpecAddress) gatewayv1.AddressType {
	if a.Type == nil {
		return gatewayv1.IPAddressType
	}
	return *a.Type
}

// checkAddresses refuses requests of spec.addresses that can never be met.
// Standalone, listeners are bound at the addresses that the program was given,
// and a Gateway that asks for fewer must not be reachable at the others.
func (g *gateway) checkAddresses(opts Options) {
	standalone := opts.Namespace == ""
	refuse := func(i int, field string, reason gatewayv1.GatewayConditionReason, message, want string) {
		g.refuse(reason, fmt.Sprintf("spec.addresses[%d]%s", i, field), message, want)
	}
	asked := map[string]bool{}
	for i := range g.object.Spec.Addresses {
		a := &g.object.Spec.Addresses[i]
		switch kind := addressType(a); {
		case kind == gatewayv1.IPAddressType && a.Value != "" && !isIP(a.Value):
			refuse(i, ".value", gatewayv1.GatewayReasonInvalid, fmt.Sprintf("%q is no IP address", a.Value), "such as 192.0.2.1 or 2001:db8::1")
		case kind == gatewayv1.HostnameAddressType && standalone:
			refuse(i, ".type", gatewayv1.GatewayReasonUnsupportedAddress, "there is no load balancer that could have a hostname", string(gatewayv1.IPAddressType))
		case kind != gatewayv1.IPAddressType && kind != gatewayv1.HostnameAddressType:
			refuse(i, ".type", gatewayv1.GatewayReasonUnsupportedAddress, fmt.Sprintf("%s is not supported", kind), "IPAddress or Hostname")
		case standalone && a.Value != "" && !slices.ContainsFunc(opts.Addresses, func(have string) bool { return sameAddress(have, a.Value) }):
			refuse(i, ".value", gatewayv1.GatewayReasonUnsupportedAddress, "no --bind-address names "+a.Value, "one that is named there, or no addresses")
		default:
			asked[canonicalAddress(a.Value)] = true
		}
	}
	if !standalone || len(asked) == 0 || asked[""] || !g.refused.ok() {
		return
	}
	for _, bound := range opts.Addresses {
		if !asked[canonicalAddress(bound)] {
			g.refuse(gatewayv1.GatewayReasonUnsupportedAddress, "spec.addresses", "listeners are bound at "+bound+" too",
				"all that --bind-address names: "+strings.Join(opts.Addresses, ", "))
		}
	}
}

// loadBalancerIP is the address that the Gateway's Service asks for, "" for
// any: a Service can ask for one.
func (g *gateway) loadBalancerIP() string {
	for i := range g.object.Spec.Addresses {
		if a := &g.object.Spec.Addresses[i]; addressType(a) == gatewayv1.IPAddressType && a.Value != "" {
			return a.Value
		}
	}
	return ""
}

// judgeAddresses says which requested addresses the Gateway's Service has not got.
func (g *gateway) judgeAddresses(service *corev1.Service) {
	if !g.refused.ok() {
		return
	}
	for i := range g.object.Spec.Addresses {
		a := &g.object.Spec.Addresses[i]
		if slices.ContainsFunc(g.addresses, func(have gatewayv1.GatewayStatusAddress) bool {
			return *have.Type == addressType(a) && (a.Value == "" || sameAddress(have.Value, a.Value))
		}) {
			continue
		}
		f := Finding{
			Field: fmt.Sprintf("spec.addresses[%d]", i), Want: "an address that the cluster's load balancer can give",
			Condition: string(gatewayv1.GatewayConditionProgrammed), Reason: string(gatewayv1.GatewayReasonAddressNotUsable),
		}
		switch {
		case a.Value == "":
			g.programmed.fail(string(gatewayv1.GatewayReasonAddressNotAssigned), fmt.Sprintf("%s: the Gateway's Service has no address of type %s yet", f.Field, addressType(a)))
			continue
		case service != nil && service.Spec.Type != corev1.ServiceTypeLoadBalancer:
			f.Message, f.Want = "a Service of type "+string(service.Spec.Type)+" takes no addresses", "type LoadBalancer, or no addresses"
		case addressType(a) == gatewayv1.IPAddressType && a.Value != g.loadBalancerIP():
			f.Message, f.Want = a.Value+" is one more than a Service can ask for", "one address"
		default:
			f.Message = "the Gateway's Service has not got " + a.Value
		}
		g.fail(&g.programmed, f)
	}
}

func sameAddress(a, b string) bool { return canonicalAddress(a) == canonicalAddress(b) }

// canonicalAddress is the one spelling of an IP address or hostname.
func canonicalAddress(value string) string {
	if ip, err := netip.ParseAddr(value); err == nil {
		return ip.Unmap().String()
	}
	return strings.ToLower(value)
}
