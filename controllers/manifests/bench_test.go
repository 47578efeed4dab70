package manifests

import (
	"fmt"
	"path/filepath"
	"testing"
)

func benchFolder(b *testing.B, n int) string {
	dir := b.TempDir()
	for i := range n {
		write(b, dir, fmt.Sprintf("r%d.yaml", i), fmt.Sprintf(route, fmt.Sprintf("r%d", i), fmt.Sprintf("h%d.example.com", i)))
	}
	return dir
}

// BenchmarkParse is one HTTPRoute, from text to an admitted object.
func BenchmarkParse(b *testing.B) {
	text := []byte(fmt.Sprintf(route, "r", "a.example.com"))
	parse("f.yaml", text)
	b.ReportAllocs()
	for b.Loop() {
		if p := parse("f.yaml", text); len(p.docs) != 1 {
			b.Fatal(p.problems)
		}
	}
}

// BenchmarkChange is one changed file among others.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("files=%d", n), func(b *testing.B) {
			dir := benchFolder(b, n)
			f, err := Open(dir)
			if err != nil {
				b.Fatal(err)
			}
			f.Refresh()
			path := filepath.Join(dir, "r0.yaml")
			i := 0
			for b.Loop() {
				i++
				b.StopTimer()
				write(b, dir, "r0.yaml", fmt.Sprintf(route, "r0", fmt.Sprintf("v%d.example.com", i)))
				b.StartTimer()
				if change, _ := f.Refresh(path); len(change.Put) != 1 {
					b.Fatal(change)
				}
			}
		})
	}
}
