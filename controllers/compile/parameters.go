package compile

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// parametersKind is what parametersRefs name.
const parametersKind = "GatewayParameters"

// problem is what is wrong with parameters.
type problem struct {
	message, want string
}

// parameters returns the GatewayParameters of a name, once they are valid: own
// by themselves, and together with those of the class, which may be nil.
func (b *frameBuilder) parameters(namespace, name string, class *v1alpha1.GatewayParametersSpec) (*v1alpha1.GatewayParametersSpec, []problem) {
	object := objects.Get[*v1alpha1.GatewayParameters](b.set, namespace, name)
	if object == nil {
		return nil, []problem{{fmt.Sprintf("there is no %s %s/%s", parametersKind, namespace, name), "the name of one"}}
	}
	together := mergeParameters(class, &object.Spec)
	problems := checkParameters(&object.Spec, together, b.opts)
	for i := range problems {
		problems[i].message = fmt.Sprintf("%s: %s", objects.RefOf(object), problems[i].message)
	}
	return together, problems
}

// mergeParameters returns what a GatewayClass's and a Gateway's parameters,
// either of which may be nil, come to: the Gateway's hold, field by field and maps
// key by key. Those of the class that do not go with what the Gateway's choose fall away.
func mergeParameters(class, gateway *v1alpha1.GatewayParametersSpec) *v1alpha1.GatewayParametersSpec {
	if class == nil || gateway == nil {
		if class == nil {
			return gateway
		}
		return class
	}
	outer := class.DeepCopy()
	if s := outer.Service; s != nil && gateway.Service != nil && gateway.Service.Type != nil {
		for _, f := range typeFields(s) {
			if f.set && !slices.Contains(f.types, *gateway.Service.Type) {
				f.drop()
			}
		}
	}
	if d := outer.Deployment; d != nil && gateway.Deployment != nil && (gateway.Deployment.Replicas != nil || gateway.Deployment.Autoscaling != nil) {
		d.Replicas, d.Autoscaling = nil, nil
	}
	together := &v1alpha1.GatewayParametersSpec{
		Mode: outer.Mode, Service: overlay(outer.Service, gateway.Service), Deployment: overlay(outer.Deployment, gateway.Deployment),
	}
	if gateway.Mode != nil {
		together.Mode = gateway.Mode
	}
	return together
}

// overlay returns a struct of outer's fields and, in place of them, what inner's
// set; maps are merged key by key.
func overlay[T any](outer, inner *T) *T {
	if outer == nil {
		return inner
	}
	if inner == nil {
		return outer
	}
	result := *outer
	over, under := reflect.ValueOf(inner).Elem(), reflect.ValueOf(&result).Elem()
	for i := range over.NumField() {
		from, to := over.Field(i), under.Field(i)
		switch {
		case from.IsNil():
		case from.Kind() == reflect.Map && !to.IsNil():
			merged := reflect.MakeMap(to.Type())
			for _, m := range []reflect.Value{to, from} {
				for entries := m.MapRange(); entries.Next(); {
					merged.SetMapIndex(entries.Key(), entries.Value())
				}
			}
			to.Set(merged)
		default:
			to.Set(from)
		}
	}
	return &result
}

const (
	loadBalancer = v1alpha1.GatewayServiceType(corev1.ServiceTypeLoadBalancer)
	nodePort     = v1alpha1.GatewayServiceType(corev1.ServiceTypeNodePort)
)

// typeField is a field of a Service that goes with some of its types only.
type typeField struct {
	name  string
	types []v1alpha1.GatewayServiceType
	set   bool
	drop  func()
}

func typeFields(s *v1alpha1.GatewayService) []typeField {
	balanced, outside := []v1alpha1.GatewayServiceType{loadBalancer}, []v1alpha1.GatewayServiceType{loadBalancer, nodePort}
	return []typeField{
		{"loadBalancerClass", balanced, s.LoadBalancerClass != nil, func() { s.LoadBalancerClass = nil }},
		{"loadBalancerSourceRanges", balanced, s.LoadBalancerSourceRanges != nil, func() { s.LoadBalancerSourceRanges = nil }},
		{"allocateLoadBalancerNodePorts", balanced, s.AllocateLoadBalancerNodePorts != nil, func() { s.AllocateLoadBalancerNodePorts = nil }},
		{"externalTrafficPolicy", outside, s.ExternalTrafficPolicy != nil, func() { s.ExternalTrafficPolicy = nil }},
		{"nodePorts", outside, s.NodePorts != nil, func() { s.NodePorts = nil }},
	}
}

