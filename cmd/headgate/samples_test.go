package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The example of the edge's protocols is in order, together with what its
// script makes.
func TestCheckOnTheEdgeSample(t *testing.T) {
	for _, program := range []string{"bash", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	sample, folder, made := filepath.Join("..", "..", "config", "samples", "edge"), t.TempDir(), t.TempDir()
	if out, err := exec.Command(filepath.Join(sample, "certificates"), made).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(sample, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, filepath.Join(made, "secrets.yaml")) {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, filepath.Base(file)), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, stderr, code := command(t, "check", folder); code != exitOK || stderr != "" {
		t.Errorf("exit code %d\n%s%s", code, out, stderr)
	}
}

func TestCheckOnSamples(t *testing.T) {
	for _, sample := range []string{"limits", "proxy-protocol"} {
		if out, stderr, code := command(t, "check", filepath.Join("..", "..", "config", "samples", sample)); code != exitOK || stderr != "" {
			t.Errorf("%s: exit code %d\n%s%s", sample, code, out, stderr)
		}
	}
}
