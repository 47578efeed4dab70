package infra

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/headgate/headgate/controllers/compile"
)

// budget returns old, or a new PodDisruptionBudget, as the Gateway needs it; nil
// if it needs none: one that guards a single pod would keep its node from being drained.
func (k *Keeper) budget(old *policyv1.PodDisruptionBudget, w compile.Infrastructure) *policyv1.PodDisruptionBudget {
	if leastReplicas(w) < 2 {
		return nil
	}
	b := &policyv1.PodDisruptionBudget{ObjectMeta: k.meta(w)}
	if old != nil {
		b = old.DeepCopy()
	}
	setMetadata(b, w, w.Labels, w.Annotations)
	b.Spec = settled(b, policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: new(intstr.FromInt32(1)),
		Selector:       &metav1.LabelSelector{MatchLabels: dedicatedSelector(w)},
		// A pod that does not get ready must not keep a node from being drained.
		UnhealthyPodEvictionPolicy: new(policyv1.AlwaysAllow),
	}, b.Spec)
	return b
}
