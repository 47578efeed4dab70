package compile

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/apikey"
	"github.com/headgate/headgate/dataplane/policy/extauth"
	"github.com/headgate/headgate/dataplane/policy/jwt"
	"github.com/headgate/headgate/dataplane/policy/transform"
)

// The stanzas of an AuthPolicy.
const (
	stanzaAPIKey         = "apiKey"
	stanzaJWT            = "jwt"
	stanzaExternal       = "external"
	stanzaAnonymous      = "allowAnonymous"
	stanzaConsumerHeader = "consumerHeader"
	// stanzaUnreadable is what nobody can tell, and nobody can replace.
	stanzaUnreadable = "unreadable"
)

func compileAuthPolicy(c *policyCompiler) {
	spec := &c.object.(*v1alpha1.AuthPolicy).Spec
	if why, refused := c.object.GetAnnotations()[v1alpha1.RefusedAnnotation]; refused {
		c.invalid("spec", "it cannot be read, so nothing gets through its targets: "+why, "a policy without that error")
		c.guards(stanzaUnreadable, nil, 0)
		return
	}
	if spec.APIKey != nil {
		before := len(c.findings)
		value := c.apiKey(spec.APIKey)
		c.guards(stanzaAPIKey, value, before)
	}
	if spec.JWT != nil {
		before := len(c.findings)
		value := c.jwt(spec.JWT)
		c.guards(stanzaJWT, value, before)
	}
	if spec.External != nil {
		c.external(spec.External)
	}
	if spec.AllowAnonymous != nil {
		c.sets(stanzaAnonymous, *spec.AllowAnonymous)
	}
	if spec.ConsumerHeader != nil {
		before := len(c.findings)
		c.identityHeader("spec.consumerHeader", string(*spec.ConsumerHeader))
		c.guards(stanzaConsumerHeader, string(*spec.ConsumerHeader), before)
	}
	if len(c.stanzas) == 0 {
		c.invalid("spec", "it sets nothing", "apiKey, jwt, external, allowAnonymous or consumerHeader")
		c.guards(stanzaUnreadable, nil, 0)
	}
	if spec.Enforced && (spec.APIKey != nil || spec.JWT != nil) {
		// A credential of any accepted kind suffices, so adding one would
		// weaken what is enforced: the others are settled too, as absent.
		for _, name := range []string{stanzaAPIKey, stanzaJWT, stanzaAnonymous} {
			if c.stanza(name) == nil {
				c.sets(name, nil)
			}
		}
	}
}

func (c *policyCompiler) apiKey(spec *v1alpha1.APIKeyAuth) *apikey.Config {
	config := &apikey.Config{Forward: spec.Forward}
	owner := map[apikey.Sum]string{}
	for i := range spec.SecretRefs {
		field := fmt.Sprintf("spec.apiKey.secretRefs[%d].name", i)
		secret := c.secret(field, spec.SecretRefs[i].Name)
		if secret == nil {
			continue
		}
		for _, consumer := range slices.Sorted(maps.Keys(secret.Data)) {
			if len(validation.IsConfigMapKey(consumer)) > 0 {
				// Kubernetes refuses such Secrets; a folder of YAML may hold
				// one, and the name goes into header fields.
				c.unresolved(field, reasonInvalidRef, fmt.Sprintf("Secret %s/%s: %q cannot name a consumer", secret.Namespace, secret.Name, consumer),
					"letters, digits, -, _ and .")
				continue
			}
			key := bytes.TrimSpace(secret.Data[consumer])
			if len(key) == 0 {
				c.unresolved(field, reasonInvalidRef, fmt.Sprintf("Secret %s/%s: the key of %q is empty", secret.Namespace, secret.Name, consumer),
					"a key for each consumer: data entries CONSUMER: KEY")
				continue
			}
			sum := apikey.SumOf(key)
			if other, taken := owner[sum]; taken {
				if other != consumer {
					c.unresolved(field, reasonInvalidRef, fmt.Sprintf("Secret %s/%s: %q and %q have the same key", secret.Namespace, secret.Name, other, consumer),
						"a key that tells its consumer from all others")
				}
				continue
			}
			owner[sum] = consumer
			config.Keys = append(config.Keys, apikey.Key{Consumer: consumer, Sum: sum})
		}
	}
	slices.SortFunc(config.Keys, func(a, b apikey.Key) int { return bytes.Compare(a.Sum[:], b.Sum[:]) })
	config.From = c.sources("spec.apiKey.from", spec.From, credential.Source{Header: "X-API-Key"})
	return config
}

