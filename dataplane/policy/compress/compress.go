// Package compress encodes the content of responses with gzip, Brotli or
// Zstandard, where the client accepts it and it pays.
//
// What it leaves alone: content that is encoded already, parts (206), digests'
// subjects, what no-transform forbids, types and sizes that are not configured,
// and gRPC, whose messages have a compression of their own.
package compress

import (
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/syntax"
)

// Config is what a rule's responses are encoded with.
type Config struct {
	// Algorithms are content codings, "zstd", "br" or "gzip": the first of
	// those that a client likes best is taken.
	Algorithms []string `json:"algorithms"`
	// Level is "Fast", "Balanced" or "Best".
	Level string `json:"level"`
	// MinSize is the least content in bytes that is encoded. Content of unknown
	// length always is.
	MinSize int64 `json:"minSize"`
	// ContentTypes are the media types that are encoded, see CheckType.
	ContentTypes []string `json:"contentTypes"`
}

// Kind implements policy.Config.
func (*Config) Kind() string { return "compress" }

// Build implements policy.Config.
func (c *Config) Build(env *policy.Env) (policy.Filter, error) {
	f := &filter{minSize: c.MinSize}
	for _, name := range c.Algorithms {
		coding, ok := codingOf(name)
		if !ok || coding == identity {
			return policy.Filter{}, fmt.Errorf("compress: %q is not an algorithm", name)
		}
		f.preferred = append(f.preferred, coding)
	}
	level := slices.Index(levelNames[:], c.Level)
	if level < 0 {
		return policy.Filter{}, fmt.Errorf("compress: %q is not a level", c.Level)
	}
	f.level = level
	for _, text := range c.ContentTypes {
		if err := CheckType(text); err != nil {
			return policy.Filter{}, fmt.Errorf("compress: %w", err)
		}
		kind, subtype, _ := strings.Cut(text, "/")
		f.types = append(f.types, mediaRange{kind, subtype})
	}
	var release func()
	f.encoders, release = policy.Acquire(env.State, "compress", newEncoders)
	return policy.Filter{Response: f.respond, Release: release}, nil
}

// CheckType returns why a string does not name media types, nil if it does:
// "type/subtype", where either may be "*" and the subtype "*+suffix", as in
// "application/*+json".
func CheckType(text string) error {
	kind, subtype, ok := strings.Cut(text, "/")
	if !ok || kind == "" || subtype == "" || !syntax.All(kind, syntax.TChar) || !syntax.All(subtype, syntax.TChar) {
		return fmt.Errorf("%q is not of the form type/subtype", text)
	}
	if kind != "*" && strings.Contains(kind, "*") || kind == "*" && subtype != "*" {
		return fmt.Errorf("%q: * can stand for a subtype, or for all as */*", text)
	}
	if rest := strings.TrimPrefix(subtype, "*+"); subtype != "*" && (rest == "" || strings.Contains(rest, "*")) {
		return fmt.Errorf("%q: * stands for a whole subtype, or for all before its suffix, as in application/*+json", text)
	}
	return nil
}

// mediaRange is a media type, with "*" as CheckType says.
type mediaRange struct{ kind, subtype string }

func (m *mediaRange) matches(kind, subtype string) bool {
	if m.kind != "*" && !exchange.EqualFold(m.kind, kind) {
		return false
	}
	if m.subtype == "*" {
		return true
	}
	if m.subtype[0] == '*' {
		suffix := m.subtype[1:]
		return len(subtype) > len(suffix) && exchange.EqualFold(subtype[len(subtype)-len(suffix):], suffix)
	}
	return exchange.EqualFold(m.subtype, subtype)
}

type filter struct {
	preferred []coding
	level     int
	minSize   int64
	types     []mediaRange
	encoders  *encoders
}

