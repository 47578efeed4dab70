package objects

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A copy has all that the original has, and shares nothing that could be edited.
func TestServiceImportDeepCopy(t *testing.T) {
	one := func() ServiceImport {
		return ServiceImport{ObjectMeta: meta("a", "s"), Spec: ServiceImportSpec{
			Ports: []ServiceImportPort{{Name: "web", AppProtocol: new("http"), Port: 80}}, IPs: []string{"10.0.0.1"}, Type: "ClusterSetIP",
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, SessionAffinity: corev1.ServiceAffinityClientIP,
			SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(7))}},
			InternalTrafficPolicy: new(corev1.ServiceInternalTrafficPolicyLocal), TrafficDistribution: new("PreferClose"),
		}}
	}
	edit := func(s *ServiceImport) {
		*s.Spec.Ports[0].AppProtocol, s.Spec.Ports[0].Name, s.Spec.IPs[0], s.Spec.IPFamilies[0] = "", "", "", ""
		*s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, *s.Spec.InternalTrafficPolicy, *s.Spec.TrafficDistribution = 0, "", ""
	}
	beta, alpha := one(), ServiceImportV1alpha1(one())
	for _, original := range []runtime.Object{
		&beta, &alpha, &ServiceImportList{Items: []ServiceImport{one()}}, &ServiceImportV1alpha1List{Items: []ServiceImportV1alpha1{ServiceImportV1alpha1(one())}},
	} {
		copied := original.DeepCopyObject()
		if diff := cmp.Diff(original, copied); diff != "" {
			t.Errorf("%T: %s", original, diff)
		}
		switch o := copied.(type) {
		case *ServiceImport:
			edit(o)
		case *ServiceImportV1alpha1:
			edit((*ServiceImport)(o))
		case *ServiceImportList:
			edit(&o.Items[0])
		case *ServiceImportV1alpha1List:
			edit((*ServiceImport)(&o.Items[0]))
		}
		if cmp.Diff(original, copied) == "" {
			t.Errorf("%T was edited with its copy", original)
		}
	}
}
