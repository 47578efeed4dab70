package upstream

import (
	"math/rand/v2"
	"strconv"

	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// setAlgorithm notes what the algorithm needs to know of a request.
func (st *state) setAlgorithm(settings *snapshot.Balance) {
	switch settings.Algorithm {
	case "IPHash":
		st.hashes, st.hashOn = true, []snapshot.HashKey{{Type: "ClientIP"}}
	case "RingHash", "Maglev":
		st.hashes, st.hashOn = true, settings.HashOn
	case "PeakEWMA":
		st.timed = true
	}
}

// hash returns the hash of the first of the keys that the exchange has, as the
// backend would see it, and what is to be set as a cookie, if that is how it gets
// one. Without any it is a random one.
func (st *state) hash(ex *exchange.Exchange) (hash uint64, newCookie string) {
	for i := range st.hashOn {
		key := &st.hashOn[i]
		value := ""
		switch key.Type {
		case "ClientIP":
			return balance.HashAddr(ex.ClientIP), ""
		case "Consumer":
			value = ex.Consumer.Name
		case "Header":
			value, _ = ex.Out.Fields.Get(key.Name)
		case "QueryParam":
			value, _ = query.Get(ex.Out.Query, key.Name)
		case "Path":
			value = ex.Out.Path
		case "Cookie":
			if value = cookie(ex.Out.Fields, key.Name); value == "" && key.SetCookie != nil {
				return newHashCookie(ex, key)
			}
		}
		if value != "" {
			return balance.HashString(value), ""
		}
	}
	return rand.Uint64(), ""
}

// cookie returns the value of the first cookie of this name, "" if there is none.
func cookie(fields exchange.Fields, name string) string {
	for i := range fields {
		if fields[i].Key != exchange.KeyCookie {
			continue
		}
		for rest := fields[i].Value; rest != ""; {
			var n, value string
			_, n, value, rest = exchange.NextCookie(rest)
			if n == name && value != "" {
				return value
			}
		}
	}
	return ""
}

// newHashCookie makes a cookie of a random value, and returns the value's hash
// and the field value of Set-Cookie, RFC 6265 section 4.1.
func newHashCookie(ex *exchange.Exchange, key *snapshot.HashKey) (hash uint64, setCookie string) {
	var buf [32]byte
	value := strconv.AppendUint(strconv.AppendUint(buf[:0], rand.Uint64(), 36), rand.Uint64(), 36)
	setCookie = ex.Arena.Append(func(dst []byte) []byte {
		dst = append(append(append(dst, key.Name...), '='), value...)
		if key.SetCookie.Path != "" {
			dst = append(append(dst, "; Path="...), key.SetCookie.Path...)
		}
		if age := key.SetCookie.MaxAge; age > 0 {
			dst = strconv.AppendInt(append(dst, "; Max-Age="...), int64(age.Seconds()), 10)
		}
		if ex.In.Scheme == "https" {
			dst = append(dst, "; Secure"...)
		}
		return append(dst, "; HttpOnly; SameSite=Lax"...)
	})
	from := len(key.Name) + 1
	return balance.HashString(setCookie[from : from+len(value)]), setCookie
}
