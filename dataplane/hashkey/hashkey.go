// Package hashkey finds what a request is to be hashed by, for those who keep
// requests that have the same of it together: at an endpoint, or at one of a
// rule's backends.
package hashkey

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/expression"
	"github.com/headgate/headgate/dataplane/query"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// Keys are what to hash on: the first that a request has. They are immutable.
type Keys []key

type key struct {
	snapshot.HashKey
	expression *expression.Expression[string]
}

// New compiles keys. One that cannot be is left out of the result, and the error
// says why.
func New(keys []snapshot.HashKey) (Keys, error) {
	var compiled Keys
	var errs []error
	for i, k := range keys {
		c := key{HashKey: k}
		if k.Type == "Expression" {
			var err error
			if c.expression, err = expression.Compile[string](k.Expression); err != nil {
				errs = append(errs, fmt.Errorf("hashOn[%d]: %w", i, err))
				continue
			}
		}
		compiled = append(compiled, c)
	}
	return compiled, errors.Join(errs...)
}

// Hash returns the hash of the first of the keys that the exchange has, as the
// backend would see it, for balance.Choice; false if it has none. A client that is
// to have a cookie and does not gets one, in ex.NewCookies.
func (keys Keys) Hash(ex *exchange.Exchange) (uint64, bool) {
	for i := range keys {
		k := &keys[i]
		value := ""
		switch k.Type {
		case "ClientIP":
			return balance.HashAddr(ex.ClientIP), true
		case "Consumer":
			value = ex.Consumer.Name
		case "Header":
			value, _ = ex.Out.Fields.Get(k.Name)
		case "QueryParam":
			value, _ = query.Get(ex.Out.Query, k.Name)
		case "Path":
			value = ex.Out.Path
		case "Cookie":
			if value, _ = ex.Out.Fields.Cookie(k.Name); value == "" && k.SetCookie != nil {
				value = newCookie(ex, k)
			}
		case "Expression":
			value, _ = k.expression.Eval(ex, &ex.Out) // what it asks for is not there: no key
		}
		if value != "" {
			return balance.HashString(value), true
		}
	}
	return 0, false
}

// newCookie returns the value of the cookie that the client is given, a random
// one. Who asks again for the same cookie gets the same.
func newCookie(ex *exchange.Exchange, k *key) string {
	for i := range ex.NewCookies {
		if c := &ex.NewCookies[i]; c.Name == k.Name {
			return c.Value
		}
	}
	var buf [32]byte
	value := strconv.AppendUint(strconv.AppendUint(buf[:0], rand.Uint64(), 36), rand.Uint64(), 36)
	line := ex.Arena.Append(func(dst []byte) []byte {
		dst = append(append(append(dst, k.Name...), '='), value...)
		if k.SetCookie.Path != "" {
			dst = append(append(dst, "; Path="...), k.SetCookie.Path...)
		}
		if age := k.SetCookie.MaxAge; age > 0 {
			dst = strconv.AppendInt(append(dst, "; Max-Age="...), int64(age.Seconds()), 10)
		}
		if ex.In.Scheme == "https" {
			dst = append(dst, "; Secure"...)
		}
		return append(dst, "; HttpOnly; SameSite=Lax"...)
	})
	from := len(k.Name) + 1
	c := exchange.NewCookie{Name: k.Name, Value: line[from : from+len(value)], SetCookie: line}
	ex.NewCookies = append(ex.NewCookies, c)
	return c.Value
}
