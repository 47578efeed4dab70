package integration_test

import (
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// The CRD of ServiceImport in the older of the versions that are read, as short as can be.
const serviceImportCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: serviceimports.multicluster.x-k8s.io
  annotations: {api-approved.kubernetes.io: https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/1645-multi-cluster-services-api}
spec:
  group: multicluster.x-k8s.io
  scope: Namespaced
  names: {kind: ServiceImport, plural: serviceimports, singular: serviceimport}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// TestServiceImport routes to a Service of other clusters. Its CRD is installed
// while Headgate runs, which asks for it twice a minute.
func TestServiceImport(t *testing.T) {
	headgate := start(t, "serviceimport", "127.0.0.1")
	apply(t, world("serviceimport"))
	apply(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: serviceimport}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: app, port: 80}]}]
`)
	at := headgate.address(t, types.NamespacedName{Namespace: "serviceimport", Name: "web"}, 80)
	answers := func(want int) {
		t.Helper()
		eventually(t, fmt.Sprint("answers ", want), func() error {
			if status, body, err := get(http.DefaultClient, at, "any", "/"); err != nil || status != want {
				return fmt.Errorf("%d %q, %v", status, body, err)
			}
			return nil
		})
	}
	answers(http.StatusInternalServerError)

	apply(t, serviceImportCRD)
	eventually(t, "a ServiceImport can be made", func() error {
		if out, err := kubectl("get", "serviceimports.multicluster.x-k8s.io", "--all-namespaces"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	apply(t, `
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: app, namespace: serviceimport}
spec: {type: ClusterSetIP, ips: [], ports: [{name: http, port: 80, protocol: TCP}]}
`)
	answers(http.StatusServiceUnavailable)

	slice := endpoints("serviceimport", serve(t, 1, version()))
	slice.Labels = map[string]string{"multicluster.kubernetes.io/service-name": "app"}
	if err := kube.Create(t.Context(), slice); err != nil {
		t.Fatal(err)
	}
	answers(http.StatusOK)

	// From now on as any other kind.
	if out, err := kubectl("delete", "serviceimport", "app", "-n", "serviceimport"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answers(http.StatusInternalServerError)
}
