package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/headgate/headgate/dataplane/policy"
)

// keySource finds an issuer's keys.
type keySource interface {
	// current returns the keys as they are now, nil if there are none yet.
	current() *keySet
	// lookup returns the key set in which the key identifier should be looked
	// up ("" for any key), or errNoKeys.
	lookup(kid string) (*keySet, error)
}

// errNoKeys says that an issuer's keys have never been there.
var errNoKeys = errors.New("no keys")

// keySet is a JSON Web Key Set's keys that can verify. They do not change.
type keySet struct {
	keys     []key
	verified verified
}

func (s *keySet) current() *keySet { return s }

func (s *keySet) lookup(string) (*keySet, error) { return s, nil }

func (s *keySet) has(kid string) bool {
	return kid == "" || slices.ContainsFunc(s.keys, func(k key) bool { return k.id == kid })
}

type key struct {
	id        string
	algorithm string // the one that the key is for, "" for all that fit
	public    any    // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or []byte for a shared secret
}

// fits reports whether an algorithm may be used with the key: the type of key
// decides that, never the token, RFC 8725 section 3.1.
func (k *key) fits(alg string) bool {
	if k.algorithm != "" && k.algorithm != alg {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return alg == "ES256"
		case elliptic.P384():
			return alg == "ES384"
		case elliptic.P521():
			return alg == "ES512"
		}
	case ed25519.PublicKey:
		return alg == "EdDSA"
	case []byte:
		return strings.HasPrefix(alg, "HS")
	}
	return false
}

// CheckKeys returns why a text is not a JSON Web Key Set with a key that can
// verify one of the algorithms, nil if it is.
func CheckKeys(text []byte, algorithms []string) error {
	set, err := parseKeys(text)
	if err != nil {
		return err
	}
	for i := range set.keys {
		if slices.ContainsFunc(algorithms, set.keys[i].fits) {
			return nil
		}
	}
	return fmt.Errorf("none of its %d keys fits the algorithms %s", len(set.keys), strings.Join(algorithms, ", "))
}

// maxKeys bounds a key set.
const maxKeys = 256

// parseKeys reads a key set. Keys of types that we do not know, that are not
// for signatures, or that are too weak are left out, as RFC 7517 section 5
// says; a set without any other is an error.
func parseKeys(text []byte) (*keySet, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	if len(raw.Keys) == 0 {
		return nil, errors.New(`it has no "keys"`)
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, more than %d", len(raw.Keys), maxKeys)
	}
	set := &keySet{}
	var last error
	for i, text := range raw.Keys {
		k, err := parseKey(text)
		if err != nil {
			last = fmt.Errorf("keys[%d]: %w", i, err)
			continue
		}
		set.keys = append(set.keys, k)
	}
	if len(set.keys) == 0 {
		return nil, last
	}
	return set, nil
}

func parseKey(text []byte) (key, error) {
	parsed, err := jwk.ParseKey(text)
	if err != nil {
		return key{}, err
	}
	if use, ok := parsed.KeyUsage(); ok && use != "sig" {
		return key{}, fmt.Errorf("its use is %q, not sig", use)
	}
	if ops, ok := parsed.KeyOps(); ok && !slices.Contains(ops, jwk.KeyOpVerify) {
		return key{}, errors.New("its key_ops do not include verify")
	}
	public, err := jwk.PublicKeyOf(parsed)
	if err != nil {
		return key{}, err
	}
	var k key
	k.id, _ = parsed.KeyID()
	if alg, ok := parsed.Algorithm(); ok {
		k.algorithm = alg.String()
	}
	if err := jwk.Export(public, &k.public); err != nil {
		return key{}, err
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < 2048 {
			return key{}, fmt.Errorf("an RSA key of %d bits is too short; 2048 is the least", bits)
		}
	case []byte:
		// RFC 7518 section 3.2: as long as the hash, which is 32 bytes at least.
		if len(public) < 32 {
			return key{}, fmt.Errorf("a shared secret of %d bytes is too short; 32 is the least", len(public))
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return key{}, fmt.Errorf("keys of type %T cannot verify", public)
	}
	return k, nil
}

// acquireKeys returns an issuer's keys, which all rules with this issuer share.
func acquireKeys(env *policy.Env, issuer *Issuer) (keySource, func(), error) {
	if issuer.URL != "" {
		name := fmt.Sprintf("jwt/url/%s %s", issuer.CacheDuration, issuer.URL)
		keys, release := policy.Acquire(env.State, name, func() *remote { return newRemote(env, issuer.URL, issuer.CacheDuration) })
		return keys, release, nil
	}
	type parsed struct {
		set *keySet
		err error
	}
	sum := sha256.Sum256(issuer.Keys)
	keys, release := policy.Acquire(env.State, "jwt/set/"+hex.EncodeToString(sum[:]), func() parsed {
		set, err := parseKeys(issuer.Keys)
		return parsed{set, err}
	})
	if keys.err != nil {
		release()
		return nil, nil, keys.err
	}
	return keys.set, release, nil
}
