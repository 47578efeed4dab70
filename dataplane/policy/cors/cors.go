// Package cors answers preflights, and says which origins' scripts may read a
// response: HTTPRoute's CORS filter, GEP-1767, by the Fetch standard's "CORS
// protocol".
package cors

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
	"github.com/headgate/headgate/dataplane/syntax"
)

// wildcard stands for everything, alone in its list.
const wildcard = "*"

// Config says what scripts of other origins may do.
type Config struct {
	// AllowOrigins are "scheme://host" with an optional port, or the wildcard.
	// The host may be "*", or begin with "*." for one label or more. With none,
	// no other origin is allowed.
	AllowOrigins []string `json:"allowOrigins,omitempty"`
	// AllowCredentials lets scripts send, and read responses to, requests with credentials.
	AllowCredentials bool `json:"allowCredentials,omitempty"`
	// AllowMethods and AllowHeaders are what may be asked for beyond what always
	// may, or the wildcard. Methods count with their case.
	AllowMethods []string `json:"allowMethods,omitempty"`
	AllowHeaders []string `json:"allowHeaders,omitempty"`
	// ExposeHeaders are the response fields that scripts may read beyond those
	// that they always may; the wildcard among them stands for all.
	ExposeHeaders []string `json:"exposeHeaders,omitempty"`
	// MaxAge is how long the answer to a preflight holds, in seconds; at least 1.
	MaxAge int32 `json:"maxAge"`
}

// Kind returns "cors".
func (*Config) Kind() string { return "cors" }

// Check reports what is wrong with the configuration; Build refuses the same.
func (c *Config) Check() error {
	_, err := c.link()
	return err
}

// Build makes the filter.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	f, err := c.link()
	if err != nil {
		return policy.Filter{}, err
	}
	return policy.Filter{Request: f.request, Response: f.response}, nil
}

// filter is the configuration as it is looked up. The texts are the values of
// response fields, "" for none.
type filter struct {
	origins     []origin
	anyOrigin   bool
	credentials bool

	methods, headers, expose             string
	anyMethod, anyHeader, exposesByNames bool
	maxAge                               string
}

func (c *Config) link() (*filter, error) {
	f := &filter{
		anyOrigin:   slices.Contains(c.AllowOrigins, wildcard),
		credentials: c.AllowCredentials,
		anyMethod:   slices.Contains(c.AllowMethods, wildcard),
		anyHeader:   slices.Contains(c.AllowHeaders, wildcard),
		methods:     strings.Join(c.AllowMethods, ", "),
		headers:     strings.Join(c.AllowHeaders, ", "),
		expose:      strings.Join(c.ExposeHeaders, ", "),
		maxAge:      strconv.Itoa(int(c.MaxAge)),
	}
	for i, s := range c.AllowOrigins {
		if f.anyOrigin {
			break
		}
		o, err := parsePattern(s)
		if err != nil {
			return nil, fmt.Errorf("allowOrigins[%d]: %w", i, err)
		}
		f.origins = append(f.origins, o)
	}
	for _, list := range []struct {
		name  string
		names []string
		mixed bool
	}{
		{"allowOrigins", nil, f.anyOrigin && len(c.AllowOrigins) > 1},
		{"allowMethods", c.AllowMethods, f.anyMethod && len(c.AllowMethods) > 1},
		{"allowHeaders", c.AllowHeaders, f.anyHeader && len(c.AllowHeaders) > 1},
		{"exposeHeaders", c.ExposeHeaders, false},
	} {
		if list.mixed {
			return nil, fmt.Errorf("%s: %q stands for all, and excludes others", list.name, wildcard)
		}
		for i, name := range list.names {
			if name == "" || !syntax.All(name, syntax.TChar) {
				return nil, fmt.Errorf("%s[%d]: %w", list.name, i, fmt.Errorf("%q is no name", name))
			}
		}
	}
	if slices.Contains(c.ExposeHeaders, wildcard) {
		f.expose, f.exposesByNames = wildcard, c.AllowCredentials
	}
	if c.MaxAge < 1 {
		return nil, errors.New("maxAge: less than a second")
	}
	return f, nil
}

