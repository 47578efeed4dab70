package main

import (
	"strings"
	"testing"
)

// TestTheCanarySampleIsFine checks config/samples/canary.
func TestTheCanarySampleIsFine(t *testing.T) {
	const dir = "../../config/samples/canary"
	if out, stderr, code := command(t, "check", dir); code != exitOK || !strings.HasPrefix(out, "ok: ") || stderr != "" {
		t.Errorf("exit code %d, %q\n%s", code, stderr, out)
	}
	out, stderr, code := command(t, "endpoints", "--output", "yaml", dir)
	if code != exitOK || !strings.Contains(out, "build: nightly") {
		t.Errorf("exit code %d, %q\n%s", code, stderr, out)
	}
}
