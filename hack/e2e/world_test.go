//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/hack/e2e/load"
)

var outage = flag.Duration("outage", 15*time.Second, "how long the API server is away")

const (
	release   = "headgate"
	system    = "headgate-system" // the release's namespace
	root      = "../.."
	cluster   = root + "/hack/cluster/cluster"
	chart     = root + "/charts/headgate"
	podLabels = "app.kubernetes.io/instance=" + release
)

// patience is how long anything that is awaited may take. The cluster's own parts
// have to do much of it: after the API server was away, each of them may wait for
// a minute until it asks again.
const (
	patience = 4 * time.Minute
	within   = "--timeout=4m" // the same, for kubectl and Helm
)

// TestMain asks for the cluster. Without it nothing here can hold, so that is
// no reason to skip.
func TestMain(m *testing.M) {
	flag.Parse()
	if _, err := run(time.Minute, "kubectl", "get", "--raw", "/readyz"); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: there is no cluster; use make e2e: %v\n", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// run runs a program and returns what it writes to standard output.
func run(timeout time.Duration, name string, args ...string) (string, error) {
	return runIn("", timeout, name, args...)
}

func runIn(stdin string, timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, stderr.String())
	}
	return out.String(), nil
}

// kubectl must succeed.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(patience+time.Minute, "kubectl", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// get reads an object, or a list of them.
func get[T any](t *testing.T, args ...string) T {
	t.Helper()
	var v T
	text := kubectl(t, append([]string{"get", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// apply applies YAML, as a user does.
func apply(t *testing.T, yaml string) {
	t.Helper()
	if out, err := runIn(yaml, patience, "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func helm(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(patience+time.Minute, root+"/bin/helm", append(args, "--namespace", system)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// install has this tree's Headgate installed as make cluster does, with further
// values. Where it is, nothing changes.
func install(t *testing.T, values ...string) {
	t.Helper()
	binary, err := os.ReadFile(root + "/bin/headgate")
	if err != nil {
		t.Fatal(err)
	}
	helm(t, append([]string{"upgrade", "--install", release, chart, "--create-namespace", "--wait", within,
		"--set", "image.repository=headgate", "--set", "image.tag=dev",
		"--set-string", fmt.Sprintf(`podAnnotations.headgate\.dev/binary=%.16x`, sha256.Sum256(binary))}, values...)...)
}

// eventually fails the test unless the condition holds in time. It is an error
// that says what is missing.
func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// pod is what the tests look at of one.
type pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp *time.Time
	}
	Status struct {
		PodIP             string
		Conditions        []condition
		ContainerStatuses []struct{ RestartCount int }
	}
}

type condition struct{ Type, Status, Reason, Message string }

func (p pod) name() string { return p.Metadata.Name }

func (p pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True" && p.Metadata.DeletionTimestamp == nil
		}
	}
	return false
}

// replicas returns Headgate's pods but for those that are about to end.
func replicas(t *testing.T) []pod {
	t.Helper()
	list := get[struct{ Items []pod }](t, "pods", "-n", system, "-l", podLabels)
	var pods []pod
	for _, p := range list.Items {
		if p.Metadata.DeletionTimestamp == nil {
			pods = append(pods, p)
		}
	}
	return pods
}

// settled waits until nothing of a Deployment is on its way, and the pods that
// were are gone.
func settled(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/"+name, within)
	eventually(t, "the pods that were replaced are gone", func() error {
		list := get[struct{ Items []pod }](t, "pods", "-n", namespace)
		for _, p := range list.Items {
			if p.Metadata.DeletionTimestamp != nil {
				return errors.New(p.name() + " is still there")
			}
		}
		return nil
	})
}

// serviceOf returns the address of a Gateway's Service and the pod port behind
// one of its ports.
func serviceOf(t *testing.T, namespace, gateway string, port int) (address, podPort string) {
	t.Helper()
	selector := "gateway.networking.k8s.io/gateway-name=" + gateway + ",headgate.dev/gateway-namespace=" + namespace
	eventually(t, "Gateway "+namespace+"/"+gateway+" has an address", func() error {
		list := get[struct {
			Items []struct {
				Spec struct {
					Ports []struct{ Port, TargetPort int }
				}
				Status struct {
					LoadBalancer struct{ Ingress []struct{ IP string } }
				}
			}
		}](t, "services", "-n", system, "-l", selector)
		for _, s := range list.Items {
			for _, p := range s.Spec.Ports {
				if p.Port == port && len(s.Status.LoadBalancer.Ingress) > 0 {
					address = net.JoinHostPort(s.Status.LoadBalancer.Ingress[0].IP, fmt.Sprint(port))
					podPort = fmt.Sprint(p.TargetPort)
					return nil
				}
			}
		}
		return fmt.Errorf("%d Services, none with port %d and an address", len(list.Items), port)
	})
	return address, podPort
}

// awaitAnswer waits until a request has an answer of 200.
func awaitAnswer(t *testing.T, opts load.Options) {
	t.Helper()
	eventually(t, opts.Host+" is served at "+opts.Address, func() error {
		l := load.Start(opts)
		for {
			r := l.Report()
			if r.Requests == 0 && len(r.Failures) == 0 {
				time.Sleep(5 * time.Millisecond)
				continue
			}
			l.Stop()
			if len(r.Failures) > 0 {
				return errors.New(r.Failures[0].String())
			}
			return nil
		}
	})
}
