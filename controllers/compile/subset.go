package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// WeightAnnotation is a pod's weight, 1 to 1000, where BackendPolicy's podWeights
// asks for it.
const WeightAnnotation = "headgate.dev/weight"

// maxSelectors bounds the selectors of a subset: there is a subset for each
// combination of them.
const maxSelectors = 3

// compileSubset compiles a BackendPolicy's balance.subset.
func compileSubset(c *policyCompiler, from *v1alpha1.Subset) *snapshot.Subset {
	const field = balanceField + ".subset"
	to := &snapshot.Subset{Fallback: cmp.Or(string(from.Fallback), "Any")}
	if n := len(from.Selectors); n < 1 || n > maxSelectors {
		c.invalid(field+".selectors", fmt.Sprintf("there are %d", n), fmt.Sprintf("1 to %d selectors", maxSelectors))
	}
	headers, labels := map[string]bool{}, map[string]bool{}
	for i, s := range from.Selectors {
		at := fmt.Sprintf("%s.selectors[%d]", field, i)
		header := strings.ToLower(s.Header)
		switch {
		case !isToken(header):
			c.invalid(at+".header", fmt.Sprintf("%q is no token", s.Header), "the name of a header field")
		case headers[header]:
			c.invalid(at+".header", fmt.Sprintf("%s is there already", s.Header), "each header once")
		}
		c.checkLabel(at+".label", s.Label)
		if labels[s.Label] {
			c.invalid(at+".label", fmt.Sprintf("%s is there already", s.Label), "each label once")
		}
		headers[header], labels[s.Label] = true, true
		to.Selectors = append(to.Selectors, snapshot.SubsetSelector{Header: s.Header, Label: s.Label})
	}
	switch to.Fallback {
	case "Any", "None":
		if len(from.Default) > 0 {
			c.invalid(field+".default", "the fallback is "+to.Fallback, "no default, or fallback Default")
		}
	case "Default":
		if len(from.Default) == 0 {
			c.invalid(field+".default", "it is not set", "the labels that the fallback Default needs")
		}
		to.Default = map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(from.Default)) {
			c.checkLabel(field+".default", name)
			to.Default[name] = string(from.Default[name])
		}
	default:
		c.invalid(field+".fallback", fmt.Sprintf("%q does not exist", to.Fallback), "Any, None or Default")
	}
	return to
}

func (c *policyCompiler) checkLabel(field, name string) {
	if len(validation.IsQualifiedName(name)) > 0 {
		c.invalid(field, fmt.Sprintf("%q is no label's name", name), "a name as Kubernetes has them, such as version or example.com/version")
	}
}

// needsPods refuses a field for targets whose endpoints have no such metadata, and
// where Headgate may not read pods.
func (c *policyCompiler) needsPods(field, of string) {
	for i, t := range c.object.(*v1alpha1.BackendPolicy).Spec.TargetRefs {
		switch {
		case t.Kind == "ServiceImport" || t.Kind == "XBackend" || t.Kind == "Backend" && of == "annotations":
			c.invalid(field, fmt.Sprintf("targetRefs[%d] is a %s, whose endpoints have no %s here", i, t.Kind, of), "a Service or a route as target")
		case t.Kind != "Backend" && !c.readsPods:
			c.invalid(field, fmt.Sprintf("the endpoints of targetRefs[%d], a %s, are pods, and Headgate does not read pods' %s here", i, t.Kind, of),
				"the chart's value readPods: true, which lets Headgate list and watch pods' metadata, or a Backend as target")
		default:
			continue
		}
		return
	}
}

// labelsFor returns the labels that a cluster's balance asks for, sorted.
func labelsFor(b *snapshot.Balance) []string {
	if b.Subset == nil {
		return nil
	}
	names := slices.Collect(maps.Keys(b.Subset.Default))
	for _, s := range b.Subset.Selectors {
		names = append(names, s.Label)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// some returns those of the labels that are asked for, nil for none.
func some(labels map[string]string, names []string) (kept map[string]string) {
	for _, name := range names {
		if value, ok := labels[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	return kept
}

// compareLabels orders labels, so that equal objects give equal bytes.
func compareLabels(a, b map[string]string) int {
	if len(a) == 0 && len(b) == 0 {
		return 0
	}
	return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) // which sorts them
}

// podReader adds to endpoints what a cluster's balance asks of the pods that
// they are.
type podReader struct {
	set     *objects.Set
	labels  []string
	weights bool
	wrong   []wrongWeight
}

// wrongWeight is a pod whose weight is none.
type wrongWeight struct {
	pod   objects.Ref
	value string
}

// podsOf returns the reader for a cluster, nil if it asks nothing of pods. The
// endpoints of a ServiceImport are pods of other clusters.
func podsOf(set *objects.Set, use clusterUse) *podReader {
	r := &podReader{set: set, labels: labelsFor(&use.cluster.Balance), weights: use.cluster.Balance.PodWeights}
	if use.backend.Kind != "Service" || len(r.labels) == 0 && !r.weights {
		return nil
	}
	return r
}

// describe adds what the pod has, if the endpoint is one that is known.
func (r *podReader) describe(e *snapshot.Endpoint, target *corev1.ObjectReference, namespace string) {
	if r == nil || target == nil || target.Kind != "Pod" {
		return
	}
	pod := objects.Get[*objects.Pod](r.set, cmp.Or(target.Namespace, namespace), target.Name)
	if pod == nil || target.UID != "" && pod.UID != "" && target.UID != pod.UID {
		return
	}
	e.Labels = some(pod.Labels, r.labels)
	value, ok := pod.Annotations[WeightAnnotation]
	if !r.weights || !ok {
		return
	}
	if n, err := strconv.Atoi(value); err == nil && n >= 1 && n <= 1000 {
		e.Weight = uint32(n)
	} else {
		r.wrong = append(r.wrong, wrongWeight{objects.RefOf(pod), value})
	}
}
