package protocols

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// TestH2spec runs h2spec, all of it, in front of an upstream that speaks
// HTTP/1.1.
func TestH2spec(t *testing.T) {
	h2spec := program(t, "H2SPEC")
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "some content\n")
	}))
	defer up.Close()
	h := start(t, backend("a", portOf(up.Listener.Addr()))+route("a"))
	for name, args := range map[string][]string{
		"TLS": {"-t", "-k", "-p", strconv.Itoa(h.secure)},
		"h2c": {"-p", strconv.Itoa(h.plain)},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(h2spec, append([]string{"--strict", "-h", "127.0.0.1"}, args...)...)
			out, _ := cmd.CombinedOutput() // it exits with an error if a test fails
			summary := regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`).FindSubmatch(out)
			if summary == nil {
				t.Fatalf("h2spec has no result:\n%s", out)
			}
			t.Logf("%s", summary[0])
			if n, _ := strconv.Atoi(string(summary[1])); n < 146 || !bytes.Equal(summary[1], summary[2]) {
				_, failures, _ := bytes.Cut(out, []byte("\nFailures:"))
				t.Errorf("%s, want all of 146 or more to pass:\n%s", summary[0], failures)
			}
		})
	}
}
