package compile

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
)

// gatewayClass is a GatewayClass that names our controller.
type gatewayClass struct {
	report
	accepted verdict
	// parameters are those of its parametersRef, nil for none.
	parameters *v1alpha1.GatewayParametersSpec
	status     *Status
}

func (b *frameBuilder) compileGatewayClass(class *gatewayv1.GatewayClass) *gatewayClass {
	c := &gatewayClass{report: report{object: objects.RefOf(class)}}
	b.resolveClassParameters(c, class.Spec.ParametersRef)
	version := b.opts.BundleVersion
	if version == "" {
		version = consts.BundleVersion
	}
	var supportedVersion verdict
	// Patch releases do not change the API.
	if minor := consts.BundleVersion[:strings.LastIndexByte(consts.BundleVersion, '.')+1]; !strings.HasPrefix(version, minor) {
		c.fail(&supportedVersion, Finding{
			Message: fmt.Sprintf("the cluster has the Gateway API's CRDs in version %s", version), Want: minor + "x",
			Condition: string(gatewayv1.GatewayClassConditionStatusSupportedVersion), Reason: string(gatewayv1.GatewayClassReasonUnsupportedVersion),
		})
	}
	c.status = &Status{Object: c.object, Generation: class.Generation, Value: gatewayv1.GatewayClassStatus{
		Conditions: []metav1.Condition{
			newCondition(string(gatewayv1.GatewayClassConditionStatusAccepted), string(gatewayv1.GatewayClassReasonAccepted),
				"Headgate serves Gateways of this class", c.accepted, class.Generation),
			newCondition(string(gatewayv1.GatewayClassConditionStatusSupportedVersion), string(gatewayv1.GatewayClassReasonSupportedVersion),
				"Gateway API "+version, supportedVersion, class.Generation),
		},
		SupportedFeatures: supportedFeatures,
	}}
	return c
}
