package manifests

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kschema "k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/manifests/schema"
	"github.com/headgate/headgate/controllers/objects"
)

// document is one object of a file.
type document struct {
	ref objects.Ref
	obj objects.Object
	// text is the file as the object was read from it, document and item where
	// in it; lines are looked up by parsing it again, which only errors cost.
	text           []byte
	document, item int
	line           int
}

// parsed is what a file holds.
type parsed struct {
	docs []document
	// refused are objects that are there and broken, with what stands in for them
	// if they never were any better; nil for most kinds.
	refused map[objects.Ref]*document
	// unclear says that the file holds something broken of which it is not
	// known which object it is: none of those it held before may go.
	unclear  bool
	problems []Problem
}

// parse reads a file's text. File is its name in problems.
func parse(file string, text []byte) *parsed {
	p := &parsed{refused: map[objects.Ref]*document{}}
	nodes, err := documents(text)
	if err != nil {
		p.unclear = true
		p.problems = []Problem{syntaxProblem(file, text, err)}
		return p
	}
	first := map[objects.Ref]int{}
	for i, node := range nodes {
		for j, item := range items(node) {
			doc, problems := parseObject(file, item)
			sortProblems(problems)
			if i := slices.IndexFunc(problems, func(p Problem) bool { return !p.Warning }); i >= 0 {
				if doc.ref.Name == "" {
					p.unclear = true
				} else {
					p.refused[doc.ref] = standIn(doc, item, strings.TrimSpace(problems[i].Field+" "+problems[i].Message))
				}
			}
			p.problems = append(p.problems, problems...)
			if stand := p.refused[doc.ref]; stand != nil {
				stand.text, stand.document, stand.item = text, i, j
			}
			if doc.obj == nil {
				continue
			}
			if line, dup := first[doc.ref]; dup {
				p.problems = append(p.problems, duplicate(file, &doc, Place{file, line}))
				continue
			}
			first[doc.ref] = doc.line
			doc.text, doc.document, doc.item = text, i, j
			p.docs = append(p.docs, doc)
		}
	}
	return p
}

func duplicate(file string, doc *document, other Place) Problem {
	return Problem{
		Place:   Place{file, doc.line},
		Object:  doc.ref,
		Field:   "metadata.name",
		Message: fmt.Sprintf("%q is also the name of the %s in %s, which is the one that counts", doc.ref.Name, doc.ref.Kind, other),
		Want:    "a name of its own, or only one of the two",
	}
}

// parseObject reads one object. The document's obj is nil if the object is
// refused or of a kind that Headgate does not read; its ref is filled in as far
// as it can be read.
func parseObject(file string, node *yaml.Node) (document, []Problem) {
	doc := document{line: node.Line}
	var problems []Problem
	report := func(line int, field, message, want string) {
		problems = append(problems, Problem{
			Place: Place{file, line}, Object: doc.ref, Field: field, Message: message, Want: want,
		})
	}
	var c converter
	value := c.convert(node, "", 0)
	obj, ok := value.(map[string]any)
	if !ok {
		report(node.Line, "", "is not an object", "an object with apiVersion, kind and metadata")
		return doc, problems
	}
	gvk := kschema.FromAPIVersionAndKind(text(obj, "apiVersion"), text(obj, "kind"))
	kind, known := objects.KindOf(gvk.GroupKind())
	doc.ref.Kind = gvk.Kind
	if meta, ok := obj["metadata"].(map[string]any); ok {
		doc.ref.Name, doc.ref.Namespace = text(meta, "name"), text(meta, "namespace")
		if known && !kind.ClusterScoped && doc.ref.Namespace == "" {
			doc.ref.Namespace = metav1.NamespaceDefault
			if meta["namespace"] == nil || meta["namespace"] == "" {
				meta["namespace"] = metav1.NamespaceDefault
			}
		}
	}
	if problem := checkKind(gvk, known); problem != nil {
		problem.Place, problem.Object = Place{file, lineOf(node, problem.Field)}, doc.ref
		return doc, append(problems, *problem)
	}
	for _, f := range c.faults {
		report(f.line, f.field, f.message, f.hint)
	}
	if len(problems) > 0 {
		return doc, problems
	}

	delete(obj, "status") // an API server ignores it in what is applied
	rules, err := schema.Lookup(gvk)
	if err != nil {
		report(lineOf(node, "kind"), "kind", err.Error(), "a build of Headgate whose schemas are whole")
		return doc, problems
	}
	for _, e := range rules.Admit(obj) {
		report(lineOf(node, e.Field), e.Field, e.Message, e.Want)
	}
	if len(problems) > 0 {
		return doc, problems
	}
	typed := reflect.New(reflect.TypeOf(kind.Object).Elem()).Interface().(objects.Object)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj, typed); err != nil {
		report(node.Line, "", "cannot be read: "+err.Error(), "fields of the right types")
		return doc, problems
	}
	doc.obj = typed
	return doc, problems
}

