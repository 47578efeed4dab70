package integration_test

import (
	"encoding/base64"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	gatewayxv1alpha1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/headgate/headgate/controllers/compile"
)

// TestXBackend follows an XBackend's status, as written with the rights that the chart gives.
func TestXBackend(t *testing.T) {
	start(t, "xbackend", "127.0.0.1")
	apply(t, world("xbackend"))
	host := func(mode string) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {name: api, namespace: xbackend}
spec:
  type: ExternalHostname
  externalHostname: {hostname: api.example.com}
  port: {port: 443}
  tls: %s
`, mode)
	}
	apply(t, host("{mode: ServerOnly}")+`---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: xbackend}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: api}]}]
`)
	says := func(ancestors int, reason string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d ancestors say %s", ancestors, reason), func() error {
			var x gatewayxv1alpha1.XBackend
			if err := kube.Get(t.Context(), types.NamespacedName{Namespace: "xbackend", Name: "api"}, &x); err != nil {
				return err
			}
			if len(x.Status.Ancestors) != ancestors {
				return fmt.Errorf("the ancestors are %v", x.Status.Ancestors)
			}
			for _, a := range x.Status.Ancestors {
				c := meta.FindStatusCondition(a.Conditions, "Accepted")
				if a.ControllerName != compile.ControllerName || a.AncestorRef.Name != "web" || c == nil || c.Reason != reason || c.ObservedGeneration != x.Generation {
					return fmt.Errorf("%+v", a)
				}
			}
			return nil
		})
	}
	says(1, "Accepted")
	// Its Secret is not there, and then it is.
	apply(t, host("{mode: ClientAndServer, clientCertificateRef: {name: identity}}"))
	says(1, "InvalidClientCertificateRef")
	_, cert, key := identity(t, "headgate.internal")
	apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: identity, namespace: xbackend}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n",
		base64.StdEncoding.EncodeToString([]byte(cert)), base64.StdEncoding.EncodeToString([]byte(key))))
	says(1, "Accepted")
	if out, err := kubectl("delete", "httproute", "app", "-n", "xbackend"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	says(0, "")
}
