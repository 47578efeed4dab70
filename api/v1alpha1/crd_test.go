package v1alpha1_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/headgate/headgate/api/v1alpha1"
)

// TestCRDs compares the CRDs with the scheme. Whether an API server takes them
// is seen where one is started.
func TestCRDs(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../config/crd/headgate.dev_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(text, &crd); err != nil {
			t.Fatal(file, err)
		}
		kind := crd.Spec.Names.Kind
		seen[kind] = true
		if !scheme.Recognizes(v1alpha1.GroupVersion.WithKind(kind)) {
			t.Errorf("%s is not in the scheme", kind)
		}
		label := crd.Labels["gateway.networking.k8s.io/policy"]
		if isPolicy := strings.HasSuffix(kind, "Policy"); isPolicy != (label == "Direct" || label == "Inherited") {
			t.Errorf("%s has the policy label %q", kind, label)
		}
	}
	for kind := range scheme.KnownTypes(v1alpha1.GroupVersion) {
		if scheme.Recognizes(v1alpha1.GroupVersion.WithKind(kind+"List")) && !seen[kind] {
			t.Errorf("%s has no CRD", kind)
		}
	}
}
