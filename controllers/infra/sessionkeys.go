package infra

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/headgate/headgate/controllers/compile"
)

// sessionKeyLen is the length of a key in bytes: 256 bits are AES-256's.
const sessionKeyLen = 32

// reconcileSessionKeys makes the Secret with the keys of session persistence. One
// that is there is never changed: whoever wants other keys puts them into it.
func (k *Keeper) reconcileSessionKeys(ctx context.Context, want []compile.Infrastructure) error {
	key := make([]byte, sessionKeyLen)
	_, _ = rand.Read(key) // it never fails
	name := compile.Options{Namespace: k.opts.Namespace}.SessionKeys().NamespacedName()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: name.Namespace, Name: name.Name,
			Labels: map[string]string{managedByLabel: managedBy},
		},
		Data: map[string][]byte{"1": key},
	}
	// It goes with the GatewayClasses, as the Services do.
	for i := range want {
		owner := classOf(&want[i])
		if owner.UID != "" && !slices.Contains(secret.OwnerReferences, owner) {
			secret.OwnerReferences = append(secret.OwnerReferences, owner)
		}
	}
	err := k.client.Create(ctx, secret, client.FieldOwner(fieldManager))
	if apierrors.IsAlreadyExists(err) {
		return nil // which the next result knows
	}
	if err != nil {
		return fmt.Errorf("create Secret %s for the keys of sessions: %w", name, err)
	}
	k.log.Info("Made a key for sessions", "secret", name.String())
	return nil
}

// classOf is the owner of what is made for a Gateway.
func classOf(w *compile.Infrastructure) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: gatewayv1.GroupVersion.String(), Kind: "GatewayClass", Name: w.Class, UID: w.ClassUID}
}
