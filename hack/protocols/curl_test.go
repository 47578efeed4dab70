package protocols

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// compressed has a policy, so that --compressed has something to do.
const compressed = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: compressed, namespace: default}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - matches: [{path: {value: /compressed}}]
    backendRefs: [{group: headgate.dev, kind: Backend, name: a}]
---
apiVersion: headgate.dev/v1alpha1
kind: TransformPolicy
metadata: {name: compressed, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: compressed}]
  response: {compression: {}}
`

// large is more than fits in all buffers on its way.
const large = 32 << 20

// curls is what curl is tried with: how it speaks, and what that comes to.
var curls = []struct {
	args    []string
	secure  bool
	version string // as %{http_version} has it
}{
	{[]string{"--http1.1"}, false, "1.1"},
	{[]string{"--http2"}, false, "1.1"}, // it asks for an upgrade to h2c, which nobody must grant, RFC 9113 section 3.1
	{[]string{"--http2-prior-knowledge"}, false, "2"},
	{[]string{"--http1.1"}, true, "1.1"},
	{[]string{"--http2"}, true, "2"},
	{[]string{"--http2-prior-knowledge"}, true, "2"},
	{[]string{"--http2", "--tls-max", "1.2"}, true, "2"},
	{[]string{"--http1.1", "--curves", "P-256"}, true, "1.1"},
}

// TestCurl does with curl what people do with curl.
func TestCurl(t *testing.T) {
	curl := installed(t, "curl")
	content := make([]byte, large)
	_, _ = rand.Read(content)
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("Water finds its way. ", 5000)
	var asked, gaveUp atomic.Int32 // by requests for /slow
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "HEAD" {
			_, _ = io.WriteString(w, "hello\n")
			return
		}
		w.Header().Set("Content-Length", "6")
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%s %d %x %v", r.Method, n, h.Sum(nil), err)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "content")
		w.Header().Set("X-Sum", "7")
	})
	mux.HandleFunc("/compressed", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) })
	mux.HandleFunc("/refuse", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		select {
		case <-r.Context().Done():
			gaveUp.Add(1)
		case <-time.After(2 * time.Minute):
		}
	})
	up := httptest.NewServer(mux)
	t.Cleanup(up.Close)
	h := start(t, backend("a", portOf(up.Listener.Addr()))+route("a")+compressed)

	for _, c := range curls {
		url, name := fmt.Sprintf("http://localhost:%d", h.plain), strings.Join(c.args, " ")
		if c.secure {
			url, name = fmt.Sprintf("https://localhost:%d", h.secure), name+" TLS"
		}
		// Debian's curl does not get over the first response there, also with
		// the server of net/http.
		prior := !c.secure && c.version == "2"
		// run returns what curl writes, and at its end what -w asks for.
		run := func(t *testing.T, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			args = append(append([]string{"-q", "-sS", "--noproxy", "*", "--cacert", h.ca}, c.args...), args...)
			cmd := exec.CommandContext(ctx, curl, args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				err = fmt.Errorf("curl %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
			}
			return string(out), err
		}
		for _, test := range []struct {
			name string
			args []string
			want string
		}{
			{"GET", []string{"-w", "%{http_code} %{http_version}", url + "/hello"}, "hello\n200 " + c.version},
			{"POST", []string{"-d", "content", url + "/sum"}, fmt.Sprintf("POST 7 %x <nil>", sha256.Sum256([]byte("content")))},
			{"PUT without content", []string{"-X", "PUT", url + "/sum"}, fmt.Sprintf("PUT 0 %x <nil>", sha256.Sum256(nil))},
			{"HEAD", []string{"-I", "-o", os.DevNull, "-w", "%{http_code} %header{content-length} %{size_download}", url + "/hello"}, "200 6 0"},
			{"a large upload", []string{"-T", file, url + "/sum"}, fmt.Sprintf("PUT %d %s <nil>", large, sum)},
			{"a large form", []string{"--data-binary", "@" + file, url + "/sum"}, fmt.Sprintf("POST %d %s <nil>", large, sum)},
			{"an upload of unknown length", []string{"-T", "-", url + "/sum"}, fmt.Sprintf("PUT 0 %x <nil>", sha256.Sum256(nil))},
			{"a range", []string{"-r", "100-199", "-w", "%{http_code}", url + "/large"}, string(content[100:200]) + "206"},
			{"a refused upload", []string{"-T", file, "-o", os.DevNull, "-w", "%{http_code}", url + "/refuse"}, "403"},
			{"compression", []string{"--compressed", url + "/compressed"}, text},
			{"its size", []string{"--compressed", "-o", os.DevNull, "-w", "%header{content-encoding}", url + "/compressed"}, "zstd"},
			{"a connection used again", []string{"-w", "%{num_connects} ", url + "/hello", url + "/hello", url + "/hello"}, "hello\n1 hello\n0 hello\n0 "},
		} {
			t.Run(name+"/"+test.name, func(t *testing.T) {
				if prior && (test.name == "a refused upload" || test.name == "a connection used again") {
					t.Skip("curl 7.88 fails at this with any server")
				}
				if out, err := run(t, test.args...); err != nil {
					t.Error(err)
				} else if out != test.want {
					t.Errorf("%.100q, want %.100q", out, test.want)
				}
			})
		}
		t.Run(name, func(t *testing.T) {
			t.Run("a large download", func(t *testing.T) {
				got := filepath.Join(t.TempDir(), "got")
				_, err := run(t, "-o", got, url+"/large")
				b, readErr := os.ReadFile(got)
				if err := errors.Join(err, readErr); err != nil || !bytes.Equal(b, content) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			})
			t.Run("Expect", func(t *testing.T) {
				// Were it not told to go on, it would wait for longer than it may.
				out, err := run(t, "-i", "-H", "Expect: 100-continue", "--expect100-timeout", "120", "-d", "content", url+"/sum")
				if err != nil || !strings.HasSuffix(out, " <nil>") || !strings.Contains(out, "POST 7 ") || !strings.Contains(out, "/"+c.version+" 100") {
					t.Errorf("%q %v", out, err)
				}
			})
			t.Run("trailers", func(t *testing.T) {
				heads := filepath.Join(t.TempDir(), "heads")
				out, err := run(t, "-D", heads, url+"/trailers")
				b, _ := os.ReadFile(heads)
				if err != nil || out != "content" || !strings.Contains(strings.ToLower(string(b)), "\r\nx-sum: 7\r\n") {
					t.Errorf("%q %q %v", out, b, err)
				}
			})
			t.Run("giving up", func(t *testing.T) {
				before := asked.Load()
				// On a busy machine it may give up before it has asked at all.
				for seconds := 0.5; asked.Load() == before && seconds < 30; seconds *= 2 {
					_, err := run(t, "--max-time", fmt.Sprint(seconds), url+"/slow")
					if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 28 {
						t.Errorf("%v, want the error of a timeout", err)
					}
				}
				awaitThat(t, "the upstream to give up, too", func() bool { return asked.Load() > before && gaveUp.Load() == asked.Load() })
			})
			t.Run("many at a time", func(t *testing.T) {
				if prior {
					t.Skip("curl 7.88 fails at this with any server")
				}
				args := []string{"--parallel", "--parallel-max", "50", "-w", "%{http_code} %{http_version}\n", "-o", os.DevNull}
				for range 99 {
					args = append(args, url+"/hello", "-o", os.DevNull)
				}
				out, err := run(t, append(args, url+"/hello")...)
				if n := strings.Count(out, "200 "+c.version+"\n"); n != 100 || err != nil {
					t.Errorf("%d answers as they should be, %v", n, err)
				}
			})
		})
	}
}
