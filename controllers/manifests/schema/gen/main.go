// Command gen writes the schemas of the Gateway API's CRDs (experimental
// channel, from the module that go.mod names) and of Headgate's own
// (config/crd) in the form that package schema embeds: one file for each kind
// and version, without descriptions and status, which are most of their bytes.
//
// It runs in the folder of package schema.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	apiext "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/headgate/headgate/controllers/manifests/schema"
)

func main() {
	files, err := Generate("../../..")
	if err == nil {
		err = write("crds", files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func write(dir string, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Generate returns the files by name; root is the repository.
func Generate(root string) (map[string][]byte, error) {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the Gateway API's module: %w", err)
	}
	var sources []string
	for _, pattern := range []string{
		filepath.Join(strings.TrimSpace(string(module)), "config/crd/experimental/gateway.networking.k8s.io_*.yaml"),
		filepath.Join(strings.TrimSpace(string(module)), "config/crd/experimental/gateway.networking.x-k8s.io_xbackend*.yaml"),
		filepath.Join(root, "config/crd/*.yaml"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	files := map[string][]byte{}
	for _, source := range sources {
		if err := convert(source, files); err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
	}
	return files, nil
}

func convert(source string, files map[string][]byte) error {
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	var crd apiext.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return err
	}
	if crd.Kind != "CustomResourceDefinition" {
		return nil
	}
	for _, v := range crd.Spec.Versions {
		if !v.Served {
			continue
		}
		root := v.Schema.OpenAPIV3Schema
		delete(root.Properties, "status")
		stripProps(root)
		text, err := json.Marshal(schema.File{
			Group:      crd.Spec.Group,
			Version:    v.Name,
			Kind:       crd.Spec.Names.Kind,
			Namespaced: crd.Spec.Scope == apiext.NamespaceScoped,
			Schema:     root,
		})
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s_%s_%s.json", crd.Spec.Group, v.Name, strings.ToLower(crd.Spec.Names.Kind))
		files[name] = append(bytes.TrimSpace(text), '\n')
	}
	return nil
}

// stripProps removes descriptions from a schema and all schemas in it.
func stripProps(s *apiext.JSONSchemaProps) {
	if s == nil {
		return
	}
	s.Description = ""
	if s.Items != nil {
		stripProps(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		stripProps(s.AdditionalProperties.Schema)
	}
	stripProps(s.Not)
	for _, list := range [][]apiext.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			stripProps(&list[i])
		}
	}
	for name, p := range s.Properties {
		stripProps(&p)
		s.Properties[name] = p
	}
}