// standIn is what serves in place of an object that is refused: an AuthPolicy or
// BackendTLSPolicy that says only what it guards, so that its targets are closed
// and not open.
func standIn(doc document, node *yaml.Node, why string) *document {
	meta := metav1.ObjectMeta{
		Namespace: doc.ref.Namespace, Name: doc.ref.Name, Annotations: map[string]string{v1alpha1.RefusedAnnotation: why},
	}
	switch doc.ref.Kind {
	case "AuthPolicy":
		doc.obj = &v1alpha1.AuthPolicy{ObjectMeta: meta, Spec: v1alpha1.AuthPolicySpec{TargetRefs: targetsOf(node)}}
	case "BackendTLSPolicy":
		doc.obj = &gatewayv1.BackendTLSPolicy{ObjectMeta: meta, Spec: gatewayv1.BackendTLSPolicySpec{TargetRefs: targetsOf(node)}}
	default:
		return nil
	}
	return &doc
}

// targetsOf reads as much of a policy's targetRefs as can be read.
func targetsOf(node *yaml.Node) (targets []v1alpha1.TargetRef) {
	var c converter
	obj, _ := c.convert(node, "", 0).(map[string]any)
	spec, _ := obj["spec"].(map[string]any)
	refs, _ := spec["targetRefs"].([]any)
	for _, ref := range refs {
		fields, ok := ref.(map[string]any)
		if !ok {
			continue
		}
		// A part that cannot be read closes more: without its section, the whole.
		target := v1alpha1.TargetRef{}
		target.Group = gatewayv1.Group(text(fields, "group"))
		target.Kind = gatewayv1.Kind(text(fields, "kind"))
		target.Name = gatewayv1.ObjectName(text(fields, "name"))
		if section := gatewayv1.SectionName(text(fields, "sectionName")); section != "" {
			target.SectionName = &section
		}
		targets = append(targets, target)
	}
	return targets
}

func text(obj map[string]any, name string) string {
	s, _ := obj[name].(string)
	return s
}

// checkKind says what is wrong with an object's apiVersion and kind. Kinds
// that are nobody's business here, such as a Deployment, are a warning.
func checkKind(gvk kschema.GroupVersionKind, known bool) *Problem {
	if gvk.Version == "" {
		want := "the kind's group and version, such as gateway.networking.k8s.io/v1"
		return &Problem{Field: "apiVersion", Message: "is missing", Want: want}
	}
	if gvk.Kind == "" {
		return &Problem{Field: "kind", Message: "is missing", Want: "the object's kind, such as HTTPRoute"}
	}
	versions := schema.Versions(gvk.GroupKind())
	apiVersions := make([]string, len(versions))
	for i, v := range versions {
		apiVersions[i] = kschema.GroupVersion{Group: gvk.Group, Version: v}.String()
	}
	if known {
		for _, v := range versions {
			if v == gvk.Version {
				return nil
			}
		}
		return &Problem{
			Field:   "apiVersion",
			Message: fmt.Sprintf("%q is not a version of %s", gvk.GroupVersion(), gvk.Kind),
			Want:    strings.Join(apiVersions, " or "),
		}
	}
	var names []string
	ours := false
	for _, k := range objects.Kinds {
		if k.Name == gvk.Kind && (gvk.Group == "" || schema.Nearest(gvk.Group, []string{k.Group}) != "") {
			var right []string
			for _, v := range schema.Versions(kschema.GroupKind{Group: k.Group, Kind: k.Name}) {
				right = append(right, kschema.GroupVersion{Group: k.Group, Version: v}.String())
			}
			return &Problem{
				Field:   "apiVersion",
				Message: fmt.Sprintf("%q has no kind %s", gvk.GroupVersion(), gvk.Kind),
				Want:    strings.Join(right, " or "),
			}
		}
		if k.Group == gvk.Group {
			names = append(names, k.Name)
			ours = ours || k.Group != ""
		}
	}
	if near := schema.Nearest(gvk.Kind, names); near != "" && len(versions) == 0 {
		return &Problem{
			Field:   "kind",
			Message: fmt.Sprintf("%q is not a kind of %s", gvk.Kind, gvk.GroupVersion()),
			Want:    fmt.Sprintf("did you mean %q?", near),
		}
	}
	if ours && len(versions) == 0 {
		return &Problem{
			Field:   "kind",
			Message: fmt.Sprintf("%q is not a kind of %s", gvk.Kind, gvk.GroupVersion()),
			Want:    "one of " + strings.Join(names, ", "),
		}
	}
	return &Problem{
		Field:   "kind",
		Message: fmt.Sprintf("%s is not a kind that Headgate reads; the object is left out", gvk.Kind),
		Warning: true,
	}
}
