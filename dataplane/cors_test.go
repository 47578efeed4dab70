package dataplane_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/apikey"
	"github.com/headgate/headgate/dataplane/policy/cors"
	"github.com/headgate/headgate/dataplane/policy/ratelimit"
)

// TestCORS has a rule for PUT that wants a key, and takes one request: a
// preflight passes without, and every response can be read by the script.
func TestCORS(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Method", r.Method)
		io.WriteString(w, "hello")
	}))
	t.Cleanup(s.Close)
	const origin = "https://app.example.com"
	for version, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client2(t)} {
		t.Run(version, func(t *testing.T) {
			p := start(t, dataplane.Options{})
			w := (&world{}).port(plain()).cluster("a", s.Listener.Addr().String())
			r := to("/", "a")
			r.Match.Method, r.Match.Preflight = "PUT", true
			r.Rule.Filters = []policy.Config{
				&cors.Config{AllowOrigins: []string{"https://*.example.com"}, AllowMethods: []string{"PUT"}, AllowHeaders: []string{"X-API-Key"}, MaxAge: 60},
				&apikey.Config{Keys: []apikey.Key{{Consumer: "alice", Sum: apikey.SumOf([]byte("key"))}}, From: []credential.Source{{Header: "X-API-Key"}}},
				&ratelimit.Config{Limits: []ratelimit.Limit{{Name: "one", Key: "cors/" + version, Requests: 1, Per: time.Hour, Burst: 1}}},
			}
			w.host(gateway, "*", r).apply(t, p)
			send := func(method string, fields ...string) *http.Response {
				t.Helper()
				req, err := http.NewRequest(method, "http://"+address(t, p)+"/x", nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(fields); i += 2 {
					req.Header.Set(fields[i], fields[i+1])
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				return resp
			}
			const allowed = "Access-Control-Allow-Origin"
			preflight := send("OPTIONS", "Origin", origin, "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "x-api-key")
			if h := preflight.Header; preflight.StatusCode != 204 || h.Get(allowed) != origin || h.Get("Access-Control-Allow-Methods") != "PUT" ||
				h.Get("Access-Control-Allow-Headers") != "X-API-Key" || h.Get("Access-Control-Max-Age") != "60" {
				t.Errorf("preflight: %d %v", preflight.StatusCode, h)
			}
			for _, tt := range []struct {
				method string
				fields []string
				status int
				allow  string
			}{
				{"OPTIONS", []string{"Origin", "https://example.org", "Access-Control-Request-Method", "PUT"}, 204, ""},
				// It is not for this rule, which is for PUT.
				{"OPTIONS", []string{"Origin", origin, "Access-Control-Request-Method", "DELETE"}, 404, ""},
				{"OPTIONS", []string{"Origin", origin}, 404, ""},
				{"PUT", []string{"Origin", origin}, 401, origin},
				{"PUT", []string{"Origin", origin, "X-API-Key", "wrong"}, 401, origin},
				{"PUT", []string{"Origin", origin, "X-API-Key", "key"}, 200, origin},
				{"PUT", []string{"Origin", origin, "X-API-Key", "key"}, 429, origin},
				{"PUT", []string{"Origin", "https://example.org", "X-API-Key", "key"}, 429, ""},
			} {
				resp := send(tt.method, tt.fields...)
				if got := resp.Header.Values(allowed); resp.StatusCode != tt.status || len(got) > 1 || resp.Header.Get(allowed) != tt.allow {
					t.Errorf("%s %v: %d %q", tt.method, tt.fields, resp.StatusCode, got)
				}
			}
		})
	}
}
