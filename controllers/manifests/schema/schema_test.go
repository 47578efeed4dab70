package schema

import (
	"strings"
	"testing"

	kschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/headgate/headgate/controllers/objects"
)

// Every kind that Headgate reads has a schema, and all its rules compile: a
// rule that doesn't is an error of any object.
func TestEveryKindHasASchema(t *testing.T) {
	for _, kind := range objects.Kinds {
		gk := kschema.GroupKind{Group: kind.Group, Kind: kind.Name}
		versions := Versions(gk)
		if len(versions) == 0 {
			t.Errorf("%s has none", gk)
		}
		for _, version := range versions {
			k, err := Lookup(gk.WithVersion(version))
			if err != nil || k == nil {
				t.Errorf("%s %s: %v", gk, version, err)
				continue
			}
			if k.Namespaced == kind.ClusterScoped {
				t.Errorf("%s: namespaced is %v", gk, k.Namespaced)
			}
			meta := map[string]any{"name": "a"}
			if k.Namespaced {
				meta["namespace"] = "b"
			}
			for _, e := range k.Admit(map[string]any{"apiVersion": k.GVK.GroupVersion().String(), "kind": kind.Name, "metadata": meta}) {
				if strings.Contains(e.Want, "compil") || strings.Contains(e.Message, "compil") {
					t.Errorf("%s %s: %+v", gk, version, e)
				}
			}
		}
	}
	if k, err := Lookup(kschema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}); k != nil || err != nil {
		t.Errorf("a Deployment: %v, %v", k, err)
	}
}

func TestSteps(t *testing.T) {
	tree := map[string]any{
		"data":     map[string]any{"tls.crt": "x", "a": map[string]any{"b": "y"}},
		"list":     []any{"p", map[string]any{"q": "r"}},
		"metadata": map[string]any{"labels": map[string]any{"example.com/app": "z"}},
	}
	for path, want := range map[string]any{
		"data.tls.crt":                     "x",
		"data[tls.crt]":                    "x",
		"data.a.b":                         "y",
		"list[0]":                          "p",
		"list[1].q":                        "r",
		"metadata.labels[example.com/app]": "z",
		"metadata.labels.example.com/app":  "z",
		"list[2]":                          nil,
		"list[x]":                          nil,
		"list[":                            nil,
		"data.none":                        nil,
		"data.tls.crt.x":                   nil,
	} {
		if got, _ := get(tree, Steps(path)); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"backendRefs", "filters", "matches", "name", "retry", "sessionPersistence", "timeouts"}
	for name, want := range map[string]string{
		"backendRef": "backendRefs", "backendrefs": "backendRefs", "filter": "filters", "match": "matches",
		"timeout": "timeouts", "tiemouts": "timeouts", "nmae": "name", "weight": "", "": "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzSteps(f *testing.F) {
	f.Add("spec.rules[0].labels[a.b/c]")
	f.Add("[].[[x]]..")
	f.Fuzz(func(t *testing.T, path string) {
		steps := Steps(path)
		get(map[string]any{"a": []any{map[string]any{"b": "c"}}}, steps)
	})
}

// The names of ClusterTrustBundles are not those of other objects.
func TestClusterTrustBundleNames(t *testing.T) {
	k, err := Lookup(kschema.GroupVersionKind{Group: "certificates.k8s.io", Version: "v1", Kind: "ClusterTrustBundle"})
	if err != nil || k == nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, signer string
		fine         bool
	}{
		{"example.com:internal:v1", "example.com/internal", true},
		{"example.com:internal:V_1", "example.com/internal", true},
		{"example.com:other:v1", "example.com/internal", false},
		{"plain", "", true},
		{"a:b", "", false},
		{"a/b", "", false},
		{"..", "", false},
	} {
		spec := map[string]any{"trustBundle": "x"}
		if tt.signer != "" {
			spec["signerName"] = tt.signer
		}
		errs := k.Admit(map[string]any{"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
			"metadata": map[string]any{"name": tt.name}, "spec": spec})
		if (len(errs) == 0) != tt.fine {
			t.Errorf("%s of %q: %+v", tt.name, tt.signer, errs)
		}
	}
}
