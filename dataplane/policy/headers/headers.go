// Package headers edits header fields by name: HTTPRoute's RequestHeaderModifier
// and ResponseHeaderModifier.
package headers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Config edits the request that goes upstream, the response that goes
// downstream, or both.
type Config struct {
	Request  Edit `json:"request,omitzero"`
	Response Edit `json:"response,omitzero"`
}

// Edit is a list of changes to header fields. They are made in the order
// Remove, Set, Add, so that a name in several of them ends with the lines of
// the later one.
type Edit struct {
	// Set replaces all lines of a name by one. Host stands for the request's authority.
	Set []Field `json:"set,omitempty"`
	// Add appends a line and leaves those that are there.
	Add []Field `json:"add,omitempty"`
	// Remove removes all lines of a name.
	Remove []string `json:"remove,omitempty"`
}

// Field is a header field line.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Kind returns "headers".
func (*Config) Kind() string { return "headers" }

// Build makes the filter.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	if err := c.Check(); err != nil {
		return policy.Filter{}, err
	}
	var f policy.Filter
	if e := &c.Request; !e.empty() {
		fields, host := e.withoutHost()
		f.Request = func(ex *exchange.Exchange) exchange.Verdict {
			fields.apply(&ex.Out.Fields)
			if host != "" {
				ex.Out.SetAuthority(host)
			}
			return exchange.Continue
		}
	}
	if e := &c.Response; !e.empty() {
		f.Response = func(ex *exchange.Exchange) { e.apply(&ex.Response.Fields) }
	}
	return f, nil
}

// withoutHost returns the edit of fields, and the authority that Set has under
// Host, in lower case; "" for none.
func (e *Edit) withoutHost() (fields *Edit, host string) {
	isHost := func(s Field) bool { return exchange.KeyOf(s.Name) == exchange.KeyHost }
	if !slices.ContainsFunc(e.Set, isHost) {
		return e, "" // most have none, and there may be tens of thousands
	}
	fields = &Edit{Add: e.Add, Remove: e.Remove}
	for _, s := range e.Set {
		if isHost(s) {
			host = strings.ToLower(s.Value)
		} else {
			fields.Set = append(fields.Set, s)
		}
	}
	return fields, host
}

func (e *Edit) empty() bool { return len(e.Set)+len(e.Add)+len(e.Remove) == 0 }

func (e *Edit) apply(fields *exchange.Fields) {
	for _, name := range e.Remove {
		fields.Del(name)
	}
	for i := range e.Set {
		fields.Set(e.Set[i].Name, e.Set[i].Value)
	}
	for i := range e.Add {
		fields.Add(e.Add[i].Name, e.Add[i].Value)
	}
}

// Check reports what is wrong with the configuration; Build refuses the same.
func (c *Config) Check() error {
	for _, s := range c.Request.Set {
		if exchange.KeyOf(s.Name) == exchange.KeyHost {
			if err := checkHost(s.Value); err != nil {
				return fmt.Errorf("request: set: %w", err)
			}
		} else if err := CheckField(s.Name, s.Value); err != nil {
			return fmt.Errorf("request: set: %w", err)
		}
	}
	if err := (&Edit{Add: c.Request.Add, Remove: c.Request.Remove}).check(); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := c.Response.check(); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}

func (e *Edit) check() error {
	for _, s := range e.Set {
		if err := CheckField(s.Name, s.Value); err != nil {
			return fmt.Errorf("set: %w", err)
		}
	}
	for _, a := range e.Add {
		if err := CheckField(a.Name, a.Value); err != nil {
			return fmt.Errorf("add: %w", err)
		}
	}
	for _, name := range e.Remove {
		if err := Check(name); err != nil {
			return fmt.Errorf("remove: %w", err)
		}
	}
	return nil
}

// Check reports why configuration may not edit the field name: it is not a
// token (RFC 9110 section 5.6.2), or it is the connection's or the message's framing's own, where
// an edit would make two readings of one message. Host is refused too: a
// request has exactly one, which only Set on a request may replace.
func Check(name string) error {
	if name == "" {
		return errors.New("a field name is empty")
	}
	if name[0] == ':' {
		return fmt.Errorf("%q is a pseudo-header of HTTP/2 and no field; use a URLRewrite filter for path and host", name)
	}
	for i := 0; i < len(name); i++ {
		if !isToken(name[i]) {
			return fmt.Errorf("field name %q contains %q; letters, digits and !#$%%&'*+-.^_`|~ may be used", name, name[i])
		}
	}
	switch key := exchange.KeyOf(name); {
	case key == exchange.KeyHost:
		return fmt.Errorf("%s can be neither added nor removed, and is no response field; set it on a request or use a URLRewrite filter", name)
	case key == exchange.KeyContentLength, key == exchange.KeyTrailer, key.HopByHop():
		return fmt.Errorf("%s belongs to the framing of each connection and cannot be edited", name)
	}
	return nil
}

// CheckField is Check for a whole line: its value too must be one that cannot
// end the line, RFC 9110 section 5.5.
func CheckField(name, value string) error {
	if err := Check(name); err != nil {
		return err
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("the value of %s contains the control character %q", name, c)
		}
	}
	if strings.Trim(value, " \t") != value {
		return fmt.Errorf("the value of %s begins or ends with white space", name)
	}
	return nil
}

// checkHost accepts host and optional port, RFC 9110 section 7.2.
func checkHost(value string) error {
	if value == "" {
		return errors.New("the value of Host is empty")
	}
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~[]:", c) >= 0:
		default:
			return fmt.Errorf("the value of Host, %q, contains %q; a host name and an optional port are wanted", value, c)
		}
	}
	return nil
}

func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