// checkParameters says what is wrong with an object's parameters, given what they
// come to together with others. What CRDs say is checked already.
func checkParameters(own, together *v1alpha1.GatewayParametersSpec, opts Options) (problems []problem) {
	fail := func(message, want string) { problems = append(problems, problem{message, want}) }
	if s := own.Service; s != nil {
		kind := serviceType(together, opts)
		for _, f := range typeFields(s) {
			if f.set && !slices.Contains(f.types, kind) {
				fail(fmt.Sprintf("spec.service.%s: the Service is of type %s", f.name, kind), fmt.Sprintf("type %s, or no %s", f.types[0], f.name))
			}
		}
		if t := together.Service; (s.IPFamilyPolicy != nil || s.IPFamilies != nil) &&
			len(t.IPFamilies) > 1 && t.IPFamilyPolicy != nil && *t.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
			fail("spec.service.ipFamilyPolicy: there are two ipFamilies", string(corev1.IPFamilyPolicyPreferDualStack))
		}
	}
	switch {
	case own.Mode == nil || *own.Mode != v1alpha1.GatewayModeDedicated:
	case opts.Namespace == "":
		fail("spec.mode: one process serves all Gateways of a folder", string(v1alpha1.GatewayModeShared))
	case !opts.Dedicated:
		fail("spec.mode: Headgate was not told with --deployment which Deployment its own pods are of", string(v1alpha1.GatewayModeShared))
	}
	return problems
}

// modeOf is the mode that parameters, which may be nil, ask for.
func modeOf(p *v1alpha1.GatewayParametersSpec) v1alpha1.GatewayMode {
	if p == nil || p.Mode == nil {
		return v1alpha1.GatewayModeShared
	}
	return *p.Mode
}

// serviceType is the type of the Service that parameters, which may be nil, ask for.
func serviceType(p *v1alpha1.GatewayParametersSpec, opts Options) v1alpha1.GatewayServiceType {
	switch {
	case p != nil && p.Service != nil && p.Service.Type != nil:
		return *p.Service.Type
	case opts.ServiceType != "":
		return opts.ServiceType
	}
	return loadBalancer
}

// resolveClassParameters reads the parameters of a GatewayClass.
func (b *frameBuilder) resolveClassParameters(c *gatewayClass, ref *gatewayv1.ParametersReference) {
	if ref == nil {
		return
	}
	const field = "spec.parametersRef"
	fail := func(field, message, want string) {
		c.fail(&c.accepted, Finding{Field: field, Message: message, Want: want,
			Condition: string(gatewayv1.GatewayClassConditionStatusAccepted), Reason: string(gatewayv1.GatewayClassReasonInvalidParameters)})
	}
	switch {
	case ref.Group != v1alpha1.GroupName || ref.Kind != parametersKind:
		fail(field, noParameters(ref.Group, ref.Kind), wantParameters)
	case ref.Namespace == nil || *ref.Namespace == "":
		fail(field+".namespace", parametersKind+" have a namespace", "that of "+parametersKind+" "+ref.Name)
	default:
		parameters, problems := b.parameters(string(*ref.Namespace), ref.Name, nil)
		for _, p := range problems {
			fail(field, p.message, p.want)
		}
		c.parameters = parameters
	}
}

// wantParameters is what parametersRefs are to name.
const wantParameters = "kind " + parametersKind + " of group " + v1alpha1.GroupName

func noParameters(group gatewayv1.Group, kind gatewayv1.Kind) string {
	return fmt.Sprintf("%s of group %q holds no parameters for Headgate", kind, group)
}

// resolveParameters reads the parameters of a Gateway and its class.
func (b *frameBuilder) resolveParameters(g *gateway, class *gatewayClass) {
	if !class.accepted.ok() {
		g.keep(gatewayv1.GatewayReasonInvalid, "spec.gatewayClassName", class.object.String()+" is not accepted", "a GatewayClass that is")
	}
	g.parameters = class.parameters
	i := g.object.Spec.Infrastructure
	if i == nil || i.ParametersRef == nil {
		return
	}
	const field = "spec.infrastructure.parametersRef"
	ref := i.ParametersRef
	if ref.Group != v1alpha1.GroupName || ref.Kind != parametersKind {
		g.keep(gatewayv1.GatewayReasonInvalidParameters, field, noParameters(ref.Group, ref.Kind), wantParameters)
		return
	}
	parameters, problems := b.parameters(g.object.Namespace, ref.Name, class.parameters)
	if len(problems) == 0 && modeOf(parameters) == v1alpha1.GatewayModeShared {
		// A class may say what those are like that choose to be dedicated.
		if own := objects.Get[*v1alpha1.GatewayParameters](b.set, g.object.Namespace, ref.Name); own.Spec.Deployment != nil {
			problems = append(problems, problem{fmt.Sprintf("%s: spec.deployment: the Gateway is of mode Shared", objects.RefOf(own)), "mode Dedicated, or no deployment"})
		}
	}
	for _, p := range problems {
		g.keep(gatewayv1.GatewayReasonInvalidParameters, field, p.message, p.want)
	}
	if len(problems) == 0 {
		g.parameters = parameters
	}
}

// keep makes the Gateway not accepted for what its infrastructure is to be
// like. What serves it stays as it is.
func (g *gateway) keep(reason gatewayv1.GatewayConditionReason, field, message, want string) {
	g.fail(&g.kept, Finding{Field: field, Message: message, Want: want,
		Condition: string(gatewayv1.GatewayConditionAccepted), Reason: string(reason)})
}