// request answers preflights, all of them: what is not allowed is not said to be.
func (f *filter) request(ex *exchange.Exchange) exchange.Verdict {
	method := ex.In.Preflight()
	if method == "" {
		return exchange.Continue
	}
	ex.Answer(204, "cors_preflight", "")
	if !f.share(ex) {
		ex.Response.LocalReason = "cors_origin"
		return exchange.Answered
	}
	// What a wildcard allows is named: "*" means nothing together with
	// credentials, and never means Authorization.
	if f.anyMethod {
		set(ex, exchange.KeyAccessControlAllowMethods, "Access-Control-Allow-Methods", method)
	} else {
		set(ex, exchange.KeyAccessControlAllowMethods, "Access-Control-Allow-Methods", f.methods)
	}
	if f.anyHeader {
		for i := range ex.In.Fields {
			if asked := &ex.In.Fields[i]; asked.Key == exchange.KeyAccessControlRequestHeaders {
				set(ex, exchange.KeyAccessControlAllowHeaders, "Access-Control-Allow-Headers", asked.Value)
			}
		}
	} else {
		set(ex, exchange.KeyAccessControlAllowHeaders, "Access-Control-Allow-Headers", f.headers)
	}
	if !f.exposesByNames {
		set(ex, exchange.KeyAccessControlExposeHeaders, "Access-Control-Expose-Headers", f.expose)
	}
	set(ex, exchange.KeyAccessControlMaxAge, "Access-Control-Max-Age", f.maxAge)
	return exchange.Answered
}

// response says whether the script may read it. The backend has no say: two
// answers would be none, Fetch standard, "CORS check".
func (f *filter) response(ex *exchange.Exchange) {
	kept := ex.Response.Fields[:0]
	for _, field := range ex.Response.Fields {
		if !isOurs(field.Key) {
			kept = append(kept, field)
		}
	}
	ex.Response.Fields = kept
	if !f.share(ex) {
		return
	}
	expose := f.expose
	if f.exposesByNames {
		expose = names(ex)
	}
	set(ex, exchange.KeyAccessControlExposeHeaders, "Access-Control-Expose-Headers", expose)
}

func isOurs(key exchange.Key) bool {
	switch key {
	case exchange.KeyAccessControlAllowCredentials, exchange.KeyAccessControlAllowHeaders, exchange.KeyAccessControlAllowMethods,
		exchange.KeyAccessControlAllowOrigin, exchange.KeyAccessControlExposeHeaders, exchange.KeyAccessControlMaxAge:
		return true
	}
	return false
}

// share names the request's origin in the response if it is allowed, and
// reports whether it is.
func (f *filter) share(ex *exchange.Exchange) bool {
	if f.anyOrigin && !f.credentials {
		set(ex, exchange.KeyAccessControlAllowOrigin, "Access-Control-Allow-Origin", wildcard)
		return true
	}
	// Caches that keep the response are not to give it to another origin, nor
	// what was given to none: Fetch standard, "CORS protocol and HTTP caches".
	ex.VaryBy("Origin")
	from := ""
	for i := range ex.In.Fields {
		if field := &ex.In.Fields[i]; field.Key == exchange.KeyOrigin {
			if from != "" {
				return false // whose it is cannot be told
			}
			from = field.Value
		}
	}
	if !f.allows(from) {
		return false
	}
	set(ex, exchange.KeyAccessControlAllowOrigin, "Access-Control-Allow-Origin", from)
	if f.credentials {
		set(ex, exchange.KeyAccessControlAllowCredentials, "Access-Control-Allow-Credentials", "true")
	}
	return true
}

func (f *filter) allows(from string) bool {
	if f.anyOrigin {
		return from != ""
	}
	o, ok := parseOrigin(from)
	if !ok {
		return false
	}
	for i := range f.origins {
		if f.origins[i].matches(&o) {
			return true
		}
	}
	return false
}

func set(ex *exchange.Exchange, key exchange.Key, name, value string) {
	if value != "" {
		ex.Response.Fields = append(ex.Response.Fields, exchange.Field{Key: key, Name: name, Value: value})
	}
}

// names lists the response's fields.
func names(ex *exchange.Exchange) string {
	fields := ex.Response.Fields
	return ex.Arena.Append(func(b []byte) []byte {
		start := len(b)
		for i := range fields {
			if fields[i].Key == exchange.KeySetCookie || isOurs(fields[i].Key) || listed(fields[:i], fields[i].Name) {
				continue // Set-Cookie is for nobody's eyes, Fetch standard, "forbidden response-header name"
			}
			if len(b) > start {
				b = append(b, ", "...)
			}
			b = append(b, fields[i].Name...)
		}
		return b
	})
}

func listed(fields exchange.Fields, name string) bool {
	_, ok := fields.Get(name)
	return ok
}
