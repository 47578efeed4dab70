package pipeline

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// served is a cluster that notes whom exchanges are for, and says who served them.
type served struct {
	fake
	endpoint string
	sessions []exchange.Session
}

func (s *served) RoundTrip(ex *exchange.Exchange) (exchange.Lease, error) {
	s.sessions = append(s.sessions, ex.Session)
	ex.Upstream.Endpoint = s.endpoint
	return s.fake.RoundTrip(ex)
}

// newServed is a bench whose backends are served by 192.0.2.1 and 192.0.2.2.
func newServed(t *testing.T) (*bench, map[string]*served) {
	clusters := map[string]*served{}
	b := newBench(t, func(o *Options) {
		o.NewCluster = func(cfg *snapshot.Cluster, _ *snapshot.Endpoints) Cluster {
			clusters[cfg.Key] = &served{fake: fake{cfg: cfg}, endpoint: map[string]string{"a": "192.0.2.1:80", "b": "192.0.2.2:80"}[cfg.Key]}
			return clusters[cfg.Key]
		}
	})
	return b, clusters
}

func sticky() *snapshot.SessionPersistence {
	return &snapshot.SessionPersistence{
		Name: "sid", Cookie: &snapshot.SessionCookie{SameSite: "Strict", MatchedPath: true},
		Keys: []policy.Secret{bytes.Repeat([]byte{'k'}, 32)},
	}
}

// between is a route to both clusters.
func between(a, b uint32, edit func(*snapshot.Rule)) *snapshot.Route {
	return to("a", func(r *snapshot.Route) {
		r.Rule.Backends = []snapshot.Backend{{Cluster: "a", Weight: a}, {Cluster: "b", Weight: b}}
		edit(r.Rule)
	})
}

// serve serves a request, and returns the cluster that answered and the cookie
// that came with the answer.
func (b *bench) serve(ex *exchange.Exchange) (cluster, cookie string) {
	b.t.Helper()
	b.Serve(ex)
	if ex.Response.Status != 200 {
		b.t.Errorf("answered %d %s", ex.Response.Status, ex.Response.LocalReason)
	}
	cluster, _ = ex.Response.Fields.Get("Cluster")
	cookie, _, _ = strings.Cut(ex.Response.Fields.Value(exchange.KeySetCookie), ";")
	cookie = strings.Clone(cookie)
	b.Done(ex, nil)
	return cluster, cookie
}

// TestSessionBeatsWeights holds that a session stays at its backend whatever the
// weights say, GEP-1619 "Traffic Splitting".
func TestSessionBeatsWeights(t *testing.T) {
	for name, edit := range map[string]func(*snapshot.Rule){
		"rule": func(r *snapshot.Rule) { r.SessionPersistence = sticky() },
		"backends": func(r *snapshot.Rule) {
			r.Backends[0].SessionPersistence, r.Backends[1].SessionPersistence = sticky(), sticky()
		},
	} {
		b, clusters := newServed(t)
		b.host(gateway, "*", between(1, 0, edit))
		b.must()
		cluster, cookie := b.serve(request("GET /"))
		if cluster != "a" || !strings.HasPrefix(cookie, "sid=") {
			t.Fatalf("%s: answered by %q with %q", name, cluster, cookie)
		}
		b.host(gateway, "*", between(0, 1, edit))
		b.must()
		for range 5 {
			if cluster, again := b.serve(request("GET /", "Cookie: "+cookie)); cluster != "a" || again != "" {
				t.Errorf("%s: answered by %q with %q", name, cluster, again)
			}
			if cluster, _ := b.serve(request("GET /")); cluster != "b" {
				t.Errorf("%s: a new session is with %q", name, cluster)
			}
		}
		want := exchange.Session{Endpoint: netip.MustParseAddrPort("192.0.2.1:80")}
		if got := clusters["a"].sessions; got[0] != (exchange.Session{}) || got[1] != want {
			t.Errorf("%s: %+v", name, got)
		}
		if got := clusters["a"].seen()[1]; strings.Contains(got, "ookie") {
			t.Errorf("%s: the token went upstream: %s", name, got)
		}
		// The endpoint is another one: the client learns of it.
		clusters["a"].endpoint = "192.0.2.9:80"
		if _, moved := b.serve(request("GET /", "Cookie: "+cookie)); moved == "" || moved == cookie {
			t.Errorf("%s: no new token: %q", name, moved)
		}
	}
}

