package manifests

import (
	"slices"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

const badAuth = `apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders, sectionName: pay}]
  apiKey: {secretRefs: [{name: keys}], nonsense: true}
`

const goodAuth = `apiVersion: headgate.dev/v1alpha1
kind: AuthPolicy
metadata: {name: guard}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: orders}]
  apiKey: {secretRefs: [{name: keys}]}
`

func TestARefusedAuthPolicyStillNamesWhatItGuards(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "auth.yaml", badAuth)
	f := open(t, dir)
	refresh(f)
	ref := objects.Ref{Kind: "AuthPolicy", Namespace: "default", Name: "guard"}
	p, _ := f.current[ref].(*v1alpha1.AuthPolicy)
	if p == nil || p.Annotations[v1alpha1.RefusedAnnotation] == "" {
		t.Fatalf("no stand-in: %+v", p)
	}
	targets := p.Targets()
	if len(targets) != 1 || targets[0].Name != "orders" || targets[0].SectionName == nil || *targets[0].SectionName != "pay" {
		t.Errorf("targets %+v", targets)
	}
	if len(f.Problems()) == 0 {
		t.Error("nothing is reported")
	}

	// Once it was good, its last good version serves on; mended, it is itself.
	write(t, dir, "auth.yaml", goodAuth)
	refresh(f)
	if p := f.current[ref].(*v1alpha1.AuthPolicy); p.Annotations[v1alpha1.RefusedAnnotation] != "" || p.Spec.APIKey == nil {
		t.Errorf("mended: %+v", p)
	}
	write(t, dir, "auth.yaml", badAuth)
	refresh(f)
	if p := f.current[ref].(*v1alpha1.AuthPolicy); p.Annotations[v1alpha1.RefusedAnnotation] != "" || p.Spec.APIKey == nil {
		t.Errorf("broken again: %+v", p)
	}
}

func TestARefusedBackendTLSPolicyStillNamesItsTargets(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "tls.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: web}
spec:
  targetRefs: [{group: "", kind: Service, name: web, sectionName: https}]
  validation: {hostname: web.internal}
`)
	f := open(t, dir)
	refresh(f)
	p, _ := f.current[objects.Ref{Kind: "BackendTLSPolicy", Namespace: "default", Name: "web"}].(*gatewayv1.BackendTLSPolicy)
	if p == nil || p.Annotations[v1alpha1.RefusedAnnotation] == "" {
		t.Fatalf("no stand-in: %+v", p)
	}
	if targets := p.Spec.TargetRefs; len(targets) != 1 || targets[0].Name != "web" || targets[0].SectionName == nil || *targets[0].SectionName != "https" {
		t.Errorf("targets %+v", targets)
	}
	if len(f.Problems()) == 0 {
		t.Error("nothing is reported")
	}
}

func TestClosedFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "auth.yaml", goodAuth+"  bad indentation: [\n")
	write(t, dir, "config.yaml", "apiVersion: [\n")
	write(t, dir, "tls.yaml", "kind: BackendTLSPolicy\n[")
	f := open(t, dir)
	refresh(f)
	if closed := f.Closed(); !slices.Equal(closed, []string{dir + "/auth.yaml", dir + "/tls.yaml"}) {
		t.Errorf("closed %v", closed)
	}
	write(t, dir, "auth.yaml", goodAuth)
	write(t, dir, "tls.yaml", "")
	refresh(f)
	if closed := f.Closed(); len(closed) > 0 {
		t.Errorf("mended, and closed %v", closed)
	}
	// What served once is known, whatever becomes of its file.
	write(t, dir, "auth.yaml", "kind: AuthPolicy\n[")
	refresh(f)
	if closed := f.Closed(); len(closed) > 0 {
		t.Errorf("broken later, and closed %v", closed)
	}
}
