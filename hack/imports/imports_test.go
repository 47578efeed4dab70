package imports

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/headgate/headgate/"

// rule forbids imports to the packages below some folders.
type rule struct {
	// of are import paths below the module; "x/..." is x and all below it.
	of []string
	// except are not held to the rule.
	except []string
	// never are import paths, in the same notation, of any module.
	never []string
	// direct looks at a package's own imports only, else at all that they bring in.
	direct bool
	why    string
}

var rules = []rule{
	{
		of:    []string{"dataplane/..."},
		never: []string{"k8s.io/...", "sigs.k8s.io/...", module + "api/...", module + "controllers/...", module + "cmd/..."},
		why:   "the data plane serves programs that have never heard of Kubernetes; snapshots are all that it is told",
	},
	{
		of: []string{
			"dataplane/balance", "dataplane/concurrency", "dataplane/deadline", "dataplane/exchange", "dataplane/h1",
			"dataplane/hangup", "dataplane/health", "dataplane/loadreport", "dataplane/observe", "dataplane/pipeline", "dataplane/resolver", "dataplane/route",
			"dataplane/staple", "dataplane/upstream",
			"dataplane/policy/*",
		},
		except: []string{"dataplane/policy/jwt"}, // it fetches key sets
		never:  []string{"net/http", "net/http/..."},
		direct: true,
		why:    "net/http's request model costs more than all that Headgate does to a request",
	},
	{
		of:    []string{"dataplane/exchange"},
		never: []string{module + "...", "net/http"},
		why:   "the exchange is what everything else is about",
	},
	{
		of: []string{"dataplane/h1", "dataplane/h2", "dataplane/h3", "dataplane/section"},
		never: []string{
			module + "dataplane/route", module + "dataplane/pipeline", module + "dataplane/policy/...",
			module + "dataplane/upstream", module + "dataplane/snapshot", "net/http",
		},
		why: "a codec knows exchanges, not what is done with them",
	},
	{
		of:     []string{"dataplane/policy/..."},
		never:  []string{module + "dataplane/policy/*"},
		direct: true,
		why:    "a policy can be read, changed and removed without looking at another",
	},
	{
		of: []string{"dataplane/policy/..."},
		never: []string{
			module + "dataplane/route", module + "dataplane/pipeline", module + "dataplane/upstream",
			module + "dataplane/listener", module + "dataplane/h1", module + "dataplane/h2", module + "dataplane/h3", module + "dataplane/snapshot",
		},
		why: "a policy sees exchanges, and nothing of what is around them",
	},
	{
		of:    []string{"dataplane/listener"},
		never: []string{module + "dataplane/pipeline", module + "dataplane/h1", module + "dataplane/h2", module + "dataplane/h3"},
		why:   "sockets know neither protocols nor what is served on them",
	},
	{
		of:    []string{"dataplane/route"},
		never: []string{module + "dataplane/upstream", module + "dataplane/pipeline", module + "dataplane/h1"},
		why:   "matching is a function of a request",
	},
	{
		of:    []string{"dataplane/resolver"},
		never: []string{module + "dataplane/exchange", module + "dataplane/snapshot"},
		why:   "what a name resolves to is the same for whoever asks, and whatever for",
	},
	{
		of: []string{"controllers/compile", "controllers/objects"},
		never: []string{
			"k8s.io/client-go/kubernetes", "k8s.io/client-go/rest", "sigs.k8s.io/controller-runtime",
			"sigs.k8s.io/controller-runtime/pkg/manager", "sigs.k8s.io/controller-runtime/pkg/cache",
		},
		direct: true,
		why:    "compile is pure: a bug report is a folder of YAML",
	},
	{
		of:     []string{"controllers/compile"},
		never:  []string{"os", "io/fs", "net", "net/http", "context", "sync", "math/rand", "math/rand/v2", "path/filepath"},
		direct: true,
		why:    "compile reads no file, clock or network: the same objects give the same bytes",
	},
	{
		of: []string{"controllers/compile"},
		never: []string{
			module + "controllers/watch", module + "controllers/manifests/...", module + "controllers/status", module + "controllers/infra",
			module + "controllers/loop", module + "dataplane/upstream", module + "dataplane/pipeline", module + "dataplane/listener",
		},
		why: "compile is told objects and tells a snapshot; it reaches neither whence they come nor where it goes",
	},
	{
		of:    []string{"controllers/objects"},
		never: []string{module + "dataplane/..."},
		why:   "objects are the controllers' world alone",
	},
	{
		of:    []string{"api/..."},
		never: []string{module + "controllers/...", module + "dataplane/...", module + "cmd/...", "sigs.k8s.io/controller-runtime/pkg/manager"},
		why:   "others import our types without our code",
	},
	{
		of:    []string{"api/...", "controllers/...", "dataplane/..."},
		never: []string{module + "cmd/...", module + "hack/..."},
		why:   "cmd puts the parts together, hack is for those who work on them; nothing is built on either",
	},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestImports(t *testing.T) {
	packages := load(t)
	for _, r := range rules {
		found := false
		for _, p := range packages {
			path, ours := strings.CutPrefix(p.ImportPath, module)
			if !ours || !matchAny(r.of, path) || matchAny(r.except, path) {
				continue
			}
			found = true
			imports := p.Deps
			if r.direct {
				imports = p.Imports
			}
			for _, i := range imports {
				if i != p.ImportPath && matchAny(r.never, i) {
					t.Errorf("%s imports %s%s\n\t%s", path, i, through(packages, p, i), r.why)
				}
			}
		}
		if !found {
			t.Errorf("no package is below %v: the rule guards nothing", r.of)
		}
	}
}

// through names the import of p that brings dep in.
func through(packages map[string]pkg, p pkg, dep string) string {
	for _, i := range p.Imports {
		if i == dep {
			return ""
		}
	}
	for _, i := range p.Imports {
		if slices.Contains(packages[i].Deps, dep) {
			return " through " + i
		}
	}
	return ""
}

// matchAny reports whether a pattern matches: "x/..." is x and all below it,
// "x/*" what is directly below it.
func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		if below, ok := strings.CutSuffix(pattern, "/..."); ok {
			return path == below || strings.HasPrefix(path, below+"/")
		}
		if below, ok := strings.CutSuffix(pattern, "/*"); ok {
			rest, ok := strings.CutPrefix(path, below+"/")
			return ok && !strings.Contains(rest, "/")
		}
		return path == pattern
	})
}

func load(t *testing.T) map[string]pkg {
	t.Helper()
	// go test remembers what a test itself has looked at, not what go list did:
	// without this walk it would take an old result for a new one.
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-e", "-deps", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]pkg{}
	for list := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := list.Decode(&p); err == io.EOF {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

func TestMatchAny(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"a/...", "a", true}, {"a/...", "a/b/c", true}, {"a/...", "ab", false},
		{"a/*", "a/b", true}, {"a/*", "a", false}, {"a/*", "a/b/c", false},
		{"a", "a", true}, {"a", "a/b", false},
	} {
		if got := matchAny([]string{c.pattern}, c.path); got != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.path, got)
		}
	}
}
