package session

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

var (
	start  = time.Unix(1_800_000_000, 0)
	keyA   = policy.Secret(bytes.Repeat([]byte{'a'}, KeyLen))
	keyB   = policy.Secret(bytes.Repeat([]byte{'b'}, KeyLen))
	podA   = netip.MustParseAddrPort("10.0.0.1:8080")
	podB   = netip.MustParseAddrPort("[fd00::2]:8080")
	cookie = snapshot.SessionPersistence{Name: "sid", Cookie: &snapshot.SessionCookie{HTTPOnly: true, SameSite: "Strict"}}
	header = snapshot.SessionPersistence{Name: "Session"}
)

func with(cfg snapshot.SessionPersistence, edit func(*snapshot.SessionPersistence)) *snapshot.SessionPersistence {
	if cfg.Cookie != nil {
		c := *cfg.Cookie
		cfg.Cookie = &c
	}
	edit(&cfg)
	return &cfg
}

func persistence(t testing.TB, cfg *snapshot.SessionPersistence) *Persistence {
	t.Helper()
	p, err := New(cfg, "HTTPRoute/shop/web/0", keyA)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// request makes an exchange from header lines.
func request(at time.Duration, lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{Start: start.Add(at)}
	ex.In.Scheme = "https"
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.Out.Fields = append(ex.Out.Fields, ex.In.Fields...)
	return ex
}

func lines(fields exchange.Fields) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.Name+": "+f.Value)
	}
	return strings.Join(all, "\n")
}

// token returns what the client gets of a new session.
func token(t testing.TB, p *Persistence, at time.Duration, endpoint netip.AddrPort) string {
	t.Helper()
	ex := request(at)
	var s State
	if p.Resume(ex, &s) {
		t.Fatal("there is a session in a request without one")
	}
	p.Save(ex, &s, 7, endpoint, "/shop")
	if len(ex.Response.Fields) != 1 {
		t.Fatalf("response has %q", lines(ex.Response.Fields))
	}
	value := ex.Response.Fields[0].Value
	if p.cfg.Cookie != nil {
		value, _, _ = strings.Cut(strings.TrimPrefix(value, p.cfg.Name+"="), ";")
	}
	return value
}

func TestSessionGoesOn(t *testing.T) {
	for _, endpoint := range []netip.AddrPort{podA, podB} {
		p := persistence(t, &cookie)
		sid := token(t, p, 0, endpoint)
		// What goes upstream has the application's cookies, also one of the same name.
		ex := request(time.Hour, "Cookie: theme=dark; sid=mine; sid="+sid+"; sid=\"quoted\"", "Accept: */*")
		var s State
		if !p.Resume(ex, &s) || s.Token != (Token{Backend: 7, Endpoint: endpoint, Start: start.Unix(), Used: start.Unix()}) {
			t.Fatalf("resumed as %+v", s.Token)
		}
		if got, want := lines(ex.Out.Fields), "Cookie: theme=dark; sid=mine; sid=\"quoted\"\nAccept: */*"; got != want {
			t.Errorf("goes upstream as %q, want %q", got, want)
		}
		// To the same endpoint there is nothing to say; to another there is.
		if p.Save(ex, &s, 7, endpoint, ""); len(ex.Response.Fields) != 0 {
			t.Errorf("said again: %q", lines(ex.Response.Fields))
		}
		p.Save(ex, &s, 7, netip.MustParseAddrPort("10.0.0.9:1"), "")
		if len(ex.Response.Fields) != 1 || strings.Contains(lines(ex.Response.Fields), sid) {
			t.Errorf("did not move on: %q", lines(ex.Response.Fields))
		}
	}
}

func TestHeader(t *testing.T) {
	p := persistence(t, &header)
	sid := token(t, p, 0, podA)
	ex := request(0, "session: "+sid, "Session: other", "Cookie: Session="+sid)
	var s State
	if !p.Resume(ex, &s) || s.Token.Endpoint != podA {
		t.Fatalf("resumed as %+v", s.Token)
	}
	if got, want := lines(ex.Out.Fields), "Session: other\nCookie: Session="+sid; got != want {
		t.Errorf("goes upstream as %q, want %q", got, want)
	}
}

func TestOnlyCookieLeavesNoLine(t *testing.T) {
	p := persistence(t, &cookie)
	ex := request(0, "Cookie: sid="+token(t, p, 0, podA))
	var s State
	if !p.Resume(ex, &s) || len(ex.Out.Fields) != 0 {
		t.Errorf("goes upstream as %q", lines(ex.Out.Fields))
	}
}

