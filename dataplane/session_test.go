package dataplane_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

func stickyCookie() *snapshot.SessionPersistence {
	return &snapshot.SessionPersistence{
		Name: "sid", Cookie: &snapshot.SessionCookie{MatchedPath: true, HTTPOnly: true, SameSite: "Strict"},
		Keys: []policy.Secret{bytes.Repeat([]byte{'k'}, 32)},
	}
}

func stickyHeader() *snapshot.SessionPersistence {
	s := stickyCookie()
	s.Name, s.Cookie = "Session-Token", nil
	return s
}

// visitor is a client that sends back the token that it was given last.
type visitor struct {
	client *http.Client
	url    string
	grpc   bool
	token  string
}

// visit makes a request and returns who answered, and whether a token came along.
func (v *visitor) visit(t *testing.T, by *snapshot.SessionPersistence) (backend string, status int, told bool) {
	t.Helper()
	req, err := http.NewRequest("POST", v.url, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if v.grpc {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	}
	switch {
	case v.token == "":
	case by.Cookie != nil:
		req.Header.Set("Cookie", "theme=dark; "+v.token)
	default:
		req.Header.Set(by.Name, v.token)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	said := resp.Header.Get(by.Name)
	if by.Cookie != nil {
		said, _, _ = strings.Cut(resp.Header.Get("Set-Cookie"), ";")
	}
	if said != "" {
		v.token = said
	}
	if leaked := resp.Header.Get("Leaked"); leaked != "" {
		t.Errorf("the backend has seen the token: %q", leaked)
	}
	return resp.Header.Get("Backend"), resp.StatusCode, said != ""
}

// TestSessions has clients of all versions and backends of both, cookies and
// header fields, gRPC, two replicas and a restart.
func TestSessions(t *testing.T) {
	answer := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Backend", name)
			if got := r.Header.Get("Session-Token") + r.Header.Get("Cookie"); got != "" && got != "theme=dark" {
				w.Header().Set("Leaked", got)
			}
			_, _ = io.Copy(io.Discard, r.Body)
		}
	}
	w := &world{}
	w.port3(listener3(t, gateway, ""))
	var old, h2c []string
	for _, name := range []string{"a", "b", "c", "d"} {
		old, h2c = append(old, h1Backend(t, answer(name))), append(h2c, h2cBackend(t, answer(name)))
	}
	w.cluster("h1", old...).h2cCluster("h2", h2c...)
	configs := map[string]*snapshot.SessionPersistence{"cookie": stickyCookie(), "header": stickyHeader()}
	for cluster := range map[string]bool{"h1": true, "h2": true} {
		var routes []*snapshot.Route
		for name, s := range configs {
			r := to("/"+name, cluster)
			r.Rule.SessionPersistence = s
			routes = append(routes, r)
		}
		w.host(gateway, cluster+".example.com", routes...)
	}
	replica := func() *dataplane.Proxy {
		p := start(t, dataplane.Options{})
		snap := w.snap
		if err := p.Apply(&snap, nil); err != nil {
			t.Fatal(err)
		}
		return p
	}
	clients := func(p *dataplane.Proxy) map[string]*http.Client {
		one, two := client(t), client2(t)
		one.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
		for _, c := range []*http.Client{one, two} {
			c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address(t, p))
			}
		}
		return map[string]*http.Client{
			"HTTP/1.1": one, "HTTP/2": two, "HTTP/3": client3(t, address3(t, p), &tls.Config{}),
		}
	}
	here, there := replica(), replica()
	first, second := clients(here), clients(there)
	for version := range first {
		for _, cluster := range []string{"h1", "h2"} {
			for kind, by := range configs {
				for _, grpc := range []bool{false, true} {
					if grpc && (cluster != "h2" || version == "HTTP/1.1") {
						continue
					}
					v := &visitor{client: first[version], url: "https://" + cluster + ".example.com/" + kind, grpc: grpc}
					at, status, told := v.visit(t, by)
					if status != 200 || !told {
						t.Errorf("%s to %s, %s, gRPC %v: %d, token %v", version, cluster, kind, grpc, status, told)
						continue
					}
					for i := range 10 {
						if v.client = first[version]; i%2 == 1 {
							v.client = second[version]
						}
						if again, status, told := v.visit(t, by); again != at || status != 200 || told {
							t.Errorf("%s to %s, %s, gRPC %v: %s and then %s, %d, token %v", version, cluster, kind, grpc, at, again, status, told)
						}
					}
				}
			}
		}
	}
	// Without a token, all get their share.
	seen := map[string]bool{}
	for range 8 {
		at, _, _ := (&visitor{client: first["HTTP/2"], url: "https://h1.example.com/cookie"}).visit(t, configs["cookie"])
		seen[at] = true
	}
	if len(seen) != 4 {
		t.Errorf("new sessions are with %v alone", seen)
	}
}

