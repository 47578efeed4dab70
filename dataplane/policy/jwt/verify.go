package jwt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jws"
)

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// What is wrong with a token, as clients are told it: plain text without
// quotes, and nothing that the token brought.
var (
	errMalformed = errors.New("it is not a signed JWT")
	errIssuer    = errors.New("its issuer is not accepted")
	errAlgorithm = errors.New("its algorithm is not accepted")
	errKey       = errors.New("its key is not known")
	errSignature = errors.New("its signature does not verify")
	errExpired   = errors.New("it is expired")
	errNoExpiry  = errors.New("it never expires")
	errTooEarly  = errors.New("it is not valid yet")
	errAudience  = errors.New("it is meant for another audience")
	errConsumer  = errors.New("it does not say who the consumer is")
)

// claims are a verified token's.
type claims struct {
	name string
	all  map[string]any
}

// verify returns what a token says, if it is to be believed.
func (f *filter) verify(text string) (*claims, *issuer, error) {
	t, issuer, err := f.verifySignature(text)
	if err != nil {
		return nil, nil, err
	}
	if err := f.checkClaims(issuer, t.payload); err != nil {
		return nil, nil, err
	}
	who := &claims{all: t.payload}
	who.name, _ = who.Claim(issuer.ConsumerClaim)
	if who.name = fieldValue(who.name); who.name == "" {
		return nil, nil, errConsumer
	}
	return who, issuer, nil
}

// verifySignature returns a token that its issuer has signed, with one of the
// algorithms that are accepted of it.
func (f *filter) verifySignature(text string) (*token, *issuer, error) {
	if len(text) > maxToken {
		return nil, nil, errMalformed
	}
	sum := tokenSum(sha256.Sum256([]byte(text)))
	for i := range f.issuers {
		issuer := &f.issuers[i]
		if set := issuer.keys.current(); set != nil {
			if t := set.verified.get(sum); t != nil && issuer.accepts(t) {
				return t, issuer, nil
			}
		}
	}
	header, payload, err := parse(text)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(f.issuers, func(i issuer) bool { return payload["iss"] == i.Issuer.Issuer })
	if i < 0 {
		return nil, nil, errIssuer
	}
	issuer := &f.issuers[i]
	t := &token{payload: payload}
	t.algorithm, _ = header["alg"].(string)
	if !issuer.accepts(t) {
		return nil, nil, errAlgorithm
	}
	kid, _ := header["kid"].(string)
	set, err := issuer.keys.lookup(kid)
	if err != nil {
		return nil, nil, err
	}
	if err := set.verify(text, t.algorithm, kid); err != nil {
		return nil, nil, err
	}
	set.verified.put(sum, t)
	return t, issuer, nil
}

// accepts reports whether a token of this issuer and algorithm may be believed
// once its signature is verified.
func (i *issuer) accepts(t *token) bool {
	return t.payload["iss"] == i.Issuer.Issuer && slices.Contains(i.Algorithms, t.algorithm)
}

// parse reads a token's header and payload without believing them.
func parse(token string) (header, payload map[string]any, err error) {
	if strings.Count(token, ".") != 2 {
		return nil, nil, errMalformed
	}
	first, rest, _ := strings.Cut(token, ".")
	second, _, _ := strings.Cut(rest, ".")
	if header, err = decode(first); err == nil {
		payload, err = decode(second)
	}
	return header, payload, err
}

func decode(part string) (map[string]any, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, errMalformed
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil || object == nil || d.More() {
		return nil, errMalformed
	}
	return object, nil
}

// maxTries bounds the keys tried for a token that does not name its key.
const maxTries = 8

// verify returns nil if one of the keys verifies a token's signature.
func (s *keySet) verify(token, alg, kid string) error {
	algorithm, ok := jwa.LookupSignatureAlgorithm(alg)
	if !ok {
		return errAlgorithm
	}
	err := errKey
	tries := 0
	for i := range s.keys {
		k := &s.keys[i]
		if kid != "" && k.id != kid || !k.fits(alg) {
			continue
		}
		if _, bad := jws.VerifyCompactFast(k.public, []byte(token), algorithm); bad == nil {
			return nil
		}
		err = errSignature
		if tries++; tries == maxTries {
			break
		}
	}
	return err
}

func (f *filter) checkClaims(issuer *issuer, payload map[string]any) error {
	now, skew := seconds(f.now()), f.ClockSkew.Seconds()
	switch exp, ok := date(payload["exp"]); {
	case !ok:
		return errNoExpiry
	case now >= exp+skew:
		return errExpired
	}
	for _, name := range [...]string{"nbf", "iat"} {
		if value, there := payload[name]; there {
			if from, ok := date(value); !ok || now < from-skew {
				return errTooEarly
			}
		}
	}
	value, there := payload["aud"]
	if !there && len(issuer.Audiences) == 0 {
		return nil
	}
	var audiences []any
	switch v := value.(type) {
	case string:
		audiences = []any{v}
	case []any:
		audiences = v
	}
	for _, a := range audiences {
		if s, ok := a.(string); ok && slices.Contains(issuer.Audiences, s) {
			return nil
		}
	}
	return errAudience
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// date reads a NumericDate, RFC 7519 section 2.
func date(value any) (seconds float64, ok bool) {
	n, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	seconds, err := n.Float64()
	return seconds, err == nil
}

// Claim implements exchange.Claims. A name that contains dots is looked for as
// it is before dots descend.
func (c *claims) Claim(name string) (string, bool) {
	value, ok := find(c.all, name)
	if !ok || value == nil {
		return "", false
	}
	switch v := value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	text, err := json.Marshal(value)
	return string(text), err == nil
}

func find(in map[string]any, name string) (any, bool) {
	if value, ok := in[name]; ok {
		return value, true
	}
	for i := range name {
		if name[i] != '.' {
			continue
		}
		if inner, ok := in[name[:i]].(map[string]any); ok {
			if value, ok := find(inner, name[i+1:]); ok {
				return value, true
			}
		}
	}
	return nil, false
}
