package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/headgate/headgate/controllers/admin"
)

var update = flag.Bool("update", false, "rewrite the want.txt of hack/broken")

// command runs a command line and returns what it wrote and its exit code.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, streams{&out, &err}, nil)
	return out.String(), err.String(), code
}

// Each folder of hack/broken is broken in one way, and its want.txt is what
// check says. Whatever it says, it says where, and what would be right.
func TestCheckOnBrokenFolders(t *testing.T) {
	t.Chdir(filepath.Join("..", "..", "hack", "broken"))
	wants, err := filepath.Glob("*/want.txt")
	if *update {
		wants, err = filepath.Glob("[0-9]*")
	}
	if err != nil || len(wants) < 20 {
		t.Fatalf("%d folders, %v", len(wants), err)
	}
	for _, path := range wants {
		dir := filepath.Dir(path)
		if *update {
			dir = path
		}
		t.Run(dir, func(t *testing.T) {
			got, stderr, code := command(t, "check", dir)
			if code != exitFault || stderr != "" {
				t.Errorf("exit code %d, standard error %q", code, stderr)
			}
			if *update {
				if err := os.WriteFile(filepath.Join(dir, "want.txt"), []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(filepath.Join(dir, "want.txt"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-want +got (rewrite with -update):\n%s", diff)
			}
			text, _, _ := command(t, "check", "-o", "json", dir)
			var entries []admin.Entry
			if err := json.Unmarshal([]byte(text), &entries); err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				t.Error("nothing is wrong")
			}
			for _, e := range entries {
				if e.File == "" || e.Line == 0 || e.Object == "" || e.Field == "" || e.Message == "" || e.Want == "" {
					t.Errorf("incomplete: %+v", e)
				}
			}
		})
	}
}