func (c *policyCompiler) jwt(spec *v1alpha1.JWTAuth) *jwt.Config {
	config := &jwt.Config{
		Forward:   spec.Forward == nil || *spec.Forward,
		ClockSkew: c.duration("spec.jwt.clockSkew", spec.ClockSkew, 30*time.Second, 0, 10*time.Minute),
		From:      c.sources("spec.jwt.from", spec.From, credential.Source{Header: "Authorization", Prefix: "Bearer"}),
	}
	if len(spec.Issuers) == 0 {
		c.invalid("spec.jwt.issuers", "there is no issuer", "at least one")
	}
	seen := map[string]bool{}
	for i := range spec.Issuers {
		field := fmt.Sprintf("spec.jwt.issuers[%d]", i)
		issuer := &spec.Issuers[i]
		if issuer.Issuer == "" || seen[issuer.Issuer] {
			c.invalid(field+".issuer", fmt.Sprintf("%q is empty or there twice", issuer.Issuer), `the "iss" of the tokens, each once`)
		}
		seen[issuer.Issuer] = true
		config.Issuers = append(config.Issuers, c.issuer(field, issuer))
	}
	return config
}

func (c *policyCompiler) issuer(field string, spec *v1alpha1.JWTIssuer) jwt.Issuer {
	issuer := jwt.Issuer{Issuer: spec.Issuer, Audiences: spec.Audiences, ConsumerClaim: "sub"}
	if spec.ConsumerClaim != nil {
		issuer.ConsumerClaim = *spec.ConsumerClaim
	}
	for i, a := range spec.Algorithms {
		if !slices.Contains(jwt.Algorithms, string(a)) {
			c.invalid(fmt.Sprintf("%s.algorithms[%d]", field, i), fmt.Sprintf("%q is not accepted", a), "one of "+strings.Join(jwt.Algorithms, ", "))
			continue
		}
		if spec.JWKS.Remote != nil && !slices.Contains(jwt.Asymmetric, string(a)) {
			c.invalid(fmt.Sprintf("%s.algorithms[%d]", field, i), fmt.Sprintf("%s needs a shared secret, which cannot be published at a URL", a),
				"an asymmetric algorithm, or jwks.secretRef")
			continue
		}
		issuer.Algorithms = append(issuer.Algorithms, string(a))
	}
	if len(spec.Algorithms) == 0 {
		issuer.Algorithms = jwt.Asymmetric
	}
	c.keys(field+".jwks", &spec.JWKS, &issuer)
	for i, h := range spec.ClaimsToHeaders {
		c.identityHeader(fmt.Sprintf("%s.claimsToHeaders[%d].header", field, i), string(h.Header))
		issuer.Headers = append(issuer.Headers, jwt.ClaimHeader{Claim: h.Claim, Header: string(h.Header)})
	}
	return issuer
}