// respond is the response hook. HEAD gets the fields that GET would.
func (f *filter) respond(ex *exchange.Exchange) {
	r := &ex.Response
	if r.Status == 304 {
		revalidate(ex)
		return
	}
	if !f.encodable(ex) {
		return
	}
	// From here on the client's wish decides, and caches must know that also
	// of what is sent as it is, RFC 9110 section 12.5.5.
	ex.VaryBy("Accept-Encoding")
	chosen := choose(ex.In.Fields, f.preferred)
	if chosen == identity {
		return
	}
	if r.Body != nil {
		b := f.encoders.body(chosen, f.level, r.Body)
		if b == nil {
			return // too much is being encoded already
		}
		r.Body = b
	}
	r.Length = -1
	r.Fields = append(r.Fields, exchange.Field{Key: exchange.KeyContentEncoding, Name: "Content-Encoding", Value: codingNames[chosen]})
	// Ranges are of what is sent, RFC 9110 section 14, and that differs each time.
	r.Fields.Del("Accept-Ranges")
	if i := r.Fields.Find(exchange.KeyETag); i >= 0 {
		r.Fields[i].Value = weak(ex, r.Fields[i].Value)
	}
}

// encodable reports whether the response may be encoded at all, whatever its
// client accepts.
func (f *filter) encodable(ex *exchange.Exchange) bool {
	r := &ex.Response
	switch {
	case r.Status < 200, r.Status == 204, r.Status == 205, r.Status == 206, r.Tunnel != nil, ex.In.Method == "CONNECT":
		return false
	case r.Body == nil && ex.In.Method != "HEAD", r.Length >= 0 && r.Length < f.minSize:
		return false
	}
	kind, subtype := mediaType(r.Fields.Value(exchange.KeyContentType))
	if !slices.ContainsFunc(f.types, func(m mediaRange) bool { return m.matches(kind, subtype) }) {
		return false
	}
	if len(subtype) >= len("grpc") && exchange.EqualFold(kind, "application") && exchange.EqualFold(subtype[:len("grpc")], "grpc") {
		return false
	}
	for i := range r.Fields {
		switch field := &r.Fields[i]; field.Key {
		case exchange.KeyContentEncoding:
			return false
		case exchange.KeyCacheControl:
			if exchange.HasToken(field.Value, "no-transform") { // RFC 9111 section 5.2.2.6
				return false
			}
		case exchange.KeyOther:
			// What is said of the content, bytes or whole, would not hold any more.
			if isAboutBytes(field.Name) {
				return false
			}
		}
	}
	for i := range ex.In.Fields {
		field := &ex.In.Fields[i]
		if field.Key == exchange.KeyCacheControl && exchange.HasToken(field.Value, "no-transform") { // RFC 9111 section 5.2.1.6
			return false
		}
	}
	return true
}

// isAboutBytes reports whether a field of this name holds for the very bytes
// that the upstream sent: RFC 9530, RFC 3230, RFC 9110 section 14.4.
func isAboutBytes(name string) bool {
	for _, n := range [...]string{"Content-Digest", "Repr-Digest", "Digest", "Content-MD5", "Content-Range"} {
		if exchange.EqualFold(name, n) {
			return true
		}
	}
	return false
}

// mediaType returns the two parts of a Content-Type without its parameters.
func mediaType(value string) (kind, subtype string) {
	if end := strings.IndexByte(value, ';'); end >= 0 {
		value = value[:end]
	}
	kind, subtype, _ = strings.Cut(strings.Trim(value, " \t"), "/")
	return kind, subtype
}

// weak returns the weak form of an entity tag: the encoded content means the
// same and is not byte by byte what the tag was for, RFC 9110 section 8.8.1.
func weak(ex *exchange.Exchange, tag string) string {
	if len(tag) < 2 || tag[0] != '"' {
		return tag
	}
	return ex.Arena.Concat("W/", tag)
}

// revalidate makes a 304 name the content that its client has. It has no
// Content-Type to go by; but who asks with the weak form of the upstream's
// strong tag has it from here, and a cache would not find it by the strong
// one, RFC 9111 section 4.3.4.
func revalidate(ex *exchange.Exchange) {
	i := ex.Response.Fields.Find(exchange.KeyETag)
	if i < 0 {
		return
	}
	tag := ex.Response.Fields[i].Value
	for j := range ex.In.Fields {
		if f := &ex.In.Fields[j]; f.Key == exchange.KeyIfNoneMatch {
			if at := strings.Index(f.Value, tag); at >= 2 && f.Value[at-2:at] == "W/" {
				ex.Response.Fields[i].Value = weak(ex, tag)
				ex.VaryBy("Accept-Encoding")
				return
			}
		}
	}
}
