package infra

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/headgate/headgate/controllers/compile"
)

// defaultReplicas is how many pods a Gateway of mode Dedicated has by default.
const defaultReplicas = 2

// containerName is that of the container that runs Headgate.
const containerName = "headgate"

// deployment returns old, or a new Deployment, as the Gateway needs it: Headgate's
// own, with pods that serve this Gateway only.
func (k *Keeper) deployment(old, model *appsv1.Deployment, w compile.Infrastructure) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: k.meta(w)}
	if old != nil {
		d = old.DeepCopy()
	}
	setMetadata(d, w, w.Labels, w.Annotations)
	spec := appsv1.DeploymentSpec{
		Selector:                &metav1.LabelSelector{MatchLabels: dedicatedSelector(w)},
		Template:                k.podTemplate(&model.Spec.Template, w),
		Strategy:                *model.Spec.Strategy.DeepCopy(),
		MinReadySeconds:         model.Spec.MinReadySeconds,
		RevisionHistoryLimit:    model.Spec.RevisionHistoryLimit,
		ProgressDeadlineSeconds: model.Spec.ProgressDeadlineSeconds,
	}
	if w.Deployment.Autoscaling == nil {
		spec.Replicas = new(leastReplicas(w))
	}
	d.Spec = settled(d, spec, d.Spec)
	if d.Spec.Replicas == nil { // the autoscaler's to change
		d.Spec.Replicas = new(leastReplicas(w))
		if old != nil && old.Spec.Replicas != nil {
			d.Spec.Replicas = old.Spec.Replicas
		}
	}
	return d
}

// leastReplicas is how many pods a Gateway of mode Dedicated has at least.
func leastReplicas(w compile.Infrastructure) int32 {
	switch d := &w.Deployment; {
	case d.Replicas != nil:
		return *d.Replicas
	case d.Autoscaling == nil:
		return defaultReplicas
	case d.Autoscaling.MinReplicas != nil:
		return *d.Autoscaling.MinReplicas
	default:
		return min(defaultReplicas, d.Autoscaling.MaxReplicas)
	}
}

// podTemplate returns the pods of Headgate's own Deployment with what the
// Gateway's parameters say in place of theirs.
func (k *Keeper) podTemplate(model *corev1.PodTemplateSpec, w compile.Infrastructure) corev1.PodTemplateSpec {
	template := *model.DeepCopy()
	p := &w.Deployment
	template.Annotations = merged(template.Annotations, merged(p.PodAnnotations, w.Annotations))
	template.Labels = merged(template.Labels, merged(p.PodLabels, w.Labels))
	// Whatever somebody asks for, no Service of other Gateways selects them.
	maps.DeleteFunc(template.Labels, func(key, _ string) bool { _, selects := k.opts.Selector[key]; return selects })
	maps.Copy(template.Labels, identity(w))
	maps.Copy(template.Labels, dedicatedSelector(w))

	pod := &template.Spec
	c := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == containerName })
	c = max(c, 0)
	pod.Containers[c].Args = append(pod.Containers[c].Args, "--gateway="+w.Gateway.NamespacedName().String())
	if r := p.Resources; r != nil {
		pod.Containers[c].Resources = corev1.ResourceRequirements{Requests: r.Requests, Limits: r.Limits}
	}
	if p.NodeSelector != nil {
		pod.NodeSelector = merged(p.NodeSelector, nil)
	}
	if p.Tolerations != nil {
		pod.Tolerations = p.Tolerations
	}
	if p.Affinity != nil {
		pod.Affinity = p.Affinity
	}
	if p.PriorityClassName != nil {
		pod.PriorityClassName = *p.PriorityClassName
	}
	own := &metav1.LabelSelector{MatchLabels: dedicatedSelector(w)}
	for i := range pod.TopologySpreadConstraints {
		pod.TopologySpreadConstraints[i].LabelSelector = own
	}
	if p.TopologySpreadConstraints != nil {
		pod.TopologySpreadConstraints = slices.Clone(p.TopologySpreadConstraints)
		for i := range pod.TopologySpreadConstraints {
			if c := &pod.TopologySpreadConstraints[i]; c.LabelSelector == nil {
				c.LabelSelector = own
			}
		}
	}
	return template
}
