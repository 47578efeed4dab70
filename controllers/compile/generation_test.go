package compile

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate/headgate/controllers/objects"
)

// TestConditionsObserveTheGeneration gives every object of the golden cases a
// generation of its own: each condition must say the one of the object that
// bears it, whatever other objects it is about, and its message must fit.
func TestConditionsObserveTheGeneration(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	seen := map[string]bool{}
	for _, path := range cases {
		opts, _ := readOptions(t, filepath.Dir(path))
		set := objects.NewSet()
		generations := map[objects.Ref]int64{}
		for i, o := range append(decodeFile(t, "testdata/defaults.yaml"), decodeFile(t, path)...) {
			o.SetGeneration(int64(1000 + i))
			generations[set.Put(o)] = o.GetGeneration()
		}
		for _, status := range Compile(nil, set, nil, opts).Statuses() {
			want := generations[status.Object]
			if status.Generation != want {
				t.Errorf("%s: the status of %s is of generation %d, want %d", path, status.Object, status.Generation, want)
			}
			for _, c := range conditionsIn(reflect.ValueOf(status.Value)) {
				seen[status.Object.Kind+" "+c.Type] = true
				if c.ObservedGeneration != want {
					t.Errorf("%s: %s of %s observes generation %d, want %d", path, c.Type, status.Object, c.ObservedGeneration, want)
				}
				if c.Reason == "" || len(c.Message) > 32768 {
					t.Errorf("%s: %s of %s has reason %q and a message of %d bytes", path, c.Type, status.Object, c.Reason, len(c.Message))
				}
			}
		}
	}
	for _, kind := range []string{"Accepted", "Programmed", "ResolvedRefs", "Conflicted", "OverlappingTLSConfig", "InsecureFrontendValidationMode"} {
		if !seen["Gateway "+kind] {
			t.Errorf("no case has a Gateway with condition %s: %v", kind, slices.Sorted(maps.Keys(seen)))
		}
	}
}

// conditionsIn finds all conditions of a status.
func conditionsIn(v reflect.Value) (all []metav1.Condition) {
	switch v.Kind() {
	case reflect.Struct:
		if c, ok := v.Interface().(metav1.Condition); ok {
			return []metav1.Condition{c}
		}
		for i := range v.NumField() {
			all = append(all, conditionsIn(v.Field(i))...)
		}
	case reflect.Slice:
		for i := range v.Len() {
			all = append(all, conditionsIn(v.Index(i))...)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			return conditionsIn(v.Elem())
		}
	case reflect.Map:
		panic(fmt.Sprint("a status with a map: ", v.Type()))
	}
	return all
}
