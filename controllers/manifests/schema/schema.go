// Package schema refuses and defaults objects as the API server would: by the
// CRDs' structural schemas with their CEL rules, and for the few core kinds
// that Headgate reads by their Go types.
//
// Every error says which field is wrong, what is wrong with it, and what would
// be right.
package schema

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

//go:generate go run ./gen

//go:embed crds/*.json
var crds embed.FS

// File is what is embedded for each kind and version.
type File struct {
	Group      string `json:"group"`
	Version    string `json:"version"`
	Kind       string `json:"kind"`
	Namespaced bool   `json:"namespaced"`
	// Schema has no status and no descriptions.
	Schema *apiext.JSONSchemaProps `json:"schema"`
}

// Kind knows the schema of one kind in one version. It is safe for concurrent use.
type Kind struct {
	GVK        schema.GroupVersionKind
	Namespaced bool

	root      *structural.Structural
	validator validation.SchemaValidator
	// rules are compiled when they are first needed: it takes some 60 ms for an HTTPRoute.
	rules func() *cel.Validator
	// core, for kinds without a CRD, defaults and validates what their Go types don't say.
	core func(obj map[string]any) []Error
}

type loaded struct {
	once sync.Once
	kind *Kind
	err  error
}

var kinds sync.Map // schema.GroupVersionKind → *loaded

// Lookup returns a kind in a version, or nil if an API server with our CRDs
// would not know it. The first call for each does the work.
func Lookup(gvk schema.GroupVersionKind) (*Kind, error) {
	entry, _ := kinds.LoadOrStore(gvk, &loaded{})
	l := entry.(*loaded)
	l.once.Do(func() {
		if f := coreFile(gvk); f != nil {
			if l.kind, l.err = build(f); l.err == nil {
				l.kind.core = coreRules[gvk.Kind]
			}
			return
		}
		l.kind, l.err = embedded(gvk)
	})
	return l.kind, l.err
}

// Forget gives up what Lookup has done: it is worth its memory only while
// objects keep coming.
func Forget() { kinds.Clear() }

// Versions returns the versions in which a kind is known, sorted.
func Versions(gk schema.GroupKind) []string {
	var versions []string
	for _, gvk := range coreKinds {
		if gvk.GroupKind() == gk {
			versions = append(versions, gvk.Version)
		}
	}
	entries, _ := crds.ReadDir("crds") // embedded: it cannot fail
	for _, e := range entries {
		group, rest, _ := strings.Cut(e.Name(), "_")
		version, kind, _ := strings.Cut(rest, "_")
		if group == gk.Group && kind == strings.ToLower(gk.Kind)+".json" {
			versions = append(versions, version)
		}
	}
	return versions
}

// FileName is where the schema of a kind in a version is embedded.
func FileName(gvk schema.GroupVersionKind) string {
	return fmt.Sprintf("%s_%s_%s.json", gvk.Group, gvk.Version, strings.ToLower(gvk.Kind))
}

func embedded(gvk schema.GroupVersionKind) (*Kind, error) {
	text, err := crds.ReadFile("crds/" + FileName(gvk))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var f File
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk, err)
	}
	return build(&f)
}

func build(f *File) (*Kind, error) {
	gvk := schema.GroupVersionKind{Group: f.Group, Version: f.Version, Kind: f.Kind}
	internal := &apiextensions.JSONSchemaProps{}
	if err := apiext.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(f.Schema, internal, nil); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk, err)
	}
	root, err := structural.NewStructural(internal)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk, err)
	}
	validator, _, err := validation.NewSchemaValidator(internal)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", gvk, err)
	}
	return &Kind{
		GVK:        gvk,
		Namespaced: f.Namespaced,
		root:       root,
		validator:  validator,
		rules: sync.OnceValue(func() *cel.Validator {
			return cel.NewValidator(root, true, celconfig.PerCallLimit)
		}),
	}, nil
}
