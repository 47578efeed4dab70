package manifests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/objects"
)

const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: %s
spec:
  parentRefs:
  - name: web
  hostnames: [%q]
  rules:
  - backendRefs:
    - name: shop
      port: 80
`

// write writes a file whole, as an editor that renames does.
func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Folder {
	t.Helper()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// refresh reads the folder and says in one line what changed.
func refresh(f *Folder, paths ...string) string {
	change, _ := f.Refresh(paths...)
	var words []string
	for _, ref := range slices.SortedFunc(maps.Keys(change.Put), objects.Ref.Compare) {
		if ref.Kind != "Namespace" {
			words = append(words, fmt.Sprintf("+%s@%d", ref, change.Put[ref].GetGeneration()))
		}
	}
	for _, ref := range change.Deleted {
		words = append(words, "-"+ref.String())
	}
	return strings.Join(words, " ")
}

func problems(t *testing.T, f *Folder, want ...string) {
	t.Helper()
	var got []string
	for _, p := range f.Problems() {
		p.File = strings.TrimPrefix(p.File, f.dir+string(filepath.Separator))
		got = append(got, p.String())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestDefaultsAsTheAPIServerWould(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.yaml", fmt.Sprintf(route, "shop", "shop.example.com")+`---
apiVersion: v1
kind: Service
metadata:
  name: shop
  namespace: other
  labels: {a: "1"}
