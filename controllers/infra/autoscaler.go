package infra

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/controllers/compile"
)

// defaultTargetCPU is what share of the CPU that they ask for pods are to use, in
// percent, if nothing else is said.
const defaultTargetCPU = 70

// autoscaler returns old, or a new HorizontalPodAutoscaler, as the Gateway needs
// it; nil if it needs none.
func (k *Keeper) autoscaler(old *autoscalingv2.HorizontalPodAutoscaler, w compile.Infrastructure) *autoscalingv2.HorizontalPodAutoscaler {
	scaling := w.Deployment.Autoscaling
	if scaling == nil {
		return nil
	}
	a := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: k.meta(w)}
	if old != nil {
		a = old.DeepCopy()
	}
	setMetadata(a, w, w.Labels, w.Annotations)
	target := new(int32(defaultTargetCPU))
	if scaling.TargetCPUUtilizationPercentage != nil {
		target = scaling.TargetCPUUtilizationPercentage
	}
	a.Spec = settled(a, autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment", Name: w.Name},
		MinReplicas:    new(leastReplicas(w)),
		MaxReplicas:    scaling.MaxReplicas,
		Metrics: []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: target},
			},
		}},
	}, a.Spec)
	return a
}
