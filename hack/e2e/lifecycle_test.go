//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/headgate/headgate/hack/e2e/load"
)

// TestUninstall holds what there is after helm uninstall against what there was
// before helm install. Nothing is left but CRDs, and what is the user's.
func TestUninstall(t *testing.T) {
	uninstalled(t)
	createNamespace(t, "owner")
	apply(t, firstGateway("owner"))
	kubectl(t, "create", "namespace", system) // Helm leaves it to who made it
	eventually(t, "the namespace has what each has", func() error {
		if n := strings.Count(strings.Join(objects(t), "\n"), " "+system+"/"); n < 2 { // ServiceAccount, ConfigMap
			return fmt.Errorf("%d objects", n)
		}
		return nil
	})
	eventually(t, "what other tests had is gone", func() error {
		if out := kubectl(t, "get", "namespaces", "-o", "jsonpath={.items[?(@.metadata.deletionTimestamp)].metadata.name}"); out != "" {
			return fmt.Errorf("%s are not", out)
		}
		return nil
	})
	before := objects(t)

	install(t)
	kubectl(t, "-n", "owner", "wait", "gateway/web", "--for=condition=Programmed", within)
	if during := objects(t); len(during) < len(before)+10 {
		t.Errorf("it seems not to be installed: %d objects before, %d after", len(before), len(during))
	}
	helm(t, "uninstall", release, "--wait")
	var after, left []string
	eventually(t, "nothing is left", func() error {
		left = left[:0]
		after = objects(t)
		for _, o := range after {
			if !slices.Contains(before, o) {
				left = append(left, o)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d objects are: %s", len(left), strings.Join(left, ", "))
		}
		return nil
	})
	for _, o := range before {
		if !slices.Contains(after, o) {
			t.Errorf("%s was there before the installation, and is gone", o)
		}
	}
}

// objects names all that is in the cluster, but for CRDs, and for events, which
// go by themselves.
func objects(t *testing.T) []string {
	t.Helper()
	var kinds []string
	for kind := range strings.FieldsSeq(kubectl(t, "api-resources", "--verbs=list", "-o", "name")) {
		switch {
		case strings.HasPrefix(kind, "events"), strings.HasPrefix(kind, "customresourcedefinitions."), strings.HasPrefix(kind, "apiservices."):
		default:
			kinds = append(kinds, kind)
		}
	}
	out := kubectl(t, "get", strings.Join(kinds, ","), "-A", "--no-headers", "--ignore-not-found",
		"-o", "custom-columns=API:.apiVersion,KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name")
	var all []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 4 {
			all = append(all, fmt.Sprintf("%s %s %s/%s", f[0], f[1], f[2], f[3]))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// uninstalled has Headgate not installed, and its namespace gone.
func uninstalled(t *testing.T) {
	t.Helper()
	helm(t, "uninstall", release, "--ignore-not-found", "--wait")
	kubectl(t, "delete", "namespace", system, "--ignore-not-found", within)
}

func firstGateway(namespace string) string {
	return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: %s}
spec:
  gatewayClassName: headgate
  listeners: [{name: http, port: 80, protocol: HTTP}]
`, namespace)
}

// TestFirstSteps does what the README tells a new user to do, word for word, in
// a cluster that has never heard of the Gateway API: two commands from there to
// the first answer.
func TestFirstSteps(t *testing.T) {
	uninstalled(t)
	var crds []string
	for name := range strings.FieldsSeq(kubectl(t, "get", "crd", "-o", "name")) {
		if strings.Contains(name, ".gateway.networking.") || strings.HasSuffix(name, ".headgate.dev") {
			crds = append(crds, name)
		}
	}
	kubectl(t, append([]string{"delete", "--ignore-not-found", within}, crds...)...)

	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := sections(string(text), "## Install in Kubernetes", "## The first route")
	commands := commandsOf(steps)
	if len(commands) != 2 || !strings.HasPrefix(commands[0], "helm install ") || !strings.HasPrefix(commands[1], "kubectl apply ") {
		t.Fatalf("want two commands, helm install and kubectl apply; the README has %q", commands)
	}
	// What it presupposes: the image where the cluster can pull it, and a Service.
	name, tag := valueOf(t, commands[0], "image.repository"), valueOf(t, commands[0], "image.tag")
	if _, err := run(patience, cluster, "image", "--user", "65532", name+":"+tag, root+"/bin/headgate"); err != nil {
		t.Fatal(err)
	}
	apply(t, backend("default", "orders", "0s"))
	t.Cleanup(func() { kubectl(t, "delete", "--wait=false", "deployment/orders", "service/orders") })

	// Its words, in a folder with what it says is there: the chart, and the file
	// that the user saves.
	dir := t.TempDir()
	charts, err := filepath.Abs(root + "/charts")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(charts, filepath.Join(dir, "charts")); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(commands[1])
	if err := os.WriteFile(filepath.Join(dir, words[len(words)-1]), []byte(yamlOf(t, steps)), 0o600); err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs(root + "/bin")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, c := range commands {
		if out, err := run(patience, "bash", "-c", fmt.Sprintf("cd %q; PATH=%q:$PATH; %s", dir, bin, c)); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	t.Cleanup(func() {
		kubectl(t, "delete", "gateway/web", "httproute/orders", "--ignore-not-found")
	})
	address, _ := serviceOf(t, "default", "web", 80)
	kubectl(t, "rollout", "status", "deployment/orders", within)
	awaitAnswer(t, load.Options{Address: address, Host: "shop.example.com", Path: "/orders"})
	t.Logf("the first answer came %v after the first of two commands", time.Since(began).Round(time.Second))
	kubectl(t, "wait", "gateway/web", "--for=condition=Programmed", within)
}

// sections returns the Markdown of sections, with all that is in them.
func sections(markdown string, titles ...string) string {
	var out strings.Builder
	in := false
	for line := range strings.Lines(markdown) {
		if strings.HasPrefix(line, "## ") {
			in = slices.Contains(titles, strings.TrimSpace(line))
		}
		if in {
			out.WriteString(line)
		}
	}
	return out.String()
}

// commandsOf returns the commands that are blocks of their own, indented by four.
func commandsOf(markdown string) []string {
	var commands []string
	fenced, goesOn := false, false
	for line := range strings.Lines(markdown) {
		if strings.HasPrefix(line, "```") {
			fenced = !fenced
		}
		command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if fenced || !ok {
			goesOn = false
			continue
		}
		command, continued := strings.CutSuffix(command, "\\")
		if goesOn {
			commands[len(commands)-1] += " " + strings.TrimSpace(command)
		} else {
			commands = append(commands, strings.TrimSpace(command))
		}
		goesOn = continued
	}
	return commands
}

