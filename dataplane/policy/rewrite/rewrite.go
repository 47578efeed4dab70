// Package rewrite replaces the host and the path of the request that goes
// upstream: HTTPRoute's URLRewrite.
package rewrite

import (
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Config is what to replace. At most one of FullPath and Prefix is set.
type Config struct {
	// Hostname replaces the authority; "" leaves it. It is lower case.
	Hostname string `json:"hostname,omitempty"`
	// FullPath replaces the whole path, ReplaceFullPath.
	FullPath *string `json:"fullPath,omitempty"`
	// Prefix replaces what the rule's prefix match covered, ReplacePrefixMatch;
	// it may be empty.
	Prefix *string `json:"prefix,omitempty"`
}

// Kind returns "rewrite".
func (*Config) Kind() string { return "rewrite" }

// Build makes the filter.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	if err := c.Check(); err != nil {
		return policy.Filter{}, err
	}
	return policy.Filter{Request: c.request}, nil
}

func (c *Config) request(ex *exchange.Exchange) exchange.Verdict {
	if c.Hostname != "" {
		ex.Out.SetAuthority(c.Hostname)
	}
	switch {
	case c.FullPath != nil:
		ex.Out.Path = *c.FullPath
	case c.Prefix != nil:
		ex.Out.Path = ex.ReplacePrefix(*c.Prefix)
	}
	return exchange.Continue
}

// Check reports what is wrong with the configuration; Build refuses the same.
func (c *Config) Check() error {
	return exchange.CheckReplacement(c.Hostname, c.FullPath, c.Prefix)
}
