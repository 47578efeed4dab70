package compile

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/headgate/headgate/api/v1alpha1"
	"github.com/headgate/headgate/controllers/objects"
	"github.com/headgate/headgate/dataplane/balance"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// The values of BackendPolicy's balance; the first are the defaults.
var (
	algorithms = balance.Algorithms()
	localities = []string{"Any", "PreferSameZone", "PreferSameNode", "OnlySameZone", "OnlySameNode"}
)

const balanceField = "spec.balance"

// compileBalance reads a BackendPolicy's balance.
func compileBalance(c *policyCompiler, spec *v1alpha1.Balance) clusterSetting {
	if reflect.ValueOf(*spec).IsZero() {
		c.invalid(balanceField, "it sets nothing", "algorithm, locality or another of its fields")
	}
	percent := func(name string, n *int32, unset, least, most int32) int {
		return int(number(c, balanceField+"."+name, n, unset, least, most))
	}
	algorithm := balanceOneOf(c, "algorithm", string(spec.Algorithm), algorithms)
	locality := balanceOneOf(c, "locality", string(spec.Locality), localities)
	out := snapshot.Balance{
		Algorithm:             algorithm,
		MinHealthyPercent:     percent("minHealthyPercent", spec.MinHealthyPercent, 0, 1, 100),
		PanicThresholdPercent: percent("panicThresholdPercent", spec.PanicThresholdPercent, 0, 0, 100),
	}
	hashes := algorithm == "RingHash" || algorithm == "Maglev"
	if balanceUses(c, "hashOn", len(spec.HashOn) > 0, hashes, true, "RingHash and Maglev") {
		out.HashOn = compileHashOn(c, balanceField, spec.HashOn)
	}
	if balanceUses(c, "hashBalanceFactor", spec.HashBalanceFactor != nil, hashes, false, "RingHash and Maglev") {
		out.HashBalanceFactor = percent("hashBalanceFactor", spec.HashBalanceFactor, 0, 100, 10_000)
	}
	if balanceUses(c, "maxRequests", spec.MaxRequests != nil, algorithm == "FirstAvailable", true, "FirstAvailable") {
		out.MaxRequests = percent("maxRequests", spec.MaxRequests, 0, 1, 1_000_000)
	}
	weighted := slices.Contains([]string{"RoundRobin", "LeastRequest", "Random", "RandomOfTwo", "PeakEWMA"}, algorithm)
	if balanceUses(c, "slowStart", spec.SlowStart != nil, weighted, false, "RoundRobin, LeastRequest, Random, RandomOfTwo and PeakEWMA") {
		out.SlowStart = compileSlowStart(c, spec.SlowStart)
	}
	if balanceUses(c, "loadReports", spec.LoadReports != nil, algorithm == "RoundRobin" || algorithm == "Random", false, "RoundRobin and Random") {
		out.LoadReports = *spec.LoadReports
	}
	if spec.Subset != nil {
		out.Subset = compileSubset(c, spec.Subset)
		c.needsPods(balanceField+".subset", "labels")
	}
	if out.PodWeights = valueOr(spec.PodWeights, false); out.PodWeights {
		c.needsPods(balanceField+".podWeights", "annotations")
	}
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

func balanceOneOf(c *policyCompiler, name, value string, known []string) string {
	value = cmp.Or(value, known[0])
	if !slices.Contains(known, value) {
		c.invalid(balanceField+"."+name, fmt.Sprintf("%q does not exist", value), "one of "+strings.Join(known, ", "))
	}
	return value
}

// balanceUses refuses a field that the algorithm makes no use of, or that it
// needs and is not there. It reports whether the field is set and used.
func balanceUses(c *policyCompiler, name string, set, used, needed bool, by string) bool {
	switch {
	case set && !used:
		c.invalid(balanceField+"."+name, "the algorithm makes no use of it", "one of the algorithms that do: "+by)
	case used && needed && !set:
		c.invalid(balanceField+"."+name, "it is not set", name+", which the algorithm needs")
	}
	return set && used
}

func compileSlowStart(c *policyCompiler, spec *v1alpha1.SlowStart) *snapshot.SlowStart {
	const field = balanceField + ".slowStart"
	out := &snapshot.SlowStart{
		Window:           c.duration(field+".window", &spec.Window, 0, time.Second, time.Hour),
		Aggression:       1,
		MinWeightPercent: int(number(c, field+".minWeightPercent", spec.MinWeightPercent, 10, 1, 100)),
	}
	if text := spec.Aggression; text != nil {
		n, err := strconv.ParseFloat(*text, 64)
		if err != nil || !(n >= 0.1 && n <= 10) {
			c.invalid(field+".aggression", fmt.Sprintf("%q is out of bounds", *text), "a number from 0.1 to 10")
		}
		out.Aggression = n
	}
	return out
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