// TestSessionOfOneBackend has persistence at one of two backends only.
func TestSessionOfOneBackend(t *testing.T) {
	b, _ := newServed(t)
	b.host(gateway, "*", between(1, 1, func(r *snapshot.Rule) { r.Backends[0].SessionPersistence = sticky() }))
	b.must()
	cookie := ""
	for range 100 {
		cluster, got := b.serve(request("GET /"))
		if (got != "") != (cluster == "a") {
			t.Fatalf("%s answers with %q", cluster, got)
		}
		if got != "" {
			cookie = got
		}
	}
	for range 10 {
		if cluster, _ := b.serve(request("GET /", "Cookie: "+cookie)); cluster != "a" {
			t.Errorf("the session went to %s", cluster)
		}
	}
}

// TestSessionOfBackendThatIsGone takes the session's backend from the rule.
func TestSessionOfBackendThatIsGone(t *testing.T) {
	for _, strict := range []bool{false, true} {
		b, _ := newServed(t)
		persistent := func(r *snapshot.Rule) {
			r.SessionPersistence = sticky()
			r.SessionPersistence.Strict = strict
		}
		b.host(gateway, "*", between(1, 0, persistent))
		b.must()
		_, cookie := b.serve(request("GET /"))
		b.host(gateway, "*", to("b", func(r *snapshot.Route) { persistent(r.Rule) }))
		b.must()
		status, reason := b.do(request("GET /", "Cookie: "+cookie))
		if strict && (status != 503 || reason != "session_lost") || !strict && status != 200 {
			t.Errorf("strict %v: %d %s", strict, status, reason)
		}
	}
}

// TestSessionsOfRules holds that rules do not share sessions, GEP-1619 "Two
// Routes Rules have Session Persistence to the Same Service", and that a cookie
// is for the path of the match.
func TestSessionsOfRules(t *testing.T) {
	b, clusters := newServed(t)
	rule := func(path, section string) *snapshot.Route {
		return to("a", func(r *snapshot.Route) {
			r.Match.Path.Value, r.Rule.Source.Section, r.Rule.SessionPersistence = path, section, sticky()
		})
	}
	b.host(gateway, "*", rule("/b", "1"), rule("/", "0"))
	b.must()
	for path, want := range map[string]string{"/b/c": "; Path=/b; SameSite=Strict", "/c": "; Path=/; SameSite=Strict"} {
		ex := request("GET " + path)
		b.Serve(ex)
		if got := ex.Response.Fields.Value(exchange.KeySetCookie); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q", path, got)
		}
		b.Done(ex, nil)
	}
	_, cookie := b.serve(request("GET /"))
	if _, again := b.serve(request("GET /b", "Cookie: "+cookie)); again == "" {
		t.Error("the other rule has taken the session for its own")
	}
	if got := clusters["a"].sessions; got[len(got)-1] != (exchange.Session{}) {
		t.Errorf("the other rule's request is for %+v", got[len(got)-1])
	}
}

// TestNoSessionWithoutAnswer holds that what Headgate itself answers binds nobody.
func TestNoSessionWithoutAnswer(t *testing.T) {
	b, clusters := newServed(t)
	b.host(gateway, "*", to("a", func(r *snapshot.Route) { r.Rule.SessionPersistence = sticky() }))
	b.must()
	clusters["a"].err = failed(exchange.Sending, "reset")
	ex := request("GET /")
	b.Serve(ex)
	if ex.Response.Status != 502 || ex.Response.Fields.Find(exchange.KeySetCookie) >= 0 {
		t.Errorf("%d %+v", ex.Response.Status, ex.Response.Fields)
	}
	b.Done(ex, nil)
}

// TestSessionKeyOfProcess has no keys in the configuration: sessions go on as
// long as the process does, also when the rule is linked anew.
func TestSessionKeyOfProcess(t *testing.T) {
	b, _ := newServed(t)
	unkeyed := func(edit func(*snapshot.SessionPersistence)) *snapshot.Route {
		return between(1, 1, func(r *snapshot.Rule) {
			r.SessionPersistence = sticky()
			r.SessionPersistence.Keys = nil
			edit(r.SessionPersistence)
		})
	}
	b.host(gateway, "*", unkeyed(func(*snapshot.SessionPersistence) {}))
	b.must()
	_, cookie := b.serve(request("GET /"))
	b.host(gateway, "*", unkeyed(func(s *snapshot.SessionPersistence) { s.Cookie.HTTPOnly = true }))
	b.must()
	if _, again := b.serve(request("GET /", "Cookie: "+cookie)); again != "" {
		t.Error("the session is lost")
	}
	other, _ := newServed(t)
	other.host(gateway, "*", unkeyed(func(*snapshot.SessionPersistence) {}))
	other.must()
	if _, again := other.serve(request("GET /", "Cookie: "+cookie)); again == "" {
		t.Error("another process has the same key")
	}
}
