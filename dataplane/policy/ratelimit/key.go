package ratelimit

import (
	"fmt"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/quota"
)

// Part is a property of a request. What has the same values of all parts of a
// key is counted together.
type Part struct {
	// Type is "ClientIP" (IPv6 by /64), "Consumer", "Header" or "Route".
	Type string `json:"type"`
	// Header is the field's name, for the type "Header".
	Header string `json:"header,omitempty"`
}

// keyFunc returns the key of an exchange.
type keyFunc func(ex *exchange.Exchange, seed quota.Seed) quota.Key

func compileKey(parts []Part) (keyFunc, error) {
	with := make([]func(quota.Key, *exchange.Exchange, quota.Seed) quota.Key, len(parts))
	for i := range parts {
		var err error
		if with[i], err = parts[i].compile(); err != nil {
			return nil, err
		}
	}
	return func(ex *exchange.Exchange, seed quota.Seed) quota.Key {
		k := quota.NoValues
		for _, add := range with {
			k = add(k, ex, seed)
		}
		return k
	}, nil
}

func (p *Part) compile() (func(quota.Key, *exchange.Exchange, quota.Seed) quota.Key, error) {
	switch p.Type {
	case "ClientIP":
		return func(k quota.Key, ex *exchange.Exchange, seed quota.Seed) quota.Key {
			return seed.Client(k, ex.ClientIP)
		}, nil
	case "Consumer":
		return func(k quota.Key, ex *exchange.Exchange, seed quota.Seed) quota.Key {
			return seed.Text(k, ex.Consumer.Name)
		}, nil
	case "Header":
		if p.Header == "" {
			return nil, fmt.Errorf("ratelimit: a key of type Header without a header")
		}
		name, key := p.Header, exchange.KeyOf(p.Header)
		return func(k quota.Key, ex *exchange.Exchange, seed quota.Seed) quota.Key {
			value := ""
			if key != exchange.KeyOther {
				value = ex.In.Fields.Value(key)
			} else {
				value, _ = ex.In.Fields.Get(name)
			}
			return seed.Text(k, value)
		}, nil
	case "Route":
		return func(k quota.Key, ex *exchange.Exchange, seed quota.Seed) quota.Key {
			if r := ex.Route; r != nil {
				return seed.Text(seed.Text(seed.Text(k, r.Kind), r.Namespace), r.Name)
			}
			return k
		}, nil
	}
	return nil, fmt.Errorf("ratelimit: unknown key type %q", p.Type)
}
