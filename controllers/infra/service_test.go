package infra

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
)

func intstrFrom(port int32) intstr.IntOrString { return intstr.FromInt32(port) }

func ofType(kind string) *v1alpha1.GatewayServiceType {
	return new(v1alpha1.GatewayServiceType(kind))
}

func TestParametersOfAService(t *testing.T) {
	s := New(nil, nil, options())
	w := wanted("a", 80, 443)
	w.Labels = map[string]string{"team": "shop"}
	w.Service = v1alpha1.GatewayService{
		Type:                          ofType("LoadBalancer"),
		Labels:                        v1alpha1.Labels{"team": "infra", "tier": "edge"},
		Annotations:                   map[string]string{"cloud/kind": "nlb"},
		LoadBalancerClass:             new("example.com/internal"),
		LoadBalancerSourceRanges:      []string{"192.0.2.0/24"},
		ExternalTrafficPolicy:         new(corev1.ServiceExternalTrafficPolicyCluster),
		InternalTrafficPolicy:         new(corev1.ServiceInternalTrafficPolicyLocal),
		AllocateLoadBalancerNodePorts: new(false),
		IPFamilyPolicy:                new(corev1.IPFamilyPolicyPreferDualStack),
		IPFamilies:                    []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol},
		TrafficDistribution:           new(corev1.ServiceTrafficDistributionPreferSameZone),
		NodePorts:                     []v1alpha1.GatewayNodePort{{Port: 80, NodePort: 30080}, {Port: 443, Protocol: "UDP", NodePort: 30443}},
	}
	_, have := planned(t, s, []compile.Infrastructure{w}, nil)
	got := have[w.Name]
	spec := &got.Spec
	if got.Labels["team"] != "shop" || got.Labels["tier"] != "edge" || got.Annotations["cloud/kind"] != "nlb" {
		t.Errorf("its metadata is %v, %v", got.Labels, got.Annotations)
	}
	if *spec.LoadBalancerClass != "example.com/internal" || !slices.Equal(spec.LoadBalancerSourceRanges, []string{"192.0.2.0/24"}) ||
		spec.ExternalTrafficPolicy != "Cluster" || *spec.InternalTrafficPolicy != "Local" || *spec.AllocateLoadBalancerNodePorts ||
		*spec.IPFamilyPolicy != "PreferDualStack" || len(spec.IPFamilies) != 2 || *spec.TrafficDistribution != "PreferSameZone" {
		t.Errorf("its spec is %v", spec)
	}
	if spec.Ports[0].NodePort != 30080 || spec.Ports[1].NodePort != 0 {
		t.Errorf("its ports are %v", spec.Ports)
	}
	if p, _ := planned(t, s, []compile.Infrastructure{w}, have); !p.empty() {
		t.Errorf("nothing changed, but there is %v to do", p)
	}

	// What is gone from the parameters goes, and what others set stays.
	spec.PublishNotReadyAddresses = true
	w.Service = v1alpha1.GatewayService{Type: ofType("LoadBalancer")}
	_, have = planned(t, s, []compile.Infrastructure{w}, have)
	_, have = planned(t, s, []compile.Infrastructure{w}, have)
	spec = &have[w.Name].Spec
	if spec.LoadBalancerClass != nil || spec.LoadBalancerSourceRanges != nil || spec.ExternalTrafficPolicy != "Local" || spec.InternalTrafficPolicy != nil ||
		spec.AllocateLoadBalancerNodePorts != nil || spec.IPFamilyPolicy != nil || spec.IPFamilies != nil || spec.TrafficDistribution != nil {
		t.Errorf("without parameters, its spec is %v", spec)
	}
	if _, ok := have[w.Name].Labels["tier"]; ok || !spec.PublishNotReadyAddresses {
		t.Errorf("without parameters, it is %v", have[w.Name])
	}
}

// A Service of another type has nothing that the API server would refuse there.
func TestAServiceChangesItsType(t *testing.T) {
	s := New(nil, nil, options())
	w := wanted("a", 80)
	w.Service.LoadBalancerClass = new("example.com/internal")
	w.Service.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
	_, have := planned(t, s, []compile.Infrastructure{w}, nil)
	have[w.Name].Spec.Ports[0].NodePort = 30080
	have[w.Name].Spec.HealthCheckNodePort = 30081

	w.Service = v1alpha1.GatewayService{Type: ofType("NodePort")}
	_, have = planned(t, s, []compile.Infrastructure{w}, have)
	spec := &have[w.Name].Spec
	if spec.Type != "NodePort" || spec.LoadBalancerClass != nil || spec.LoadBalancerSourceRanges != nil || spec.HealthCheckNodePort != 0 || spec.Ports[0].NodePort != 30080 {
		t.Errorf("as NodePort, its spec is %v", spec)
	}
	w.Service = v1alpha1.GatewayService{Type: ofType("ClusterIP")}
	_, have = planned(t, s, []compile.Infrastructure{w}, have)
	spec = &have[w.Name].Spec
	if spec.Type != "ClusterIP" || spec.ExternalTrafficPolicy != "" || spec.Ports[0].NodePort != 0 {
		t.Errorf("as ClusterIP, its spec is %v", spec)
	}
}

// The API server refuses another class for a load balancer: it goes, and comes
// again with the new one. The Service itself and its ports stay.
func TestALoadBalancerChangesItsClass(t *testing.T) {
	s := New(nil, nil, options())
	w := wanted("a", 80)
	_, have := planned(t, s, []compile.Infrastructure{w}, nil)
	before := targets(have)
	for _, test := range []struct {
		class *string
		steps []string
	}{
		{new("example.com/internal"), []string{"ClusterIP none", "LoadBalancer example.com/internal"}},
		{new("example.com/external"), []string{"ClusterIP none", "LoadBalancer example.com/external"}},
		{nil, []string{"ClusterIP none", "LoadBalancer none"}},
	} {
		w.Service.LoadBalancerClass = test.class
		var steps []string
		for range 3 {
			p, after := planned(t, s, []compile.Infrastructure{w}, have)
			if have = after; p.empty() {
				break
			}
			spec := &have[w.Name].Spec
			class := "none"
			if spec.LoadBalancerClass != nil {
				class = *spec.LoadBalancerClass
			}
			steps = append(steps, fmt.Sprint(spec.Type, " ", class))
		}
		if !slices.Equal(steps, test.steps) {
			t.Errorf("the steps are %q, want %q", steps, test.steps)
		}
		if fmt.Sprint(before) != fmt.Sprint(targets(have)) {
			t.Errorf("target ports went from %v to %v", before, targets(have))
		}
	}
}
