package watch

import (
	"cmp"
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/gateway-api/pkg/consts"
)

// BundleVersion returns the version of the Gateway API's CRDs in the cluster,
// as their annotation says, or "unknown" if they have none.
func (c *Cluster) BundleVersion(ctx context.Context) (string, error) {
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	const name = "gatewayclasses.gateway.networking.k8s.io"
	if err := c.Reader().Get(ctx, client.ObjectKey{Name: name}, crd); err != nil {
		return "", fmt.Errorf("the version of the Gateway API: %w", err)
	}
	return cmp.Or(crd.Annotations[consts.BundleVersionAnnotation], "unknown"), nil
}