// TestSessionsFollowEndpoints takes a session's endpoint away.
func TestSessionsFollowEndpoints(t *testing.T) {
	for _, strict := range []bool{false, true} {
		by := stickyCookie()
		by.Strict = strict
		names := map[string]string{}
		for _, name := range []string{"a", "b", "c"} {
			names[name] = backend(t, name)
		}
		p := start(t, dataplane.Options{})
		r := to("/", "web")
		r.Rule.SessionPersistence = by
		w := (&world{}).port(plain()).host(gateway, "*", r).cluster("web", names["a"], names["b"], names["c"])
		w.apply(t, p)
		v := &visitor{client: client(t), url: "http://" + address(t, p) + "/"}
		at, _, _ := v.visit(t, by)

		// It drains: this session stays, new ones go elsewhere.
		others := []string{}
		for name, addr := range names {
			if name != at {
				others = append(others, addr)
			}
		}
		w.endpoints("web", append(others, names[at])...)
		eps, _ := w.snap.Endpoints.Get("web")
		eps.Endpoints[len(eps.Endpoints)-1].Draining = true
		w.apply(t, p)
		for range 4 {
			if again, _, told := v.visit(t, by); again != at || told {
				t.Errorf("the session of %s, which drains, went to %s, token %v", at, again, told)
			}
			if other, _, _ := (&visitor{client: v.client, url: v.url}).visit(t, by); other == at {
				t.Error("a new session is with the one that drains")
			}
		}

		// It is gone.
		w.endpoints("web", others...)
		w.apply(t, p)
		token := v.token
		moved, status, told := v.visit(t, by)
		if strict {
			if status != 503 || told {
				t.Errorf("strict: %d, token %v", status, told)
			}
			continue
		}
		if status != 200 || moved == at || !told || v.token == token {
			t.Errorf("it did not move on: %d by %s, token %v", status, moved, told)
		}
		if again, _, told := v.visit(t, by); again != moved || told {
			t.Errorf("it did not stay with %s: %s", moved, again)
		}
	}
}

// TestSessionMovesWithRetry holds that the session is with whom the answer came from.
func TestSessionMovesWithRetry(t *testing.T) {
	good := backend(t, "good")
	bad := h1Backend(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	by := stickyCookie()
	p := start(t, dataplane.Options{})
	r := to("/", "web")
	r.Rule.SessionPersistence = by
	w := (&world{}).port(plain()).host(gateway, "*", r).cluster("web", bad)
	w.apply(t, p)
	v := &visitor{client: client(t), url: "http://" + address(t, p) + "/"}
	if _, status, told := v.visit(t, by); status != 503 || !told {
		t.Fatalf("%d, token %v", status, told)
	}
	again := to("/", "web")
	again.Rule.SessionPersistence, again.Rule.Retry = by, &snapshot.Retry{Codes: []int{503}, Attempts: 1}
	w.host(gateway, "*", again).endpoints("web", bad, good)
	w.apply(t, p)
	if at, _, told := v.visit(t, by); at != "good" || !told {
		t.Errorf("answered by %q, token %v", at, told)
	}
	if at, _, told := v.visit(t, by); at != "good" || told {
		t.Errorf("then answered by %q, token %v", at, told)
	}
}
