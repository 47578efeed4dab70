// Package jwt authenticates by JSON Web Tokens, RFC 7519, that their issuers
// signed (JWS in the compact serialization, RFC 7515).
//
// What a token says about itself is never trusted: its algorithm must be on
// the issuer's list and fit the key, its key must be one of the issuer's, and
// "none" is no algorithm. See package apikey for how the two work together.
package jwt

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Method is the Consumer.Method of who is found here.
const Method = "jwt"

// Algorithms are the signature algorithms that exist here, RFC 7518 section
// 3.1 and RFC 8037. Those that begin with "HS" are symmetric.
var Algorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
	"ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
}

// Asymmetric are those whose verifying key is public.
var Asymmetric = Algorithms[:10]

// Config is what a rule demands.
type Config struct {
	// Issuers have different Issuer names.
	Issuers []Issuer `json:"issuers"`
	// From are the places to look at, in order; at least one.
	From []credential.Source `json:"from"`
	// Forward leaves the token in the request to the backend.
	Forward bool `json:"forward,omitempty"`
	// ClockSkew is how far clocks may differ.
	ClockSkew time.Duration `json:"clockSkew,omitempty"`
	// ConsumerHeader tells the backend the consumer's name; "" for not.
	ConsumerHeader string `json:"consumerHeader,omitempty"`
	// Anonymous lets requests pass that present no credential.
	Anonymous bool `json:"anonymous,omitempty"`
}

// Issuer is whose tokens are accepted, and on what terms.
type Issuer struct {
	// Issuer is what "iss" must be.
	Issuer string `json:"issuer"`
	// Audiences: "aud" must name one of them; if there are none, it must be absent.
	Audiences []string `json:"audiences,omitempty"`
	// Algorithms are some of Algorithms; at least one.
	Algorithms []string `json:"algorithms"`
	// Keys is the key set as JSON, RFC 7517; empty if URL is set.
	Keys policy.Secret `json:"keys,omitempty"`
	// URL is where the key set is fetched, and again after CacheDuration.
	URL           string        `json:"url,omitempty"`
	CacheDuration time.Duration `json:"cacheDuration,omitempty"`
	// ConsumerClaim names the consumer.
	ConsumerClaim string `json:"consumerClaim"`
	// Headers tell the backend claims.
	Headers []ClaimHeader `json:"headers,omitempty"`
}

// ClaimHeader copies a claim to a request header field.
type ClaimHeader struct {
	Claim  string `json:"claim"`
	Header string `json:"header"`
}

// Kind implements policy.Config.
func (*Config) Kind() string { return "jwt" }

// Build implements policy.Config.
func (c *Config) Build(env *policy.Env) (policy.Filter, error) {
	if len(c.From) == 0 || len(c.Issuers) == 0 {
		return policy.Filter{}, errors.New("jwt: no place to look for tokens, or no issuer")
	}
	f := &filter{Config: *c, now: env.Now}
	for i := range c.Issuers {
		if err := f.add(env, &c.Issuers[i]); err != nil {
			f.release()
			return policy.Filter{}, fmt.Errorf("jwt: issuer %q: %w", c.Issuers[i].Issuer, err)
		}
	}
	return policy.Filter{Request: f.request, Release: f.release}, nil
}

type filter struct {
	Config
	issuers []issuer
	// stripped are all header fields that only Headgate may write.
	stripped []string
	now      func() time.Time
	releases []func()
}

// issuer is an Issuer with its keys.
type issuer struct {
	Issuer
	keys keySource
}

func (f *filter) add(env *policy.Env, config *Issuer) error {
	for _, a := range config.Algorithms {
		if !slices.Contains(Algorithms, a) {
			return fmt.Errorf("algorithm %q does not exist here", a)
		}
		if config.URL != "" && !slices.Contains(Asymmetric, a) {
			return fmt.Errorf("algorithm %s needs a secret, which is not published at a URL", a)
		}
	}
	if len(config.Algorithms) == 0 || config.ConsumerClaim == "" {
		return errors.New("no algorithms or no consumer claim")
	}
	for _, other := range f.issuers {
		if other.Issuer.Issuer == config.Issuer {
			return errors.New("is there twice")
		}
	}
	keys, release, err := acquireKeys(env, config)
	if err != nil {
		return err
	}
	f.releases = append(f.releases, release)
	f.issuers = append(f.issuers, issuer{*config, keys})
	for _, h := range config.Headers {
		f.stripped = append(f.stripped, h.Header)
	}
	return nil
}

func (f *filter) release() {
	for _, release := range f.releases {
		release()
	}
}

func (f *filter) request(ex *exchange.Exchange) exchange.Verdict {
	for _, name := range f.stripped {
		credential.Strip(ex, name)
	}
	if ex.Consumer.Name != "" {
		return exchange.Continue
	}
	if f.ConsumerHeader != "" {
		credential.Strip(ex, f.ConsumerHeader)
	}
	token, _, presented := credential.Find(ex, f.From)
	if !presented {
		switch {
		case ex.Consumer.Method != "":
			return refuse(ex, "invalid_credential", "", "The credential is not valid.\n")
		case f.Anonymous:
			return exchange.Continue
		}
		return refuse(ex, "missing_credential", "", "A credential is required.\n")
	}
	who, issuer, err := f.verify(token)
	switch {
	case errors.Is(err, errNoKeys):
		// Not the client's fault: nobody can be told from nobody now.
		return ex.Answer(503, "jwks_unavailable", "Tokens cannot be verified at the moment.\n")
	case err != nil:
		return refuse(ex, "invalid_token", err.Error(), "The token is not valid: "+err.Error()+".\n")
	}
	ex.Consumer = exchange.Consumer{Name: who.name, Method: Method, Claims: who}
	if f.ConsumerHeader != "" {
		ex.Out.Fields.Add(f.ConsumerHeader, who.name)
	}
	for _, h := range issuer.Headers {
		if value, ok := who.Claim(h.Claim); ok {
			ex.Out.Fields.Add(h.Header, fieldValue(value))
		}
	}
	if !f.Forward {
		credential.Remove(ex, f.From)
	}
	return exchange.Continue
}

// refuse answers 401 with a challenge, RFC 6750 section 3. A request without a
// credential is not told of an error.
func refuse(ex *exchange.Exchange, reason, description, text string) exchange.Verdict {
	ex.Answer(401, reason, text)
	challenge := `Bearer realm="headgate"`
	if description != "" {
		challenge = ex.Arena.Concat(challenge, `, error="invalid_token", error_description="`, description, `"`)
	}
	ex.Response.Fields = append(ex.Response.Fields, exchange.Field{
		Key: exchange.KeyWWWAuthenticate, Name: "WWW-Authenticate", Value: challenge})
	return exchange.Answered
}

// fieldValue keeps a claim from ending the header line that it stands in.
func fieldValue(claim string) string {
	for i := 0; i < len(claim); i++ {
		if c := claim[i]; c < ' ' || c == 0x7f {
			b := []byte(claim)
			for ; i < len(b); i++ {
				if b[i] < ' ' || b[i] == 0x7f {
					b[i] = ' '
				}
			}
			return string(b)
		}
	}
	return claim
}
