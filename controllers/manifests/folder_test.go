package manifests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/controllers/objects"
)

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\ndata:\n  k: %q\n", name, value)
}

func TestOnlyWhatChangedIsPassedOn(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir)
	write(t, dir, "a.yaml", configMap("a", "1")+"---\n"+configMap("b", "1"))
	write(t, dir, "deep/er/c.json", `{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}`)
	write(t, dir, ".hidden.yaml", configMap("h", "1"))
	write(t, dir, "README.md", "no manifest")
	expect(t, refresh(f), "+ConfigMap default/a@1 +ConfigMap default/b@1 +ConfigMap default/c@1")
	expect(t, refresh(f), "")
	write(t, dir, "a.yaml", configMap("a", "1")+"---\n# a comment changes no object\n"+configMap("b", "2"))
	expect(t, refresh(f), "+ConfigMap default/b@2")
	expect(t, f.Place(objects.Ref{Kind: "ConfigMap", Namespace: "default", Name: "b"}, "data.k").String(), filepath.Join(dir, "a.yaml")+":14")
	write(t, dir, "a.yaml", configMap("b", "2"))
	expect(t, refresh(f), "-ConfigMap default/a")
	if err := os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "z.yaml")); err != nil {
		t.Fatal(err)
	}
	expect(t, refresh(f), "")
	if err := os.RemoveAll(filepath.Join(dir, "deep")); err != nil {
		t.Fatal(err)
	}
	expect(t, refresh(f), "-ConfigMap default/c")
	if err := os.Remove(filepath.Join(dir, "z.yaml")); err != nil {
		t.Fatal(err)
	}
	expect(t, refresh(f), "-ConfigMap default/b -Namespace default")
	if files, count := f.Len(); files != 0 || count != 0 {
		t.Errorf("%d files, %d objects left", files, count)
	}
}

func TestWhatIsBrokenChangesNothing(t *testing.T) {
	for _, c := range []struct{ name, broken, want string }{
		{"syntax", "apiVersion: [\n", ""},
		{"one object refused, another changed", configMap("a", "9") + "bad: field\n---\n" + configMap("b", "2"), "+ConfigMap default/b@2"},
		{"an object without a name", configMap("a", "2") + "---\napiVersion: v1\nkind: ConfigMap\n", "+ConfigMap default/a@2"},
		{"nothing at all", "", "-ConfigMap default/a -ConfigMap default/b -Namespace default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "f.yaml", configMap("a", "1")+"---\n"+configMap("b", "1"))
			f := open(t, dir)
			refresh(f)
			write(t, dir, "f.yaml", c.broken)
			old := time.Now().Add(-time.Hour) // not one that is just being written
			if err := os.Chtimes(filepath.Join(dir, "f.yaml"), old, old); err != nil {
				t.Fatal(err)
			}
			expect(t, refresh(f), c.want)
			if c.broken != "" && len(f.Problems()) == 0 {
				t.Error("nothing is reported")
			}
			write(t, dir, "f.yaml", configMap("a", "mended"))
			refresh(f)
			problems(t, f)
			if _, count := f.Len(); count != 1 {
				t.Errorf("%d objects after it was mended", count)
			}
		})
	}
}

func TestAFileJustTruncatedIsBeingWritten(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f.yaml", configMap("a", "1"))
	f := open(t, dir)
	refresh(f)
	path := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	modified := func(at time.Time) {
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	modified(time.Now().Add(time.Minute)) // just now, however long it takes to get there
	change, later := f.Refresh(path)
	if !change.Empty() || later == 0 {
		t.Errorf("%+v, later %v", change, later)
	}
	modified(time.Now().Add(-time.Second))
	expect(t, refresh(f), "-ConfigMap default/a -Namespace default")
}

func TestOfDuplicatesTheOneThatServedGoesOn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "m.yaml", configMap("a", "1"))
	f := open(t, dir)
	refresh(f)
	write(t, dir, "b.yaml", configMap("a", "2"))
	expect(t, refresh(f), "")
	problems(t, f, `b.yaml:1: ConfigMap default/a: metadata.name "a" is also the name of the ConfigMap in `+
		filepath.Join(dir, "m.yaml")+`:1, which is the one that counts; want: a name of its own, or only one of the two`)
	if err := os.Remove(filepath.Join(dir, "m.yaml")); err != nil {
		t.Fatal(err)
	}
	expect(t, refresh(f), "+ConfigMap default/a@2")
	problems(t, f)

	fresh := open(t, dir)
	write(t, dir, "m.yaml", configMap("a", "1"))
	refresh(fresh)
	if got := fresh.Place(objects.Ref{Kind: "ConfigMap", Namespace: "default", Name: "a"}, "").File; filepath.Base(got) != "b.yaml" {
		t.Errorf("of a folder read anew %s counts", got)
	}
}

func TestUnreadableFilesKeepWhatTheyHeld(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	write(t, dir, "f.yaml", configMap("a", "1"))
	f := open(t, dir)
	refresh(f)
	if err := os.Chmod(filepath.Join(dir, "f.yaml"), 0); err != nil {
		t.Fatal(err)
	}
	expect(t, refresh(f, filepath.Join(dir, "f.yaml")), "")
	if len(f.Problems()) != 1 {
		t.Error("nothing is reported")
	}
}

func TestLinks(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside, "linked/x.yaml", configMap("x", "1"))
	if err := os.Symlink(filepath.Join(outside, "linked"), filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "round")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	f := open(t, dir)
	expect(t, refresh(f), "+ConfigMap default/x@1")
	problems(t, f)
}

func TestOpenNeedsAFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f.yaml", "")
	for _, path := range []string{filepath.Join(dir, "f.yaml"), filepath.Join(dir, "none")} {
		if _, err := Open(path); err == nil {
			t.Errorf("%s opens", path)
		}
	}
}

func TestAliases(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "ok.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: &l {x: v}\n  annotations:\n    <<: *l\n    z: w\n")
	var bomb strings.Builder
	bomb.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: bomb\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	write(t, dir, "bomb.yaml", bomb.String())
	f := open(t, dir)
	change, _ := f.Refresh()
	a := change.Put[objects.Ref{Kind: "ConfigMap", Namespace: "default", Name: "a"}]
	if a == nil || a.GetAnnotations()["x"] != "v" || a.GetAnnotations()["z"] != "w" {
		t.Errorf("merged: %v", a)
	}
	list := f.Problems()
	if len(list) != 1 || !strings.Contains(list[0].Message, "too large") {
		t.Errorf("problems: %v", list)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(route, "r", "a.example.com")))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("a: &a\n  <<: *a\n"))
	f.Add([]byte("? [a, b]\n: c\n"))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Secret, metadata: {name: a}, data: 1}]\n"))
	f.Add([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: .inf}, 1, null]}\n"))
	f.Add([]byte("{\"apiVersion\": \"v1\",\n\t\"kind\": \"ConfigMap\", \"metadata\": null}"))
	f.Add([]byte("--- !!binary\nx\n--- 2001-01-01\n---\n- *b\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := parse("f.yaml", text)
		for _, problem := range p.problems {
			if problem.Message == "" || problem.Line < 1 || !problem.Warning && problem.Want == "" {
				t.Errorf("a problem that does not help: %+v", problem)
			}
		}
		for _, doc := range p.docs {
			if doc.ref.Name == "" || doc.ref != objects.RefOf(doc.obj) {
				t.Errorf("%v is %v", doc.ref, objects.RefOf(doc.obj))
			}
		}
	})
}
