package infra

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

func TestAnAliasLeadsToTheGatewaysService(t *testing.T) {
	opts := options()
	opts.ClusterDomain = "example.test"
	s := New(nil, nil, opts)
	want := wanted("a", 80)
	want.Labels = map[string]string{"team": "edge"}
	want.Annotations = map[string]string{"cloud/kind": "nlb"}
	_, apply, _ := s.planAliases([]compile.Infrastructure{want}, nil)
	if len(apply) != 1 {
		t.Fatalf("%d aliases are written, want 1", len(apply))
	}
	got := apply[0]
	if got.Namespace != "apps" || got.Name != "a-headgate" {
		t.Errorf("the alias is %s/%s", got.Namespace, got.Name)
	}
	if got.Spec.Type != corev1.ServiceTypeExternalName || got.Spec.ExternalName != "headgate-apps-a.headgate-system.svc.example.test" {
		t.Errorf("it leads to %s %q", got.Spec.Type, got.Spec.ExternalName)
	}
	if got.Labels["team"] != "edge" || got.Labels[GatewayNameLabel] != "a" || got.Annotations["cloud/kind"] != "nlb" {
		t.Errorf("its metadata is %v, %v", got.Labels, got.Annotations)
	}
	if got.Annotations[externalDNSController] == "" {
		t.Error("external-dns would publish it")
	}
	if o := got.OwnerReferences; len(o) != 1 || o[0].Kind != "GatewayClass" || o[0].UID != "class" {
		t.Errorf("its owners are %v", o)
	}

	name := client.ObjectKeyFromObject(got)
	have := map[types.NamespacedName]*corev1.Service{name: got}
	if remove, apply, _ := s.planAliases([]compile.Infrastructure{want}, have); len(remove) != 0 || len(apply) != 0 {
		t.Errorf("nothing changed, but there is %v to delete and %v to write", remove, apply)
	}
	want.Labels = nil
	if _, apply, _ := s.planAliases([]compile.Infrastructure{want}, have); len(apply) != 1 || apply[0].Labels["team"] != "" {
		t.Errorf("after the Gateway dropped its label, there is %v to write", apply)
	}
	if remove, _, _ := s.planAliases(nil, have); len(remove) != 1 || remove[0] != name {
		t.Errorf("after the Gateway went, there is %v to delete", remove)
	}
	rival := wanted("rival", 80)
	rival.Alias = want.Alias
	if _, apply, err := s.planAliases([]compile.Infrastructure{want, rival}, have); err == nil || len(apply) != 1 {
		t.Errorf("of two Gateways that want one name, %v are written (%v)", apply, err)
	}
}

// A Service that is not Headgate's, or that another Headgate made, is neither
// written nor deleted, and the other Gateways have theirs.
func TestOnlyOwnAliasesAreTouched(t *testing.T) {
	mine := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "a-headgate"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "mine"}},
	}
	others := New(nil, nil, Options{Namespace: "other-system"}).alias(nil, wanted("b", 80))
	labelled := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "labelled", Labels: map[string]string{managedByLabel: managedBy}}}
	c := fake.NewClientBuilder().WithScheme(objects.Scheme()).WithObjects(mine, others, labelled).Build()
	s := New(c, c, options())
	if err := s.reconcileAliases(t.Context(), []compile.Infrastructure{wanted("a", 80), wanted("c", 80)}); err == nil {
		t.Error("no error tells of the Service that is in the way")
	}
	var list corev1.ServiceList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	types := map[string]corev1.ServiceType{}
	for _, service := range list.Items {
		types[service.Name] = service.Spec.Type
	}
	if len(types) != 4 || types["a-headgate"] != "" || types["c-headgate"] != corev1.ServiceTypeExternalName {
		t.Errorf("there are %v", types)
	}
}
