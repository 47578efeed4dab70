package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What is embedded must be what the CRDs say: go generate ./controllers/manifests/schema
func TestEmbeddedSchemasAreFresh(t *testing.T) {
	want, err := Generate("../../../..")
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob("../crds/*.json")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, path := range found {
		names = append(names, filepath.Base(path))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != string(want[filepath.Base(path)]) {
			t.Errorf("%s is stale: run go generate ./controllers/manifests/schema", filepath.Base(path))
		}
	}
	slices.Sort(names)
	if all := slices.Sorted(maps.Keys(want)); !slices.Equal(names, all) {
		t.Errorf("embedded are %v, want %v: run go generate ./controllers/manifests/schema", names, all)
	}
}
