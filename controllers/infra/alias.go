package infra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/headgate/headgate/controllers/compile"
)

// An alias is a Service of type ExternalName in the Gateway's own namespace. It
// is the Gateway's name for clients within the cluster, found by the Gateway's
// owner, and leads to the Gateway's Service in Headgate's namespace. That one
// stays there: it selects Headgate's pods, and records which of their ports are
// whose, which must not be the Gateway's owner's to write.

// externalDNSController keeps external-dns from publishing an alias: the name
// that the Gateway's annotations ask for is the other Service's.
const externalDNSController = "external-dns.alpha.kubernetes.io/controller"

func (k *Keeper) reconcileAliases(ctx context.Context, want []compile.Infrastructure) error {
	cached, err := k.listAliases(ctx, k.client)
	if err != nil {
		return err
	}
	remove, apply, err := k.planAliases(want, cached)
	if len(remove) == 0 && !k.anyToTry(apply) {
		return errors.Join(err, k.writeAliases(ctx, apply))
	}
	live, err := k.listAliases(ctx, k.reader)
	if err != nil {
		return err
	}
	remove, apply, err = k.planAliases(want, live)
	for _, name := range remove {
		err = errors.Join(err, k.delete(ctx, live[name]))
	}
	return errors.Join(err, k.writeAliases(ctx, apply))
}

func (k *Keeper) writeAliases(ctx context.Context, aliases []*corev1.Service) error {
	var errs []error
	for _, alias := range aliases {
		if err := k.write(ctx, alias); err != nil {
			errs = append(errs, fmt.Errorf("%w: the name is that of Gateway %s in its namespace", err, alias.Annotations[gatewayAnnotation]))
		}
	}
	return errors.Join(errs...)
}

// listAliases returns the aliases that lead to Headgate's namespace.
func (k *Keeper) listAliases(ctx context.Context, from client.Reader) (map[types.NamespacedName]*corev1.Service, error) {
	var list corev1.ServiceList
	if err := from.List(ctx, &list, client.MatchingLabels{managedByLabel: managedBy}); err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	aliases := map[types.NamespacedName]*corev1.Service{}
	for i := range list.Items {
		service := &list.Items[i]
		if ours(service) && service.Spec.Type == corev1.ServiceTypeExternalName && strings.Contains(service.Spec.ExternalName, "."+k.opts.Namespace+".svc.") {
			aliases[client.ObjectKeyFromObject(service)] = service
		}
	}
	return aliases, nil
}

// planAliases compares what is wanted with what there is. An error is about the
// aliases that it leaves out.
func (k *Keeper) planAliases(want []compile.Infrastructure, have map[types.NamespacedName]*corev1.Service) (remove []types.NamespacedName, apply []*corev1.Service, failed error) {
	names := map[types.NamespacedName]bool{}
	for _, w := range want {
		name := types.NamespacedName{Namespace: w.Gateway.Namespace, Name: w.Alias}
		if names[name] { // Gateway a-b of class c, and a of class b-c
			failed = fmt.Errorf("no name in its namespace for Gateway %s: Service %s is another Gateway's", w.Gateway.NamespacedName(), name)
			continue
		}
		names[name] = true
		if w.Kept {
			continue
		}
		old := have[name]
		if desired := k.alias(old, w); old == nil || !equality.Semantic.DeepEqual(old, desired) {
			apply = append(apply, desired)
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(have), func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }) {
		if !names[name] && have[name].DeletionTimestamp == nil {
			remove = append(remove, name)
		}
	}
	return remove, apply, failed
}

// alias returns old, or a new alias, as the Gateway needs it.
func (k *Keeper) alias(old *corev1.Service, w compile.Infrastructure) *corev1.Service {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.Gateway.Namespace, Name: w.Alias}}
	if old != nil {
		service = old.DeepCopy()
	}
	setMetadata(service, w, w.Labels, w.Annotations)
	if _, asked := w.Annotations[externalDNSController]; !asked {
		service.Annotations[externalDNSController] = managedBy
	}
	service.Spec.Type = corev1.ServiceTypeExternalName
	service.Spec.ExternalName = fmt.Sprintf("%s.%s.svc.%s", w.Name, k.opts.Namespace, k.opts.ClusterDomain)
	return service
}
