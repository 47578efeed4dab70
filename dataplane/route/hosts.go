package route

import (
	"strings"

	"github.com/headgate/headgate/dataplane/snapshot"
)

// Hosts maps hostnames to values: exact names, wildcards ("*.example.com",
// which stands for one label or more) and "*" for all. It is immutable; a
// changed copy shares almost all with its original. The zero Hosts is empty.
type Hosts[V any] struct {
	exact snapshot.Table[V]
	// suffixes are the wildcards without the star: ".example.com".
	suffixes snapshot.Table[V]
	rest     V
	hasRest  bool
}

// maxHostname is the length of the longest hostname, RFC 1035 section 2.3.4.
// What is longer is not taken apart: its labels could be thousands.
const maxHostname = 253

// With returns a copy in which hostname, in lower case, has the value.
func (h Hosts[V]) With(hostname string, value V) Hosts[V] {
	switch {
	case hostname == "*" || hostname == "":
		h.rest, h.hasRest = value, true
	case strings.HasPrefix(hostname, "*."):
		h.suffixes = h.suffixes.With(hostname[1:], value)
	default:
		h.exact = h.exact.With(hostname, value)
	}
	return h
}

// Without returns a copy that lacks hostname.
func (h Hosts[V]) Without(hostname string) Hosts[V] {
	switch {
	case hostname == "*" || hostname == "":
		var none V
		h.rest, h.hasRest = none, false
	case strings.HasPrefix(hostname, "*."):
		h.suffixes = h.suffixes.Without(hostname[1:])
	default:
		h.exact = h.exact.Without(hostname)
	}
	return h
}

// Get returns the value of exactly this hostname, wildcards taken literally.
func (h Hosts[V]) Get(hostname string) (V, bool) {
	switch {
	case hostname == "*" || hostname == "":
		return h.rest, h.hasRest
	case strings.HasPrefix(hostname, "*."):
		return h.suffixes.Get(hostname[1:])
	}
	return h.exact.Get(hostname)
}

// Len returns the number of hostnames.
func (h Hosts[V]) Len() int {
	n := h.exact.Len() + h.suffixes.Len()
	if h.hasRest {
		n++
	}
	return n
}

// Each yields the values that stand for host, in lower case, from the most
// specific to the least, until yield returns false.
func (h *Hosts[V]) Each(host string, yield func(V) bool) {
	if len(host) <= maxHostname {
		if v, ok := h.exact.Get(host); ok && !yield(v) {
			return
		}
		if h.suffixes.Len() > 0 {
			// From 1: a wildcard stands for one label at least.
			for i := 1; i < len(host); i++ {
				if host[i] != '.' {
					continue
				}
				if v, ok := h.suffixes.Get(host[i:]); ok && !yield(v) {
					return
				}
			}
		}
	}
	if h.hasRest {
		yield(h.rest)
	}
}

// Best returns the value that stands for host most specifically.
func (h *Hosts[V]) Best(host string) (best V, ok bool) {
	h.Each(host, func(v V) bool {
		best, ok = v, true
		return false
	})
	return best, ok
}

// All calls visit with every value, in no order.
func (h Hosts[V]) All(visit func(V)) {
	for _, table := range [2]snapshot.Table[V]{h.exact, h.suffixes} {
		for _, key := range table.Keys() {
			v, _ := table.Get(key)
			visit(v)
		}
	}
	if h.hasRest {
		visit(h.rest)
	}
}
