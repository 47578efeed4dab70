package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// The values of BackendPolicy's balance; the first are the defaults.
var (
	algorithms = []string{"RoundRobin", "LeastRequest", "IPHash", "RandomOfTwo"}
	localities = []string{"Any", "PreferSameZone", "PreferSameNode", "OnlySameZone", "OnlySameNode"}
)

// compileBalance reads a BackendPolicy's balance.
func compileBalance(c *policyCompiler, spec *v1alpha1.Balance) clusterSetting {
	const field = "spec.balance"
	oneOf := func(name, value string, known []string) string {
		value = cmp.Or(value, known[0])
		if !slices.Contains(known, value) {
			c.invalid(field+"."+name, fmt.Sprintf("%q does not exist", value), "one of "+strings.Join(known, ", "))
		}
		return value
	}
	if *spec == (v1alpha1.Balance{}) {
		c.invalid(field, "it sets nothing", "algorithm, locality, minHealthyPercent or panicThresholdPercent")
	}
	out := snapshot.Balance{
		Algorithm:             oneOf("algorithm", string(spec.Algorithm), algorithms),
		MinHealthyPercent:     int(number(c, field+".minHealthyPercent", spec.MinHealthyPercent, 0, 1, 100)),
		PanicThresholdPercent: int(number(c, field+".panicThresholdPercent", spec.PanicThresholdPercent, 0, 0, 100)),
	}
	locality := oneOf("locality", string(spec.Locality), localities)
	return func(cl *snapshot.Cluster) {
		out := out
		switch {
		case spec.Locality == "":
			out.Locality = cl.Balance.Locality // the Service's
		case locality != "Any":
			out.Locality = locality
		}
		cl.Balance = out
	}
}

// localityOf is what a Service says with trafficDistribution, KEP-4444 and
// KEP-3015. A value that is not known means no preference, as there. Its
// internalTrafficPolicy is about what comes to its cluster IP; nothing of ours does.
func localityOf(backend objects.Object) string {
	service, ok := backend.(*corev1.Service)
	if !ok {
		return ""
	}
	switch valueOr(service.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
		return "PreferSameZone"
	case corev1.ServiceTrafficDistributionPreferSameNode:
		return "PreferSameNode"
	}
	return ""
}
