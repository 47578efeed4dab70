package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCPUQuota(t *testing.T) {
	for _, test := range []struct {
		files map[string]string
		want  float64
	}{
		{map[string]string{"cpu.max": "150000 100000\n"}, 1.5},
		{map[string]string{"cpu.max": "max 100000\n"}, 0},
		{map[string]string{"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, .5},
		{map[string]string{"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0},
		{map[string]string{"cpu.max": "1 2 3\n"}, 0},
		{map[string]string{"cpu.max": "100000 0\n"}, 0},
		{nil, 0},
	} {
		root := t.TempDir()
		for name, text := range test.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := cpuQuota(root); got != test.want {
			t.Errorf("%v: %v, want %v", test.files, got, test.want)
		}
	}
	if used, cpus := measuredCPU(); used() <= 0 || cpus() <= 0 {
		t.Errorf("%v of %v CPUs", used(), cpus())
	}
}
