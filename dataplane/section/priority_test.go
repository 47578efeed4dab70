package section

import "testing"

func TestParsePriority(t *testing.T) {
	for s, want := range map[string]Priority{
		"": noPriority, "u=0": {0, false}, "u=7, i": {7, true}, "i": {3, true}, "i=?0": {3, false}, "i=?1,u=1": {1, true},
		"u=8": {3, false}, "u=-1": {3, false}, "u=1;x=y, i;z": {1, true}, "x, , u": {3, false}, "u=1,u=2": {2, false}, "U=1": {3, false},
	} {
		if got := ParsePriority(s); got != want {
			t.Errorf("%q: %+v, want %+v", s, got, want)
		}
	}
}
