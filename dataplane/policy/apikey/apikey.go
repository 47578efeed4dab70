// Package apikey authenticates by keys that consumers hold.
//
// Only SHA-256 sums of keys are kept. A presented key is looked up by its sum,
// so that how long a refusal takes tells nothing about any key.
//
// Where another authenticator follows (Config.Next), a request that this one
// cannot vouch for goes on to it; that a key was presented and is wrong is then
// noted as a Consumer with a Method and no Name, which the last authenticator refuses
// where it would let an anonymous request pass.
package apikey

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"sort"
	"unsafe"

	"github.com/headgate/headgate/dataplane/credential"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/policy"
)

// Method is the Consumer.Method of who is found here.
const Method = "apiKey"

// Config is what a rule demands.
type Config struct {
	// Keys are sorted by Sum, and no two have the same.
	Keys []Key `json:"keys"`
	// From are the places to look at, in order. With none nobody is found.
	From []credential.Source `json:"from"`
	// Forward leaves the key in the request to the backend.
	Forward bool `json:"forward,omitempty"`
	// ConsumerHeader tells the backend the consumer's name; "" for not.
	ConsumerHeader string `json:"consumerHeader,omitempty"`
	// Anonymous lets requests pass that present no key.
	Anonymous bool `json:"anonymous,omitempty"`
	// Next says that another authenticator follows and decides.
	Next bool `json:"next,omitempty"`
}

// Key is one key of a consumer.
type Key struct {
	Consumer string `json:"consumer"`
	// Sum is the SHA-256 of the key.
	Sum Sum `json:"-"`
}

// Sum is a SHA-256 sum. It prints as its first bytes only.
type Sum [sha256.Size]byte

func (s Sum) String() string { return hex.EncodeToString(s[:4]) + "…" }

// SumOf returns the sum of a key.
func SumOf(key []byte) Sum { return sha256.Sum256(key) }

// Kind implements policy.Config.
func (*Config) Kind() string { return "apikey" }

// Build implements policy.Config.
func (c *Config) Build(*policy.Env) (policy.Filter, error) {
	for i := range c.Keys[min(1, len(c.Keys)):] {
		if bytes.Compare(c.Keys[i].Sum[:], c.Keys[i+1].Sum[:]) >= 0 {
			return policy.Filter{}, errors.New("apikey: keys are not sorted, or consumers have the same key")
		}
	}
	return policy.Filter{Request: (&filter{*c}).request}, nil
}

type filter struct{ Config }

// consumer returns whose key it is. The keys are searched by their sums as they
// are, since all rules below one policy share the list.
func (f *filter) consumer(key string) (name string, ok bool) {
	sum := SumOf(view(key))
	i := sort.Search(len(f.Keys), func(i int) bool { return bytes.Compare(f.Keys[i].Sum[:], sum[:]) >= 0 })
	if i == len(f.Keys) || subtle.ConstantTimeCompare(f.Keys[i].Sum[:], sum[:]) != 1 {
		return "", false
	}
	return f.Keys[i].Consumer, true
}

func (f *filter) request(ex *exchange.Exchange) exchange.Verdict {
	if f.ConsumerHeader != "" {
		credential.Strip(ex, f.ConsumerHeader)
	}
	key, _, presented := credential.Find(ex, f.From)
	if presented {
		if name, ok := f.consumer(key); ok {
			ex.Consumer = exchange.Consumer{Name: name, Method: Method}
			if f.ConsumerHeader != "" {
				ex.Out.Fields.Add(f.ConsumerHeader, name)
			}
			if !f.Forward {
				credential.Remove(ex, f.From)
			}
			return exchange.Continue
		}
	}
	switch {
	case f.Next:
		if presented {
			ex.Consumer.Method = Method
		}
		return exchange.Continue
	case !presented && f.Anonymous:
		return exchange.Continue
	case presented:
		return refuse(ex, "invalid_api_key", "The API key is not valid.\n")
	}
	return refuse(ex, "missing_api_key", "An API key is required.\n")
}

// refuse answers 401, which must carry a challenge, RFC 9110 section 15.5.2.
// No scheme is registered for API keys; this one is what clients commonly meet.
func refuse(ex *exchange.Exchange, reason, text string) exchange.Verdict {
	ex.Answer(401, reason, text)
	ex.Response.Fields = append(ex.Response.Fields, exchange.Field{
		Key: exchange.KeyWWWAuthenticate, Name: "WWW-Authenticate", Value: `ApiKey realm="headgate"`})
	return exchange.Answered
}

// view returns the string's bytes, which must not be written to.
func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