spec:
  ports:
  - port: 80
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {a: Yg==}
stringData: {c: d}
status: {}
`)
	f := open(t, dir)
	change, _ := f.Refresh()
	problems(t, f)
	got := change.Put[objects.Ref{Kind: "HTTPRoute", Namespace: "default", Name: "shop"}].(*gatewayv1.HTTPRoute)
	rule := got.Spec.Rules[0]
	if m := rule.Matches; len(m) != 1 || *m[0].Path.Type != gatewayv1.PathMatchPathPrefix || *m[0].Path.Value != "/" {
		t.Errorf("matches: %+v", m)
	}
	if b := rule.BackendRefs[0]; *b.Weight != 1 || *b.Kind != "Service" || *b.Group != "" {
		t.Errorf("backendRef: %+v", b)
	}
	if p := got.Spec.ParentRefs[0]; *p.Kind != "Gateway" || *p.Group != gatewayv1.GroupName {
		t.Errorf("parentRef: %+v", p)
	}
	if got.Generation != 1 {
		t.Errorf("generation %d", got.Generation)
	}
	service := change.Put[objects.Ref{Kind: "Service", Namespace: "other", Name: "shop"}].(*corev1.Service)
	if p := service.Spec.Ports[0]; p.Protocol != "TCP" || p.TargetPort.IntVal != 80 {
		t.Errorf("port: %+v", p)
	}
	secret := change.Put[objects.Ref{Kind: "Secret", Namespace: "default", Name: "keys"}].(*corev1.Secret)
	if string(secret.Data["a"]) != "b" || string(secret.Data["c"]) != "d" || secret.StringData != nil || secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("secret: %v %v", secret.Data, secret.Type)
	}
	for _, name := range []string{"default", "other"} {
		ns, ok := change.Put[objects.Ref{Kind: "Namespace", Name: name}]
		if !ok || ns.GetLabels()[corev1.LabelMetadataName] != name {
			t.Errorf("namespace %s: %v", name, ns)
		}
	}
}

func TestProblemsNamePlaceFieldAndRemedy(t *testing.T) {
	const head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\nspec:\n"
	const policy = "apiVersion: headgate.dev/v1alpha1\nkind: BackendPolicy\nmetadata: {name: p}\nspec:\n"
	for _, c := range []struct{ name, text, want string }{
		{"unknown field", head + "  rules:\n  - backendRef:\n    - name: a\n",
			`f.yaml:7: HTTPRoute default/r: spec.rules[0].backendRef is not a field that exists here; want: did you mean "backendRefs"?`},
		{"unknown field in metadata", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n  label: {}\n",
			`f.yaml:5: ConfigMap default/c: metadata.label is not a field that exists here; want: did you mean "labels"?`},
		{"wrong type", head + "  rules:\n  - backendRefs:\n    - name: a\n      port: \"80\"\n",
			`f.yaml:9: HTTPRoute default/r: spec.rules[0].backendRefs[0].port is text ("80"); want: a whole number from 1 to 65535`},
		{"not one of", head + "  rules:\n  - matches:\n    - path:\n        type: Prefix\n",
			`f.yaml:9: HTTPRoute default/r: spec.rules[0].matches[0].path.type "Prefix" is not allowed; want: one of Exact, PathPrefix, RegularExpression`},
		{"missing", head + "  rules:\n  - backendRefs:\n    - port: 80\n",
			`f.yaml:8: HTTPRoute default/r: spec.rules[0].backendRefs[0].name is missing; want: text, 1 to 253 characters`},
		{"duration", head + "  rules:\n  - timeouts:\n      request: 10 s\n",
			`f.yaml:8: HTTPRoute default/r: spec.rules[0].timeouts.request "10 s" is not allowed; want: a duration such as 500ms, 10s or 1h30m`},
		{"too few fields", policy + "  targetRefs: [{group: headgate.dev, kind: Backend, name: b}]\n",
			`f.yaml:4: BackendPolicy default/p: spec has 1 field; want: an object with targetRefs, at least 2 fields`},
		{"too many items", policy + "  targetRefs: [" + strings.Repeat("{group: headgate.dev, kind: Backend, name: b}, ", 17) + "]\n  connectTimeout: 1s\n",
			`f.yaml:5: BackendPolicy default/p: spec.targetRefs has 17 items; want: a list of objects with group and kind and name, 1 to 16 items`},
		{"the same key", head + "  rules:\n  - matches:\n    - headers: [{name: a, value: b}, {name: a, value: c}]\n",
			`f.yaml:8: HTTPRoute default/r: spec.rules[0].matches[0].headers[1] is the second item with name "a"; want: one item with it`},
		{"name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: A_b}\n",
			`f.yaml:3: ConfigMap default/A_b: metadata.name "A_b" is not allowed; want: a name in lower case, such as my-configmap`},
		{"pattern", "apiVersion: headgate.dev/v1alpha1\nkind: Backend\nmetadata: {name: b}\nspec: {endpoints: [{hostname: a b, port: 1}]}\n",
			`f.yaml:4: Backend default/b: spec.endpoints[0].hostname "a b" is not allowed; want: a DNS name, such as www.example.com, 1 to 253 characters`},
		{"rule in CEL", head + "  rules:\n  - filters:\n    - type: RequestRedirect\n",
			`f.yaml:8: HTTPRoute default/r: spec.rules[0].filters[0] breaks a rule of HTTPRoute; want: filter.requestRedirect must be specified for RequestRedirect filter.type`},
		{"syntax", head + "  rules: [\n",
			`f.yaml:6: HTTPRoute default/r: rules is not valid YAML: did not find expected node content; want: a closing bracket for each that opens`},
		{"twice", head + "  rules: []\n  rules: []\n",
			`f.yaml:7: HTTPRoute default/r: spec.rules is there twice, first in line 6; want: each field once`},
		{"a word that YAML 1.1 takes for a boolean", head + "  rules:\n  - name: on\n",
			`f.yaml:7: HTTPRoute default/r: spec.rules[0].name is a boolean (true); want: a name of lower-case letters, digits, - and ., 1 to 253 characters, in quotes`},
		{"label that is a number", "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns\n  labels:\n    tier: 1\n",
			`f.yaml:6: Namespace ns: metadata.labels.tier is a whole number (1); want: text, in quotes`},
		{"no name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n",
			`f.yaml:3: ConfigMap default/: metadata.name is missing; want: a name in lower case, such as my-configmap`},
		{"version", "apiVersion: gateway.networking.k8s.io/v2\nkind: Gateway\nmetadata: {name: g}\n",
			`f.yaml:1: Gateway default/g: apiVersion "gateway.networking.k8s.io/v2" is not a version of Gateway; want: gateway.networking.k8s.io/v1 or gateway.networking.k8s.io/v1beta1`},
		{"kind", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoutes\nmetadata: {name: g}\n",
			`f.yaml:2: HTTPRoutes g: kind "HTTPRoutes" is not a kind of gateway.networking.k8s.io/v1; want: did you mean "HTTPRoute"?`},
		{"kind of nobody's business", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n",
			`f.yaml:2: Deployment d: kind Deployment is not a kind that Headgate reads; the object is left out`},
		{"base64", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\ndata:\n  tls.crt: '-----BEGIN'\n",
			`f.yaml:6: Secret default/s: data[tls.crt] is not base64; want: the value in base64, or the plain value under stringData`},
		{"not an object", "- a\n",
			`f.yaml:1: is not an object; want: an object with apiVersion, kind and metadata`},
		{"twice in a file", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\n",
			`f.yaml:6: ConfigMap default/c: metadata.name "c" is also the name of the ConfigMap in DIR/f.yaml:1, which is the one that counts; want: a name of its own, or only one of the two`},
		{"in a list", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: c\n    nam: d\n",
			`f.yaml:8: ConfigMap default/c: metadata.nam is not a field that exists here; want: did you mean "name"?`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "f.yaml", c.text)
			f := open(t, dir)
			f.Refresh()
			problems(t, f, strings.ReplaceAll(c.want, "DIR", dir))
		})
	}
}
