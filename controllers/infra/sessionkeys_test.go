package infra

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/headgate/headgate/controllers/compile"
	"github.com/headgate/headgate/controllers/objects"
)

// TestSessionKeys holds that keys are made where they are needed, once, and that
// those which are there stay.
func TestSessionKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := fake.NewClientBuilder().WithScheme(objects.Scheme()).Build()
		s := New(c, c, options())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		get := func() *corev1.Secret {
			secret := &corev1.Secret{}
			err := c.Get(ctx, compile.Options{Namespace: namespace}.SessionKeys().NamespacedName(), secret)
			if client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			if err != nil {
				return nil
			}
			return secret
		}
		publish := func(needed bool) *corev1.Secret {
			s.Publish(&compile.Result{Infrastructure: []compile.Infrastructure{wanted("a", 80), wanted("b", 80)}, NeedsSessionKeys: needed})
			synctest.Wait()
			return get()
		}
		if secret := publish(false); secret != nil {
			t.Fatalf("there is a Secret that nobody needs: %v", secret.Data)
		}
		made := publish(true)
		if made == nil || len(made.Data["1"]) != 32 || bytes.Equal(made.Data["1"], make([]byte, 32)) {
			t.Fatalf("made %+v", made)
		}
		if o := made.OwnerReferences; len(o) != 1 || o[0].Kind != "GatewayClass" || o[0].UID != "class" {
			t.Errorf("it does not go with the GatewayClass: %v", o)
		}
		// A result may be older than the Secret.
		if again := publish(true); again.ResourceVersion != made.ResourceVersion {
			t.Error("the keys changed")
		}
		if err := c.Delete(ctx, made); err != nil {
			t.Fatal(err)
		}
		if again := publish(true); again == nil || bytes.Equal(again.Data["1"], made.Data["1"]) {
			t.Error("there are no new keys in place of those that were deleted")
		}
	})
}