func (c *policyCompiler) keys(field string, spec *v1alpha1.JWKS, issuer *jwt.Issuer) {
	switch {
	case spec.Inline != nil && spec.SecretRef == nil && spec.Remote == nil:
		issuer.Keys = policy.Secret(*spec.Inline)
		if err := jwt.CheckKeys(issuer.Keys, issuer.Algorithms); err != nil {
			c.invalid(field+".inline", err.Error(), "a JSON Web Key Set: {\"keys\": [...]}")
		}
	case spec.SecretRef != nil && spec.Inline == nil && spec.Remote == nil:
		secret := c.secret(field+".secretRef.name", spec.SecretRef.Name)
		if secret == nil {
			return
		}
		text, ok := secret.Data[spec.SecretRef.Key]
		if !ok {
			c.unresolved(field+".secretRef.key", reasonRefNotFound,
				fmt.Sprintf("Secret %s/%s has no entry %q", secret.Namespace, secret.Name, spec.SecretRef.Key),
				fmt.Sprintf("one of its entries: %q", slices.Sorted(maps.Keys(secret.Data))))
			return
		}
		issuer.Keys = policy.Secret(text)
		if err := jwt.CheckKeys(text, issuer.Algorithms); err != nil {
			c.unresolved(field+".secretRef.key", reasonInvalidRef,
				fmt.Sprintf("Secret %s/%s, entry %q: %v", secret.Namespace, secret.Name, spec.SecretRef.Key, err), "a JSON Web Key Set: {\"keys\": [...]}")
		}
	case spec.Remote != nil && spec.Inline == nil && spec.SecretRef == nil:
		issuer.URL = spec.Remote.URL
		if u, err := url.Parse(issuer.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			c.invalid(field+".remote.url", fmt.Sprintf("%q is not an http or https URL", issuer.URL), "such as https://id.example.com/.well-known/jwks.json")
		}
		issuer.CacheDuration = c.duration(field+".remote.cacheDuration", spec.Remote.CacheDuration, 5*time.Minute, 10*time.Second, 24*time.Hour)
	default:
		c.invalid(field, "it is not clear where the keys are", "exactly one of inline, secretRef and remote")
	}
}

// identityHeader checks the name of a header field that tells the backend who calls.
func (c *policyCompiler) identityHeader(field, name string) {
	if err := transform.CheckHeader(name); err != nil {
		c.invalid(field, err.Error(), "a header field name such as X-Consumer")
	}
}

func (c *policyCompiler) sources(field string, spec []v1alpha1.CredentialSource, unset credential.Source) []credential.Source {
	if len(spec) == 0 {
		return []credential.Source{unset}
	}
	var sources []credential.Source
	for i := range spec {
		s := &spec[i]
		at := fmt.Sprintf("%s[%d]", field, i)
		var source credential.Source
		set := 0
		if s.Header != nil {
			source.Header = string(*s.Header)
			set++
			if !httpguts.ValidHeaderFieldName(source.Header) {
				c.invalid(at+".header", fmt.Sprintf("%q is not a header field name", source.Header), "such as X-API-Key")
			}
		}
		if s.Query != nil {
			source.Query = *s.Query
			set++
		}
		if s.Cookie != nil {
			source.Cookie = *s.Cookie
			set++
		}
		if s.Prefix != nil {
			source.Prefix = *s.Prefix
		}
		if set != 1 || source.Prefix != "" && source.Header == "" {
			c.invalid(at, "it is not clear where to look", "exactly one of header, query and cookie; prefix with header only")
			continue
		}
		sources = append(sources, source)
	}
	return sources
}

// authFilters makes one filter per kind of credential, of which the last one
// decides, see package apikey; behind them, the authorization server is asked.
func authFilters(e effective) []policy.Config {
	filters := credentialFilters(e)
	if config, ok := e.value(stanzaExternal).(*extauth.Config); ok {
		filters = append(filters, config)
	}
	return filters
}

func credentialFilters(e effective) []policy.Config {
	keys, _ := e.value(stanzaAPIKey).(*apikey.Config)
	tokens, _ := e.value(stanzaJWT).(*jwt.Config)
	anonymous, _ := e.value(stanzaAnonymous).(bool)
	header, _ := e.value(stanzaConsumerHeader).(string)
	if keys == nil && tokens == nil {
		if header == "" {
			return nil
		}
		// Nobody is ever found, but the field must not come from clients.
		return []policy.Config{&apikey.Config{ConsumerHeader: header, Anonymous: true}}
	}
	var filters []policy.Config
	if keys != nil {
		k := *keys
		k.ConsumerHeader, k.Anonymous, k.Next = header, anonymous, tokens != nil
		filters = append(filters, &k)
	}
	if tokens != nil {
		t := *tokens
		t.ConsumerHeader, t.Anonymous = header, anonymous
		filters = append(filters, &t)
	}
	return filters
}
