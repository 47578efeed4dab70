package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	var hosts Hosts[string]
	for _, name := range []string{"shop.example.com", "*.example.com", "*.shop.example.com", "*.com", "*"} {
		hosts = hosts.With(name, name)
	}
	tests := []struct {
		host string
		want []string
	}{
		{"shop.example.com", []string{"shop.example.com", "*.example.com", "*.com", "*"}},
		{"a.shop.example.com", []string{"*.shop.example.com", "*.example.com", "*.com", "*"}},
		{"a.b.shop.example.com", []string{"*.shop.example.com", "*.example.com", "*.com", "*"}},
		{"example.com", []string{"*.com", "*"}},
		{".example.com", []string{"*.com", "*"}},
		{"example.org", []string{"*"}},
		{"", []string{"*"}},
		{strings.Repeat("a.", 200) + "example.com", []string{"*"}},
	}
	for _, tt := range tests {
		var got []string
		hosts.Each(tt.host, func(v string) bool { got = append(got, v); return true })
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %q, want %q", tt.host, got, tt.want)
		}
		if best, ok := hosts.Best(tt.host); !ok || best != tt.want[0] {
			t.Errorf("%q: best is %q, %v", tt.host, best, ok)
		}
	}

	older := hosts
	for _, name := range []string{"*", "*.com", "shop.example.com"} {
		hosts = hosts.Without(name)
		if _, ok := hosts.Get(name); ok {
			t.Errorf("%s is still there", name)
		}
	}
	if best, _ := hosts.Best("shop.example.com"); best != "*.example.com" || hosts.Len() != 2 {
		t.Errorf("got %q of %d", best, hosts.Len())
	}
	if _, ok := hosts.Best("example.org"); ok {
		t.Error("found what was removed")
	}
	if best, _ := older.Best("shop.example.com"); best != "shop.example.com" || older.Len() != 5 {
		t.Errorf("the original changed: %q of %d", best, older.Len())
	}
}

func TestHostsAllocateNothing(t *testing.T) {
	var hosts Hosts[*int]
	for i := range 5000 {
		hosts = hosts.With(fmt.Sprintf("host-%d.example.com", i), new(int))
	}
	hosts = hosts.With("*.example.com", new(int)).With("*", new(int))
	n := 0
	allocs := testing.AllocsPerRun(1000, func() {
		hosts.Each("host-777.example.com", func(*int) bool { n++; return true })
	})
	if allocs != 0 || n == 0 || n%3 != 0 {
		t.Errorf("%v allocations, %d found", allocs, n)
	}
}

func BenchmarkHosts(b *testing.B) {
	var hosts Hosts[*int]
	for i := range 5000 {
		hosts = hosts.With(fmt.Sprintf("host-%d.example.com", i), new(int))
	}
	b.Run("Best", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			hosts.Best("host-777.example.com")
		}
	})
	b.Run("With", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			hosts.With("host-777.example.com", nil)
		}
	})
}
