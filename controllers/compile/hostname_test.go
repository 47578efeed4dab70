package compile

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestIntersectHostnames(t *testing.T) {
	for _, c := range []struct {
		listener, route, want string
		ok                    bool
	}{
		{"", "", "", true},
		{"", "a.test", "a.test", true},
		{"a.test", "", "a.test", true},
		{"a.test", "a.test", "a.test", true},
		{"a.test", "b.test", "", false},
		{"*.test", "a.test", "a.test", true},
		{"*.test", "a.b.test", "a.b.test", true},
		{"*.test", "test", "", false},
		{"*.test", "atest", "", false},
		{"a.test", "*.test", "a.test", true},
		{"*.test", "*.a.test", "*.a.test", true},
		{"*.a.test", "*.test", "*.a.test", true},
		{"*.a.test", "*.b.test", "", false},
		{"*.a.test", "*.ba.test", "", false},
	} {
		got, ok := intersectHostnames(c.listener, c.route)
		if got != c.want || ok != c.ok {
			t.Errorf("%q and %q: %q, %v; want %q, %v", c.listener, c.route, got, ok, c.want, c.ok)
		}
	}
}

// FuzzHostnames checks that the intersection does not depend on who asks, and
// is within both.
func FuzzHostnames(f *testing.F) {
	for _, name := range []string{"", "a.test", "*.test", "*.a.test", "b.a.test", "*.", "*", ".", "a..b", "10.0.0.1", "-a.test", strings.Repeat("a", 64) + ".test"} {
		f.Add(name, "*.test")
		f.Add("a.test", name)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != "" && !validHostname(a, true) || b != "" && !validHostname(b, true) {
			return
		}
		x, okX := intersectHostnames(a, b)
		y, okY := intersectHostnames(b, a)
		if x != y || okX != okY {
			t.Fatalf("%q and %q: %q %v one way, %q %v the other", a, b, x, okX, y, okY)
		}
		if okX && (!coversHostname(a, x) || !coversHostname(b, x)) {
			t.Fatalf("%q and %q: %q is not within both", a, b, x)
		}
	})
}

func TestValidHostname(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "a.test": true, "a-b.test": true, "1.test": true, "xn--bcher-kva.example": true,
		"": false, "*": false, "*.": false, "a.*.test": false, "a_b.test": false, "-a.test": false, "a-.test": false,
		"a..b": false, "a.": false, "10.0.0.1": false, "a b": false, strings.Repeat("a", 64): false,
		strings.Repeat("abcdefg.", 32) + "test": false,
	} {
		if got := validHostname(name, false); got != want {
			t.Errorf("validHostname(%q) = %v", name, got)
		}
		if got := validHostname("*."+name, true); got != want {
			t.Errorf("validHostname(%q, wildcard) = %v", "*."+name, got)
		}
	}
}

// FuzzParseDuration checks GEP-2257 against what time.ParseDuration makes of it.
func FuzzParseDuration(f *testing.F) {
	for _, d := range []string{"0s", "10s", "1h30m", "250ms", "99999h", "1h2m3s4ms", "1h2m3s4ms5h", "1.5s", "-1s", "1d", "", "s", "100000s", "1us"} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseDuration(gatewayv1.Duration(text))
		if want, err := time.ParseDuration(text); ok && (err != nil || got != want || got < 0) {
			t.Fatalf("%q: %v, and time.ParseDuration says %v, %v", text, got, want, err)
		}
	})
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s": 0, "10s": 10 * time.Second, "1h30m": 90 * time.Minute, "1m250ms": time.Minute + 250*time.Millisecond,
	} {
		if got, ok := parseDuration(gatewayv1.Duration(text)); !ok || got != want {
			t.Errorf("%q: %v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "1", "1.5s", "-1s", "1d", "1us", "100000s", "1h1h1h1h1h", " 1s"} {
		if got, ok := parseDuration(gatewayv1.Duration(text)); ok {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}

func TestServiceName(t *testing.T) {
	seen := map[string]types.NamespacedName{}
	for _, gateway := range []types.NamespacedName{
		{Namespace: "default", Name: "gw"},
		{Namespace: "a-b", Name: "c"}, {Namespace: "a", Name: "b-c"},
		{Namespace: "a", Name: "b.c"}, {Namespace: "a", Name: "b-c."},
		{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("g", 253)},
		{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("g", 252)},
		{Namespace: strings.Repeat("n", 42), Name: "x"},
	} {
		name := ServiceName(gateway)
		if wrong := validation.IsDNS1035Label(name); len(wrong) > 0 {
			t.Errorf("%v: %q: %v", gateway, name, wrong)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%v and %v have the same %q", gateway, other, name)
		}
		seen[name] = gateway
	}
}

func TestAliasName(t *testing.T) {
	if got := aliasName("web", "headgate"); got != "web-headgate" {
		t.Errorf("the alias of web of class headgate is %q", got)
	}
	seen := map[string]string{}
	for _, gateway := range []string{"gw", "1st", "b.c", "b-c", strings.Repeat("g", 253), strings.Repeat("g", 252)} {
		name := aliasName(gateway, "headgate")
		if wrong := validation.IsDNS1035Label(name); len(wrong) > 0 {
			t.Errorf("%v: %q: %v", gateway, name, wrong)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%v and %v have the same %q", gateway, other, name)
		}
		seen[name] = gateway
	}
}

func TestCompareFields(t *testing.T) {
	order := []string{"", "spec", "spec.rules[2].a", "spec.rules[2].b", "spec.rules[10].a", "spec.rules[10].a[0]"}
	for i := range order {
		for j := range order {
			got := compareFields(order[i], order[j])
			if got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%q and %q: %d", order[i], order[j], got)
			}
		}
	}
}
