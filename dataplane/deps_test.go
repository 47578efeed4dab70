package dataplane_test

import (
	"encoding/json"
	"errors"
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

// rule forbids imports to packages, see below.
type rule struct {
	of        string
	forbidden map[string]string // path → why not
	direct    bool              // look at the packages' own imports only
	except    []string          // packages that the rule does not hold for
}

const (
	noKubernetes = "the data plane knows nothing of Kubernetes: it must serve as a library without it"
	oneWay       = "watch → compile → snapshot → swap → serve: nothing on the right calls anything on the left"
	noNetHTTP    = "net/http's request model is what makes Go gateways slow; codecs and exchanges replace it"
	codecOnly    = "a codec is a codec and nothing else, so that it can be tested and replaced alone"
	pure         = "compile is a pure function of objects: no client, clock, goroutine, environment or file"
	apiOnly      = "the API's types are imported by users' programs: types and apimachinery only"
)

var kubernetes = map[string]string{
	"k8s.io": noKubernetes, "sigs.k8s.io": noKubernetes,
	module + "api": noKubernetes, module + "controllers": oneWay, module + "cmd": oneWay,
}

var rules = []rule{
	{of: "dataplane", forbidden: kubernetes},
	{
		of: "dataplane", direct: true, forbidden: map[string]string{"net/http": noNetHTTP},
		// The Proxy hands a client for calls out to policies, which also use the
		// names of statuses; neither makes a request of net/http's out of an exchange.
		except: []string{"dataplane", "dataplane/policy"},
	},
	{of: "dataplane/exchange", forbidden: map[string]string{module: "the exchange is what everything else is about: it imports nothing of ours", "net/http": noNetHTTP}},
	{of: "dataplane/h1", forbidden: map[string]string{
		module + "dataplane/route": codecOnly, module + "dataplane/pipeline": codecOnly, module + "dataplane/policy": codecOnly,
		module + "dataplane/snapshot": codecOnly, "net/http": noNetHTTP,
	}},
	{of: "dataplane/route", forbidden: map[string]string{module + "dataplane/pipeline": "routes are found without knowing what becomes of the request"}},
	{of: "dataplane/listener", forbidden: map[string]string{module + "dataplane/pipeline": "sockets do not know what is served on them", module + "dataplane/h1": "nor which protocols"}},
	{of: "controllers/compile", forbidden: map[string]string{
		"k8s.io/client-go": pure, "sigs.k8s.io/controller-runtime": pure,
		module + "controllers/watch": pure, module + "controllers/status": pure, module + "controllers/infra": pure,
		module + "controllers/manifests": pure, module + "dataplane/upstream": pure,
		module + "dataplane/pipeline": pure, module + "dataplane/listener": pure, module + "cmd": pure,
	}},
	{of: "controllers/compile", direct: true, forbidden: map[string]string{
		"os": pure, "io/fs": pure, "net": pure, "net/http": pure, "context": pure, "sync": pure, "math/rand": pure,
	}, except: []string{"controllers/compile/compiletest"}},
	{of: "controllers/objects", forbidden: map[string]string{
		"k8s.io/client-go": pure, "sigs.k8s.io/controller-runtime": pure, module + "dataplane": "objects are the controllers' world alone",
	}},
	{of: "api", forbidden: map[string]string{
		"k8s.io/client-go": apiOnly, "sigs.k8s.io/controller-runtime": apiOnly, module + "controllers": apiOnly, module + "dataplane": apiOnly,
	}},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// packages are those of the module, without their tests.
func packages(t *testing.T) (list []listed) {
	t.Helper()
	// go test remembers what a test itself has looked at, not what go list did:
	// without this walk an old result would be taken for a new one.
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".." {
			return filepath.SkipDir
		}
		if err == nil && strings.HasSuffix(path, ".go") {
			_, err = os.Stat(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("%v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

// below reports whether path is the package, or under it. A package of the
// standard library stands for itself alone: net/netip is not package net.
func below(path, pkg string) bool {
	pkg = strings.TrimSuffix(pkg, "/")
	return path == pkg || strings.Contains(pkg, ".") && strings.HasPrefix(path, pkg+"/")
}

// TestWhoMayImportWhom keeps the layers apart.
func TestWhoMayImportWhom(t *testing.T) {
	list := packages(t)
	for _, r := range rules {
		found := false
		for _, p := range list {
			excepted := slices.ContainsFunc(r.except, func(e string) bool {
				if e == "dataplane" { // the package, not the tree
					return p.ImportPath == module+e
				}
				return below(p.ImportPath, module+e)
			})
			if !below(p.ImportPath, module+r.of) || excepted || strings.HasSuffix(p.ImportPath, "test") {
				continue
			}
			found = true
			imports := p.Deps
			if r.direct {
				imports = p.Imports
			}
			for _, path := range imports {
				for forbidden, why := range r.forbidden {
					if below(path, forbidden) {
						t.Errorf("%s imports %s: %s", p.ImportPath, path, why)
					}
				}
			}
		}
		if !found && len(list) > 0 {
			t.Errorf("no package is at %s", r.of)
		}
	}
}

// TestPoliciesStandAlone keeps policies from importing each other.
func TestPoliciesStandAlone(t *testing.T) {
	const policies = module + "dataplane/policy/"
	for _, p := range packages(t) {
		if !strings.HasPrefix(p.ImportPath, policies) {
			continue
		}
		own := policies + strings.SplitN(strings.TrimPrefix(p.ImportPath, policies), "/", 2)[0]
		for _, path := range p.Deps {
			if strings.HasPrefix(path, policies) && !below(path, own) {
				t.Errorf("%s imports %s: a policy is one folder, and can be taken away alone", p.ImportPath, path)
			}
			for _, pipeline := range []string{"pipeline", "route", "upstream", "listener", "h1", "snapshot"} {
				if below(path, module+"dataplane/"+pipeline) {
					t.Errorf("%s imports %s: a policy sees exchanges and nothing behind them", p.ImportPath, path)
				}
			}
		}
	}
}
