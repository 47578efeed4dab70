package infra

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/compile"
)

// deployments returns the Deployments in Headgate's namespace, by name; none if
// no Gateway can have one.
func (k *Keeper) deployments(ctx context.Context) (map[string]*appsv1.Deployment, error) {
	if k.opts.Deployment == "" {
		return nil, nil
	}
	var list appsv1.DeploymentList
	if err := k.client.List(ctx, &list, client.InNamespace(k.opts.Namespace)); err != nil {
		return nil, fmt.Errorf("list Deployments: %w", err)
	}
	return byName[*appsv1.Deployment](list.Items), nil
}

// reconcileDedicated keeps the Deployments of the Gateways that have pods of
// their own, and the HorizontalPodAutoscaler and PodDisruptionBudget of each.
func (k *Keeper) reconcileDedicated(ctx context.Context, want []compile.Infrastructure, deployments map[string]*appsv1.Deployment) error {
	if k.opts.Deployment == "" {
		return nil
	}
	var autoscalers autoscalingv2.HorizontalPodAutoscalerList
	if err := k.client.List(ctx, &autoscalers, client.InNamespace(k.opts.Namespace)); err != nil {
		return fmt.Errorf("list HorizontalPodAutoscalers: %w", err)
	}
	var budgets policyv1.PodDisruptionBudgetList
	if err := k.client.List(ctx, &budgets, client.InNamespace(k.opts.Namespace)); err != nil {
		return fmt.Errorf("list PodDisruptionBudgets: %w", err)
	}
	haveAutoscalers := byName[*autoscalingv2.HorizontalPodAutoscaler](autoscalers.Items)
	haveBudgets := byName[*policyv1.PodDisruptionBudget](budgets.Items)

	var (
		errs             []error
		wantDeployments  = map[string]*appsv1.Deployment{}
		wantAutoscalers  = map[string]*autoscalingv2.HorizontalPodAutoscaler{}
		wantBudgets      = map[string]*policyv1.PodDisruptionBudget{}
		model, modelKnow = deployments[k.opts.Deployment]
	)
	for _, w := range want {
		m := k.moves[w.Name]
		switch {
		case w.Kept || m != nil && m.next.deployed && w.Mode != v1alpha1.GatewayModeDedicated:
			// It stays as it is, or until the traffic is gone from it.
			wantDeployments[w.Name], wantAutoscalers[w.Name], wantBudgets[w.Name] = deployments[w.Name], haveAutoscalers[w.Name], haveBudgets[w.Name]
		case w.Mode != v1alpha1.GatewayModeDedicated:
		case !modelKnow:
			errs = append(errs, fmt.Errorf("there is no Deployment %s/%s, as --deployment says, that the pods of Gateway %s could be made after", k.opts.Namespace, k.opts.Deployment, w.Gateway.NamespacedName()))
			wantDeployments[w.Name], wantAutoscalers[w.Name], wantBudgets[w.Name] = deployments[w.Name], haveAutoscalers[w.Name], haveBudgets[w.Name]
		default:
			wantDeployments[w.Name] = k.deployment(deployments[w.Name], model, w)
			wantAutoscalers[w.Name] = k.autoscaler(haveAutoscalers[w.Name], w)
			wantBudgets[w.Name] = k.budget(haveBudgets[w.Name], w)
		}
	}
	return errors.Join(append(errs,
		settle(ctx, k, deployments, wantDeployments),
		settle(ctx, k, haveAutoscalers, wantAutoscalers),
		settle(ctx, k, haveBudgets, wantBudgets))...)
}

// object is a pointer to a kind of object.
type object[T any] interface {
	*T
	client.Object
}

func byName[P object[T], T any](items []T) map[string]P {
	m := make(map[string]P, len(items))
	for i := range items {
		m[P(&items[i]).GetName()] = &items[i]
	}
	return m
}

// settle deletes what is ours and not wanted, and writes what is wanted and not
// so. A nil one is not wanted.
func settle[P object[T], T any](ctx context.Context, k *Keeper, have, want map[string]P) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if old := have[name]; want[name] == nil && ours(old) && old.GetDeletionTimestamp() == nil {
			errs = append(errs, k.delete(ctx, old))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		desired, old := want[name], have[name]
		switch {
		case desired == nil || old != nil && equality.Semantic.DeepEqual(old, desired):
		case old != nil && !ours(old):
			errs = append(errs, fmt.Errorf("%s %s/%s is not Headgate's, but a Gateway needs one of that name: rename it or delete it",
				k.kindOf(old), old.GetNamespace(), name))
		default:
			errs = append(errs, k.write(ctx, desired))
		}
	}
	return errors.Join(errs...)
}

// specAnnotation records the spec as it was written, by a hash.
const specAnnotation = "headgate.dev/spec"

// settled returns have if it is what came of want when that was written, and
// nothing of it was changed since; else want. API servers fill in defaults, so
// the two are never the same.
func settled[S any](obj metav1.Object, want, have S) S {
	text, err := json.Marshal(want)
	if err != nil {
		panic(err) // API types can be written
	}
	sum := sha256.Sum256(text)
	hash := hex.EncodeToString(sum[:8])
	annotations := obj.GetAnnotations()
	if annotations[specAnnotation] == hash && equality.Semantic.DeepDerivative(want, have) {
		return have
	}
	annotations[specAnnotation] = hash
	return want
}

// meta returns the metadata that an object of a Gateway's begins with.
func (k *Keeper) meta(w compile.Infrastructure) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: k.opts.Namespace, Name: w.Name}
}
