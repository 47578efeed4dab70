package compile

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/headgate/headgate/controllers/objects"
)

// FuzzCompile compiles whatever decodes, as nobody promises that a schema has
// been enforced: it must not panic, and an invalid object must not change what
// becomes of the others when it comes and goes.
func FuzzCompile(f *testing.F) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range cases {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(keyPairs.Replace(string(text))))
	}
	defaults := decodeFile(f, "testdata/defaults.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := decode(text)
		if err != nil {
			return
		}
		for _, opts := range []Options{{}, {Namespace: "headgate-system"}} {
			set := objects.NewSet()
			there := map[objects.Ref]bool{}
			for _, obj := range defaults {
				there[set.Put(obj)] = true
			}
			before := Compile(nil, set, nil, opts)
			var changed []objects.Ref
			for _, obj := range all {
				// Those that replace a default would not be gone without a trace.
				if ref := objects.RefOf(obj); ref.Kind != "" && !there[ref] {
					changed = append(changed, set.Put(obj))
				}
			}
			with := Compile(before, set, changed, opts)
			sameResult(t, "at once", Compile(nil, set, nil, opts), with)
			for _, ref := range changed {
				set.Delete(ref)
			}
			sameResult(t, "and back", before, Compile(with, set, changed, opts))
		}
	})
}
