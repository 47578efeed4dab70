package objects

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// TestRefs compares sets of names, small and large, with a list.
func TestRefs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var set refs
	var list []Ref
	for range 20 * maxFew * maxFew {
		ref := Ref{"Service", "a", strconv.Itoa(random.IntN(2 * maxFew))}
		i, there := slices.BinarySearchFunc(list, ref, Ref.Compare)
		if set.has(ref) != there {
			t.Fatalf("%v: has is %t, want %t", ref, !there, there)
		}
		switch random.IntN(2) {
		case 0:
			set.add(ref)
			if !there {
				list = slices.Insert(list, i, ref)
			}
		case 1:
			set.remove(ref)
			if there {
				list = slices.Delete(list, i, i+1)
			}
		}
		if got := set.sorted(); !slices.Equal(got, list) || set.len() != len(list) {
			t.Fatalf("%d names %v, want %v", set.len(), got, list)
		}
	}
}
