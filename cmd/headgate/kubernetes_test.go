package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestClusterDomain(t *testing.T) {
	for text, want := range map[string]string{
		"search shop.svc.cluster.local svc.cluster.local cluster.local example.com\nnameserver 10.96.0.10\n": "cluster.local",
		"nameserver 10.0.0.1\nsearch shop.svc.c.example. svc.c.example. c.example.\n":                        "c.example",
		"search example.com\n": "",
		"":                     "",
	} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := clusterDomain(file); got != want {
			t.Errorf("%q: the domain is %q, want %q", text, got, want)
		}
	}
	if got := clusterDomain(filepath.Join(t.TempDir(), "none")); got != "" {
		t.Errorf("without a file the domain is %q", got)
	}
}
