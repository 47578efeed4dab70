package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

var now = time.Unix(1_700_000_000, 0)

type object = map[string]any

// The keys of the tests' issuers.
var (
	rsaKey     = must(rsa.GenerateKey(rand.Reader, 2048))
	p256Key    = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	edKey      = newEd()
	otherEdKey = newEd()
	secret     = []byte("0123456789abcdef0123456789abcdef")
)

func newEd() ed25519.PrivateKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return must(private, err)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwks makes a key set of pairs of a kid and a key.
func jwks(pairs ...any) policy.Secret {
	set := jwk.NewSet()
	for i := 0; i < len(pairs); i += 2 {
		raw := pairs[i+1]
		if private, ok := raw.(crypto.Signer); ok {
			raw = private.Public()
		}
		key := must(jwk.Import(raw))
		if kid := pairs[i].(string); kid != "" {
			must(0, key.Set(jwk.KeyIDKey, kid))
		}
		must(0, set.AddKey(key))
	}
	return must(json.Marshal(set))
}

// sign makes a token. Claims change those of a good one; nil removes one.
func sign(alg, kid string, key any, claims object) string {
	all := object{"iss": "https://id.example.com", "aud": "shop", "sub": "alice", "exp": now.Add(time.Minute).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	headers := jws.NewHeaders()
	if kid != "" {
		must(0, headers.Set(jws.KeyIDKey, kid))
	}
	algorithm, _ := jwa.LookupSignatureAlgorithm(alg)
	return string(must(jws.Sign(must(json.Marshal(all)), jws.WithKey(algorithm, key, jws.WithProtectedHeaders(headers)))))
}

// forge makes a token with any header and signature.
func forge(header object, claims object, signature string) string {
	encode := func(v object) string { return base64.RawURLEncoding.EncodeToString(must(json.Marshal(v))) }
	return encode(header) + "." + encode(claims) + "." + signature
}

func env(t testing.TB) *policy.Env {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return &policy.Env{State: policy.NewState(), Log: logr.Discard(), Now: func() time.Time { return now }, Context: ctx}
}

func config() *Config {
	return &Config{
		Issuers: []Issuer{{
			Issuer: "https://id.example.com", Audiences: []string{"shop", "other"}, Algorithms: Asymmetric, ConsumerClaim: "sub",
			Keys:    jwks("rsa", rsaKey, "p256", p256Key, "ed", edKey),
			Headers: []ClaimHeader{{"email", "X-Email"}, {"realm.roles", "X-Roles"}},
		}, {
			Issuer: "internal", Algorithms: []string{"HS256"}, ConsumerClaim: "client.name", Keys: jwks("", secret),
		}},
		From:      []credential.Source{{Header: "Authorization", Prefix: "Bearer"}},
		Forward:   true,
		ClockSkew: 30 * time.Second,
	}
}

func request(lines ...string) *exchange.Exchange {
	ex := &exchange.Exchange{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		ex.In.Fields.Add(name, value)
	}
	ex.Out.Fields = append(ex.Out.Fields, ex.In.Fields...)
	return ex
}

func build(t testing.TB, c *Config) policy.Filter {
	t.Helper()
	filter, err := c.Build(env(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(filter.Release)
	return filter
}

func TestTokens(t *testing.T) {
	public := must(x509.MarshalPKIXPublicKey(rsaKey.Public()))
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	good := object{"iss": "https://id.example.com", "aud": "shop", "sub": "alice", "exp": now.Add(time.Minute).Unix()}
	tampered := func(token string) string {
		parts := strings.Split(token, ".")
		return parts[0] + "." + strings.Split(forge(nil, object{"iss": "https://id.example.com", "aud": "shop", "sub": "root", "exp": good["exp"]}, ""), ".")[1] + "." + parts[2]
	}
	internal := object{"iss": "internal", "aud": nil, "client": object{"name": "batch"}}
	for _, c := range []struct {
		name  string
		token string
		err   error // nil if accepted
		who   string
	}{
		{"RS256", sign("RS256", "rsa", rsaKey, nil), nil, "alice"},
		{"PS512", sign("PS512", "rsa", rsaKey, nil), nil, "alice"},
		{"ES256", sign("ES256", "p256", p256Key, nil), nil, "alice"},
		{"EdDSA", sign("EdDSA", "ed", edKey, nil), nil, "alice"},
		{"without kid", sign("EdDSA", "", edKey, nil), nil, "alice"},
		{"one of several audiences", sign("EdDSA", "ed", edKey, object{"aud": []string{"x", "other"}}), nil, "alice"},
		{"shared secret", sign("HS256", "", secret, internal), nil, "batch"},

		{"none", forge(object{"alg": "none"}, good, ""), errAlgorithm, ""},
		{"None", forge(object{"alg": "NoNe"}, good, ""), errAlgorithm, ""},
		{"no alg", forge(object{"typ": "JWT"}, good, "AAAA"), errAlgorithm, ""},
		{"public key as secret, PEM", sign("HS256", "rsa", publicPEM, nil), errAlgorithm, ""},
		{"public key as secret, DER", sign("HS256", "rsa", public, nil), errAlgorithm, ""},
		{"algorithm of another issuer", sign("EdDSA", "", edKey, internal), errAlgorithm, ""},
		{"key of another type", sign("EdDSA", "rsa", edKey, nil), errKey, ""},
		{"unknown kid", sign("EdDSA", "new", edKey, nil), errKey, ""},
		{"key of somebody else", sign("EdDSA", "ed", otherEdKey, nil), errSignature, ""},
		{"tampered", tampered(sign("EdDSA", "ed", edKey, nil)), errSignature, ""},
		{"signature cut off", strings.TrimRight(sign("EdDSA", "ed", edKey, nil), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), errSignature, ""},
		{"crit", forge(object{"alg": "EdDSA", "crit": []string{"x"}, "x": 1}, good, "AAAA"), errSignature, ""},
		{"embedded key", forge(object{"alg": "EdDSA", "jwk": object{"kty": "OKP"}}, good, "AAAA"), errSignature, ""},

		{"expired", sign("EdDSA", "ed", edKey, object{"exp": now.Add(-31 * time.Second).Unix()}), errExpired, ""},
		{"expired within skew", sign("EdDSA", "ed", edKey, object{"exp": now.Add(-29 * time.Second).Unix()}), nil, "alice"},
		{"no expiry", sign("EdDSA", "ed", edKey, object{"exp": nil}), errNoExpiry, ""},
		{"expiry as text", sign("EdDSA", "ed", edKey, object{"exp": "never"}), errNoExpiry, ""},
		{"expiry with a fraction", sign("EdDSA", "ed", edKey, object{"exp": 1.7000001e9}), nil, "alice"},
		{"not yet", sign("EdDSA", "ed", edKey, object{"nbf": now.Add(31 * time.Second).Unix()}), errTooEarly, ""},
		{"not yet within skew", sign("EdDSA", "ed", edKey, object{"nbf": now.Add(29 * time.Second).Unix()}), nil, "alice"},
		{"nbf as text", sign("EdDSA", "ed", edKey, object{"nbf": "x"}), errTooEarly, ""},
		{"issued in the future", sign("EdDSA", "ed", edKey, object{"iat": now.Add(time.Hour).Unix()}), errTooEarly, ""},
		{"wrong audience", sign("EdDSA", "ed", edKey, object{"aud": "bank"}), errAudience, ""},
		{"no audience", sign("EdDSA", "ed", edKey, object{"aud": nil}), errAudience, ""},
		{"audience where none is expected", sign("HS256", "", secret, object{"iss": "internal", "client": object{"name": "b"}}), errAudience, ""},
		{"wrong issuer", sign("EdDSA", "ed", edKey, object{"iss": "https://evil.example.com"}), errIssuer, ""},
		{"no issuer", sign("EdDSA", "ed", edKey, object{"iss": nil}), errIssuer, ""},
		{"no consumer", sign("EdDSA", "ed", edKey, object{"sub": nil}), errConsumer, ""},
		{"empty consumer", sign("EdDSA", "ed", edKey, object{"sub": ""}), errConsumer, ""},

		{"empty parts", "..", errMalformed, ""},
		{"two parts", "e30.e30", errMalformed, ""},
		{"five parts", "e30.e30.a.b.c", errMalformed, ""},
		{"padding", "e30=.e30=.", errMalformed, ""},
		{"not an object", base64.RawURLEncoding.EncodeToString([]byte("[]")) + ".e30.", errMalformed, ""},
		{"null", base64.RawURLEncoding.EncodeToString([]byte("null")) + ".e30.", errMalformed, ""},
		{"two objects", base64.RawURLEncoding.EncodeToString([]byte("{}{}")) + ".e30.", errMalformed, ""},
		{"too long", "e30." + strings.Repeat("A", maxToken) + ".", errMalformed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			filter := build(t, config())
			ex := request("Authorization: Bearer " + c.token)
			verdict := filter.Request(ex)
			if c.err == nil {
				if verdict != exchange.Continue || ex.Consumer.Name != c.who || ex.Consumer.Method != "jwt" {
					t.Fatalf("%v, consumer %q; want %q\n%+v", verdict, ex.Consumer.Name, c.who, ex.Response)
				}
				return
			}
			if verdict != exchange.Answered || ex.Response.Status != 401 || ex.Consumer.Name != "" {
				t.Fatalf("verdict %v, status %d, consumer %q", verdict, ex.Response.Status, ex.Consumer.Name)
			}
			want := `Bearer realm="headgate", error="invalid_token", error_description="` + c.err.Error() + `"`
			if got := ex.Response.Fields.Value(exchange.KeyWWWAuthenticate); got != want {
				t.Errorf("WWW-Authenticate: %s\nwant %s", got, want)
			}
		})
	}
}

// TestVerifiedTokens holds that remembering a signature remembers nothing else.
func TestVerifiedTokens(t *testing.T) {
	env := env(t)
	at := now
	env.Now = func() time.Time { return at }
	build := func(change func(*Config)) func(token string) int {
		c := config()
		change(c)
		filter, err := c.Build(env)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(filter.Release)
		return func(token string) int {
			ex := request("Authorization: Bearer " + token)
			if filter.Request(ex) == exchange.Continue {
				return 200
			}
			return ex.Response.Status
		}
	}
	// All share the key set, and with it what it has verified.
	ask := build(func(*Config) {})
	otherAudience := build(func(c *Config) { c.Issuers[0].Audiences = []string{"bank"} })
	otherAlgorithm := build(func(c *Config) { c.Issuers[0].Algorithms = []string{"ES256"} })
	otherIssuer := build(func(c *Config) { c.Issuers[0].Issuer = "https://other.example.com" })
	otherKeys := build(func(c *Config) { c.Issuers[0].Keys = jwks("ed", otherEdKey) })

	good := sign("EdDSA", "ed", edKey, nil)
	for range 2 {
		if got := ask(good); got != 200 {
			t.Fatal(got)
		}
	}
	for name, ask := range map[string]func(string) int{
		"audience": otherAudience, "algorithm": otherAlgorithm, "issuer": otherIssuer, "keys": otherKeys,
	} {
		if got := ask(good); got != 401 {
			t.Errorf("with another %s: %d", name, got)
		}
	}
	if got := ask(good[:len(good)-1]); got != 401 {
		t.Errorf("with another signature: %d", got)
	}
	at = at.Add(2 * time.Minute)
	if got := ask(good); got != 401 {
		t.Errorf("expired: %d", got)
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	var v verified
	for i := range 100_000 {
		v.put(tokenSum{byte(i), byte(i >> 8), byte(i >> 16)}, &token{})
	}
	n := 0
	for i := range v.shards {
		n += len(v.shards[i].tokens)
	}
	if want := verifiedShards * maxVerified; n != want {
		t.Errorf("%d tokens, want %d", n, want)
	}
}

func BenchmarkRequest(b *testing.B) {
	filter := build(b, config())
	ex := request("Authorization: Bearer " + sign("ES256", "p256", p256Key, nil))
	b.ReportAllocs()
	for b.Loop() {
		ex.Consumer = exchange.Consumer{}
		if filter.Request(ex) != exchange.Continue {
			b.Fatal("refused")
		}
	}
}

func TestTheRequestGoesOnWithWhatTheTokenSays(t *testing.T) {
	c := config()
	c.ConsumerHeader, c.Forward = "X-Consumer", false
	filter := build(t, c)
	token := sign("EdDSA", "ed", edKey, object{"email": "a@example.com\r\nX-Evil: 1", "realm": object{"roles": []string{"admin", "dev"}}, "n": 7, "ok": true})
	ex := request("X-Email: forged", "x_roles: forged", "X-Consumer: root", "Authorization: Bearer "+token, "Accept: a")
	if filter.Request(ex) != exchange.Continue {
		t.Fatal(ex.Response)
	}
	var out []string
	for _, f := range ex.Out.Fields {
		out = append(out, f.Name+": "+f.Value)
	}
	want := "Accept: a|X-Consumer: alice|X-Email: a@example.com  X-Evil: 1|X-Roles: [\"admin\",\"dev\"]"
	if got := strings.Join(out, "|"); got != want {
		t.Errorf("upstream sees %s\nwant %s", got, want)
	}
	for name, want := range map[string]string{"n": "7", "ok": "true", "realm.roles": `["admin","dev"]`} {
		if got, ok := ex.Consumer.Claims.Claim(name); got != want || !ok {
			t.Errorf("claim %s = %q, %v", name, got, ok)
		}
	}
	if _, ok := ex.Consumer.Claims.Claim("realm.none"); ok {
		t.Error("a claim that is not there was found")
	}
}

func TestWithoutToken(t *testing.T) {
	for _, c := range []struct {
		name      string
		anonymous bool
		before    exchange.Consumer
		lines     []string
		status    int
		reason    string
	}{
		{name: "refused", status: 401, reason: "missing_credential"},
		{name: "another scheme", lines: []string{"Authorization: Basic eA=="}, status: 401, reason: "missing_credential"},
		{name: "anonymous", anonymous: true},
		{name: "anonymous with a bad token", anonymous: true, lines: []string{"Authorization: Bearer x"}, status: 401, reason: "invalid_token"},
		{name: "anonymous after a wrong API key", anonymous: true, before: exchange.Consumer{Method: "apiKey"}, status: 401, reason: "invalid_credential"},
		{name: "known already", before: exchange.Consumer{Name: "bob", Method: "apiKey"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := config()
			config.Anonymous = c.anonymous
			filter := build(t, config)
			ex := request(append(c.lines, "X-Email: forged")...)
			ex.Consumer = c.before
			filter.Request(ex)
			if ex.Response.Status != c.status || ex.Response.LocalReason != c.reason {
				t.Errorf("status %d %s, want %d %s", ex.Response.Status, ex.Response.LocalReason, c.status, c.reason)
			}
			if c.status == 401 && !strings.HasPrefix(ex.Response.Fields.Value(exchange.KeyWWWAuthenticate), "Bearer ") {
				t.Error("401 without a challenge")
			}
			if _, forged := ex.Out.Fields.Get("X-Email"); forged {
				t.Error("a client's field passes for a claim")
			}
		})
	}
}

func TestKeySets(t *testing.T) {
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	for _, c := range []struct {
		name, text, err string
		keys            int
	}{
		{name: "private keys become public", text: `{"keys":[` + string(must(json.Marshal(must(jwk.Import(edKey))))) + `]}`, keys: 1},
		{name: "unknown types are left out", text: `{"keys":[{"kty":"moon"},` + strings.TrimPrefix(string(jwks("a", edKey)), `{"keys":[`), keys: 1},
		{name: "for encryption", text: `{"keys":[{"use":"enc",` + strings.TrimPrefix(string(jwks("a", edKey)), `{"keys":[{`), err: "enc"},
		{name: "weak", text: `{"keys":[{"kty":"RSA","e":"AQAB","n":"` + base64.RawURLEncoding.EncodeToString(weak.N.Bytes()) + `"}]}`, err: "1024 bits"},
		{name: "short secret", text: `{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}`, err: "5 bytes"},
		{name: "empty", text: `{"keys":[]}`, err: "no \"keys\""},
		{name: "a single key", text: `{"kty":"OKP"}`, err: "no \"keys\""},
		{name: "not JSON", text: `-----BEGIN`, err: "not JSON"},
	} {
		set, err := parseKeys([]byte(c.text))
		switch {
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		case c.err == "" && (err != nil || len(set.keys) != c.keys):
			t.Errorf("%s: %v %v", c.name, set, err)
		case err == nil:
			for _, k := range set.keys {
				if _, private := k.public.(crypto.Signer); private {
					t.Errorf("%s: a private key is kept", c.name)
				}
			}
		}
	}
	if err := CheckKeys(jwks("a", edKey), []string{"RS256"}); err == nil {
		t.Error("a set without a key for the algorithms was accepted")
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"none":            func(c *Config) { c.Issuers[0].Algorithms = []string{"none"} },
		"no algorithms":   func(c *Config) { c.Issuers[0].Algorithms = nil },
		"secret at a URL": func(c *Config) { c.Issuers[1].Keys, c.Issuers[1].URL = nil, "https://id.example.com/keys" },
		"issuer twice":    func(c *Config) { c.Issuers[1] = c.Issuers[0] },
		"bad keys":        func(c *Config) { c.Issuers[0].Keys = policy.Secret("{}") },
		"no sources":      func(c *Config) { c.From = nil },
		"no issuers":      func(c *Config) { c.Issuers = nil },
	} {
		c := config()
		change(c)
		if _, err := c.Build(env(t)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add(sign("EdDSA", "ed", edKey, nil))
	f.Add(forge(object{"alg": "none"}, object{"iss": "https://id.example.com"}, ""))
	f.Add("..")
	f.Add("e30.e30.")
	// Nobody can sign for this key: its private half is gone.
	c := config()
	c.Issuers = c.Issuers[:1]
	c.Issuers[0].Keys = jwks("ed", newEd())
	filter := build(f, c)
	f.Fuzz(func(t *testing.T, token string) {
		ex := request("Authorization: Bearer " + token)
		if filter.Request(ex) != exchange.Answered || ex.Consumer.Name != "" {
			t.Fatalf("%q was accepted", token)
		}
		if strings.ContainsAny(ex.Response.Fields.Value(exchange.KeyWWWAuthenticate), "\r\n\x00") {
			t.Fatalf("%q breaks the challenge", token)
		}
	})
}
