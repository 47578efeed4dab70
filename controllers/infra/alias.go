package infra

import (
	"context"
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

func (s *Services) reconcileAliases(ctx context.Context, want []compile.Service) error {
	cached, err := s.listAliases(ctx, s.client)
	if err != nil {
		return err
	}
	if remove, apply, err := s.planAliases(want, cached); err == nil && len(remove) == 0 && len(apply) == 0 {
		return nil
	}
	live, err := s.listAliases(ctx, s.reader)
	if err != nil {
		return err
	}
	remove, apply, failed := s.planAliases(want, live)
	for _, name := range remove {
		if err := s.delete(ctx, live[name]); err != nil {
			return err
		}
	}
	for _, service := range apply {
		if err := s.write(ctx, service); err != nil {
			failed = fmt.Errorf("%w: the name is that of Gateway %s in its namespace", err, service.Annotations[gatewayAnnotation])
		}
	}
	return failed
}

// listAliases returns the aliases that lead to Headgate's namespace.
func (s *Services) listAliases(ctx context.Context, from client.Reader) (map[types.NamespacedName]*corev1.Service, error) {
	var list corev1.ServiceList
	if err := from.List(ctx, &list, client.MatchingLabels{managedByLabel: managedBy}); err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	aliases := map[types.NamespacedName]*corev1.Service{}
	for i := range list.Items {
		service := &list.Items[i]
		if ours(service) && service.Spec.Type == corev1.ServiceTypeExternalName && strings.Contains(service.Spec.ExternalName, "."+s.opts.Namespace+".svc.") {
			aliases[client.ObjectKeyFromObject(service)] = service
		}
	}
	return aliases, nil
}

// planAliases compares what is wanted with what there is. An error is about the
// aliases that it leaves out.
func (s *Services) planAliases(want []compile.Service, have map[types.NamespacedName]*corev1.Service) (remove []types.NamespacedName, apply []*corev1.Service, failed error) {
	names := map[types.NamespacedName]bool{}
	for _, w := range want {
		name := types.NamespacedName{Namespace: w.Gateway.Namespace, Name: w.Alias}
		if names[name] { // Gateway a-b of class c, and a of class b-c
			failed = fmt.Errorf("no name in its namespace for Gateway %s: Service %s is another Gateway's", w.Gateway.NamespacedName(), name)
			continue
		}
		names[name] = true
		old := have[name]
		if desired := s.alias(old, w); old == nil || !equality.Semantic.DeepEqual(old, desired) {
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
func (s *Services) alias(old *corev1.Service, w compile.Service) *corev1.Service {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.Gateway.Namespace, Name: w.Alias}}
	if old != nil {
		service = old.DeepCopy()
	}
	s.setMetadata(service, w)
	if _, asked := w.Annotations[externalDNSController]; !asked {
		service.Annotations[externalDNSController] = managedBy
	}
	service.Spec.Type = corev1.ServiceTypeExternalName
	service.Spec.ExternalName = fmt.Sprintf("%s.%s.svc.%s", w.Name, s.opts.Namespace, s.opts.ClusterDomain)
	return service
}
