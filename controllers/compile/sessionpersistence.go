package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/policy/headers"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// SessionKeysName is the name of the Secret with the keys of session
// persistence, in Options.Namespace. It has entries as those that ListenerPolicy's
// sessionTicketKeysRef names: the first by name encrypts, all are understood.
const SessionKeysName = "headgate-session-keys"

// standaloneNamespace is where the Secret is in a folder.
const standaloneNamespace = "headgate-system"

// SessionKeys names the Secret with the keys of session persistence.
func (o Options) SessionKeys() objects.Ref {
	return objects.Ref{Kind: "Secret", Namespace: cmp.Or(o.Namespace, standaloneNamespace), Name: SessionKeysName}
}

// readSessionKeys reads the keys, none if there is no Secret. In a cluster, it is
// wanted: the leader makes it as soon as a route has sessions.
func (b *frameBuilder) readSessionKeys() {
	ref := b.opts.SessionKeys()
	if b.opts.Namespace != "" {
		b.frame.wanted[ref] = true
	}
	secret, _ := b.set.Get(ref).(*corev1.Secret)
	if secret == nil {
		return
	}
	keys, problems := readKeys(secret)
	b.frame.sessionKeys, b.frame.hasSessionKeys = keys, true
	var findings []Finding
	for _, problem := range problems {
		findings = append(findings, Finding{Object: ref, Field: "data", Message: problem, Want: wantKeys,
			Condition: conditionResolvedRefs, Reason: reasonInvalidRef})
	}
	b.put(ref, nil, findings)
}

const wantKeys = "1 to 8 entries of 32 to 1024 random bytes"

// readKeys reads the keys of a Secret, 32 bytes each, in the order of its
// entries' names.
func readKeys(secret *corev1.Secret) (keys []policy.Secret, problems []string) {
	if len(secret.Data) == 0 || len(secret.Data) > 8 {
		problems = append(problems, fmt.Sprintf("%s has %d entries", objects.RefOf(secret), len(secret.Data)))
	}
	for _, entry := range slices.Sorted(maps.Keys(secret.Data)) {
		data := secret.Data[entry]
		if len(data) < 32 || len(data) > 1024 {
			problems = append(problems, fmt.Sprintf("entry %q of %s has %d bytes", entry, objects.RefOf(secret), len(data)))
			continue
		}
		key := sha256.Sum256(data)
		keys = append(keys, key[:])
	}
	return keys, problems
}

// ownSession is the Gateway API's sessionPersistence with the fields of ours.
func ownSession(from *gatewayv1.SessionPersistence) *v1alpha1.SessionPersistence {
	s := &v1alpha1.SessionPersistence{SessionName: from.SessionName, Type: from.Type, AbsoluteTimeout: from.AbsoluteTimeout}
	if from.CookieConfig != nil {
		s.CookieConfig = &v1alpha1.SessionCookieConfig{LifetimeType: from.CookieConfig.LifetimeType}
	}
	return s
}

// compileSession compiles session persistence, without what depends on the rule
// where it holds: see sessionAt.
func compileSession(from *v1alpha1.SessionPersistence, field string, invalid func(field, message, want string)) *snapshot.SessionPersistence {
	to := &snapshot.SessionPersistence{Name: valueOr(from.SessionName, ""), Strict: from.Strict}
	timeout := func(d *gatewayv1.Duration, name string) time.Duration {
		if d == nil {
			return 0
		}
		v, ok := parseDuration(*d)
		if !ok || v < time.Second {
			invalid(field+name, fmt.Sprintf("%q is no duration of 1s or more", *d), `a duration such as "30m"; without one, there is no such timeout`)
		}
		return v
	}
	to.AbsoluteTimeout = timeout(from.AbsoluteTimeout, ".absoluteTimeout")
	to.IdleTimeout = timeout(from.IdleTimeout, ".idleTimeout")
	const nameField = ".sessionName"
	if len(to.Name) > 128 || from.SessionName != nil && !isToken(to.Name) {
		invalid(field+nameField, fmt.Sprintf("%q is no name", to.Name), "up to 128 letters, digits and !#$%&'*+-.^_`|~")
	}
	switch kind := valueOr(from.Type, gatewayv1.CookieBasedSessionPersistence); kind {
	case gatewayv1.CookieBasedSessionPersistence:
		to.Cookie = compileSessionCookie(from, field+".cookieConfig", invalid)
		if prefix := strings.ToLower(to.Name); strings.HasPrefix(prefix, "__host-") || strings.HasPrefix(prefix, "__secure-") {
			invalid(field+nameField, fmt.Sprintf("browsers take a cookie %s with certain attributes only", to.Name), "a name without __Host- and __Secure-")
		}
	case gatewayv1.HeaderBasedSessionPersistence:
		if to.Name != "" {
			if err := headers.Check(to.Name); err != nil || strings.EqualFold(to.Name, "Cookie") || strings.EqualFold(to.Name, "Set-Cookie") {
				invalid(field+nameField, fmt.Sprintf("%s is not a field for tokens", to.Name), "the name of a header field of your own")
			}
		}
		if from.CookieConfig != nil {
			invalid(field+".cookieConfig", "type is Header", "no cookieConfig, or type Cookie")
		}
	default:
		invalid(field+".type", fmt.Sprintf("%q does not exist", kind), "Cookie or Header")
	}
	return to
}

