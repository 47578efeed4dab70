package balance

import (
	"slices"
	"testing"
)

// TestFirstAvailable fills the members one after the other.
func TestFirstAvailable(t *testing.T) {
	m := members(1, 2, 1)
	p, err := New(Config{Algorithm: "FirstAvailable", MaxRequests: 2}, m)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for range 8 {
		i := p.Pick(Choice{})
		m[i].Load.InFlight.Add(1)
		got = append(got, i)
	}
	if want := []int{0, 0, 1, 1, 1, 1, 2, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if i := p.Pick(Choice{}); i != -1 {
		t.Errorf("picked the full %d", i)
	}
	m[2].Load.InFlight.Add(1)
	m[0].Load.InFlight.Add(1)
	if i := p.Pick(Choice{Full: true}); i != 1 {
		t.Errorf("of all that are full, picked %d, want the least busy for its weight", i)
	}
	m[0].Load.InFlight.Store(0)
	if i := p.Pick(Choice{}); i != 0 {
		t.Errorf("picked %d, and the first one is idle", i)
	}
}
