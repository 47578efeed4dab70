package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the outer process made is passed on to the inner one.
const (
	assetsEnv = "KUBEBUILDER_ASSETS"
	crdsEnv   = "HEADGATE_SCALE_CRDS"
	binaryEnv = "HEADGATE_SCALE_BINARY"
)

// TestMain builds Headgate and finds the rest, and then runs the tests in a
// network of their own.
func TestMain(m *testing.M) {
	root = "../../.."
	if os.Getenv(isolatedEnv) == "" {
		dir, err := os.MkdirTemp("", "headgate-scale-")
		if err == nil {
			err = prepare(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "scale:", err)
			os.Exit(1)
		}
	}
	code, err := isolated(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		code = 1
	}
	if os.Getenv(isolatedEnv) == "" {
		os.RemoveAll(filepath.Dir(os.Getenv(binaryEnv)))
	}
	os.Exit(code)
}

func prepare(dir string) error {
	output := func(name string, args ...string) (string, error) {
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stderr = root, os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	if os.Getenv(assetsEnv) == "" {
		assets, err := output("hack/cluster/cluster", "assets")
		if err != nil {
			return err
		}
		os.Setenv(assetsEnv, assets)
	}
	crds, err := output("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api")
	if err != nil {
		return err
	}
	os.Setenv(crdsEnv, crds)
	binary := filepath.Join(dir, "headgate")
	os.Setenv(binaryEnv, binary)
	_, err = output("go", "build", "-o", binary, "./cmd/headgate")
	return err
}

// Every scenario runs, small, and no answer is wrong. What it measures says
// nothing here.
func TestScenarios(t *testing.T) {
	for name, test := range map[string]struct {
		routes int
		says   []string
	}{
		"propagation":  {20, []string{"first right answer: mean", "errors: 0 before", "gateways", "httproutes 20"}},
		"routes":       {100, []string{"memory with all", "routes and", "memory after that"}},
		"listenersets": {32, []string{"2 ListenerSets and 32 HTTPRoutes", "ready after", "all served", "memory with all"}},
		"endpoints":    {100, []string{"changes in", "first answer of the new endpoint: mean"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := find(name)
			if err != nil {
				t.Fatal(err)
			}
			s.routes = test.routes
			var out strings.Builder
			err = s.measure(t.Context(), &options{
				headgate: os.Getenv(binaryEnv), crds: os.Getenv(crdsEnv), duration: 2 * time.Second, settle: time.Second,
			}, &out)
			if err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			for _, want := range test.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("it does not say %q", want)
				}
			}
			t.Log(out.String())
		})
	}
}

func TestLatencies(t *testing.T) {
	var l latencies
	for i := range 100 {
		l = append(l, time.Duration(100-i)*time.Millisecond)
	}
	if got, want := l.String(), "mean 50.5 ms, p50 51.0, p99 100.0, max 100.0 (100)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