// TestSharedKey holds that a token means the same after a restart and to another
// replica, and as long as its key is among the keys.
func TestSharedKey(t *testing.T) {
	old := with(cookie, func(c *snapshot.SessionPersistence) { c.Keys = []policy.Secret{keyB} })
	rotated := with(cookie, func(c *snapshot.SessionPersistence) { c.Keys = []policy.Secret{keyA, keyB} })
	without := with(cookie, func(c *snapshot.SessionPersistence) { c.Keys = []policy.Secret{keyA} })
	sid := token(t, persistence(t, old), 0, podA)
	resume := func(p *Persistence) (*exchange.Exchange, *State, bool) {
		ex, s := request(0, "Cookie: sid="+sid), &State{}
		return ex, s, p.Resume(ex, s)
	}
	if _, _, ok := resume(persistence(t, old)); !ok {
		t.Error("another replica does not know the session")
	}
	p := persistence(t, rotated)
	ex, s, ok := resume(p)
	if !ok {
		t.Fatal("the second key's session is lost")
	}
	if p.Save(ex, s, 7, podA, ""); len(ex.Response.Fields) != 1 {
		t.Error("the client does not get a token of the first key")
	}
	if _, _, ok := resume(persistence(t, without)); ok {
		t.Error("a key that is gone is still understood")
	}
	other, err := New(old, "HTTPRoute/shop/web/1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := resume(other); ok {
		t.Error("another rule takes the token for its own, GEP-1619")
	}
	if _, err := New(with(cookie, func(c *snapshot.SessionPersistence) { c.Keys = []policy.Secret{keyA[1:]} }), "r", nil); err == nil {
		t.Error("a short key is taken")
	}
}

// TestTampered changes each character of a token.
func TestTampered(t *testing.T) {
	p := persistence(t, &cookie)
	sid := token(t, p, 0, podA)
	for i := range sid {
		for _, c := range []byte{'A', '_', '=', ' ', 0x80} {
			if sid[i] == c {
				continue
			}
			forged := sid[:i] + string(rune(c)) + sid[i+1:]
			ex := request(0, "Cookie: sid="+forged)
			var s State
			// The last character has bits that say nothing: encodedLen is such that there are none.
			if p.Resume(ex, &s) {
				t.Fatalf("%q is taken for %q", forged, sid)
			}
			if len(ex.Out.Fields) != 1 {
				t.Fatalf("what is not ours does not go upstream: %q", lines(ex.Out.Fields))
			}
		}
	}
	for _, forged := range []string{"", sid[1:], sid + "A", strings.Repeat("A", len(sid))} {
		if ex := request(0, "Cookie: sid="+forged); p.Resume(ex, &State{}) {
			t.Errorf("%q is a token", forged)
		}
	}
}

func TestTimeouts(t *testing.T) {
	absolute := with(cookie, func(c *snapshot.SessionPersistence) { c.AbsoluteTimeout = time.Hour })
	idle := with(cookie, func(c *snapshot.SessionPersistence) { c.IdleTimeout = 100 * time.Second })
	for _, tt := range []struct {
		name       string
		cfg        *snapshot.SessionPersistence
		after      time.Duration
		valid, new bool // new: the client gets another token
	}{
		{"none", &cookie, 10000 * time.Hour, true, false},
		{"absolute, within", absolute, time.Hour - time.Second, true, false},
		{"absolute, over", absolute, time.Hour, false, true},
		{"idle, at once", idle, 10 * time.Second, true, false},
		{"idle, within", idle, 11 * time.Second, true, true},
		{"idle, to within a tenth", idle, 109 * time.Second, true, true},
		{"idle, over", idle, 110 * time.Second, false, true},
	} {
		p := persistence(t, tt.cfg)
		ex := request(tt.after, "Cookie: sid="+token(t, p, 0, podA))
		var s State
		if got := p.Resume(ex, &s); got != tt.valid {
			t.Errorf("%s: valid is %v", tt.name, got)
		}
		if p.Save(ex, &s, 7, podA, ""); len(ex.Response.Fields) == 1 != tt.new {
			t.Errorf("%s: response has %q", tt.name, lines(ex.Response.Fields))
		}
		if len(ex.Out.Fields) != 0 {
			t.Errorf("%s: goes upstream as %q", tt.name, lines(ex.Out.Fields))
		}
	}
	// A session that is used lasts, but not longer than absolutely.
	both := persistence(t, with(cookie, func(c *snapshot.SessionPersistence) {
		c.IdleTimeout, c.AbsoluteTimeout = 100*time.Second, 300*time.Second
	}))
	sid, last := token(t, both, 0, podA), time.Duration(0)
	for at := time.Duration(0); ; at += 50 * time.Second {
		ex := request(at, "Cookie: sid="+sid)
		var s State
		if !both.Resume(ex, &s) {
			break
		}
		last = at
		both.Save(ex, &s, 7, podA, "")
		for _, f := range ex.Response.Fields {
			sid, _, _ = strings.Cut(strings.TrimPrefix(f.Value, "sid="), ";")
		}
	}
	if last != 250*time.Second {
		t.Errorf("a session of 300 s was last used after %s", last)
	}
}

