package protocols

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestTestssl has testssl.sh look at protocols, ciphers, their order, forward
// secrecy, the certificate and the known vulnerabilities.
func TestTestssl(t *testing.T) {
	testssl := installed(t, "testssl")
	t.Parallel()
	up := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(up.Close)
	h := start(t, backend("a", portOf(up.Listener.Addr()))+route("a"))
	report := filepath.Join(t.TempDir(), "report.json")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, testssl, "--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--ip", "127.0.0.1",
		"--add-ca", h.ca, "--jsonfile", report, "-p", "-P", "-S", "-s", "-f", "-U", fmt.Sprintf("localhost:%d", h.secure))
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput() // its exit status counts what it did not like
	text, readErr := os.ReadFile(report)
	var findings []struct{ ID, Severity, Finding string }
	if readErr == nil {
		readErr = json.Unmarshal(text, &findings)
	}
	if readErr != nil || ctx.Err() != nil {
		t.Fatalf("testssl has no result: %v, %v\n%s", err, readErr, out)
	}
	seen := map[string]bool{}
	for _, f := range findings {
		seen[f.ID] = true
		switch {
		case f.Severity == "OK" || f.Severity == "INFO":
		case f.Severity == "LOW":
			t.Logf("%s %s: %s", f.Severity, f.ID, f.Finding)
		case f.ID == "engine_problem": // it is about the machine's OpenSSL
		default:
			t.Errorf("%s %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	for _, id := range []string{"SSLv3", "TLS1", "TLS1_3", "cipher_order", "PFS", "cert_chain_of_trust", "cipherlist_NULL", "heartbleed", "ROBOT", "LUCKY13"} {
		if !seen[id] {
			t.Errorf("it has not looked at %s:\n%s", id, out)
		}
	}
	t.Logf("%d findings", len(findings))
}
