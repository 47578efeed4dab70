// Package session keeps a client's requests at one endpoint, GEP-1619: the
// first response gives the client a token that names the endpoint, in a cookie
// or a header field, and its further requests show it.
//
// Nothing is stored here. A token is encrypted and authenticated (AES-256-GCM)
// with a key that all replicas have, so it means the same to each of them and
// after a restart, and nobody else can read or make one. What does not
// decrypt is no token, and the request is one without a session.
package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// KeyLen is the length of a key, in bytes.
const KeyLen = 32

// maxTokens bounds how many values under the session's name are tried. A client
// may have several cookies of one name, for different paths.
const maxTokens = 8

// Persistence is the live counterpart of a snapshot.SessionPersistence at one
// rule. It is immutable and safe for concurrent use.
type Persistence struct {
	cfg *snapshot.SessionPersistence
	key exchange.Key // of the header field
	// aeads are of the keys; the first one encrypts.
	aeads []cipher.AEAD
	// absolute and idle are in seconds, 0 for no timeout. renew is how old a
	// token may be before the client gets one with a newer Used.
	absolute, idle, renew int64
	// attributes are those of the cookie that are always the same.
	attributes string
}

// New returns the live counterpart of cfg. own is the process's key, for a cfg
// without keys. rule names the rule, and is the same in every replica: its
// tokens are encrypted with keys that are derived for it, so that no other rule
// takes them for its own, and so that a key is not used more often than AES-GCM
// with random nonces allows, 2^32 times (NIST SP 800-38D section 8.3).
func New(cfg *snapshot.SessionPersistence, rule string, own policy.Secret) (*Persistence, error) {
	p := &Persistence{
		cfg:      cfg,
		key:      exchange.KeyOf(cfg.Name),
		absolute: seconds(cfg.AbsoluteTimeout),
		idle:     seconds(cfg.IdleTimeout),
	}
	p.renew = p.idle / 10
	keys := cfg.Keys
	if len(keys) == 0 {
		keys = []policy.Secret{own}
	}
	for _, key := range keys {
		if len(key) != KeyLen {
			return nil, fmt.Errorf("session persistence: a key has %d bytes, want %d", len(key), KeyLen)
		}
		derived, err := hkdf.Key(sha256.New, key, nil, "headgate session persistence\n"+rule+"\n"+cfg.Name, KeyLen)
		if err != nil {
			return nil, fmt.Errorf("session persistence: %w", err)
		}
		block, err := aes.NewCipher(derived)
		if err != nil {
			return nil, fmt.Errorf("session persistence: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("session persistence: %w", err)
		}
		p.aeads = append(p.aeads, aead)
	}
	if c := cfg.Cookie; c != nil {
		if c.Domain != "" {
			p.attributes += "; Domain=" + c.Domain
		}
		if c.HTTPOnly {
			p.attributes += "; HttpOnly"
		}
		p.attributes += "; SameSite=" + c.SameSite
	}
	return p, nil
}

// seconds rounds up: a timeout that is set is never none.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// Strict reports whether a session ends with its endpoint.
func (p *Persistence) Strict() bool { return p.cfg.Strict }

// MatchedPath reports whether Save needs the path of the match.
func (p *Persistence) MatchedPath() bool { return p.cfg.Cookie != nil && p.cfg.Cookie.MatchedPath }

// State is what is known of an exchange's session. The zero State is none.
type State struct {
	// Token is what the client has shown, if Resume said that it is valid.
	Token Token
	// of is whose token it is; nil if the client has shown none that is valid.
	of *Persistence
	// old says that the token is encrypted with another key than the first.
	old bool
	// secure says that the client's connection is encrypted.
	secure bool

	encoded [encodedLen]byte
	sealed  [sealedLen]byte
	plain   [plainLen]byte
}

// Reset makes the state that of the next exchange.
func (s *State) Reset() { s.Token, s.of, s.old, s.secure = Token{}, nil, false, false }

// Resume looks for a token in the request as it was received, and reports
// whether there is one that is valid. A token of ours is for nobody else: it is
// taken out of the request that goes upstream.
func (p *Persistence) Resume(ex *exchange.Exchange, s *State) bool {
	s.secure = isSecure(ex)
	tried := 0
	for i := range ex.In.Fields {
		f := &ex.In.Fields[i]
		if p.cfg.Cookie == nil {
			if f.Key == p.key && exchange.EqualFold(f.Name, p.cfg.Name) && p.open(f.Value, s, &tried) {
				p.withhold(ex, f.Value)
				if p.valid(ex, s) {
					return true
				}
			}
			continue
		}
		if f.Key != exchange.KeyCookie {
			continue
		}
		for rest := f.Value; rest != ""; {
			var name, value string
			_, name, value, rest = exchange.NextCookie(rest)
			if name == p.cfg.Name && p.open(value, s, &tried) {
				p.withhold(ex, value)
				if p.valid(ex, s) {
					return true
				}
			}
		}
	}
	return false
}

// isSecure reports whether the client's connection is encrypted, by what it is
// or by what a trusted proxy says of it.
func isSecure(ex *exchange.Exchange) bool {
	proto, _ := exchange.NextItem(ex.Out.Fields.Value(exchange.KeyXForwardedProto))
	return exchange.EqualFold(proto, "https") || proto == "" && ex.In.Scheme == "https"
}

// open decrypts a token.
func (p *Persistence) open(value string, s *State, tried *int) bool {
	if len(value) != encodedLen || *tried == maxTokens {
		return false
	}
	*tried++
	copy(s.encoded[:], value)
	if n, err := encoding.Decode(s.sealed[:], s.encoded[:]); err != nil || n != sealedLen {
		return false
	}
	for i, aead := range p.aeads {
		if plain, err := aead.Open(s.plain[:0], nil, s.sealed[:], nil); err == nil {
			s.old = i > 0
			return s.Token.read(plain)
		}
	}
	return false
}

// valid reports whether the session of s.Token goes on.
func (p *Persistence) valid(ex *exchange.Exchange, s *State) bool {
	now := ex.Start.Unix()
	if p.absolute > 0 && now >= s.Token.Start+p.absolute || p.idle > 0 && now >= s.Token.Used+p.idle+p.renew {
		return false
	}
	s.of = p
	return true
}

// withhold takes a token out of the request that goes upstream.
func (p *Persistence) withhold(ex *exchange.Exchange, token string) {
	if p.cfg.Cookie != nil {
		ex.Out.Fields.EditCookies(&ex.Arena, func(name, value string) bool { return name != p.cfg.Name || value != token })
		return
	}
	kept := ex.Out.Fields[:0]
	for _, f := range ex.Out.Fields {
		if f.Key != p.key || !exchange.EqualFold(f.Name, p.cfg.Name) || f.Value != token {
			kept = append(kept, f)
		}
	}
	ex.Out.Fields = kept
}

// Save adds a token to the response: that the session is with an endpoint of a
// backend. It adds none if the client has one that says so already. path is
// that of the match, for a cookie with MatchedPath.
func (p *Persistence) Save(ex *exchange.Exchange, s *State, backend uint64, endpoint netip.AddrPort, path string) {
	now := ex.Start.Unix()
	next := Token{Backend: backend, Endpoint: endpoint, Start: now, Used: now}
	if s.of == p && s.Token.Backend == backend && s.Token.Endpoint == endpoint {
		if !s.old && (p.idle == 0 || now-s.Token.Used <= p.renew) {
			return
		}
		next.Start = s.Token.Start
	}
	sealed := p.aeads[0].Seal(s.sealed[:0], nil, next.append(s.plain[:0]), nil)
	encoding.Encode(s.encoded[:], sealed)
	c := p.cfg.Cookie
	if c == nil {
		ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: p.key, Name: p.cfg.Name, Value: ex.Arena.Bytes(s.encoded[:])})
		return
	}
	if !c.MatchedPath {
		path = c.Path
	}
	secure := s.secure
	if c.Secure != nil {
		secure = *c.Secure
	}
	value := ex.Arena.Append(func(b []byte) []byte {
		b = append(b, p.cfg.Name...)
		b = append(b, '=')
		b = append(b, s.encoded[:]...)
		if path != "" {
			b = append(b, "; Path="...)
			b = append(b, path...)
		}
		if c.Permanent {
			b = append(b, "; Max-Age="...)
			b = strconv.AppendInt(b, next.Start+p.absolute-now, 10)
		}
		if secure {
			b = append(b, "; Secure"...)
		}
		return append(b, p.attributes...)
	})
	ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: exchange.KeySetCookie, Name: "Set-Cookie", Value: value})
}
