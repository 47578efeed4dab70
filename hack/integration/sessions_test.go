package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"
)

// TestSessions holds that replicas share the key that the leader makes, and that
// sessions outlast them: by an XBackendTrafficPolicy, which is read and gets its status.
func TestSessions(t *testing.T) {
	one, two := start(t, "sessions-one", "127.0.0.1"), start(t, "sessions-two", "127.0.0.2")
	apply(t, world("sessions"))
	named := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
	}
	if err := kube.Create(t.Context(), endpoints("sessions", serve(t, 1, named("a")), serve(t, 2, named("b")))); err != nil {
		t.Fatal(err)
	}
	apply(t, `
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: app, namespace: sessions}
spec:
  targetRefs: [{group: "", kind: Service, name: app}]
  retryConstraint: {}
  sessionPersistence: {sessionName: Session, type: Header}
`)
	web := types.NamespacedName{Namespace: "sessions", Name: "web"}
	visit := func(r *replica, token string) (backend, said string, err error) {
		request, err := http.NewRequest("GET", "http://"+r.address(t, web, 80)+"/app", nil)
		if err != nil {
			return "", "", err
		}
		if token != "" {
			request.Header.Set("Session", token)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", "", err
		}
		defer response.Body.Close()
		var body [1]byte
		_, _ = response.Body.Read(body[:])
		if response.StatusCode != 200 {
			err = fmt.Errorf("status %d", response.StatusCode)
		}
		return string(body[:]), response.Header.Get("Session"), err
	}
	// Before there is a key, each replica has one of its own.
	var backend, token string
	stays := func(what string, replicas ...*replica) {
		t.Helper()
		eventually(t, what, func() error {
			for _, r := range replicas {
				for range 4 {
					if at, said, err := visit(r, token); err != nil || at != backend || said != "" {
						return fmt.Errorf("%s: from %q to %q, token %q, %v", r.name, backend, at, said, err)
					}
				}
			}
			return nil
		})
	}
	var keys corev1.Secret
	eventually(t, "the leader makes a key", func() error {
		return kube.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: "headgate-session-keys"}, &keys)
	})
	eventually(t, "the replicas know each other's sessions", func() (err error) {
		if backend, token, err = visit(one, ""); err != nil || token == "" {
			return fmt.Errorf("no session: %v", err)
		}
		if at, said, err := visit(two, token); err != nil || at != backend || said != "" {
			return fmt.Errorf("from %q to %q, token %q, %v", backend, at, said, err)
		}
		return nil
	})
	stays("the session stays", one, two)
	eventually(t, "the policy's status is written", func() error {
		var p gatewayxv1alpha1.XBackendTrafficPolicy
		if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "sessions", Name: "app"}, &p); err != nil {
			return err
		}
		if a := p.Status.Ancestors; len(a) != 1 || !meta.IsStatusConditionTrue(a[0].Conditions, "Accepted") {
			return fmt.Errorf("ancestors are %v", a)
		}
		return nil
	})

	one.stop(t)
	two.stop(t)
	stays("the session outlasts the replicas", start(t, "sessions-three", "127.0.0.1"))
	if o := keys.OwnerReferences; len(o) != 1 || o[0].Kind != "GatewayClass" {
		t.Errorf("the key's owners are %v", o)
	}
}