// yamlOf returns the one block of YAML.
func yamlOf(t *testing.T, markdown string) string {
	t.Helper()
	parts := strings.Split(markdown, "```yaml\n")
	if len(parts) != 2 {
		t.Fatalf("%d blocks of YAML, want one", len(parts)-1)
	}
	yaml, _, _ := strings.Cut(parts[1], "```")
	return yaml
}

// valueOf returns what a helm command sets a value to.
func valueOf(t *testing.T, command, key string) string {
	t.Helper()
	_, rest, ok := strings.Cut(command, key+"=")
	if !ok {
		t.Fatalf("%q does not set %s", command, key)
	}
	return strings.Fields(rest)[0]
}

// TestUpgrade goes from the commit before this one to this tree, chart and image,
// under load.
func TestUpgrade(t *testing.T) {
	dir, image := previous(t)
	uninstalled(t)
	if out, err := run(patience+time.Minute, root+"/bin/helm", "install", release, dir+"/charts/headgate", "--namespace", system, "--create-namespace",
		"--set", "image.repository="+image, "--set", "image.tag=previous", "--wait", within); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := newShop(t, "upgrade")
	l := s.load()
	// As the chart's notes say.
	kubectl(t, "apply", "--server-side", "--force-conflicts", "--recursive", "-f", root+"/config/crd")
	install(t)
	settled(t, system, release)
	l.stop(t)
	for _, p := range replicas(t) {
		if !p.ready() {
			t.Errorf("%s is not ready", p.name())
		}
	}
	s.follows(t, "upgraded")
}

// previous makes the tree and the image of the commit before this one. A clone
// that is too shallow to have that, and cannot get it, is its own predecessor.
func previous(t *testing.T) (dir, image string) {
	t.Helper()
	const find = "git rev-parse --verify --quiet HEAD~1 || git fetch --quiet --deepen=1 && git rev-parse --verify --quiet HEAD~1"
	if _, err := run(time.Minute, "bash", "-c", fmt.Sprintf("cd %q && { %s; }", root, find)); err != nil {
		t.Log("This clone has no commit before the one that is checked out: the upgrade is from the same chart and binary.")
		if _, err := run(patience, cluster, "image", "--user", "65532", "headgate:previous", filepath.Join(root, "bin", "headgate")); err != nil {
			t.Fatal(err)
		}
		return root, "headgate"
	}
	dir = t.TempDir()
	archive := fmt.Sprintf("git -C %q archive HEAD~1 | tar -x -C %q", root, dir)
	if _, err := run(time.Minute, "bash", "-o", "pipefail", "-c", archive); err != nil {
		t.Fatal(err)
	}
	if out, err := run(10*time.Minute, "bash", "-c", fmt.Sprintf("cd %q && make --no-print-directory build", dir)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := run(patience, cluster, "image", "--user", "65532", "headgate:previous", filepath.Join(dir, "bin", "headgate")); err != nil {
		t.Fatal(err)
	}
	return dir, "headgate"
}
