package syntax

import (
	"bytes"
	"strconv"
	"testing"
)

// Eight bytes at a time must see what one at a time sees.
func TestCleanValue(t *testing.T) {
	for c := range 256 {
		want := c == '\t' || c >= ' ' && c != 0x7f
		for length := 1; length < 20; length++ {
			for at := range length {
				b := bytes.Repeat([]byte{'a'}, length)
				b[at] = byte(c)
				if CleanValue(b) != want {
					t.Fatalf("%q: %v", b, !want)
				}
			}
		}
	}
	if !CleanValue(nil) {
		t.Error("nothing is not clean")
	}
}

func TestParseLength(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "7": 7, "007": 7, "9223372036854775807": 1<<63 - 1,
		"": -1, "9223372036854775808": -1, "9999999999999999999": -1, "00000000000000000000": -1, "-1": -1, "+1": -1, "1a": -1, " 1": -1, "1 ": -1, "٣": -1} {
		n, ok := ParseLength(s)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("%q: %d, want %d", s, n, want)
		}
		if m, err := strconv.ParseUint(s, 10, 63); ok && (err != nil || int64(m) != n) {
			t.Errorf("%q: strconv says %d, %v", s, m, err)
		}
	}
}

func TestParseAuthority(t *testing.T) {
	for s, want := range map[string][2]string{
		"a": {"a", ""}, "a:": {"a", ""}, "a:80": {"a", "80"}, "A.b-c_d~e.": {"A.b-c_d~e.", ""}, "1.2.3.4:1": {"1.2.3.4", "1"},
		"[::1]": {"[::1]", ""}, "[::1]:65535": {"[::1]", "65535"},
	} {
		if host, port, ok := ParseAuthority(s); !ok || host != want[0] || port != want[1] {
			t.Errorf("%q: %q %q %v", s, host, port, ok)
		}
	}
	for _, s := range []string{"", ":", ":80", ".", "a:65536", "a:-1", "a:8a", "a:80:80", "a b", "a@b", "a/b", "a,b", "%61", "[", "[]", "[a]",
		"[1.2.3.4]", "[::1", "[::1]a", "[::1%25a]", "::1", "a\x00", "é", "a?b", "a#b", `a\b`, "a:000080"} {
		if host, port, ok := ParseAuthority(s); ok {
			t.Errorf("%q: %q %q", s, host, port)
		}
	}
}
