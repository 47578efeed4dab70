package compile

import (
	"cmp"
	"strings"
)

// Hostnames here are exact ("a.example.com"), a suffix ("*.example.com"), or ""
// for all; lower case.

// intersectHostnames returns the hostname that both allow, and false if there
// is none: the more specific of the two, HTTPRouteSpec.hostnames.
func intersectHostnames(listener, route string) (string, bool) {
	switch {
	case listener == route || route == "":
		return listener, true
	case listener == "":
		return route, true
	case coversHostname(listener, route):
		return route, true
	case coversHostname(route, listener):
		return listener, true
	}
	return "", false
}

// coversHostname reports whether every name that narrow allows is allowed by
// wide. "*" stands for one or more whole labels.
func coversHostname(wide, narrow string) bool {
	if wide == "" || wide == narrow {
		return true
	}
	suffix, ok := strings.CutPrefix(wide, "*")
	if !ok {
		return false
	}
	narrow = strings.TrimPrefix(narrow, "*")
	// "*.a.example.com" is within "*.example.com"; "example.com" is not.
	return len(narrow) > len(suffix) && strings.HasSuffix(narrow, suffix)
}

// compareSpecificity orders hostnames of routes that allow one name by
// HTTPRouteSpec.hostnames, the most specific first: the one with the most
// characters that is no wildcard, then the one with the most characters.
func compareSpecificity(a, b string) int {
	exact := func(name string) int {
		if strings.HasPrefix(name, "*") {
			return 0
		}
		return len(name)
	}
	return cmp.Or(cmp.Compare(exact(b), exact(a)), cmp.Compare(len(b), len(a)))
}

// validHostname reports whether a hostname is a DNS name (RFC 1123) that is no
// IPv4 address, with a wildcard as its first label if that is allowed.
func validHostname(name string, wildcard bool) bool {
	if wildcard {
		name = strings.TrimPrefix(name, "*.")
	}
	if name == "" || len(name) > 253 {
		return false
	}
	numeric := true
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			switch c := label[i]; {
			case '0' <= c && c <= '9':
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-':
				numeric = false
			default:
				return false
			}
		}
	}
	return !numeric
}
