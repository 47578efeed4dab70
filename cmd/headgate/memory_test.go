package main

import "testing"

func TestMemoryIsReclaimedWhereItPays(t *testing.T) {
	const mib = 1 << 20
	for name, test := range map[string]struct {
		heap heap
		want bool
	}{
		"nothing to give back":         {heap{objects: 200 * mib, live: 195 * mib, free: 5 * mib}, false},
		"much that is free":            {heap{objects: 100 * mib, live: 100 * mib, free: 60 * mib}, true},
		"much that is dead":            {heap{objects: 160 * mib, live: 100 * mib}, true},
		"a share of a little":          {heap{objects: 20 * mib, live: 10 * mib}, false},
		"a little of a large heap":     {heap{objects: 1000 * mib, live: 900 * mib, free: 50 * mib}, false},
		"less than was found the last": {heap{objects: 50 * mib, live: 60 * mib}, false},
	} {
		if got := test.heap.worthReclaiming(); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	if h := readHeap(); h.objects == 0 {
		t.Errorf("the runtime says %+v", h)
	}
}

func TestALargeHeapGrowsByLess(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]int{0: 100, 10 * mib: 100, 64 * mib: 100, 128 * mib: 50, 140 * mib: 45, 100_000 * mib: 5} {
		if got := (heap{live: live}).percent(); got != want {
			t.Errorf("%d MiB live: %d %%, want %d", live/mib, got, want)
		}
	}
}