func compileSessionCookie(from *v1alpha1.SessionPersistence, field string, invalid func(field, message, want string)) *snapshot.SessionCookie {
	to := &snapshot.SessionCookie{HTTPOnly: true, SameSite: "Strict"}
	c := from.CookieConfig
	if c == nil {
		return to
	}
	switch kind := valueOr(c.LifetimeType, gatewayv1.SessionCookieLifetimeType); kind {
	case gatewayv1.SessionCookieLifetimeType:
	case gatewayv1.PermanentCookieLifetimeType:
		to.Permanent = true
		if from.AbsoluteTimeout == nil {
			invalid(field+".lifetimeType", "a permanent cookie needs an end", "absoluteTimeout beside it, or lifetimeType Session")
		}
	default:
		invalid(field+".lifetimeType", fmt.Sprintf("%q does not exist", kind), "Session or Permanent")
	}
	if c.Path != nil {
		to.Path = *c.Path
		if !strings.HasPrefix(to.Path, "/") || strings.ContainsFunc(to.Path, func(r rune) bool { return r <= ' ' || r == ';' || r >= 0x7f }) {
			invalid(field+".path", fmt.Sprintf("%q is no path of a cookie", to.Path), "a path that begins with /, without white space and semicolons")
		}
	}
	if c.Domain != nil {
		to.Domain = strings.ToLower(*c.Domain)
		if !validHostname(to.Domain, false) {
			invalid(field+".domain", fmt.Sprintf("%q is no DNS name", *c.Domain), "a DNS name")
		}
	}
	to.Secure = c.Secure
	to.HTTPOnly = valueOr(c.HTTPOnly, true)
	if c.SameSite != nil {
		to.SameSite = string(*c.SameSite)
		switch {
		case !slices.Contains([]string{"Strict", "Lax", "None"}, to.SameSite):
			invalid(field+".sameSite", fmt.Sprintf("%q does not exist", to.SameSite), "Strict, Lax or None")
		case to.SameSite == "None" && c.Secure != nil && !*c.Secure:
			invalid(field+".sameSite", "with None, browsers take secure cookies only", "Strict or Lax, or no secure: false")
		}
	}
	return to
}

// sessionAt is session persistence as it holds at a rule. matched says that it
// was said of the route, not of the backend, GEP-1619 "Path".
func (f *frame) sessionAt(s *snapshot.SessionPersistence, rule snapshot.Ref, matched bool) *snapshot.SessionPersistence {
	at := *s
	at.Keys = f.sessionKeys
	if at.Cookie == nil {
		at.Name = cmp.Or(at.Name, "Headgate-Session")
		return &at
	}
	if at.Name == "" {
		// Cookies of one name would replace each other.
		sum := sha256.Sum256([]byte(rule.Kind + "/" + rule.Namespace + "/" + rule.Name + "/" + rule.Section))
		at.Name = "headgate-session-" + hex.EncodeToString(sum[:4])
	}
	cookie := *at.Cookie
	cookie.MatchedPath = matched && cookie.Path == ""
	at.Cookie = &cookie
	return &at
}
