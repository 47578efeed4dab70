package compress

import (
	"strings"

	"github.com/headgate/headgate/dataplane/exchange"
)

// coding is a content coding, RFC 9110 section 8.4.1.
type coding uint8

const (
	identity coding = iota
	gzipped
	brotlied
	zstandard
	codings
)

var codingNames = [codings]string{identity: "identity", gzipped: "gzip", brotlied: "br", zstandard: "zstd"}

// codingOf knows the names in any case, and the old one of gzip.
func codingOf(name string) (coding, bool) {
	for c, n := range codingNames {
		if exchange.EqualFold(name, n) {
			return coding(c), true
		}
	}
	return gzipped, exchange.EqualFold(name, "x-gzip")
}

// unsaid is the weight of what is not mentioned.
const unsaid = -1

// choose returns the coding that the client gives the most weight, RFC 9110
// section 12.5.3, and among equals the one that comes first in preferred.
// A client that says nothing gets identity, and so does one that accepts
// nothing that there is: better that than 406.
func choose(request exchange.Fields, preferred []coding) coding {
	weights, any := [codings]int{unsaid, unsaid, unsaid, unsaid}, unsaid
	for i := range request {
		if request[i].Key != exchange.KeyAcceptEncoding {
			continue
		}
		for list := request[i].Value; list != ""; {
			var item string
			item, list = exchange.NextItem(list)
			name, weight := parseAccepted(item)
			to := &any
			if name != "*" {
				c, ok := codingOf(name)
				if !ok {
					continue
				}
				to = &weights[c]
			}
			if *to == unsaid { // what is said twice counts as it was said first
				*to = weight
			}
		}
	}
	// Identity is acceptable unless excluded; unless it is mentioned, all that
	// is asked for is better.
	chosen, best := identity, max(weights[identity], 1)
	for _, c := range preferred {
		weight := weights[c]
		if weight == unsaid {
			weight = any
		}
		if weight > best || weight == best && chosen == identity {
			chosen, best = c, weight
		}
	}
	return chosen
}

// parseAccepted reads an element of Accept-Encoding: a coding and its weight
// in thousandths. What is not written as it must be has none.
func parseAccepted(item string) (name string, weight int) {
	name, rest, weighted := strings.Cut(item, ";")
	name = strings.TrimRight(name, " \t")
	if !weighted {
		return name, 1000
	}
	rest = strings.TrimLeft(rest, " \t")
	if len(rest) < 3 || len(rest) > len("q=0.123") || rest[0]|0x20 != 'q' || rest[1] != '=' || rest[2] != '0' && rest[2] != '1' {
		return name, 0
	}
	weight = int(rest[2]-'0') * 1000
	if len(rest) == 3 {
		return name, weight
	}
	if rest[3] != '.' {
		return name, 0
	}
	for i, unit := 4, 100; i < len(rest); i, unit = i+1, unit/10 {
		if rest[i] < '0' || rest[i] > '9' {
			return name, 0
		}
		weight += int(rest[i]-'0') * unit
	}
	if weight > 1000 {
		return name, 0
	}
	return name, weight
}