func TestCookie(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		name  string
		edit  func(*snapshot.SessionPersistence)
		lines []string
		want  string
	}{
		{"default", func(*snapshot.SessionPersistence) {}, nil, "; Secure; HttpOnly; SameSite=Strict"},
		{"in plaintext", func(*snapshot.SessionPersistence) {}, []string{"X-Forwarded-Proto: http"}, "; HttpOnly; SameSite=Strict"},
		{"a proxy in front", func(*snapshot.SessionPersistence) {}, []string{"X-Forwarded-Proto: HTTPS, http"}, "; Secure; HttpOnly; SameSite=Strict"},
		{"secure", func(c *snapshot.SessionPersistence) { c.Cookie.Secure = &yes }, []string{"X-Forwarded-Proto: http"}, "; Secure; HttpOnly; SameSite=Strict"},
		{"not secure", func(c *snapshot.SessionPersistence) { c.Cookie.Secure = &no }, nil, "; HttpOnly; SameSite=Strict"},
		{"matched", func(c *snapshot.SessionPersistence) { c.Cookie.MatchedPath = true }, nil, "; Path=/shop; Secure; HttpOnly; SameSite=Strict"},
		{"all", func(c *snapshot.SessionPersistence) {
			c.AbsoluteTimeout = 90 * time.Second
			c.Cookie = &snapshot.SessionCookie{Permanent: true, Path: "/a", Domain: "example.com", SameSite: "Lax"}
		}, nil, "; Path=/a; Max-Age=90; Secure; Domain=example.com; SameSite=Lax"},
	} {
		p := persistence(t, with(cookie, tt.edit))
		ex := request(0, tt.lines...)
		var s State
		p.Resume(ex, &s)
		p.Save(ex, &s, 7, podA, "/shop")
		_, attributes, _ := strings.Cut(ex.Response.Fields[0].Value, ";")
		if got := ";" + attributes; got != tt.want || ex.Response.Fields[0].Name != "Set-Cookie" {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestCookiePath(t *testing.T) {
	for _, tt := range []struct{ kind, path, want string }{
		{"PathPrefix", "/", "/"},
		{"PathPrefix", "/shop", "/shop"},
		{"PathPrefix", "/shop/", "/shop"},
		{"Exact", "/shop/cart", "/shop/cart"},
		{"Exact", "/", "/"},
		{"Exact", "/shop;v=1/cart", "/"},
		{"Exact", "/a/shop cart", "/a"},
		{"RegularExpression", "/p1/p2/[^/]+/p3", "/p1/p2"},
		{"RegularExpression", "^/p1/p[0-9]", "/p1"},
		{"RegularExpression", "/p1/p2", "/p1/p2"},
		{"RegularExpression", ".*", "/"},
		{"RegularExpression", "(", "/"},
	} {
		if got := CookiePath(&snapshot.PathMatch{Type: tt.kind, Value: tt.path}); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.kind, tt.path, got, tt.want)
		}
	}
}

// TestManyTokens bounds what one request can cost.
func TestManyTokens(t *testing.T) {
	p := persistence(t, &cookie)
	sid := token(t, p, 0, podA)
	forged := "Cookie: " + strings.Repeat("sid="+strings.Repeat("A", len(sid))+"; ", maxTokens-1)
	if ex := request(0, forged+"sid="+sid); !p.Resume(ex, &State{}) {
		t.Error("the last of as many tokens as may be is not found")
	}
	if ex := request(0, forged+"sid="+strings.Repeat("B", len(sid))+"; sid="+sid); p.Resume(ex, &State{}) {
		t.Error("more tokens are tried than may be")
	}
}

func TestAllocatesNothing(t *testing.T) {
	p := persistence(t, with(cookie, func(c *snapshot.SessionPersistence) { c.IdleTimeout = time.Minute }))
	line := "Cookie: theme=dark; sid=" + token(t, p, 0, podA)
	ex, s := request(30*time.Second, line), &State{}
	if n := testing.AllocsPerRun(200, func() {
		s.Reset()
		ex.Out.Fields = append(ex.Out.Fields[:0], ex.In.Fields...)
		ex.Response.Fields = ex.Response.Fields[:0]
		ex.Arena.Reset()
		if !p.Resume(ex, s) {
			t.Fatal("there is no session")
		}
		p.Save(ex, s, 7, podA, "/")
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}

func FuzzResume(f *testing.F) {
	p := persistence(f, &cookie)
	f.Add("sid=" + token(f, p, 0, podA))
	f.Add("a=b; sid=")
	f.Add("sid=\"" + strings.Repeat("A", encodedLen) + "\"; ;=;")
	f.Fuzz(func(t *testing.T, cookies string) {
		ex := request(0, "Cookie: "+cookies)
		var s State
		if p.Resume(ex, &s) && s.Token.Backend != 7 {
			t.Errorf("%q has a token that was never given out: %+v", cookies, s.Token)
		}
	})
}

func BenchmarkSession(b *testing.B) {
	p := persistence(b, &cookie)
	ex, s := request(0, "Cookie: theme=dark; sid="+token(b, p, 0, podA)), &State{}
	b.ReportAllocs()
	for b.Loop() {
		s.Reset()
		ex.Out.Fields = append(ex.Out.Fields[:0], ex.In.Fields...)
		ex.Response.Fields = ex.Response.Fields[:0]
		ex.Arena.Reset()
		p.Resume(ex, s)
		p.Save(ex, s, 7, podA, "/")
	}
}
