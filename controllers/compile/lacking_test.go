package compile

import (
	"path/filepath"
	"reflect"
	"testing"

	"github.com/headgate/headgate/controllers/objects"
)

// TestLackingFields takes from every object of the golden cases one field after
// the other that it may lack, as no API server promises what the schema of a
// version asks for. Nothing must panic, and what changes step by step must come to
// the same as what is compiled at once.
func TestLackingFields(t *testing.T) {
	cases, err := filepath.Glob("testdata/*/in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	defaults := decodeFile(t, "testdata/defaults.yaml")
	for _, path := range cases {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			opts, bare := readOptions(t, dir)
			set := objects.NewSet()
			own := decodeFile(t, path)
			if !bare {
				for _, object := range defaults {
					set.Put(object)
				}
			}
			for _, object := range own {
				set.Put(object)
			}
			whole := Compile(nil, set, nil, opts)
			for _, object := range own {
				if set.Get(objects.RefOf(object)) != object {
					continue // another of the same name has replaced it
				}
				eachWithout(object, func(field string, lacking objects.Object) {
					ref := set.Put(lacking)
					less := Compile(whole, set, []objects.Ref{ref}, opts)
					sameResult(t, ref.String()+" without "+field, Compile(nil, set, nil, opts), less)
					set.Put(object)
				})
			}
		})
	}
}

// eachWithout calls f with copies of an object, each without one of the pointers,
// lists and maps of its spec.
func eachWithout(object objects.Object, f func(field string, lacking objects.Object)) {
	copied := object.DeepCopyObject().(objects.Object)
	var visit func(v reflect.Value, path string)
	without := func(v reflect.Value, path string) {
		if v.IsNil() {
			return
		}
		was := reflect.ValueOf(v.Interface())
		v.SetZero()
		f(path, copied.DeepCopyObject().(objects.Object))
		v.Set(was)
	}
	visit = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			without(v, path)
			if !v.IsNil() {
				visit(v.Elem(), path)
			}
		case reflect.Map:
			without(v, path)
		case reflect.Slice:
			without(v, path)
			for i := range v.Len() {
				visit(v.Index(i), path+"[]")
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if field := v.Type().Field(i); field.IsExported() && field.Name != "Status" && field.Name != "ObjectMeta" {
					visit(v.Field(i), path+"."+field.Name)
				}
			}
		}
	}
	visit(reflect.ValueOf(copied).Elem(), "")
}
