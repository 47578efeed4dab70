package protocols

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// page has 200 objects, and says in the end over which protocols it got them.
const page = `<!doctype html><title>objects</title><body>
<script>
for (let i = 0; i < 200; i++) {
  const img = new Image()
  img.src = "/object/" + i + ".svg"
  document.body.append(img)
}
addEventListener("load", () => {
  const protocols = {}
  for (const r of performance.getEntriesByType("resource")) protocols[r.nextHopProtocol] = (protocols[r.nextHopProtocol] || 0) + 1
  const loaded = [...document.images].filter(i => i.naturalWidth == 10).length
  document.body.innerHTML = "<p>loaded " + loaded + " " + JSON.stringify(protocols) + "</p>"
})
</script>`

// TestBrowser has Chromium load a page with 200 objects.
func TestBrowser(t *testing.T) {
	chromium := installed(t, "chromium")
	t.Parallel()
	var mu sync.Mutex
	objects := map[string]bool{}
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/object/") {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, page)
			return
		}
		mu.Lock()
		objects[r.URL.Path] = true
		mu.Unlock()
		w.Header().Set("Content-Type", "image/svg+xml")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><!-- %s --></svg>`, strings.Repeat("x", 5000))
	}))
	t.Cleanup(up.Close)
	for _, test := range []struct {
		name   string
		flags  []string
		hop    string // as the browser names the protocol
		logged string // as the access log does
	}{
		{"H2", []string{"--disable-quic"}, "h2", "HTTP/2.0"},
		// Over UDP the first address that localhost has is the only one that is tried.
		{"H3", []string{"--enable-quic", "--origin-to-force-quic-on=localhost:PORT", "--host-resolver-rules=MAP localhost 127.0.0.1"}, "h3", "HTTP/3.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			clear(objects)
			h := start(t, http3+backend("a", portOf(up.Listener.Addr()))+route("a"), "--access-log", "json")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			args := append([]string{
				"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
				"--disable-component-update", "--disable-sync", "--user-data-dir=" + t.TempDir(),
				"--ignore-certificate-errors-spki-list=" + h.pin(t), "--dump-dom",
			}, test.flags...)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "PORT", fmt.Sprint(h.secure))
			}
			cmd := exec.CommandContext(ctx, chromium, append(args, fmt.Sprintf("https://localhost:%d/", h.secure))...)
			cmd.WaitDelay = 5 * time.Second
			var stderr output
			cmd.Stderr = &stderr
			dom, err := cmd.Output()
			if want := fmt.Sprintf(`loaded 200 {"%s":200}`, test.hop); err != nil || !strings.Contains(string(dom), want) {
				t.Errorf("%v, want %s:\n%s\n%s", err, want, dom, last(stderr.String(), 20))
			}
			if len(objects) != 200 {
				t.Errorf("the upstream was asked for %d objects", len(objects))
			}
			logged, connections := map[string]int{}, map[string]int{}
			for until := time.Now().Add(time.Minute); logged[test.logged] < 200 && time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
				clear(logged)
				clear(connections)
				for line := range strings.Lines(h.out.String()) {
					var entry struct{ Path, Protocol, Remote string }
					if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Path, "/object/") {
						logged[entry.Protocol]++
						connections[entry.Remote]++
					}
				}
			}
			if logged[test.logged] != 200 || len(logged) != 1 || len(connections) != 1 {
				t.Errorf("by the access log: %v, by connection %v", logged, connections)
			}
		})
	}
}

// http3 turns HTTP/3 on.
const http3 = `
---
apiVersion: headgate.dev/v1alpha1
kind: ListenerPolicy
metadata: {name: http3, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gateway}]
  http3: {}
`

// pin returns the SHA-256 of the certificate's public key.
func (h *headgate) pin(t *testing.T) string {
	block, _ := pem.Decode(h.chain)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
